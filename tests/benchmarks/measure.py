"""Writes a page of measurements: accuracy, size, latency ratios, cold start, peak memory.

    python tests/benchmarks/measure.py docs/measured.md

Exports `emoji` for every target as fp32 and int8 into a temporary folder, then measures. Timings
are medians of interleaved rounds in one process per thread count, given as ratios.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS, COLD_RUNS = 40, 9


def latencies(folders: dict[str, str], threads: int) -> dict[str, float]:
    """Median ms per picture of torch eager and of each artifact, interleaved."""
    import torch

    from genedge.runtime.run import load
    from genedge.toolkit.models import resolve

    torch.set_num_threads(threads)
    generator = resolve("emoji")
    pipelines = {name: load(path, threads, check=False) for name, path in folders.items()}
    torch.set_num_threads(threads)
    feed = generator.prepare("a red apple, noto style", 1)
    calls = {"torch eager fp32": lambda: generator.tensors(feed)}
    calls |= {n: (lambda p=p: p.values(feed.inputs)) for n, p in pipelines.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(5):
            call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            call()  # the caches are this one's again
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(v) * 1000 for name, v in times.items()}


def cold_start(folder: Path, out: Path) -> tuple[float, float]:
    """Median seconds of the whole process `genedge generate`, and its largest peak in MB."""
    seconds, peak = [], 0.0
    for _ in range(COLD_RUNS):
        words = [sys.executable, "-m", "genedge.toolkit.cli", "generate", "a red apple", "--quiet"]
        words += ["--artifact", str(folder), "--seed", "1", "--out", str(out / "cold.png")]
        began = time.perf_counter()
        pid = os.posix_spawn(words[0], words, os.environ)
        _, status, usage = os.wait4(pid, 0)
        seconds.append(time.perf_counter() - began)
        assert status == 0
        peak = max(peak, usage.ru_maxrss / 1000)
    return statistics.median(seconds), peak


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def main(page: Path) -> None:
    from genedge.runtime.artifact import TARGETS, read_artifact
    from genedge.runtime.host import cpu_has_vnni
    from genedge.runtime.measure import measure
    from genedge.runtime.verdict import BETWEEN
    from genedge.runtime.verify import verify
    from genedge.toolkit.export import export
    from genedge.toolkit.models import resolve

    lines = [
        "# Measured",
        "",
        "Written by `make bench`. `emoji`, 64 golden prompts (48 held-out pairs, 6 held-out emoji, 10 keywords).",
        f"CPU: {cpu_name()}, VNNI {'yes' if cpu_has_vnni() else 'no'}, profile portable.",
        "",
        "## Accuracy and size",
        "",
        "PSNR and SSIM to the float generator's pictures; flat: share of pixels at 0 or 255 that come back within 2;",
        "signed: largest mean signed error of four channels, in grey levels; lead: PSNR to the simulation minus PSNR",
        "of the simulation to float.",
        "",
        "| artifact | PSNR mean, p1, worst (dB) | SSIM | flat | signed | to simulation, lead (dB) | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        folders: dict[str, Path] = {}
        generator = resolve("emoji")
        for precision in ("fp32", "fp16", "int8"):
            targets = [t for t in TARGETS if (t, precision) != ("executorch", "fp16")]
            for one in export(generator, targets, precision=precision, out=out):
                artifact = read_artifact(one.directory)
                key = f"{artifact.target} {precision}"
                folders[key] = one.directory
                found = measure(one.directory, None, 1)
                signed = max(found["signed"], key=abs)
                lead = (
                    f"{found['to_simulation']:.1f}, {found['lead']:.1f}" if "lead" in found else ""
                )
                lines.append(
                    f"| {key} | {found['psnr']:.1f}, {found['psnr_p1']:.1f}, {found['psnr_worst']:.1f} "
                    f"| {found['ssim']:.4f} | {found['flat']:.4f} | {signed:+.2f} | {lead} "
                    f"| {artifact.bytes / 1e6:.2f} |"
                )
                print(lines[-1], flush=True)
        lines += ["", "int8 pictures of one runtime and of another:", ""]
        lines += ["| " + " | ".join(BETWEEN) + " |", "|---|---|---|---|---|"]
        report = verify([v for k, v in folders.items() if "int8" in k])
        lines += ["| " + " | ".join(pair.cells) + " |" for pair in report.between]
        lines += ["", "## Latency, as ratios of one run", ""]
        lines += [
            f"Medians of {ROUNDS} interleaved rounds in one process per thread count. int8 ÷ fp32 on the same",
            "runtime, and each against torch eager.",
            "",
        ]
        for threads in (1, 2):
            kept = {k: str(v) for k, v in folders.items() if "fp16" not in k}
            words = [sys.executable, __file__, "--latency", json.dumps(kept), str(threads)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            times = json.loads(done.stdout.strip().splitlines()[-1])
            eager = times["torch eager fp32"]
            lines += [
                f"{threads} thread(s); torch eager {eager:.2f} ms:",
                "",
                "| target | fp32 ÷ eager | int8 ÷ eager | int8 ÷ fp32 | int8, ms |",
                "|---|---|---|---|---|",
            ]
            for target in TARGETS:
                fp32, int8 = times[f"{target} fp32"], times[f"{target} int8"]
                lines.append(
                    f"| {target} | {fp32 / eager:.2f} | {int8 / eager:.2f} | {int8 / fp32:.2f} | {int8:.2f} |"
                )
                print(lines[-1], flush=True)
            lines.append("")
        lines += [
            "## Cold start",
            "",
            f"The whole process `genedge generate`, int8, one thread: median of {COLD_RUNS}, largest peak memory.",
            "",
            "| target | seconds | MB |",
            "|---|---|---|",
        ]
        for target in ("openvino", "onnx"):
            # From a small process: a child's peak starts at what its parent held when it forked.
            words = [sys.executable, __file__, "--cold", str(folders[f"{target} int8"]), str(out)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            seconds, peak = json.loads(done.stdout)
            lines.append(f"| {target} | {seconds:.2f} | {peak:.0f} |")
            print(lines[-1], flush=True)
    page.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--cold":
        print(json.dumps(cold_start(Path(sys.argv[2]), Path(sys.argv[3]))))
    elif sys.argv[1] == "--latency":
        print(json.dumps(latencies(json.loads(sys.argv[2]), int(sys.argv[3]))))
    else:
        main(Path(sys.argv[1]))
