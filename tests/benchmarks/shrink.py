"""Writes docs/shrink.md's tables: ratio against PSNR, what each loss buys, two processes against one.

    python tests/benchmarks/shrink.py out.md [curve|rankings|losses|processes]

Prunes the decoder of `emoji` and lets it recover for a short time; small on purpose, for a shared
machine. All PSNR are those of saved pictures to the teacher's, mean over the golden prompts.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STEPS = int(os.environ.get("SHRINK_STEPS", "40"))
BATCH, RATE, SEEDS = 8, 2e-4, (0, 1, 2)
RATIOS = (0.25, 0.5, 0.75, 0.9)
PARTS = ("curve", "rankings", "losses", "processes")
TINY_STEPS = 200


def recovered(teacher: Any, small: Any, **options: Any) -> float:
    from genedge.toolkit.distill import distill
    from genedge.toolkit.drawings import psnr_to

    options = {"steps": STEPS, "batch": BATCH, "rate": RATE, "components": ["image"]} | options
    with tempfile.TemporaryDirectory() as work:
        return psnr_to(teacher, distill(teacher, small, work=Path(work), **options))


def of_decoder(generator: Any) -> tuple[float, float]:
    """Millions of multiply-adds, MB as int8, of the decoder alone."""
    from torch.utils.flop_counter import FlopCounterMode

    from genedge.toolkit.programs import example_inputs
    from genedge.toolkit.prune import int8_bytes

    decoder = generator.components[-1]
    example = example_inputs(generator, decoder)
    with FlopCounterMode(display=False) as counter:
        decoder.module(*example)
    alone = type(generator)(**{**vars(generator), "components": (decoder,)})
    return counter.get_total_flops() / 2e6, int8_bytes(alone) / 1e6


def curve(teacher: Any) -> list[str]:
    from genedge.toolkit.drawings import psnr_to
    from genedge.toolkit.prune import prune

    macs, size = of_decoder(teacher)
    lines = [
        "| ratio | M multiply-adds | MB as int8 | pruned | recovered |",
        "|---|---|---|---|---|",
    ]
    lines.append(f"| 0 | {macs:.1f} | {size:.2f} | | |")
    for ratio in RATIOS:
        small = prune(teacher, ratio=ratio, importance="taylor", components=["image"])
        now, bytes_now = of_decoder(small)
        lines.append(
            f"| {ratio} | {now:.1f} (÷ {macs / now:.1f}) | {bytes_now:.2f} (÷ {size / bytes_now:.1f}) "
            f"| {psnr_to(teacher, small):.1f} dB | {recovered(teacher, small):.1f} dB |"
        )
        print(lines[-1], flush=True)
    return lines


def rankings(teacher: Any) -> list[str]:
    from genedge.toolkit.drawings import psnr_to
    from genedge.toolkit.importance import RANKINGS
    from genedge.toolkit.prune import multiply_adds, prune

    target = int(multiply_adds(teacher) * 0.6)
    lines = ["| importance | M multiply-adds | pruned | recovered |", "|---|---|---|---|"]
    for name in RANKINGS:
        small = prune(teacher, target_macs=target, importance=name, components=["image"])
        lines.append(
            f"| {name} | {multiply_adds(small) / 1e6:.1f} | {psnr_to(teacher, small):.1f} dB "
            f"| {recovered(teacher, small):.1f} dB |"
        )
        print(lines[-1], flush=True)
    return lines


def losses(teacher: Any) -> list[str]:
    from genedge.toolkit.drawings import psnr_to
    from genedge.toolkit.losses import WEIGHTS
    from genedge.toolkit.prune import prune

    small = prune(teacher, ratio=0.5, importance="taylor", components=["image"])
    none, weights = dict.fromkeys(WEIGHTS, 0.0), {**WEIGHTS, "adversarial": 0.01}
    rows: dict[str, dict[str, float]] = {}
    for name in weights:  # each beside the output, then all but each
        rows[name if name == "output" else f"output, {name}"] = none | {
            k: weights[k] for k in {"output", name}
        }
    rows["all but adversarial (the default)"] = dict(WEIGHTS)
    lines = ["| losses | recovered |", "|---|---|", f"| none | {psnr_to(teacher, small):.1f} dB |"]
    for what, row in rows.items():
        lines.append(f"| {what} | {recovered(teacher, small, losses=row):.2f} dB |")
        print(lines[-1], flush=True)
    return lines


def _tiny(count: int, seed: int) -> float:
    """Mean loss of the last 50 of TINY_STEPS steps of a small pruned generator."""
    with tempfile.TemporaryDirectory() as name:
        words = [sys.executable]
        if count > 1:
            words += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
            words += ["--num_processes", str(count), "--mixed_precision", "no"]
            words += ["--dynamo_backend", "no", "--main_process_port", "0"]
        words += [__file__, "--tiny", name, str(seed)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1" if count > 1 else ""}
        if count == 1:
            env = {k: v for k, v in env.items() if not k.startswith("ACCELERATE_")}
        env["PYTHONPATH"] = str(Path(__file__).parents[1])
        subprocess.run(words, check=True, env=env, capture_output=True)
        rows = [json.loads(r) for r in (Path(name) / "distill.jsonl").read_text().splitlines()]
        assert json.loads((Path(name) / "count.json").read_text()) == count
        return float(rows[-1]["loss"])


def _tiny_run(work: Path, seed: int) -> None:
    from kinds import norms

    from genedge.toolkit.distill import distill
    from genedge.toolkit.processes import launched
    from genedge.toolkit.prune import prune

    teacher = norms()
    small = prune(teacher, ratio=0.5, prompts=4)
    distill(teacher, small, work=work, steps=TINY_STEPS, batch=8, rate=2e-3, seed=seed)
    if launched().index == 0:
        (work / "count.json").write_text(json.dumps(launched().count))


def processes(teacher: Any) -> list[str]:
    one = [_tiny(1, s) for s in SEEDS]
    two = [_tiny(2, s) for s in SEEDS]
    lines = ["| seed | one process | two processes |", "|---|---|---|"]
    lines += [f"| {s} | {a:.4f} | {b:.4f} |" for s, a, b in zip(SEEDS, one, two, strict=True)]
    gap = statistics.mean(two) - statistics.mean(one)
    noise = math.hypot(statistics.stdev(one), statistics.stdev(two)) / math.sqrt(len(SEEDS))
    lines += ["", f"Difference of the means {gap:+.4f}, standard error {noise:.4f}."]
    print("\n".join(lines), flush=True)
    assert abs(gap) <= 2 * noise, "two processes do not reach the loss of one"
    return lines


def main(page: Path, parts: tuple[str, ...]) -> None:
    import torch

    from genedge.toolkit.models import resolve

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    teacher = resolve("emoji")
    page.parent.mkdir(parents=True, exist_ok=True)
    text = [f"Decoder of `emoji`, {STEPS} steps of {BATCH} pictures.", ""]
    for part in parts:
        text += [f"## {part}", "", *globals()[part](teacher), ""]
        page.write_text("\n".join(text))


if __name__ == "__main__":
    if sys.argv[1] == "--tiny":
        _tiny_run(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(Path(sys.argv[1]), tuple(sys.argv[2:]) or PARTS)
