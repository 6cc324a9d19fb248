"""`genedge train emoji`: from nothing to a saved generator and its model card."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from genedge.runtime.signature import Signature, TensorSpec
from genedge.toolkit.generator import TOKENIZER_FILE, Component, Generator, load_saved, save
from genedge.toolkit.quantize import on_grid
from genedge.toolkit.train import Report

from . import data
from .captions import PAD, Captions, captions_of, load_trained, train_tokenizer
from .codes import fit_codes, grown
from .model import CODE_CHANNELS, MEANINGS, TOKENS, VOCABULARY, Decoder, TextSide
from .pictures import JOINT_STEPS, SHARPEN_STEPS, fit_pictures
from .settle import settle
from .sharpen import Discriminator
from .text import PromptBatches, codes_of_names, fit_text, judge_prompts

PHASES = ["codes", "text", "joint", "sharpen", "settle"]
ONWARD = {"text": 2500, "joint": 9000}  # steps where a trained generator goes on
SHARE_OF_JOINT = 0.25
CALIBRATION_PROMPTS, GOLDEN = 256, {"pairs": 48, "emoji": 6, "vague": 10}


def signature() -> Signature:
    """What `emoji` takes and gives."""
    return Signature(
        inputs={
            "tokens": TensorSpec("int64", (1, TOKENS), 0, VOCABULARY - 1, "prompt"),
            "meaning": TensorSpec("float32", (1, MEANINGS), 0, 1, "meaning"),
            "style": TensorSpec("float32", (1, len(data.STYLES)), 0, 1, "style"),
        },
        output_name="picture",
        output=TensorSpec("float32", (1, 4, data.SIZE, data.SIZE), 0, 1),
        layout="rgba-premultiplied",
        styles=data.STYLES,
        tokenizer={"length": TOKENS, "pad": PAD},
    )


def assemble(text: TextSide, decoder: Decoder, tokenizer: Path, art: data.Art) -> Generator:
    """The generator of trained modules, with its calibration and golden prompts."""
    captions = captions_of(art)
    return Generator(
        name="emoji",
        components=(
            Component("text", text.eval(), ("tokens", "meaning"), ("code",)),
            Component("image", decoder.eval(), ("code", "style"), ("picture",)),
        ),
        signature=signature(),
        tokenizer=load_trained(tokenizer),
        tokenizer_json=tokenizer.read_text(),
        calibration=calibration_prompts(art, captions),
        golden=golden_prompts(art, captions),
        constructor="emoji",
    )


def _pair_prompt(art: data.Art, captions: Captions, row: int) -> str:
    style = data.STYLES[art.style_of[row]]
    return f"{captions.names[int(art.emoji_of[row])]}, {style} style"


def calibration_prompts(art: data.Art, captions: Captions) -> tuple[str, ...]:
    """Half are training pairs; a quarter are pairs that no art exists of, a quarter keywords.

    What training never showed comes out softer, and int8 errs otherwise there.
    """
    random = np.random.default_rng(7)
    count = CALIBRATION_PROMPTS
    pairs = random.choice(np.flatnonzero(art.train), count, replace=False)
    golden = set(golden_prompts(art, captions))
    words = [w for w, rows in captions.vague.items() if len(rows) > 3 and w not in golden]
    drawn = random.choice(words, count, replace=False)
    there = set(zip(art.emoji_of.tolist(), art.style_of.tolist(), strict=True))
    missing = [
        f"{captions.names[int(e)]}, {style} style"
        for e in captions.rows
        for s, style in enumerate(data.STYLES)
        if (int(e), s) not in there
    ]
    unseen = random.choice(missing, count, replace=False)
    prompts = [_pair_prompt(art, captions, int(row)) for row in pairs]
    prompts[1::4], prompts[3::4] = unseen[1::4].tolist(), drawn[3::4].tolist()
    return tuple(prompts)


def golden_prompts(art: data.Art, captions: Captions) -> tuple[str, ...]:
    """Held-out pairs, emoji that are held out whole, and keywords of several meanings."""
    random = np.random.default_rng(8)
    pairs = held_out_rows(art)[: GOLDEN["pairs"]]
    unseen = [e.name.lower() for e in art.emoji if e.held_out]
    words = [w for w, rows in captions.vague.items() if len(rows) > 5]
    return (
        *(_pair_prompt(art, captions, int(r)) for r in pairs),
        *(str(n) for n in random.choice(unseen, GOLDEN["emoji"], replace=False)),
        *(str(w) for w in random.choice(words, GOLDEN["vague"], replace=False)),
    )


@torch.no_grad()
def blend(module: nn.Module, other: nn.Module, share: float = SHARE_OF_JOINT) -> None:
    """Moves each weight of `module` towards `other`'s, in place (Wortsman et al., ICML 2022).

    A quarter of the way from the settled weights to the joint ones int8 keeps every limit on each
    target, and sharpness and R@1 stay within their goals.
    """
    for mine, theirs in zip(module.parameters(), other.parameters(), strict=True):
        mine.lerp_(theirs, share)


def held_out_rows(art: data.Art) -> np.ndarray:
    """Rows of all held-out pairs of known emoji, in an order that is always the same."""
    return np.random.default_rng(9).permutation(np.flatnonzero(art.held_out & ~art.unseen))


def load_data(cache: Path, report: Report) -> data.Art:
    """The data set, built first where it is not there yet."""
    return data.load(data.build(cache, lambda what, done, total: report(what, done, total, {})))


def from_nothing(
    art: data.Art, tokenizer: Path, work: Path, report: Report
) -> tuple[TextSide, Decoder]:
    """The five phases: codes, text, joint, sharpen, settle; the last is blended with joint."""
    captions = captions_of(art)
    if not tokenizer.exists():
        train_tokenizer(captions, tokenizer)
    small, codes = fit_codes(art, work, report)
    batches = PromptBatches(captions, load_trained(tokenizer), codes, seed=1)
    text = fit_text(art, batches, small, work, report)
    return finished(
        art, batches, text, grown(small), work, report, steps=JOINT_STEPS, rates=(3e-4, 5e-4)
    )


def finished(
    art: data.Art,
    batches: PromptBatches,
    text: TextSide,
    decoder: Decoder,
    work: Path,
    report: Report,
    *,
    steps: int,
    rates: tuple[float, float],
) -> tuple[TextSide, Decoder]:
    """The phases that see pictures: joint, sharpen, settle; the last is blended with joint.

    steps and rates: of joint.
    """
    joint = fit_pictures(
        "joint",
        art,
        batches,
        text,
        decoder,
        work,
        report,
        steps=steps,
        rates=rates,
        rounded_from=0.75,
    )
    text, decoder = fit_pictures(
        "sharpen",
        art,
        batches,
        *joint,
        work,
        report,
        steps=SHARPEN_STEPS,
        rates=(1e-4, 2e-4),
        critic=Discriminator(),
    )
    text, decoder = settle(art, batches, text, decoder, work, report)
    blend(text, joint[0])
    blend(decoder, joint[1])
    return text, decoder


def onward(
    start: Generator, art: data.Art, tokenizer: Path, work: Path, report: Report
) -> tuple[TextSide, Decoder]:
    """All phases but the first, from a trained generator.

    Its codes are what its text side writes for the names. New kinds of prompts come in so.
    """
    text, decoder = (c.module for c in start.components)
    assert isinstance(text, TextSide)
    assert isinstance(decoder, Decoder)
    captions = captions_of(art)
    tokenizer.write_text(start.tokenizer_json)
    codes = codes_of_names(text, captions, load_trained(tokenizer))
    batches = PromptBatches(captions, load_trained(tokenizer), codes, seed=1)
    text = fit_text(
        art, batches, decoder, work, report, start=text, steps=ONWARD["text"], rate=5e-4
    )
    return finished(
        art, batches, text, decoder, work, report, steps=ONWARD["joint"], rates=(2e-4, 4e-4)
    )


def train(
    work: Path,
    cache: Path,
    out: Path,
    report: Report,
    force: bool = False,
    start: Generator | None = None,
) -> Path:
    """All phases, each resumed where it stopped; saves the generator and its scores to `out`.

    start: a trained `emoji` to go on from, with its tokenizer. Raises MissingProgram without npm,
    resvg_py or MiniLM.
    """
    began = time.monotonic()
    art = load_data(cache, report)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = work / TOKENIZER_FILE
    if start is None:
        trained = from_nothing(art, tokenizer, work, report)
        note: dict[str, Any] = {"pass": "train", "phases": [*PHASES, "grid"]}
    else:
        trained = onward(start, art, tokenizer, work, report)
        note = {"pass": "train", "from": start.name, "phases": [*PHASES[1:], "grid"]}
    made = assemble(on_grid(trained[0]), on_grid(trained[1]), tokenizer, art)
    generator = replace(made, history=(*(start.history if start else ()), note))
    save(generator, out, force=force, half=True)
    scores = evaluate(load_saved(out), art)
    row = {"minutes_of_last_run": round((time.monotonic() - began) / 60, 1), "scores": scores}
    (out / "scores.json").write_text(json.dumps(row, indent=1) + "\n")
    return out


def evaluate(generator: Generator, art: data.Art, count: int = 1000) -> dict[str, float]:
    """Scores from prompts: `count` training pairs and all held-out pairs of known emoji."""
    assert generator.tokenizer is not None
    text, decoder = (c.module for c in generator.components)
    codes = torch.zeros(len(art.emoji), CODE_CHANNELS, 4, 4)
    batches = PromptBatches(captions_of(art), generator.tokenizer, codes, seed=1)
    scores = judge_prompts(text, decoder, batches, art, count)  # type: ignore[arg-type]
    styles = np.bincount(art.style_of)
    return scores | {"chance_r1": float(np.mean(1 / styles[art.style_of]))}


def write_held_out(art: data.Art, path: Path, count: int = 256) -> None:
    """Held-out pictures and their prompts, for tests without a network.

    npz: prompts (count,), pictures uint8 (count, 64, 64, 4), premultiplied RGBA.
    """
    rows = held_out_rows(art)[:count]
    captions = captions_of(art)
    prompts = [_pair_prompt(art, captions, int(r)) for r in rows]
    np.savez_compressed(path, prompts=np.array(prompts), pictures=art.pictures[rows])
