"""Last phase of the student: the decoder learns to draw as int8 what it draws in float.

The text side stays, and with it the codes that it can write. What the decoder has to keep is what it
drew of them before the phase, and of training pairs a part of the way from that to the art; what it
has to bring near is its twin in int8. Half of each batch are the worst of TRIED times as many pairs
of a name and a style (after Shrivastava et al., "Training region-based object detectors with online
hard example mining", CVPR 2016), some mixed with another, so that what lies between is steady too.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genedge.toolkit.generator import Generator
from genedge.toolkit.int8_twin import Int8Twin
from genedge.toolkit.losses import int8_loss
from genedge.toolkit.quantize import on_grid
from genedge.toolkit.train import (
    Average,
    Report,
    Stateful,
    adam,
    falling,
    run_phase,
    set_rates,
)

from .codes import BATCH, batch_rows, one_hot, pictures_of, table_of
from .data import Art
from .losses import mean_decibels
from .model import STYLE_COUNT, Chooser
from .robust import between

PAIRS = BATCH // 2  # of a batch: training pairs; the rest are the worst of TRIED times as many
TRIED = 3
# Chance that a code is mixed with another, likewise a style, and how far.
MIXED, FARTHEST = 0.2, 0.4
_WARM = 50  # steps


def pairs_of(art: Art, rows: np.ndarray) -> np.ndarray:
    """int64 (N, 2): emoji of `rows` and styles, drawn by somebody or not, but for held-out pairs."""
    held = set(zip(art.emoji_of[art.held_out], art.style_of[art.held_out], strict=True))
    every = [(int(r), s) for r in rows for s in range(STYLE_COUNT)]
    return np.array([pair for pair in every if pair not in held])


def kept_loss(drew: Tensor, wanted: Tensor) -> Tensor:
    """L1 of pictures (B, 4, H, W), and a quarter of L1 of their gradients each way; a scalar."""
    difference = drew - wanted
    across = (difference[..., 1:] - difference[..., :-1]).abs().mean()
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    return difference.abs().mean() + 0.25 * (across + down)


def fit_int8(
    art: Art,
    known: np.ndarray,
    generator: Generator,
    work: Path,
    report: Report,
    *,
    steps: int,
    rate: float,
    weight: float,
    near: float,
    share: float,
    decibels: float = 0.0,
    far: float = 1.0,
    seed: int = 4,
) -> Generator:
    """`emoji` with a decoder trained on, its weights on the grids of int8. Resumes from `work`.

    known: int64 (things,), the emoji that each thing of its Chooser is. rate: Adam's, which falls
    from a fifth of the steps on. weight, near: of the distance to int8, and the root mean square of
    it that costs nothing. share: how far training pairs are wanted from what the decoder drew to
    the art, 0 to 1. decibels: weight of their mean_decibels to the art itself. far: how far its
    weights go to the moving average of the trained ones. Raises what Int8Twin raises.
    """
    made = copy.deepcopy(generator)
    text, image = made.components
    before = copy.deepcopy(image.module).eval()
    text.module.eval().requires_grad_(False)
    image.module.eval().requires_grad_(True)
    image.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    twin = Int8Twin(made, BATCH)
    weights = dict(image.module.named_parameters())
    optimizer, average = adam((weights.values(), rate)), Average(weights, 0.998)
    rows = np.flatnonzero(art.train)
    pictures, where = pictures_of(art, rows), {int(r): i for i, r in enumerate(rows)}
    free = pairs_of(art, known)
    assert isinstance(text.module, Chooser)
    codes = table_of(text.module, len(art.emoji), torch.from_numpy(known))
    rounding = twin.components[-1].module

    def mixed(values: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        parts = random.random(len(values)) * FARTHEST * (random.random(len(values)) < MIXED)
        part = torch.from_numpy(parts).float().view(-1, *[1] * (values.dim() - 1))
        return torch.lerp(values, others, part)

    @torch.no_grad()
    def hardest(random: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Codes and styles: the `count` of TRIED times as many on which the twin is farthest."""
        one, other = random.choice(free, (2, TRIED * count))
        code = mixed(codes[one[:, 0]], codes[other[:, 0]], random)
        styles = [one_hot(torch.from_numpy(pairs[:, 1])) for pairs in (one, other)]
        style = mixed(styles[0], styles[1], random)
        apart = []
        for some in zip(code.split(BATCH), style.split(BATCH), strict=True):
            with twin.on_grids([image]):
                exact = image.module(*some)
            apart.append((rounding(*some) - exact).square().flatten(1).mean(1))
        worst = torch.cat(apart).topk(count).indices
        return code[worst], style[worst]

    def one_step(step: int) -> dict[str, Tensor]:
        pairs = batch_rows(step, rows, PAIRS, seed)
        code, style = hardest(np.random.default_rng((seed, step)), BATCH - PAIRS)
        code = torch.cat([codes[art.emoji_of[pairs]], code])
        style = torch.cat([one_hot(torch.from_numpy(art.style_of[pairs])), style])
        with torch.no_grad():
            wanted = before(code, style)
            true = pictures[[where[int(r)] for r in pairs]].float() / 255
            wanted[:PAIRS] = torch.lerp(wanted[:PAIRS], true, share)
        with twin.on_grids([image]):
            drew = image.module(code, style)
        kept = kept_loss(drew, wanted)
        if decibels:
            kept = kept + decibels * mean_decibels(drew[:PAIRS], true)
        apart = int8_loss(rounding(code, style), drew, near)
        set_rates(optimizer, min(1.0, (step + 1) / _WARM) * falling(step, steps, flat=0.2))
        optimizer.zero_grad()
        (kept + weight * apart).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update(weights)
        return {"kept": kept.detach(), "int8": apart.detach()}

    state: dict[str, Stateful] = {
        "decoder": image.module,
        "optimizer": optimizer,
        "average": average,
    }
    run_phase("int8", work, steps, state, one_step, report)
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(average.tensors[name])
    trained = image.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    whole = on_grid(between(before, trained, far))
    return replace(made, components=(text, replace(image, module=whole)))
