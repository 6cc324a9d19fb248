"""Writes quality over the decoder's size, and what each loss buys: `make bench-curve`.

    python tests/benchmarks/curve.py docs/curve.md [curve] [losses] [text]

Ratios are of the decoder's multiply-adds, 1 picture, to that of `emoji-teacher`. Each row is pruned
and distilled alike, without any picture of the art, and kept in build/curve: a second run goes on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_decoder import begun
from small_text import prompts_to_learn, smaller, taught

from genedge.toolkit.distill import distill
from genedge.toolkit.generator import Generator
from genedge.toolkit.models import resolve
from genedge.toolkit.prune import int8_bytes, multiply_adds, prune
from genedge.toolkit.zoo.emoji.captions import captions_of
from genedge.toolkit.zoo.emoji.codes import judged_rows
from genedge.toolkit.zoo.emoji.judge import judge
from genedge.toolkit.zoo.emoji.model import CODE_CHANNELS, CODE_SIZE, MEANINGS
from genedge.toolkit.zoo.emoji.prompts import prompts_of
from genedge.toolkit.zoo.emoji.scores import draw_prompts, scores_of
from genedge.toolkit.zoo.emoji.train import load_data, load_words

CACHE, WORK = Path(".cache"), Path("build/curve")
STEPS = int(os.environ.get("CURVE_STEPS", 1500))
LOSS_STEPS = int(os.environ.get("CURVE_LOSS_STEPS", 600))
TEXT_STEPS = int(os.environ.get("CURVE_TEXT_STEPS", 4000))
# Channels of the convolutions, ranks of what tells things apart and of their codes.
TEXT_SIDES = {
    "`emoji`": (),
    "384 channels, ranks 256 and 384": (384, 256, 384),
    "256 channels, ranks 160 and 256": (256, 160, 256),
    "192 channels, ranks 96 and 160": (192, 96, 160),
}
TEXT_SHOWN = {
    "PSNR": "train_psnr",
    "R@1": "train_r1",
    "Chinese names R@1": "train_zh_r1",
    "English paraphrases R@5": "paraphrase_en_r5",
    "Chinese paraphrases R@5": "paraphrase_zh_r5",
    "held-out R@1": "held_r1",
}
RATIOS = (("teacher", 3), ("teacher", 10), ("student", 18), ("student", 40), ("student", 80))
LOSSES = {
    "output": {"features": 0.0, "bands": 0.0, "relations": 0.0},
    "output, features": {"bands": 0.0, "relations": 0.0},
    "output, bands": {"features": 0.0, "relations": 0.0},
    "output, relations": {"features": 0.0, "bands": 0.0},
    "output, adversarial (0.01)": {
        "features": 0.0,
        "bands": 0.0,
        "relations": 0.0,
        "adversarial": 0.01,
    },
    "all but adversarial (the default)": {},
    "all": {"adversarial": 0.01},
}
PARTS = ("curve", "losses", "text")
HEADS = {"PSNR": "psnr", "R@1": "r1", "R@5": "r5", "sharpness": "sharpness"}
SHOWN = {
    "PSNR": "train_psnr",
    "SSIM": "train_ssim",
    "R@1": "train_r1",
    "R@1 by the classifier": "train_named_r1",
    "sharpness": "train_sharpness",
    "kernel distance": "train_kernel_distance",
    "held-out R@1": "held_r1",
    "diversity": "diversity",
}


def decoder_of(generator: Generator) -> Generator:
    """The decoder alone."""
    return replace(generator, components=generator.components[1:])


def measured(name: str, make: Callable[[], Generator], art: Any) -> dict[str, float]:
    """Scores and sizes of a row, from build/curve where it is there already."""
    path = WORK / f"{name}.json"
    if not path.exists():
        made = make()
        row = scores_of(made, art, CACHE, lambda *_: None)
        sizes = [sum(p.numel() for p in c.module.parameters()) for c in made.components]
        text = replace(made, components=made.components[:1])
        row |= {
            "macs": multiply_adds(made) - multiply_adds(text),
            "parameters": sizes[1],
            "bytes": int8_bytes(decoder_of(made)),
        }
        path.write_text(json.dumps(row))
        print(name, {k: round(row[v], 3) for k, v in SHOWN.items()}, row["macs"], flush=True)
    found: dict[str, float] = json.loads(path.read_text())
    return found


def learned(
    teacher: Generator, begin: Generator, name: str, prompts: list[str], **settings: Any
) -> Generator:
    """`begin` after learning from the teacher's drawings, its text side kept."""
    return distill(
        teacher,
        begin,
        work=WORK / name,
        prompts=prompts,
        batch=32,
        components=["image"],
        report=lambda *_: None,
        **settings,
    )


