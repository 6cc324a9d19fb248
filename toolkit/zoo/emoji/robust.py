"""Decoders that mind int8 less: they learn within bounds, without dead weights."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from .codes import one_hot
from .model import STYLE_COUNT, Clamp, Decoder, Stages

D = TypeVar("D", bound=Stages)
CODE_NOISE = 0.3  # standard deviation, of codes that clamps are set by
SHARE = 0.3  # of the pictures that no bound touches, at each place


@torch.no_grad()
def between(one: D, other: D, share: float) -> D:
    """A copy of `one` whose weights are `share` of the way to `other`'s, 0 to 1.

    Two that are a short training apart: what lies between draws as well as either (Wortsman et al.,
    "Robust fine-tuning of zero-shot models", CVPR 2022).
    """
    made, its = copy.deepcopy(one), dict(other.named_parameters())
    for name, weight in made.named_parameters():
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
    all pictures is then not set by a few. It has to learn with them.

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
