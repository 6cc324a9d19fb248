"""Observers of weights: the symmetric grid of each output channel, by the error that it leaves.

And what observers of activations may forget.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import HistogramObserver, PerChannelMinMaxObserver

from .saturation import PAIR, largest_pair, safe_step
from .weights import grid_steps

_aten = torch.ops.aten


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


OF_WEIGHTS = (PerChannelSquaredErrorObserver, PerChannelTransposedObserver)


def forget_clamped(prepared: GraphModule) -> int:
    """Takes steps of the grid away from values that a clamp behind a sum makes alike anyway.

    In relu(a + b), what a holds below −max(b) comes out as 0 whatever it is; in a clamp to
    [low, high], so does what lies below low − max(b) or above high − min(b). Its observer forgets
    it, in place: min_val, max_val and a histogram's bins. prepared: what prepare_pt2e gives, after
    calibration. Returns the count of observers that were changed.
    """
    changed = 0
    for node in prepared.graph.nodes:
        users = list(node.users)
        if node.target is not _aten.add.Tensor or node.kwargs or len(users) != 1:  # alpha is one
            continue
        if users[0].target is _aten.relu.default:
            low, high = 0.0, float("inf")
        elif users[0].target is _aten.hardtanh.default:
            low, high = clamp_bounds(users[0])
        else:
            continue
        pair = [a for a in node.args[:2] if isinstance(a, Node) and a.op == "call_module"]
        if len(pair) != 2:
            continue
        one, two = (prepared.get_submodule(str(a.target)) for a in pair)
        if not all(hasattr(o, "max_val") for o in (one, two)):
            continue
        useful = [
            (low - float(other.max_val), high - float(other.min_val))  # type: ignore[arg-type]
            for other in (two, one)
        ]
        for observed, observer, ends in zip(pair, (one, two), useful, strict=True):
            if len(observed.users) == 1 and len(observed.all_input_nodes[0].users) == 1:
                changed += _narrow(observer, *ends)
    return changed


def _narrow(observer: Any, low: float, high: float) -> bool:
    """Cuts what the observer saw to [low, high], to whole bins of a histogram."""
    least, most = float(observer.min_val), float(observer.max_val)
    low, high = max(low, least), min(high, most)
    if not low < high or (low, high) == (least, most):
        return False
    if isinstance(observer, HistogramObserver):
        width = (most - least) / observer.bins
        first, last = int((low - least) / width), math.ceil((high - least) / width)
        observer.histogram = observer.histogram[first:last].clone()
        observer.bins = last - first
        low, high = least + first * width, least + last * width
    observer.min_val.fill_(low)
    observer.max_val.fill_(high)
    return True


def clamp_bounds(node: Node) -> tuple[float, float]:
    """What a hardtanh clamps to: arguments that are left out are -1 and 1."""
    bounds: list[Any] = [-1.0, 1.0]
    bounds[: len(node.args) - 1] = node.args[1:]
    return float(bounds[0]), float(bounds[1])
