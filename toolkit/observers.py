"""Observers of weights: the symmetric grid of each output channel, by the error that it leaves."""

from __future__ import annotations

import torch
from torch import Tensor
from torchao.quantization.pt2e import PerChannelMinMaxObserver

from .saturation import PAIR, largest_pair, safe_step
from .weights import grid_steps


class PerChannelSquaredErrorObserver(PerChannelMinMaxObserver):  # type: ignore[misc]
    """Symmetric scale of each output channel that makes the squared error of its weights least.

    Tries clips from half of the largest weight to all of it: the largest weights are few, and it
    may pay to clip them. Weights that lie on a grid already keep it: they lose nothing.
    """

    portable = False
    found: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.weight, self.found = x.detach(), None
        return super().forward(x)  # type: ignore[no-any-return]

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Searches once for each weight: two graphs may share the observer."""
        if self.found is None:
            self.found = self._search()
        return self.found

    def _search(self) -> tuple[Tensor, Tensor]:
        scale, zero = PerChannelMinMaxObserver.calculate_qparams(self)
        rows = self.weight.flatten(1)
        largest = rows.abs().amax(1).clamp(min=self.eps.item())
        floor = safe_step(self.weight) if self.portable else torch.zeros_like(largest)
        least = torch.full_like(largest, float("inf"))
        for clip in torch.linspace(0.5, 1.0, 26):
            step = torch.maximum(clip * largest / self.quant_max, floor)
            grid = (rows / step[:, None]).round().clamp(self.quant_min, self.quant_max)
            error = (grid * step[:, None] - rows).square().sum(1)
            better = error < least
            least = torch.where(better, error, least)
            scale = torch.where(better, step, scale)
        given = grid_steps(rows)
        kept = (given > 0) & (rows != 0).any(1)
        if self.portable:
            counts = rows / given.where(kept, 1.0)[:, None]
            kept &= largest_pair(counts.round().view(self.weight.shape)) <= PAIR
        return torch.where(kept, given, scale), zero


class PortableWeightObserver(PerChannelSquaredErrorObserver):
    """The same, with steps so wide that no pair of products overflows 16 bits on AVX2."""

    portable = True


class PerChannelTransposedObserver(PerChannelMinMaxObserver):  # type: ignore[misc]
    """Weights of a transposed convolution, (in, out, H, W): the same search along axis 1.

    torchao hands an observer its axis only where its class has PerChannel in the name.
    """

    portable = False
    found: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.weight, self.found = x.detach().transpose(0, 1), None
        return super().forward(x)  # type: ignore[no-any-return]

    calculate_qparams = PerChannelSquaredErrorObserver.calculate_qparams
    _search = PerChannelSquaredErrorObserver._search


class PortablePerChannelTransposedObserver(PerChannelTransposedObserver):
    """The same, with steps so wide that no pair of products overflows 16 bits on AVX2."""

    portable = True
