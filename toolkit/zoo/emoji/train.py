"""`genedge train`: emoji-teacher from nothing or from an earlier one, emoji from a pruned one."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from genedge.runtime.errors import BadInput
from genedge.runtime.signature import Signature, TensorSpec
from genedge.runtime.tokenizer import PromptTokenizer
from genedge.toolkit.generator import (
    TOKENIZER_FILE,
    Component,
    Generator,
    load_saved,
    save,
)
from genedge.toolkit.quantize import on_grid
from genedge.toolkit.train import Report

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
from .choose import fit_choice
from .codes import fit_codes, grown, widened
from .int8 import fit_int8
from .model import MEANINGS, TOKENS, VOCABULARY, Chooser, Decoder, TextSide
from .paraphrases import kept_out
from .pictures import JOINT_STEPS, SHARPEN_STEPS, fit_pictures
from .robust import silenced, tightened
from .scores import scores_of
from .sharpen import Discriminator
from .slim import slimmed
from .text import PromptBatches, codes_of_names, fit_text
from .transplant import transplanted
from .wider import wider_words

M = TypeVar("M", bound=nn.Module)
PHASES = ["codes", "refine", "text", "joint", "sharpen"]
REFINE = {"phase": "refine", "steps": 5200, "rates": (8e-4, 2.5e-3), "noise": 0.38, "flat": 0.4}
TOGETHER = {"phase": "together", "steps": 16_600, "rates": (1e-3, 5e-3), "noise": 0.1}
ART_STEPS, BOUNDED_STEPS, STUDENT_SHARPEN_STEPS = 9000, 15_000, 500  # of the student, on the art
STUDENT_NOISE = 0.15  # half of CODE_NOISE, in the last two phases
TEXT_UNITS = 728  # hidden units of its text side, until it decides with fewer
LEVELS = 192  # that layers' outputs are rounded to in the last phase
ONWARD = 12_500  # steps of text, where a trained one is gone on from
STORED_STEPS = 32  # of the largest weight of a row: a quarter less in a compressed history than 64
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
    text: TextSide, decoder: Decoder, tokenizer: Path, art: data.Art, words: Words
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
        tokenizer_json=tokenizer.read_text(),
        calibration=calibration_prompts(art, words),
        golden=golden_prompts(art, captions),
        constructor="emoji-teacher",
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


def train_teacher(
    art: data.Art,
    words: Words,
    tokenizer: Path,
    work: Path,
    report: Report,
    start: Generator | None,
) -> tuple[TextSide, Decoder]:
    """All phases of `emoji-teacher`: codes, refine, text, joint, sharpen.

    start: an earlier generator, of this vocabulary or another. Its decoder is widened, the codes of
    its names are gone on from, and its text side is transplanted; without one, `codes` and `text`
    begin with nothing.
    """
    if not tokenizer.exists():
        train_tokenizer((words.captions, *words.others), words.wider, tokenizer)
    text: TextSide | None = None
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
    decoder, codes = fit_codes(art, work, report, start=(decoder, codes), **REFINE)  # type: ignore[arg-type]
    batches = words.batches(load_trained(tokenizer), codes)
    text = (
        fit_text(art, batches, decoder, work, report)
        if text is None
        else fit_text(art, batches, decoder, work, report, start=text, steps=ONWARD, rate=8e-4)
    )
    text, decoder = fit_pictures(
        "joint",
        art,
        batches,
        text,
        decoder,
        work,
        report,
        steps=JOINT_STEPS,
        rates=(3e-4, 4e-4),
    )
    return fit_pictures(
        "sharpen",
        art,
        batches,
        text,
        decoder,
        work,
        report,
        steps=SHARPEN_STEPS,
        rates=(1e-4, 2e-4),
        critic=Discriminator(),
    )


def train(
    work: Path,
    cache: Path,
    out: Path,
    report: Report,
    force: bool = False,
    start: Generator | None = None,
) -> Path:
    """All phases, each resumed where it stopped; saves the teacher and its scores to `out`.

    start: an earlier generator of emoji to go on from. Raises MissingProgram without npm, resvg_py
    or MiniLM.
    """
    began = time.monotonic()
    art = load_data(cache, report)
    work.mkdir(parents=True, exist_ok=True)
    words = load_words(art, cache, work, report)
    tokenizer = work / TOKENIZER_FILE
    text, decoder = train_teacher(art, words, tokenizer, work, report, start)
    made = assemble(coarse(text), coarse(decoder), tokenizer, art, words)
    note: dict[str, Any] = {"pass": "train", "phases": [*PHASES, f"grid of {STORED_STEPS} steps"]}
    if start is not None:
        note["from"] = start.hash()
    generator = replace(made, history=(note,))
    save(generator, out, force=force, half=True)
    scores = scores_of(load_saved(out), art, cache, report)
    row = {"minutes_of_last_run": round((time.monotonic() - began) / 60, 1), "scores": scores}
    (out / "scores.json").write_text(json.dumps(row, indent=1) + "\n")
    return out


def bounded(text: TextSide) -> TextSide:
    """A copy with clamped layers (see BOUNDS), its token table on its int8 grid; no other weight
    changes. What int8 rounds then has the range that most prompts use."""
    made = copy.deepcopy(text)
    made.bounded, made.embedding = True, on_grid(made.embedding)
    return made


def train_student(
    work: Path,
    cache: Path,
    out: Path,
    report: Report,
    force: bool = False,
    start: Generator | None = None,
) -> Path:
    """A pruned `emoji-teacher` goes on with the art itself, within tight bounds, sharper, towards int8.

    Both sides are bounded, and the text side loses hidden units and learns to decide; then the codes
    of its things learn with the decoder. What its
    teacher draws is all that distillation shows a student; the art is sharper. start: the pruned
    generator. Resumes from `work`; saves the result and its scores to `out`. Raises BadInput where
    there is no `start`, it is not pruned, or is a student already.
    """
    if start is None:
        raise BadInput("emoji is trained on from a pruned emoji-teacher; name one by --start")
    if not start.components[-1].kept:
        raise BadInput(f"{start.name} is not pruned; prune it first, as make student does")
    side, decoder = start.components[0], start.components[1].module
    if isinstance(side.module, Chooser):
        raise BadInput(f"{start.name} is a finished student; start from a pruned emoji-teacher")
    assert isinstance(side.module, TextSide)
    assert isinstance(decoder, Decoder)
    assert start.tokenizer is not None
    art = load_data(cache, report)
    work.mkdir(parents=True, exist_ok=True)
    words = load_words(art, cache, work, report)
    codes = codes_of_names(bounded(side.module), words.captions, start.tokenizer)
    batches = words.batches(start.tokenizer, codes)
    side = slimmed(side, batches, TEXT_UNITS)
    text: TextSide = bounded(side.module)  # type: ignore[arg-type]
    fit = partial(fit_pictures, art=art, batches=batches, work=work, report=report)
    text, decoder = fit("art", text=text, decoder=decoder, steps=ART_STEPS, rates=(3e-4, 8e-4))
    codes = codes_of_names(text, words.captions, start.tokenizer)
    codes = codes[torch.from_numpy(words.captions.rows)]
    decoder = tightened(silenced(decoder, codes), codes)
    text, decoder = fit(
        "bounds",
        text=text,
        decoder=decoder,
        steps=BOUNDED_STEPS,
        rates=(5e-4, 8e-4),
        noise=STUDENT_NOISE,
    )
    batches = words.batches(start.tokenizer, codes_of_names(text, words.captions, start.tokenizer))
    chooser = fit_choice(batches, text, work, report)
    known = torch.from_numpy(words.captions.rows)
    table = torch.zeros_like(batches.codes)
    table[known] = chooser.codes()
    decoder, table = fit_codes(art, work, report, start=(decoder, table), **TOGETHER)  # type: ignore[arg-type]
    chooser.set_codes(table[known])
    text = on_grid(chooser)
    _, sharp = fit(
        "art-sharpen",  # a name of its own: the teacher may have the same folder
        text=text,
        decoder=decoder,
        steps=STUDENT_SHARPEN_STEPS,
        rates=(0.0, 2e-4),
        critic=Discriminator(),
        levels=LEVELS,
        noise=STUDENT_NOISE,
    )
    note = {"pass": "train", "phases": ["art", "bounds", "choice", "together", "sharpen", "int8"]}
    generator = replace(
        start,
        name="emoji",
        constructor="emoji-chooser",
        components=(
            replace(start.components[0], module=text.eval(), kept={}),
            replace(start.components[1], module=sharp.eval()),
        ),
        history=(*start.history, note),
    )
    save(fit_int8(art, words.captions.rows, generator, work, report), out, force=force, half=True)
    scores = scores_of(load_saved(out), art, cache, report)
    (out / "scores.json").write_text(json.dumps({"scores": scores}, indent=1) + "\n")
    return out


def write_held_out(art: data.Art, path: Path, count: int = 256) -> None:
    """Held-out pictures and their prompts, for tests without a network.

    npz: prompts (count,), pictures uint8 (count, 64, 64, 4), premultiplied RGBA.
    """
    rows = held_out_rows(art)[:count]
    captions = captions_of(art)
    prompts = [_pair_prompt(art, captions, int(r)) for r in rows]
    np.savez_compressed(path, prompts=np.array(prompts), pictures=art.pictures[rows])
