"""Fifth phase: the generator learns to draw its own pictures through int8 grids, and stays on them.

Quantization-aware distillation: weights are whole multiples of one step per output channel and
activations are rounded to 8 bits per tensor while the pictures of the sharpened generator, in
float, are the target. It needs no art; sharpness stays, because blur is not what it copies. The
steps are those that the CPU profile `portable` takes, and the weights that come out lie on them: int8
costs them nothing. Before, the decoder's channels are equalized (see toolkit/equalize.py), which
changes no picture and would take the weights off their grid later.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from genedge.toolkit.equalize import equalize
from genedge.toolkit.programs import export_module
from genedge.toolkit.quantize import PortableWeightObserver
from genedge.toolkit.train import Average, Report, adam, falling, fast, run_phase, set_rates
from genedge.toolkit.weights import LARGEST, from_int8, whole_numbers

from .codes import BATCH, one_hot
from .data import STYLES, Art
from .losses import picture_loss
from .model import Decoder, TextSide, rounded
from .text import PromptBatches, joined, judge_prompts

STEPS, VAGUE, CODE_WEIGHT = 800, 8, 0.05
EQUALIZED = 0.5  # see equalize.equalize


class Whole(nn.Module):
    """Text side and decoder in one, drawing through `rounded`."""

    def __init__(self, text: TextSide, decoder: Decoder) -> None:
        super().__init__()
        self.text, self.decoder = text, decoder

    def forward(self, tokens: Tensor, meaning: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """Code, and picture before its clamp."""
        code = self.text(tokens, meaning, rounded)
        return code, self.decoder.unclamped(code, style, rounded)


@torch.no_grad()
def equalized(decoder: Decoder, inputs: list[tuple[Tensor, Tensor]]) -> Decoder:
    """The same decoder with like ranges in all channels. inputs: codes and styles, one picture each."""
    graph = export_module(decoder.eval(), inputs[0]).module()
    equalize(graph, inputs, EQUALIZED)
    made = Decoder().eval()
    made.load_state_dict({k: dict(graph.named_parameters())[k] for k in made.state_dict()})
    return made


@torch.no_grad()
def steps_of(weight: Tensor, table: bool) -> Tensor:
    """Of what its numbers are whole multiples under `portable`: (N,) by row; (1,) for a table."""
    if table:
        return weight.abs().max()[None] / LARGEST
    observer = PortableWeightObserver(
        dtype=torch.int8,
        quant_min=-LARGEST,
        quant_max=LARGEST,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        eps=2**-16,
    )
    observer(weight)
    steps: Tensor = observer.calculate_qparams()[0]
    return steps


def on_grid(weight: Tensor, steps: Tensor) -> Tensor:
    """weight as whole multiples of its rows' steps; gradients pass unchanged."""
    step = steps.view(-1, *[1] * (weight.dim() - 1))
    counts = (weight / step).round().clamp(-LARGEST, LARGEST)
    return weight + (counts * step - weight).detach()


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
    """Trains copies against the given text side and decoder; returns their averages, on the grid.

    Resumes.
    """
    torch.manual_seed(seed)
    whole = Whole(TextSide(), Decoder())
    whole.text.load_state_dict(text.state_dict())
    whole.decoder.load_state_dict(decoder.state_dict())
    parameters = dict(whole.named_parameters())
    steps_by_name = {
        k: steps_of(v.detach(), "embedding" in k) for k, v in parameters.items() if v.dim() > 1
    }
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
            k: on_grid(v, steps_by_name[k]) if k in steps_by_name else v
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
        copy = Whole(TextSide(), Decoder()).eval()
        copy.load_state_dict(average.tensors)
        with torch.no_grad():
            for name, value in copy.named_parameters():
                if name in steps_by_name:
                    row = steps_by_name[name]
                    value.copy_(from_int8(whole_numbers(value, row, "embedding" not in name), row))
        return copy.text, copy.decoder

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
