"""Time and memory of a U-Net of Stable Diffusion 1.5's shape, on each target → docs/large.md.

    python tests/benchmarks/large.py docs/large.md [--shape full|tenth] [--only onnx-fp16,…]

The weights are random and made here; text encoder and decoder are tiny, so that what is measured is
the U-Net. Each pair of target and precision is exported by the command line in a process of its
own, then its U-Net is run by the target's runtime, in another one, on one random input, beside the
float module. Rows are kept in a JSON file beside the pipeline: what was measured before stays in
the table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from genedge.runtime.host import cores, cpu_name

# Channels of the four levels: Stable Diffusion 1.5's, and a shape of a tenth of its weights.
SHAPES = {"full": (320, 640, 1280, 1280), "tenth": (96, 192, 448, 448)}
PAIRS = (
    ("onnx", "fp16"),
    ("onnx", "int8"),
    ("openvino", "fp16"),
    ("openvino", "int8"),
    ("executorch", "fp32"),
    ("executorch", "int8"),
)
LATENT = 64
WALK = ("--steps", "1", "--guidance", "0", "--prompts", "1")
UNET = "unet"


@dataclass
class Measured:
    """One row: seconds, and bytes. problem: why there is no artifact."""

    target: str
    precision: str
    float_bytes: int
    seconds: float = 0.0
    peak: int = 0
    anonymous: int = 0
    together: int = 0
    run_peak: int = 0
    file_bytes: int = 0
    error: float = 0.0
    largest: float = 0.0
    run_seconds: float = 0.0
    problem: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="full")
    parser.add_argument("--only", default="")
    parser.add_argument("--work", type=Path, default=Path("build/large"))
    parser.add_argument("--child", nargs="*")
    asked = parser.parse_args()
    if asked.child:
        task, *words = asked.child
        {"make": make, "export": export, "reference": reference, "compare": compare}[task](*words)
        return
    work = asked.work / asked.shape
    work.mkdir(parents=True, exist_ok=True)
    folder = work / "pipeline"
    if not (folder / "model_index.json").exists():
        child("make", str(folder), asked.shape)
        child("reference", str(folder), str(work / "reference.npz"))
    wanted = [p for p in PAIRS if not asked.only or "-".join(p) in asked.only.split(",")]
    kept = work / "rows.json"
    for target, precision in wanted:
        row = measured(work, target, precision)
        rows = json.loads(kept.read_text()) if kept.exists() else {}
        rows[f"{target}-{precision}"] = asdict(row)
        kept.write_text(json.dumps(rows, indent=1))
    asked.out.write_text(page(json.loads(kept.read_text()), asked.shape))


def child(*words: str, log: Path | None = None) -> int:
    """Runs a task of this file in a process of its own; returns its exit code."""
    command = [sys.executable, __file__, "-", "--child", *words]
    if log is None:
        return subprocess.run(command, check=True).returncode
    with log.open("w") as f:
        return subprocess.run(command, stdout=f, stderr=subprocess.STDOUT).returncode


def make(folder: str, shape: str) -> None:
    """Saves the pipeline: a real U-Net's shape, a tiny rest."""
    import torch
    from diffusers import AutoencoderTiny, EulerDiscreteScheduler, UNet2DConditionModel
    from pipelines import STABLE, clip_tokenizer, stable_diffusion, text_encoder

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=LATENT, cross_attention_dim=768, block_out_channels=SHAPES[shape]
    )
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    pipeline = stable_diffusion(
        EulerDiscreteScheduler(**STABLE, timestep_spacing="trailing"),
        vae=vae.eval(),
        unet=unet.eval(),
        text_encoder=text_encoder(clip_tokenizer(), width=768, layers=1),
    )
    pipeline.save_pretrained(folder)


def random_input() -> dict[str, np.ndarray]:
    """What the U-Net takes, drawn at random."""
    draw = np.random.default_rng(0)
    return {
        "latents": draw.normal(size=(1, 4, LATENT, LATENT)).astype(np.float32),
        "timestep": np.array([500.0], np.float32),
        "context": draw.normal(size=(1, 77, 768)).astype(np.float32),
    }


