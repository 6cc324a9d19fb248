"""`genedge train`: emoji-teacher from nothing or from an earlier one, emoji from a pruned one.

The text side learns from text alone, in the end to tell which thing is meant (`choose.py`); what is
drawn of a thing is its code's and the decoder's doing, which learn together (`codes.py`).
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from genedge.runtime.errors import BadInput
from genedge.runtime.signature import Signature, TensorSpec
from genedge.runtime.tokenizer import PromptTokenizer
from genedge.toolkit.generator import Component, Generator
from genedge.toolkit.quantize import on_grid
from genedge.toolkit.saved import TOKENIZER_FILE, load_saved, save
from genedge.toolkit.train import Report, remember

from . import data
from .captions import (
    CHINESE,
    PAD,
    Captions,
    captions_of,
    load_trained,
    meanings_of,
    train_tokenizer,
)
from .choose import decided, fit_choice
from .codes import fit_codes, grown, table_of, widened
from .int8 import fit_int8
from .model import MEANINGS, TOKENS, VOCABULARY, Chooser, Decoder, TextSide
from .paraphrases import kept_out
from .robust import silenced, tightened
from .scores import namer, scores_of
from .sharpen import fit_sharp
from .text import PromptBatches, codes_of_names, fit_text
from .transplant import transplanted
from .wider import wider_words

M = TypeVar("M", bound=nn.Module)
PHASES = ["codes", "refine", "text", "choice", "together", "sharpen"]
REFINE = {"phase": "refine", "steps": 5200, "rates": (8e-4, 2.5e-3), "noise": 0.38, "flat": 0.4}
TOGETHER = {"phase": "together", "steps": 11_500, "rates": (6e-4, 3e-3), "noise": 0.1}
# The student's: the rates rise once more when they have fallen, as in SGDR (Loshchilov and Hutter,
# "SGDR: Stochastic gradient descent with warm restarts", 2017).
BOUNDED = {"phase": "bounds", "steps": 24_000, "rates": (1e-3, 5e-3), "noise": 0.1}
AGAIN = {
    "phase": "again",
    "steps": 25_000,
    "rates": (7e-4, 3.5e-3),
    "noise": 0.1,
    "flat": 0.25,
    "seed": 5,
}
# Its decoder alone, for codes that are on their grid and stay.
ALONE = {
    "phase": "alone",
    "steps": 26_000,
    "rates": (7e-4, 0.0),
    "noise": 0.03,
    "flat": 0.25,
    "decibels": 0.01,
    "seed": 6,
}
# What `fit_int8` takes; near: 40 dB.
TOWARDS_INT8: dict[str, Any] = {
    "steps": 1600,
    "rate": 2e-4,
    "weight": 2.0,
    "near": 0.01,
    "share": 0.75,
    "decibels": 0.01,
    "far": 0.85,
}
ONWARD = 12_500  # steps of text, where a trained one is gone on from
SCORES_FILE = "scores.json"
STORED_STEPS = 127  # of the largest weight of a row
TEACHER, STUDENT = "emoji-teacher-chooser", "emoji-chooser"  # their constructors
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


def assemble(
    text: Chooser, decoder: Decoder, tokenizer: Path, art: data.Art, words: Words
) -> Generator:
    """`emoji-teacher` of trained modules, with its calibration and golden prompts."""
    captions = words.captions
    return Generator(
        name="emoji-teacher",
        components=(
            Component("text", text.eval(), ("tokens", "meaning"), ("code",)),
            Component("image", decoder.eval(), ("code", "style"), ("picture",)),
        ),
        signature=signature(),
        tokenizer=load_trained(tokenizer),
        tokenizer_json=tokenizer.read_text(encoding="utf-8"),
        calibration=calibration_prompts(art, words),
        golden=golden_prompts(art, captions),
        constructor=TEACHER,
    )


def _pair_prompt(art: data.Art, captions: Captions, row: int) -> str:
    style = data.STYLES[art.style_of[row]]
    return f"{captions.names[int(art.emoji_of[row])]}, {style} style"


def calibration_prompts(art: data.Art, words: Words) -> tuple[str, ...]:
    """Half are training pairs; a quarter are pairs that no art exists of; an eighth keywords, and an
    eighth names in other languages.

    What training never showed comes out softer, and int8 errs otherwise there.
    """
    random, captions = np.random.default_rng(7), words.captions
    count = CALIBRATION_PROMPTS
    pairs = random.choice(np.flatnonzero(art.train), count, replace=False)
    golden = set(golden_prompts(art, captions))
    vague = [w for w, rows in captions.vague.items() if len(rows) > 3 and w not in golden]
    drawn = random.choice(vague, count, replace=False)
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
    named = [name for other in words.others for name in other.names.values()]
    prompts[7::8] = random.choice(named, len(prompts[7::8]), replace=False).tolist()
    return tuple(dict.fromkeys(prompts))


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


def held_out_rows(art: data.Art) -> np.ndarray:
    """Rows of all held-out pairs of known emoji, in an order that is always the same."""
    return np.random.default_rng(9).permutation(np.flatnonzero(art.held_out & ~art.unseen))


@torch.no_grad()
def coarse(module: M) -> M:
    """A copy with every row of weights on STORED_STEPS steps each way: the step of least error."""
    module = copy.deepcopy(module)
    for weight in module.parameters():
        if weight.dim() < 2:
            continue
        rows = weight.flatten(1)
        largest = rows.abs().amax(1, keepdim=True).clamp(min=1e-9)
        least = torch.full_like(largest, torch.inf)
        found = rows.clone()
        for share in torch.linspace(0.55, 1, 19):
            step = largest * share / STORED_STEPS
            near = (rows / step).round().clamp(-STORED_STEPS, STORED_STEPS) * step
            error = (near - rows).square().sum(1, keepdim=True)
            found, least = torch.where(error < least, near, found), torch.minimum(error, least)
        weight.copy_(found.view(weight.shape))
    return module


def load_data(cache: Path, report: Report) -> data.Art:
    """The data set, built first where it is not there yet."""
    return data.load(data.build(cache, lambda what, done, total: report(what, done, total, {})))


@dataclass(frozen=True)
class Words:
    """What prompts are made of: English captions, Chinese ones, and words beyond them, with the
    row that each choice means."""

    captions: Captions
    others: tuple[Captions, ...]
    wider: dict[str, tuple[int, ...]]

    def batches(self, tokenizer: PromptTokenizer, codes: Tensor) -> PromptBatches:
        """Prompts, and the codes that they should give."""
        return PromptBatches(
            self.captions,
            tokenizer,
            codes,
            1,
            self.others,
            self.wider,
            kept_out(),
        )


def load_words(art: data.Art, cache: Path, work: Path, report: Report) -> Words:
    """Captions in English and Chinese, and the words of WordNet that suggest an emoji."""
    captions = captions_of(art)
    chinese = captions_of(art, data.translations(cache, "zh"), CHINESE)
    wider = wider_words(captions, cache, work, kept_out(), report)
    return Words(captions, (chinese,), {w: meanings_of(w, r, art) for w, r in wider.items()})


def text_of_teacher(
    art: data.Art,
    words: Words,
    tokenizer: Path,
    work: Path,
    report: Report,
    start: Generator | None,
) -> tuple[Chooser, Decoder]:
    """The first phases of `emoji-teacher`, until its text side decides: codes, refine, text, choice.

    start: an earlier generator of before that, of this vocabulary or another: its decoder is widened,
    the codes of its names are gone on from, and its text side is transplanted. Without one, `codes`
    and `text` begin with nothing.
    """
    if not tokenizer.exists():
        train_tokenizer((words.captions, *words.others), words.wider, tokenizer)
    onward: dict[str, Any] = {}
    if start is None:
        decoder, codes = fit_codes(art, work, report)
        decoder = grown(decoder)
    else:
        known, narrow = (c.module for c in start.components)
        assert isinstance(known, TextSide)
        assert isinstance(narrow, Decoder)
        assert start.tokenizer is not None
        codes, decoder = codes_of_names(known, words.captions, start.tokenizer), widened(narrow)
        before = PromptBatches(words.captions, start.tokenizer, codes, seed=1)
        text = transplanted(known, before, load_trained(tokenizer))
        onward = {"start": text, "steps": ONWARD, "rate": 8e-4}
    decoder, codes = fit_codes(art, work, report, start=(decoder, codes), **REFINE)  # type: ignore[arg-type]
    batches = words.batches(load_trained(tokenizer), codes)
    text = fit_text(art, batches, decoder, work, report, **onward)
    return fit_choice(batches, text, work, report), decoder


def with_codes(
    art: data.Art,
    text: Chooser,
    decoder: Decoder,
    work: Path,
    report: Report,
    *phases: dict[str, Any],
) -> tuple[Chooser, Decoder, Tensor]:
    """Text side and decoder after the codes of all things and the decoder have learned together, and
    the codes by emoji as the text side then writes them, on its int8 grid.

    phases: what `fit_codes` takes, one after another.
    """
    known = torch.from_numpy(captions_of(art).rows)
    table = table_of(text, len(art.emoji), known)
    for phase in phases:
        decoder, table = fit_codes(art, work, report, start=(decoder, table), **phase)
    text = copy.deepcopy(text)
    text.set_codes(table[known])
    text = on_grid(text).eval()
    return text, decoder, table_of(text, len(art.emoji), known)


def train(
    work: Path,
    cache: Path,
    out: Path,
    report: Report,
    force: bool = False,
    start: Generator | None = None,
) -> Path:
    """All phases of `emoji-teacher`, each resumed where it stopped; saves it and its scores to `out`.

    start: an earlier teacher to go on from. Where its text side decides, only the last two phases are
    left. Raises BadInput where it is none, or where `work` holds another run; MissingProgram without
    npm, resvg_py, MiniLM, or the network that judges.
    """
    began = time.monotonic()
    if start is not None and not _large(start):
        raise BadInput(f"{start.name} is no emoji-teacher; start from one, or from nothing")
    remember(work, _settings("emoji-teacher", start, refine=REFINE, together=TOGETHER))
    art = load_data(cache, report)
    namer(art, cache, report)  # what scores take in the end is found missing now
    if start is not None and isinstance(start.components[0].module, Chooser):
        made, phases = start, PHASES[-2:]
    else:
        words, tokenizer = load_words(art, cache, work, report), work / TOKENIZER_FILE
        text, decoder = text_of_teacher(art, words, tokenizer, work, report, start)
        made, phases = assemble(text, decoder, tokenizer, art, words), PHASES
    text, decoder = (c.module for c in made.components)  # type: ignore[assignment]
    text, decoder, table = with_codes(art, text, decoder, work, report, TOGETHER)
    decoder = coarse(fit_sharp("sharpen", art, decoder, table, work, report))
    note: dict[str, Any] = {"pass": "train", "phases": [*phases, f"grid of {STORED_STEPS} steps"]}
    if start is not None:
        note["from"] = start.hash()
    made, row = made.with_modules([text, decoder], note), {}
    row["minutes_of_last_run"] = round((time.monotonic() - began) / 60, 1)
    return _scored(made, row, art, work, cache, out, report, force)


def _settings(model: str, start: Generator | None, **phases: Any) -> dict[str, Any]:
    return {"model": model, "start": start.hash() if start else "", "phases": phases}


def _scored(
    made: Generator,
    row: dict[str, Any],
    art: data.Art,
    work: Path,
    cache: Path,
    out: Path,
    report: Report,
    force: bool,
) -> Path:
    """`out`, with the generator and its scores: written when the scores of what is stored are known,
    so that a run which ends before can be run again."""
    save(made, work / "made", force=True, half=True)
    row["scores"] = scores_of(load_saved(work / "made"), art, cache, report)
    text = json.dumps(row, indent=1) + "\n"
    save(made, out, force=force, half=True, beside={SCORES_FILE: text})
    return out


def _large(generator: Generator) -> bool:
    """Is it a whole emoji-teacher, as `widened` takes?"""
    image = generator.components[-1]
    return isinstance(image.module, Decoder) and image.module.clamps is None and not image.kept


def train_student(
    work: Path,
    cache: Path,
    out: Path,
    report: Report,
    force: bool = False,
    start: Generator | None = None,
) -> Path:
    """A pruned `emoji-teacher` goes on with the art itself, within tight bounds, towards int8.

    Its text side stays but for the codes of its things, which learn with the decoder, and ties of the
    prompts that it lists, which are decided. What its teacher draws is all that distillation shows a
    student; the art is sharper. start: the pruned generator. Resumes from `work`; saves the result and
    its scores to `out`. Raises BadInput where there is no `start`, it is not pruned, or is a student
    already, or where `work` holds another run; MissingProgram as `train` does.
    """
    if start is None:
        raise BadInput("emoji is trained on from a pruned emoji-teacher; name one by --start")
    side, image = start.components
    if not image.kept:
        raise BadInput(f"{start.name} is not pruned; prune it first, as make student does")
    if start.constructor != TEACHER:
        raise BadInput(
            f"{start.name} is a finished student, or of before the text side decided; start from a "
            f"pruned emoji-teacher"
        )
    assert isinstance(side.module, Chooser)
    assert isinstance(image.module, Decoder)
    phases = {"bounds": BOUNDED, "again": AGAIN, "alone": ALONE, "int8": TOWARDS_INT8}
    remember(work, _settings("emoji", start, **phases))
    art = load_data(cache, report)
    namer(art, cache, report)  # what scores take in the end is found missing now
    codes = side.module.codes()
    decoder = tightened(silenced(image.module, codes), codes)
    text, decoder, table = with_codes(art, side.module, decoder, work, report, BOUNDED, AGAIN)
    decoder, _ = fit_codes(art, work, report, start=(decoder, table), **ALONE)  # type: ignore[arg-type]
    text = decided(text, start)
    note = {"pass": "train", "phases": list(phases)}
    generator = replace(
        start,
        name="emoji",
        constructor=STUDENT,
        components=(replace(side, module=text), replace(image, module=decoder)),
        history=(*start.history, note),
    )
    made = fit_int8(art, captions_of(art).rows, generator, work, report, **TOWARDS_INT8)
    return _scored(made, {}, art, work, cache, out, report, force)


def write_held_out(art: data.Art, path: Path, count: int = 256) -> None:
    """Held-out pictures and their prompts, for tests without a network.

    npz: prompts (count,), pictures uint8 (count, 64, 64, 4), premultiplied RGBA.
    """
    rows = held_out_rows(art)[:count]
    captions = captions_of(art)
    prompts = [_pair_prompt(art, captions, int(r)) for r in rows]
    np.savez_compressed(path, prompts=np.array(prompts), pictures=art.pictures[rows])