def table(rows: dict[str, dict[str, float]], columns: dict[str, Callable[[dict], str]]) -> list:
    """A Markdown table."""
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    lines += [
        f"| {name} | " + " | ".join(f(row) for f in columns.values()) + " |"
        for name, row in rows.items()
    ]
    return [*lines, ""]


def curve(teacher: Generator, art: Any, prompts: list[str]) -> list[str]:
    """The decoder's size against quality."""
    models = {"teacher": teacher, "student": resolve("emoji")}
    rows = {"`emoji-teacher`": measured("teacher", lambda: teacher, art)}
    whole = rows["`emoji-teacher`"]
    found: dict[str, dict[str, float]] = {}
    for origin, ratio in RATIOS:

        def make(origin: str = origin, ratio: int = ratio) -> Generator:
            first = models[origin]
            text = multiply_adds(replace(first, components=first.components[:1]))
            target = int(text + whole["macs"] / ratio)
            pruned = prune(first, target_macs=target, components=["image"])
            name = f"{origin}-{ratio}"
            return learned(teacher, pruned, name, prompts, steps=STEPS, rate=3e-4)

        found[f"{origin}, pruned to 1/{ratio}"] = measured(f"{origin}-{ratio}", make, art)
    rows |= {n: r for n, r in found.items() if n.startswith("teacher")}
    rows["`emoji`"] = measured("small", lambda: models["student"], art)
    rows |= {n: r for n, r in found.items() if n.startswith("student")}

    def over(key: str) -> Callable[[dict], str]:
        return lambda row: f"{row[key] / 1e6:.2f} (÷ {whole[key] / row[key]:.0f})"

    columns: dict[str, Callable[[dict], str]] = {
        "decoder, M multiply-adds": over("macs"),
        "M parameters": over("parameters"),
    }
    columns |= {k: lambda row, v=v: f"{row[v]:.3f}" for k, v in SHOWN.items()}  # type: ignore[misc]
    return table(rows, columns)


def judged(generator: Generator, art: Any) -> dict[str, float]:
    """PSNR, R@1, R@5 and sharpness of the names of 1,000 training pairs."""
    names, rows = captions_of(art).names, judged_rows(art, 1000)["train"]
    prompts = [names[int(e)] for e in art.emoji_of[rows]]
    choices = np.random.default_rng(0).integers(0, MEANINGS, len(rows))
    return judge(draw_prompts(generator, prompts, choices, art.style_of[rows]), rows, art)


def losses(teacher: Generator, art: Any, prompts: list[str]) -> list[str]:
    """What each loss buys an untrained small decoder."""
    rows: dict[str, dict[str, float]] = {}
    for name, weights in LOSSES.items():
        short = "loss-" + "".join(c for c in name if c.isalpha())

        path = WORK / f"{short}.json"
        if not path.exists():
            settings = {"steps": LOSS_STEPS, "rate": 1.5e-3, "losses": weights}
            made = learned(teacher, begun(teacher), short, prompts, **settings)
            path.write_text(json.dumps(judged(made, art)))
        rows[name] = json.loads(path.read_text())
        print(name, rows[name], flush=True)
    return table(rows, {k: lambda row, v=v: f"{row[v]:.3f}" for k, v in HEADS.items()})  # type: ignore[misc]