def reference(folder: str, out: str) -> None:
    """Writes what the float module gives for the random input, and its float32 bytes."""
    import torch

    from genedge.toolkit.pipeline import load_pipeline

    module = load_pipeline(Path(folder), steps=1, guidance=0.0).components[1].module
    with torch.no_grad():
        result = module(*map(torch.from_numpy, random_input().values()))
    size = sum(4 * p.numel() for p in module.parameters())
    np.savez(out, result=result.numpy(), bytes=np.int64(size))


def resident(row: str) -> int:
    """Bytes of a row of this process's status. Not `ru_maxrss`: that keeps what the process that
    started this one had."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{row}:")[1].split()[0])


def family() -> int:
    """Resident bytes of this process and of those that it started, pages of files included."""
    parents, sizes = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                behind = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(behind[1])
                sizes[int(entry.name)] = int(behind[21]) * os.sysconf("SC_PAGE_SIZE")
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(sizes.get(pid, 0) for pid in mine)


def export(folder: str, target: str, precision: str, out: str, answer: str) -> None:
    """The command line's own export; writes its time and memory."""
    from genedge.toolkit.cli import main as cli

    began, most, together = time.perf_counter(), [0], [0]

    def watch() -> None:
        last = 0.0
        while True:
            anonymous = resident("RssAnon")
            most[0] = max(most[0], anonymous)
            together[0] = max(together[0], family())
            if time.perf_counter() - last > 5:
                last = time.perf_counter()
                stored = resident("RssFile")
                print(
                    f"[{last - began:.0f} s: {anonymous / 1e9:.2f} GB anonymous, "
                    f"{stored / 1e9:.2f} GB of files]",
                    flush=True,
                )
            time.sleep(0.2)

    threading.Thread(target=watch, daemon=True).start()
    sys.argv = ["genedge", "export", folder, "--target", target, "--precision", precision]
    sys.argv += [*WALK, "--out", out, "--force", "--debug"]
    sys.argv += ["--min-psnr", "5", "--min-ssim", "0"] if precision == "int8" else []
    code = 0
    try:
        cli()
    except SystemExit as end:
        code = int(end.code or 0)
    row = {
        "seconds": time.perf_counter() - began,
        "peak": resident("VmHWM"),
        "anonymous": most[0],
        "together": together[0],
    }
    Path(answer).write_text(json.dumps(row))
    sys.exit(code)


def compare(artifact: str, wanted: str, answer: str) -> None:
    """The artifact's U-Net on the random input, beside the float module's answer."""
    from dataclasses import replace

    from genedge.runtime.artifact import read_artifact
    from genedge.runtime.run import load_component_runs

    whole = read_artifact(Path(artifact))
    unet = next(c for c in whole.components if c.name == UNET)
    (run,) = load_component_runs(replace(whole, components=(unet,)), 1)
    began = time.perf_counter()
    result = run(random_input())["prediction"]
    seconds = time.perf_counter() - began
    true = np.load(wanted)["result"]
    row: dict[str, Any] = {
        "error": float(np.abs(result - true).max()),
        "largest": float(np.abs(true).max()),
        "run_seconds": seconds,
        "run_peak": resident("VmHWM"),
        "file_bytes": sum(f.bytes for f in unet.files),
    }
    Path(answer).write_text(json.dumps(row))


def measured(work: Path, target: str, precision: str) -> Measured:
    """Exports one pair, and runs it."""
    wanted = work / "reference.npz"
    row = Measured(target, precision, int(np.load(wanted)["bytes"]))
    name, out = f"{target}-{precision}", work / "artifacts"
    answer, log = work / f"{name}.json", work / f"{name}.log"
    answer.unlink(missing_ok=True)
    print(f"{name}: exporting, see {log}", flush=True)
    code = child(
        "export", str(work / "pipeline"), target, precision, str(out), str(answer), log=log
    )
    if answer.exists():
        vars(row).update(json.loads(answer.read_text()))
    if code == 0:
        artifact = out / f"pipeline-{target}-{precision}"
        compare_log = work / f"{name}-run.log"
        code = child("compare", str(artifact), str(wanted), str(answer), log=compare_log)
        log = compare_log if code else log
        vars(row).update(json.loads(answer.read_text()) if code == 0 else {})
    if code:
        said = [s for s in log.read_text().splitlines() if s.strip() and not s.startswith("[")]
        row.problem = said[-1][:300] if said else f"ended with code {code}"
    print(json.dumps(asdict(row)), flush=True)
    return row


