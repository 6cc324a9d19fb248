"""The machine that figures were taken on: its CPU, the profile it counts as, and its tools."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path

_TOOLS = ("numpy", "onnxruntime", "openvino", "executorch", "torch")


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def cpu_has_vnni() -> bool:
    """Whether this CPU multiplies int8 without 16-bit sums; every ARM CPU of the last years does."""
    if platform.machine() in ("aarch64", "arm64"):
        return True
    flags = _cpuinfo()
    return "avx512_vnni" in flags or "avx_vnni" in flags


def cpu_profile() -> str:
    """`arm`, `vnni` (x86 that has it), or `portable`: the words of `export --cpu`."""
    if platform.machine() in ("aarch64", "arm64"):
        return "arm"
    return "vnni" if cpu_has_vnni() else "portable"


def cpu_name() -> str:
    """The model's name, or the architecture where the system does not say."""
    for line in _cpuinfo().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes that new work may take, as Linux and its control group say; None elsewhere."""
    try:
        rows = Path("/proc/meminfo").read_text().splitlines()
        found = 1024 * next(int(r.split()[1]) for r in rows if r.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{n}").read_text().strip() for n in ("max", "current"))
        return found if limit == "max" else min(found, max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        return found


def tools(names: Iterable[str] = _TOOLS) -> dict[str, str]:
    """Versions of Python and of those libraries that are installed, by the names pip knows."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def about() -> dict[str, object]:
    """The host as reports write it down."""
    return {
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "profile": cpu_profile(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.release()}",
        "tools": tools(),
    }
