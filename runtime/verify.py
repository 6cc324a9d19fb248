"""Does an artifact draw what the float generator draws? Measures, and holds them to limits."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import Artifact, check_files, read_artifact, read_golden
from .child import run_in_child
from .errors import BadInput, GenedgeError
from .metrics import flat_kept, max_error, picture_psnr, picture_ssim, signed_error
from .picture import suspicion

LATENCY_RUNS = 20


@dataclass(frozen=True)
class Limits:
    """What a verdict is held to; None where a metric is only reported.

    psnr (dB, mean over prompts), ssim (mean), flat (share of 0 and 255 that comes back within 2),
    signed (grey levels, largest of four channels), lead (dB by which the artifact is closer to the
    simulation of its int8 graph than the simulation is to float), bytes, latency (ms, median).
    """

    psnr: float | None = None
    ssim: float | None = None
    flat: float | None = None
    signed: float | None = None
    lead: float | None = None
    bytes: int | None = None
    latency: float | None = None


DEFAULTS = {
    "fp32": Limits(psnr=60, ssim=0.999, flat=0.999, signed=0.05),
    "fp16": Limits(psnr=50, ssim=0.999, flat=0.99, signed=0.1),
    "int8": Limits(psnr=32, ssim=0.95, flat=0.99, signed=0.3, lead=3),
}


@dataclass(frozen=True)
class Row:
    """One metric of one artifact: its value, its limit ("" where there is none), its verdict."""

    artifact: str
    metric: str
    value: float | str
    limit: str
    passed: bool


@dataclass(frozen=True)
class Report:
    """What verify found. `failed` holds the rows that missed their limits."""

    rows: tuple[Row, ...]
    details: tuple[Mapping[str, Any], ...]

    @property
    def failed(self) -> tuple[Row, ...]:
        return tuple(r for r in self.rows if not r.passed)


def cpu_has_vnni() -> bool:
    """Whether this CPU multiplies int8 without 16-bit sums; every ARM CPU of the last years does."""
    if platform.machine() in ("aarch64", "arm64"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags


def measure(directory: Path, prompts: int | None, threads: int) -> dict[str, Any]:
    """Draws the golden prompts of one artifact and compares; plain numbers, in this process.

    Raises BadInput where a file is missing, damaged or changed.
    """
    from .run import load

    artifact = read_artifact(directory)
    check_files(artifact, golden=True)
    golden = read_golden(artifact)
    count = min(prompts or len(golden.prompts), len(golden.prompts))
    if count == 0:
        raise BadInput(f"{directory} has no golden prompts; export it again")
    pipeline = load(directory, threads, check=False)
    feeds = [
        pipeline.prepare(p, s)
        for p, s in zip(golden.prompts[:count], golden.seeds[:count], strict=True)
    ]
    drawn = [pipeline.pixels(f) for f in feeds]
    true = golden.pictures[:count]
    psnrs = [picture_psnr(a, b) for a, b in zip(drawn, true, strict=True)]
    ssims = [picture_ssim(a, b) for a, b in zip(drawn, true, strict=True)]
    kept, flat = np.sum([flat_kept(a, b) for a, b in zip(drawn, true, strict=True)], axis=0)
    signed = np.mean([signed_error(a, b) for a, b in zip(drawn, true, strict=True)], axis=0)
    odd = {
        f"{feeds[i].prompt!r}": why
        for i, pixels in enumerate(drawn)
        if (why := suspicion(pixels)) and not suspicion(true[i])
    }
    found: dict[str, Any] = {
        "prompts": count,
        "psnr": float(np.mean(psnrs)),
        "psnr_p1": float(np.percentile(psnrs, 1)),
        "psnr_worst": float(np.min(psnrs)),
        "worst_prompt": feeds[int(np.argmin(psnrs))].prompt,
        "ssim": float(np.mean(ssims)),
        "ssim_worst": float(np.min(ssims)),
        "max_error": max(max_error(a, b) for a, b in zip(drawn, true, strict=True)),
        "flat": float(kept / flat) if flat else 1.0,
        "signed": [float(v) for v in signed],
        "suspicious": odd,
        "bytes": artifact.bytes,
        "latency_ms": _latency(pipeline.values, feeds[0].inputs),
        "threads": threads,
    }
    if golden.simulated is not None:
        simulated = golden.simulated[:count]
        to_sim = [picture_psnr(a, b) for a, b in zip(drawn, simulated, strict=True)]
        to_float = [picture_psnr(a, b) for a, b in zip(simulated, true, strict=True)]
        found |= {
            "to_simulation": float(np.mean(to_sim)),
            "simulation_to_float": float(np.mean(to_float)),
            "lead": float(np.mean(to_sim) - np.mean(to_float)),
        }
    return found


def _latency(
    values: Callable[[Mapping[str, np.ndarray]], np.ndarray], inputs: Mapping[str, np.ndarray]
) -> float:
    """Median of LATENCY_RUNS runs, in ms, after three to warm up."""
    for _ in range(3):
        values(inputs)
    times = []
    for _ in range(LATENCY_RUNS):
        began = time.perf_counter()
        values(inputs)
        times.append(time.perf_counter() - began)
    return float(np.median(times) * 1000)


def judge(artifact: Artifact, found: Mapping[str, Any], limits: Limits) -> list[Row]:
    """Rows of one artifact. A picture that looks like no drawing fails, whatever its PSNR."""
    name = artifact.directory.name or str(artifact.directory)
    rows = []

    def add(metric: str, value: float | str, limit: float | None, low: bool, unit: str) -> None:
        text = "" if limit is None else f"{'≥' if low else '≤'} {limit:g}{unit}"
        passed = True
        if limit is not None:
            number = float(value)
            passed = number >= limit if low else number <= limit
        rows.append(Row(name, metric, value, text, bool(passed)))

    add("psnr_db", found["psnr"], limits.psnr, True, " dB")
    add("psnr_worst_db", found["psnr_worst"], None, True, " dB")
    add("ssim", found["ssim"], limits.ssim, True, "")
    add("max_error", found["max_error"], None, False, "")
    add("flat_kept", found["flat"], limits.flat, True, "")
    add("signed_error", max(abs(v) for v in found["signed"]), limits.signed, False, "")
    if "lead" in found:
        add("to_simulation_db", found["to_simulation"], None, True, " dB")
        add("simulation_to_float_db", found["simulation_to_float"], None, True, " dB")
        add("lead_db", found["lead"], limits.lead, True, " dB")
    add("bytes", found["bytes"], limits.bytes, False, "")
    add("latency_ms", found["latency_ms"], limits.latency, False, " ms")
    for prompt, why in found["suspicious"].items():
        rows.append(Row(name, "suspicious", f"{prompt}: {why}", "none", False))
    if artifact.precision == "int8" and artifact.cpu != "portable" and not cpu_has_vnni():
        why = f"exported for {artifact.cpu}; this CPU has no VNNI, 8-bit weights saturate"
        rows.append(Row(name, "cpu_profile", why, "portable", False))
    return rows


def verify(
    directories: list[Path],
    *,
    prompts: int | None = None,
    threads: int = 1,
    limits: Limits | None = None,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Report:
    """Each artifact in a process of its own. `limits` override the precision's defaults where set.

    An artifact that can not be judged gives one row, "runs", with the reason; the others go on.
    Raises BadInput where a directory is no artifact at all.
    """
    rows: list[Row] = []
    details: list[Mapping[str, Any]] = []
    for i, directory in enumerate(directories):
        artifact = read_artifact(directory)
        report(artifact.directory.name, i, len(directories))
        try:
            found = run_in_child(
                "measure", directory=str(directory), prompts=prompts, threads=threads
            )
        except GenedgeError as problem:
            if len(directories) == 1:
                raise
            rows.append(Row(directory.name, "runs", str(problem), "", False))
            continue
        chosen = DEFAULTS[artifact.precision]
        if limits is not None:
            given = {k: v for k, v in vars(limits).items() if v is not None}
            chosen = replace(chosen, **given)
        rows += judge(artifact, found, chosen)
        details.append({"artifact": str(directory), "hash": artifact.hash, **found})
    report("", len(directories), len(directories))
    return Report(tuple(rows), tuple(details))