def page(rows: dict[str, Any], shape: str) -> str:
    """docs/large.md."""
    some = next(iter(rows.values()))
    size = some["float_bytes"]
    channels = ", ".join(map(str, SHAPES[shape]))
    lines = [
        "# Real sizes on a small machine",
        "",
        "<!-- Written by make bench-large; do not edit. -->",
        "",
        f"A U-Net with the channels of Stable Diffusion 1.5 ({channels}), {size / 4e6:.1f} M parameters,"
        if shape == "full"
        else f"A U-Net of channels {channels}, {size / 4e6:.1f} M parameters,",
        f"{size / 1e9:.2f} GB as float32, random weights, latents of {LATENT} × {LATENT}; text encoder "
        "and decoder are tiny. Each row is one",
        f"`genedge export --steps 1 --guidance 0 --prompts 1` in a process of its own, on "
        f"{cpu_name()}, {cores()} cores, {memory() / 1e9:.0f} GB of memory,",
        "one thread.",
        "",
        "| target, precision | time | peak of the export | of it anonymous | with its child | "
        "peak of a run | U-Net's files | one run | largest error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for target, precision in PAIRS:
        row = rows.get(f"{target}-{precision}")
        if row is None:
            lines.append(f"| {target} {precision} | not measured | | | | | | |")
        elif row["problem"]:
            reached = f"{row['peak'] / 1e9:.1f} GB" if row["peak"] else ""
            lines.append(
                f"| {target} {precision} | none: {row['problem']} | {reached} | | | | | | |"
            )
        else:
            times = f"{row['peak'] / 1e9:.1f} GB, {row['peak'] / size:.1f}×"
            both = f"{row['together'] / 1e9:.1f} GB, {row['together'] / size:.1f}×"
            checked = f"{row['run_peak'] / 1e9:.1f} GB, {row['run_peak'] / size:.1f}×"
            lines.append(
                f"| {target} {precision} | {row['seconds'] / 60:.0f} min | {times} | "
                f"{row['anonymous'] / 1e9:.1f} GB | {both} | {checked} | {row['file_bytes'] / 1e6:,.0f} MB | "
                f"{row['run_seconds']:.1f} s | {row['error']:.2g} of {row['largest']:.2g} |"
            )
    return "\n".join([*lines, "", *REMARKS, ""])


REMARKS = (
    "× is of the U-Net's float32 bytes. Peaks are resident memory (`VmHWM`), and hold the weights that are mapped from",
    "the safetensors file: pages that the system takes back where it needs them. Anonymous memory is what it can not",
    "take back, looked at every 0.2 s. A run is loading the U-Net's files and drawing one prediction, in a process",
    "without torch (ExecuTorch's own has it); the runtime's copy of the weights is in its peak. An export verifies",
    "what it wrote in such a process, while its own memory is still held, but for the mapped weights, which it gives",
    "back first: with its child is the largest sum of the resident memory of both, looked at every 0.2 s, mapped files",
    "included.",
    "",
    "The largest error is between the artifact's U-Net and the float module on one random input (latents, timestep",
    "500, text), of the largest number that the float module gives. One run is the first after loading. Weights are",
    "random, so that the int8 errors say nothing about a trained model; int8 is calibrated on 12 walks of one step.",
    "A real export has more steps and prompts: `genedge export` says how long it will take before it starts, and is",
    "refused where its memory or disk would not do. The times are of a machine that was shared with other work.",
)


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
