"""Observers of a prepared PT2E graph as trainable grids: what int8 rounds to, with gradients.

A grid is a scale and a zero point. `with_grids` puts one in the place of each observer; the graph
then draws through int8 in float arithmetic, and scales, zero points, weights and biases can all be
trained (Esser et al., "Learned step size quantization", ICLR 2020; zero points after Bhalgat et
al., "LSQ+", CVPR workshops 2020). convert_pt2e takes a grid as it takes the observer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torchao.quantization.pt2e import ObserverBase

G = TypeVar("G", bound=nn.Module)


def rounded(x: Tensor) -> Tensor:
    """x rounded to whole numbers; the gradient passes unchanged."""
    return x + (x.round() - x).detach()


class Grid(ObserverBase):  # type: ignore[misc]
    """Fake-quantizes what passes: whole numbers `low` to `high` minus `zero`, times `scale`.

    scale and zero are trainable: one each, or one for each slice of axis `ch_axis`. Where `on` is
    false, values pass as they are.
    """

    def __init__(self, observer: Any) -> None:
        super().__init__(dtype=observer.dtype)
        self.qscheme = observer.qscheme
        self.quant_min, self.quant_max = int(observer.quant_min), int(observer.quant_max)
        self.ch_axis: int = getattr(observer, "ch_axis", -1)
        self.eps = getattr(observer, "eps", torch.tensor([2**-16]))
        scale, zero = observer.calculate_qparams()
        self.per_channel = scale.numel() > 1 or "Channel" in type(observer).__name__
        self.symmetric = self.per_channel
        self.log_scale = nn.Parameter(scale.detach().float().log())
        self.zero = nn.Parameter(zero.detach().float(), requires_grad=not self.symmetric)
        if "Fixed" in type(observer).__name__:
            self.log_scale.requires_grad_(False)
            self.zero.requires_grad_(False)
        self.on = True

    def _spread(self, values: Tensor, x: Tensor) -> Tensor:
        if not self.per_channel:
            return values.reshape(())
        return values.view([-1 if a == self.ch_axis else 1 for a in range(x.dim())])

    def forward(self, x: Tensor) -> Tensor:
        if not self.on:
            return x
        scale = self._spread(self.log_scale, x).exp()
        zero = rounded(self._spread(self.zero, x).clamp(self.quant_min, self.quant_max))
        steps = (x / scale + zero).clamp(self.quant_min, self.quant_max)
        return (rounded(steps) - zero) * scale

    @torch.no_grad()
    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        zero = self.zero.detach().clamp(self.quant_min, self.quant_max).round()
        return self.log_scale.detach().exp(), zero.to(torch.int64)


def with_grids(prepared: GraphModule, make: Callable[[Any], G]) -> dict[str, G]:
    """Replaces the observers of `prepared` in place by what `make` makes of each, shared ones by
    shared grids.

    Returns the distinct grids under the name of their first place in the graph.
    """
    made: dict[int, G] = {}
    named: dict[str, G] = {}
    for node in prepared.graph.nodes:
        if node.op != "call_module":
            continue
        name = str(node.target)
        observer = prepared.get_submodule(name)
        if not isinstance(observer, ObserverBase) and "Fixed" not in type(observer).__name__:
            continue
        if id(observer) not in made:
            made[id(observer)] = named[name] = make(observer)
        setattr(prepared, name, made[id(observer)])
    return named
