"""Last phase of the student: the decoder learns to draw as int8 what it draws in float.

The text side stays. What the decoder has to keep is what it drew before the phase, and of training
pairs a part of the way from that to the art; what it has to bring near is its twin in int8, which
reads the codes that the text side's own twin writes. So it comes to mind neither its own rounding
nor the text side's. Half of each batch are the worst of four times as many names in any style and
keywords (after Shrivastava et al., "Training region-based object detectors with online hard example
mining", CVPR 2016): where float itself is between two pictures, int8 is far from it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genedge.toolkit.drawings import Named, drawn
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

from .codes import BATCH, batch_rows, one_hot, pictures_of
from .data import Art
from .model import STYLE_COUNT, TOKENS
from .text import PromptBatches, joined

STEPS, RATE = 4000, 3e-4
INT8_WEIGHT, ART_SHARE = 4.0, 0.3
PAIRS = BATCH // 2  # of a batch: training pairs; the rest are the worst of what is asked besides
# Times as many prompts are drawn as are taken: names in any style and keywords, half each.
TRIED = 4
_WARM = 50  # steps


def pairs_of(art: Art, rows: np.ndarray) -> np.ndarray:
    """int64 (N, 2): emoji of `rows` and styles, drawn by somebody or not, but for held-out pairs."""
    held = set(zip(art.emoji_of[art.held_out], art.style_of[art.held_out], strict=True))
    every = [(int(r), s) for r in rows for s in range(STYLE_COUNT)]
    return np.array([pair for pair in every if pair not in held])


def asked(tokens: Tensor, choices: Tensor, styles: np.ndarray) -> Named:
    """The generator's inputs: tokens (N, T), filled up to 32; choices (N, 16); styles int64 (N,)."""
    tokens = F.pad(tokens, (0, TOKENS - tokens.shape[1]))
    return {"tokens": tokens, "meaning": choices, "style": one_hot(torch.from_numpy(styles))}


def kept_loss(drew: Tensor, wanted: Tensor) -> Tensor:
    """L1 of pictures (B, 4, H, W), and a quarter of L1 of their gradients each way; a scalar."""
    difference = drew - wanted
    across = (difference[..., 1:] - difference[..., :-1]).abs().mean()
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    return difference.abs().mean() + 0.25 * (across + down)


def fit_int8(
    art: Art,
    batches: PromptBatches,
    generator: Generator,
    work: Path,
    report: Report,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    seed: int = 4,
) -> Generator:
    """`emoji` with a decoder trained on, its weights on the grids of int8. Resumes from `work`.

    rate: Adam's, which falls from a fifth of the steps on. The decoder has the moving average of its
    weights. Raises what Int8Twin raises.
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
    free = pairs_of(art, batches.captions.rows)

    def named(step: int) -> tuple[Named, Tensor]:
        """BATCH // 2 training pairs: what is asked, and the art."""
        pairs, random = batch_rows(step, rows, PAIRS, seed), np.random.default_rng((seed, step, 1))
        tokens, choices = batches.names(art.emoji_of[pairs], random)
        true = pictures[[where[int(r)] for r in pairs]].float() / 255
        return asked(tokens, choices, art.style_of[pairs]), true

    @torch.no_grad()
    def hardest(step: int, count: int) -> Named:
        """The `count` of TRIED times as many prompts on which the twin is farthest from float."""
        random = np.random.default_rng((seed, step))
        tried, far = [], []
        for _ in range(TRIED * count // BATCH):
            pairs = random.choice(free, BATCH // 2)
            names = batches.names(pairs[:, 0], random)
            words = batches.keywords(random, BATCH - len(pairs))
            anything = random.integers(0, STYLE_COUNT, BATCH - len(pairs))
            tokens = joined(names[0], words[0])
            choices = torch.cat([names[1], words[1]])
            tried.append(asked(tokens, choices, np.concatenate([pairs[:, 1], anything])))
            with twin.on_grids([image]):
                exact = drawn(made.components, tried[-1])["picture"]
            far.append((twin.draw(tried[-1])["picture"] - exact).square().flatten(1).mean(1))
        worst = torch.cat(far).topk(count).indices
        return {name: torch.cat([t[name] for t in tried])[worst] for name in tried[0]}

    def one_step(step: int) -> dict[str, Tensor]:
        (inputs, true), more = named(step), hardest(step, BATCH - PAIRS)
        inputs = {name: torch.cat([inputs[name], more[name]]) for name in inputs}
        with torch.no_grad():
            code = text.module(inputs["tokens"], inputs["meaning"])
            wanted = before(code, inputs["style"])
            wanted[:PAIRS] = torch.lerp(wanted[:PAIRS], true, ART_SHARE)
        with twin.on_grids([image]):
            drew = image.module(code, inputs["style"])
        kept = kept_loss(drew, wanted)
        apart = int8_loss(twin.draw(inputs)["picture"], drew)
        set_rates(optimizer, min(1.0, (step + 1) / _WARM) * falling(step, steps, flat=0.2))
        optimizer.zero_grad()
        (kept + INT8_WEIGHT * apart).backward()  # type: ignore[no-untyped-call]
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
        for name, weight in weights.items():
            weight.copy_(average.tensors[name])
    twin.settle([image])
    plain = image.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return replace(made, components=(text, replace(image, module=on_grid(plain))))
