"""Fifth phase: the generator learns to draw its own pictures through int8 grids.

Quantization-aware distillation: weights are rounded to 7 bits per output channel and activations
to 8 bits per tensor while the pictures of the sharpened generator, in float, are the target. It
needs no art; sharpness stays, because blur is not what it copies.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from genedge.toolkit.train import Average, Report, adam, falling, fast, run_phase, set_rates

from .codes import BATCH, one_hot
from .data import STYLES, Art
from .losses import picture_loss
from .model import Decoder, TextSide, rounded
from .text import PromptBatches, joined, judge_prompts

STEPS, VAGUE, CODE_WEIGHT = 800, 8, 0.05


class Whole(nn.Module):
    """Text side and decoder in one, drawing through `rounded`."""

    def __init__(self, text: TextSide, decoder: Decoder) -> None:
        super().__init__()
        self.text, self.decoder = text, decoder

    def forward(self, tokens: Tensor, meaning: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """Code, and picture before its clamp."""
        code = self.text(tokens, meaning, rounded)
        return code, self.decoder.unclamped(code, style, rounded)


def rounded_weight(weight: Tensor) -> Tensor:
    """weight on a symmetric grid of 7 bits for each output channel; gradients pass unchanged."""
    step = weight.detach().flatten(1).abs().amax(1).clamp(min=1e-8) / 63
    step = step.view(-1, *[1] * (weight.dim() - 1))
    return weight + ((weight / step).round() * step - weight).detach()


def settle(
    art: Art,
    batches: PromptBatches,
    text: TextSide,
    decoder: Decoder,
    work: Path,
    report: Report,
    *,
    steps: int = STEPS,
    seed: int = 3,
) -> tuple[TextSide, Decoder]:
    """Trains copies against the given text side and decoder; returns their averages. Resumes."""
    torch.manual_seed(seed)
    whole = Whole(copy.deepcopy(text), copy.deepcopy(decoder)).requires_grad_(True)
    parameters = dict(whole.named_parameters())
    tables = {k for k in parameters if "embedding" in k}
    optimizer = adam((parameters.values(), 1e-4))
    average = Average(parameters, decay=0.99)

    def one_step(step: int) -> dict[str, Tensor]:
        random = np.random.default_rng((seed, step))
        rows = random.choice(batches.captions.rows, BATCH - VAGUE)
        names, keywords = batches.names(rows, random), batches.keywords(random, VAGUE)
        tokens, meaning = joined(names[0], keywords[0]), torch.cat([names[1], keywords[1]])
        style = one_hot(torch.from_numpy(random.integers(0, len(STYLES), BATCH)))
        with torch.no_grad(), fast():
            true_code = text(tokens, meaning).float()
            target = decoder(true_code, style).float()
        coarse = {
            k: rounded_weight(v) if v.dim() > 1 and k not in tables else v
            for k, v in parameters.items()
        }
        with fast():
            code, raw = functional_call(whole, coarse, (tokens, meaning, style))
        picture = picture_loss(raw.float(), target)
        near = F.mse_loss(code.float(), true_code)
        set_rates(optimizer, falling(step, steps, flat=0.3))
        optimizer.zero_grad()
        (picture + CODE_WEIGHT * near).backward()
        optimizer.step()
        average.update(parameters)
        return {"picture": picture.detach(), "code": near.detach()}

    def averaged() -> tuple[TextSide, Decoder]:
        mean = copy.deepcopy(whole).eval()
        mean.load_state_dict(average.tensors)
        return mean.text, mean.decoder

    run_phase(
        "settle",
        work,
        steps,
        {"whole": whole, "optimizer": optimizer, "average": average},
        one_step,
        report,
        evaluate=lambda: judge_prompts(*averaged(), batches, art),
    )
    return averaged()
