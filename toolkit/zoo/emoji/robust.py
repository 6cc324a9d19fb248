"""Decoders that mind int8 less: they learn with rounded values, within bounds, without dead weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from .codes import one_hot
from .model import STYLE_COUNT, Clamp, Decoder, Modulated, Stages

D = TypeVar("D", bound=Stages)
WEIGHT_STEPS = 63  # each way: what `portable` can always keep
CODE_NOISE = 0.3  # standard deviation, of codes that clamps are set by
SHARE = 0.3  # of the pictures that no bound touches, at each place


@contextmanager
def rounded(decoder: Stages, levels: int) -> Iterator[None]:
    """Inside, a decoder computes with rounded values, so that what learns so minds int8 less.

    Layers, clamps and blocks, but not the layer that draws, give their outputs on `levels` levels of
    the batch's range, or of their clamp's where that is narrower; weights lie on WEIGHT_STEPS steps
    each way. Gradients pass as they are. 0 levels: no change.
    """
    clamps = _clamps(decoder)

    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        with torch.no_grad():
            low, high = output.amin().clamp(max=0), output.amax().clamp(min=0)
            if module in clamps:
                low, high = (v.clamp(*clamps[module]) for v in (low, high))
            step = ((high - low) / (levels - 1)).clamp(min=1e-8)
            error = (output / step).round() * step - output
        return output + error

    layers = [m for m in decoder.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and levels]
    blocks = [m for m in decoder.modules() if isinstance(m, (Modulated, Clamp)) and levels]
    handles = [m.register_forward_hook(hook) for m in layers + blocks if m is not decoder.exit]
    weights = {m: m._parameters.pop("weight") for m in layers}
    for layer, weight in weights.items():
        layer.weight = _on_steps(weight, WEIGHT_STEPS)  # type: ignore[arg-type, assignment]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, weight in weights.items():
            del layer.weight
            layer.weight = weight  # type: ignore[assignment]


def _clamps(decoder: Stages) -> dict[nn.Module, tuple[float, float]]:
    """What the outputs of a bounded decoder's layers are clamped to next."""
    held: dict[nn.Module, tuple[float, float]] = {}
    for m in decoder.modules():
        if isinstance(m, (Modulated, Decoder)) and m.clamps is not None:
            ends = [(c.low, c.high) for c in m.clamps if isinstance(c, Clamp)]
            if isinstance(m, Modulated):
                held |= {m.conv1: ends[0], m.conv2: (-ends[2][1], ends[2][1])}
            else:
                held |= dict(zip([m.entry, *m.ups], ends, strict=True))
    return held


def _on_steps(weight: Tensor, steps: int) -> Tensor:
    """The weights on so many steps each way of each row's largest; the gradient passes as it is."""
    with torch.no_grad():
        largest = weight.flatten(1).abs().amax(1).clamp(min=1e-9)
        step = (largest / steps).view(-1, *[1] * (weight.dim() - 1))
        error = (weight / step).round() * step - weight
    return weight + error


@torch.no_grad()
def between(one: D, other: D, share: float) -> D:
    """A copy of `one` whose weights are `share` of the way to `other`'s, 0 to 1.

    Two that are a short training apart: what lies between draws as well as either (Wortsman et al.,
    "Robust fine-tuning of zero-shot models", CVPR 2022).
    """
    made, its = copy.deepcopy(one), dict(other.named_parameters())
    for name, weight in made.named_parameters():  # in an order of its own where `rounded` was
        weight.lerp_(its[name], share)
    return made


@torch.no_grad()
def silenced(decoder: D, codes: Tensor, seed: int = 0) -> D:
    """A copy whose weights on dead channels are 0: those that no code lights, in any style.

    Such a weight changes no picture, and may set the int8 steps of its whole row. codes: float32
    (N, 64, 4, 4); each is drawn twice, near itself, in a style at random.
    """
    made = copy.deepcopy(decoder)
    layers = {n: m for n, m in made.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    largest: dict[str, Tensor] = {}

    def seen(name: str, value: Tensor) -> None:
        channels = value.abs().transpose(0, 1).flatten(1).amax(1)
        largest[name] = torch.maximum(largest.get(name, channels), channels)

    handles = [
        m.register_forward_hook(lambda m, i, o, n=n: seen(n, i[0]))  # type: ignore[misc]
        for n, m in layers.items()
    ]
    _draw(made, codes, seed)
    for handle in handles:
        handle.remove()
    for name, layer in layers.items():
        layer.weight[:, largest[name] == 0] = 0
    return made


@torch.no_grad()
def tightened(decoder: Decoder, codes: Tensor, share: float = SHARE, seed: int = 0) -> Decoder:
    """A copy whose clamps hold all that a share of the pictures needs, at each place: one range for
    all pictures is then not set by a few. It has to learn with them: see `rounded`.

    codes: as `silenced` takes them.
    """
    made = copy.deepcopy(decoder)
    made.bound()
    lowest: dict[Clamp, list[Tensor]] = {}
    highest: dict[Clamp, list[Tensor]] = {}

    def seen(clamp: Clamp, value: Tensor) -> None:
        flat = value.flatten(1)
        lowest.setdefault(clamp, []).append(flat.amin(1))
        highest.setdefault(clamp, []).append(flat.amax(1))

    clamps = [m for m in made.modules() if isinstance(m, Clamp)]
    handles = [m.register_forward_hook(lambda m, i, o: seen(m, i[0])) for m in clamps]
    _draw(made, codes, seed)
    for handle in handles:
        handle.remove()
    for clamp in clamps:
        low, high = (torch.cat(v[clamp]) for v in (lowest, highest))
        ends = torch.stack([low.quantile(1 - share), high.quantile(share)]).bfloat16()
        clamp.low, clamp.high = max(clamp.low, min(float(ends[0]), 0.0)), max(float(ends[1]), 0.0)
    return made


def _draw(decoder: Stages, codes: Tensor, seed: int) -> None:
    """Each code twice, near itself, in a style at random."""
    random = torch.Generator().manual_seed(seed)
    for some in [*codes.split(128), *codes.split(128)]:
        noise = CODE_NOISE * torch.randn(some.shape, generator=random)
        style = torch.randint(STYLE_COUNT, (len(some),), generator=random)
        decoder.unclamped(some + noise, one_hot(style))
