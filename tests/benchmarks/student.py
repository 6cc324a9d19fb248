"""Writes the table of teacher, student, pruned student and int8: `make bench-student`.

    python tests/benchmarks/student.py docs/student.md

Scores are those of `genedge evaluate`; the int8 row has PSNR and R@1 of 300 training pairs, from
`genedge evaluate --artifact`. Latency: ONNX Runtime, one thread, medians of interleaved rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from genedge.runtime.artifact import read_artifact
from genedge.runtime.run import load
from genedge.toolkit.distill import distill
from genedge.toolkit.export import export
from genedge.toolkit.models import resolve
from genedge.toolkit.prune import int8_bytes, multiply_adds, prune
from genedge.toolkit.zoo.emoji.prompts import prompts_of
from genedge.toolkit.zoo.emoji.scores import scores_of
from genedge.toolkit.zoo.emoji.train import load_data
from genedge.toolkit.zoo.emoji.truth import lost_to_truth

CACHE, ROUNDS, RECOVER = Path(".cache"), 40, 1000
SHOWN = {
    "PSNR": "train_psnr",
    "SSIM": "train_ssim",
    "R@1": "train_r1",
    "R@5": "train_r5",
    "R@1 by the classifier": "train_named_r1",
    "sharpness": "train_sharpness",
    "kernel distance": "train_kernel_distance",
    "held-out PSNR": "held_psnr",
    "held-out SSIM": "held_ssim",
    "held-out R@1": "held_r1",
    "held-out R@5": "held_r5",
    "copy rate": "held_copy_rate",
    "Chinese names R@1": "train_zh_r1",
    "paraphrases R@5, English": "paraphrase_en_r5",
    "of these WordNet's": "paraphrase_en_wordnet_r5",
    "paraphrases R@5, Chinese": "paraphrase_zh_r5",
    "diversity": "diversity",
}


def quiet(*row: Any) -> None:
    """No progress."""


def latencies(folders: dict[str, Path]) -> dict[str, float]:
    """Median seconds of one picture, interleaved."""
    pipelines = {name: load(folder, 1) for name, folder in folders.items()}
    feeds = {n: p.prepare("a red apple, noto style", 1).inputs for n, p in pipelines.items()}
    times: dict[str, list[float]] = {name: [] for name in pipelines}
    for turn in range(ROUNDS + 3):
        for name, pipeline in pipelines.items():
            pipeline.values(feeds[name])  # the caches are this one's again
            began = time.perf_counter()
            pipeline.values(feeds[name])
            if turn > 2:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(v) for name, v in times.items()}


def main(page: Path) -> None:
    art = load_data(CACHE, quiet)
    teacher, student = resolve("emoji-teacher"), resolve("emoji")
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        target = multiply_adds(student) * 3 // 4
        pruned = prune(student, target_macs=target, components=["image"])
        pruned = distill(
            teacher,
            pruned,
            work=out / "work",
            prompts=prompts_of(art, CACHE),
            steps=RECOVER,
            batch=32,
            rate=3e-4,
            components=["image"],
        )
        models = {"teacher": teacher, "student": student, "pruned student": pruned}
        scores = {n: scores_of(g, art, CACHE, quiet) for n, g in models.items()}
        folders = {}
        for label, model in models.items():
            (made,) = export(model, ["onnx"], precision="fp32", out=out / label)
            folders[label] = made.directory
        (made,) = export(student, ["onnx"], out=out / "int8")
        folders["student int8"] = made.directory
        lost = lost_to_truth(student, made.directory, art, 300, quiet)
        times = latencies(folders)
        heads = [*folders]
        lines = [
            "# Teacher and student",
            "",
            "Written by `make bench-student`. 1,000 training pairs, all held-out pairs; see `genedge evaluate`.",
            f"The pruned student: 3/4 of the multiply-adds, {RECOVER} steps of recovery.",
            "",
            "| | " + " | ".join(heads) + " |",
            "|---|" + "---|" * len(heads),
        ]

        def row(what: str, values: dict[str, str]) -> None:
            lines.append(f"| {what} | " + " | ".join(values.get(h, "") for h in heads) + " |")

        counted = models | {"student int8": student}
        parameters = {
            n: sum(p.numel() for c in g.components for p in c.module.parameters())
            for n, g in counted.items()
        }
        row("parameters, millions", {n: f"{v / 1e6:.2f}" for n, v in parameters.items()})
        row(
            "of these the decoder's",
            {
                n: f"{sum(p.numel() for p in g.components[1].module.parameters()) / 1e6:.2f}"
                for n, g in counted.items()
            },
        )
        row(
            "multiply-adds of a picture, millions",
            {n: f"{multiply_adds(g) / 1e6:.0f}" for n, g in counted.items()},
        )
        row("weights as int8, MB", {n: f"{int8_bytes(g) / 1e6:.2f}" for n, g in counted.items()})
        row("artifact, MB", {n: f"{read_artifact(f).bytes / 1e6:.2f}" for n, f in folders.items()})
        row("latency ÷ teacher's", {n: f"{t / times['teacher']:.3f}" for n, t in times.items()})
        for what, key in SHOWN.items():
            row(what, {n: f"{s[key]:.3f}" for n, s in scores.items()})
        lines += [
            "",
            f"int8 against float on {lost['prompts']:.0f} training pairs: PSNR to the art {lost['psnr_artifact']:.2f} dB "
            f"for {lost['psnr_float']:.2f}, R@1 {lost['r1_artifact']:.3f} for {lost['r1_float']:.3f}.",
            "",
        ]
        first = scores["teacher"]
        lines += [
            f"Ceiling and floor of R@1 on training pairs: {first['ceiling_train_r1']:.3f} by pixels and "
            f"{first['ceiling_train_named_r1']:.3f} by the classifier (real pictures, moved by a pixel and slightly "
            f"blurred), {first['floor_train_named_r1']:.3f} for shuffled prompts.",
            "",
        ]
        page.write_text("\n".join(lines))
        print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