def text(art: Any) -> list[str]:
    """The text side's size against quality; its decoder stays."""
    emoji = resolve("emoji")
    side, decoder = emoji.components
    assert emoji.tokenizer is not None
    rows: dict[str, dict[str, float]] = {}
    for name, sizes in TEXT_SIDES.items():
        path = WORK / f"text-{'-'.join(map(str, sizes)) or 'whole'}.json"
        made = emoji
        if not path.exists():
            if sizes:
                words = load_words(art, CACHE, WORK, lambda *_: None)
                codes = torch.zeros(len(art.emoji), CODE_CHANNELS, CODE_SIZE, CODE_SIZE)
                tokens = prompts_to_learn(words.batches(emoji.tokenizer, codes))
                module = smaller(side.module, *sizes)  # type: ignore[arg-type]
                taught(module, side.module, tokens, TEXT_STEPS, partial(print, name))  # type: ignore[arg-type]
                made = replace(emoji, components=(replace(side, module=module), decoder))
            row = scores_of(made, art, CACHE, lambda *_: None)
            parameters = sum(p.numel() for p in made.components[0].module.parameters())
            row |= {"bytes": int8_bytes(made) - int8_bytes(decoder_of(made)), "count": parameters}
            path.write_text(json.dumps(row))
        row = json.loads(path.read_text())
        rows[f"{row['bytes'] / 1e6:.2f} MB, {row['count'] / 1e6:.2f} M parameters: {name}"] = row
        print(name, {k: round(row[v], 3) for k, v in TEXT_SHOWN.items()}, flush=True)
    return table(rows, {k: lambda row, v=v: f"{row[v]:.3f}" for k, v in TEXT_SHOWN.items()})  # type: ignore[misc]


def main(page: Path, parts: tuple[str, ...]) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    art = load_data(CACHE, lambda *_: None)
    teacher = resolve("emoji-teacher")
    prompts = prompts_of(art, CACHE)
    lines = [
        "# Quality over size, and what each loss buys",
        "",
        "Written by `make bench-curve`. 1,000 training pairs, all held-out pairs, compared with the real art; see",
        "[evaluate.md](evaluate.md). Sizes are of the decoder; the text side (3.9 M parameters, 23 M multiply-adds) is the same",
        "in all rows but the last table's. One run of each row.",
        "",
    ]
    if "curve" in parts:
        lines += [
            f"Pruned by `genedge prune --components image --target-macs`, then `genedge distill` from `emoji-teacher` for {STEPS:,} steps of 32",
            "pictures. `emoji` itself was trained on with the art (its model card).",
            "",
            *curve(teacher, art, prompts),
        ]
    if "losses" in parts:
        lines += [
            f"Losses of `genedge distill`, each with its default weight: an untrained small decoder, {LOSS_STEPS:,} steps of 32 pictures.",
            "Where sharpness is 0 the run died: all pictures are one plain ground, and no gradient is left.",
            "",
            *losses(teacher, art, prompts),
        ]
    if "text" in parts:
        lines += [
            "The text side of `emoji`, with fewer channels and thin products for its two widest layers (`tests/benchmarks/small_text.py`; its token",
            f"table of 0.66 M numbers stays), taught for {TEXT_STEPS:,} steps of 256 prompts how likely `emoji` finds each thing. The decoder is that of",
            "`emoji`, made for the codes as they were. `genedge prune --components text` ends at 3.6 MB, where all channels that may go are gone.",
            "",
            *text(art),
        ]
    page.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    asked = tuple(sys.argv[2:]) or PARTS
    if unknown := [part for part in asked if part not in PARTS]:
        sys.exit(f"part {unknown[0]!r} is unknown; known: {', '.join(PARTS)}")
    main(Path(sys.argv[1]), asked)
