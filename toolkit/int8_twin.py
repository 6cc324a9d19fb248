"""Training towards int8: a generator's twin that rounds as int8 will, beside it from step to step.

What a generator loses as int8 is no property of the quantizer alone. Of the many networks that draw
the same pictures some lose a tenth of what others lose, and gradients find them: the twin draws what
int8 would, shares its weights with the generator, and how far the two are apart is a loss like any
other. After Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference" (CVPR 2018), but it is the distance to the generator's own float
pictures that is made small, not that of int8 to a target, in which rounding is a small share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from genedge.runtime.errors import BadInput

from .drawings import Named, drawn, stacked
from .generator import Component, Generator
from .grids import with_grids
from .observers import OF_WEIGHTS, forget_clamped
from .quantize import ends_of, known_levels, take_levels
from .quantizer import CommonQuantizer
from .replace import float_graph

CALIBRATED = 128  # pictures that set the ranges
_REWRITTEN = (
    "the loss int8 can not follow {}: weights of it are rewritten on the way to int8 (batch norm "
    "is folded, for example); leave the loss out"
)


class Rounded(torch.autograd.Function):
    """What torch.fake_quantize_per_tensor_affine gives, and its gradients; on a CPU, where that takes
    one number at a time, in a quarter of its time (with gradients, in half)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero: float, low: int, high: int) -> Tensor:
        steps = (x * (1 / scale)).add_(zero).round_()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(steps.clamp(low, high) == steps)
        return steps.clamp_(low, high).sub_(zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None, None


class HeldGrid(nn.Module):
    """Rounds what passes onto the grid that an observer found.

    Gradients pass where nothing is clipped. Where `on` is false, values pass as they are.
    """

    def __init__(self, observer: Any) -> None:
        super().__init__()
        scale, zero = observer.calculate_qparams()
        self.of_weight = isinstance(observer, OF_WEIGHTS)
        self.axis: int = getattr(observer, "ch_axis", -1)
        self.ends = int(observer.quant_min), int(observer.quant_max)
        self.scale: Tensor
        self.zero: Tensor
        self.register_buffer("scale", scale.detach().float().reshape(-1))
        self.register_buffer("zero", zero.detach().int().reshape(-1))
        self.plain = float(self.scale[0]), float(self.zero[0])
        self.on = True

    def forward(self, x: Tensor) -> Tensor:
        if not self.on:
            return x
        if self.of_weight:
            return torch.fake_quantize_per_channel_affine(
                x, self.scale, self.zero, self.axis, *self.ends
            )
        made: Tensor = Rounded.apply(x, *self.plain, *self.ends)  # type: ignore[no-untyped-call]
        return made


class Int8Twin:
    """A generator's components as int8 computes them, for batches of one size.

    components: fake-quantized graphs that read the parameters of the generator's own modules, so
    that what is trained in one is trained in the other. Ranges stay as they were found.
    """

    def __init__(self, generator: Generator, size: int, *, cpu: str = "portable") -> None:
        """size: pictures of a batch. cpu: as `quantize` takes it. Raises BadInput where weights are
        rewritten on the way to int8 (batch norm), so that they can not be shared, and where two
        components are one module."""
        if len({id(c.module) for c in generator.components}) < len(generator.components):
            raise BadInput("components of one module can not be trained as int8; give each a copy")
        prompts = generator.calibration[:CALIBRATED] or ("",)
        feeds = [generator.prepare(p, seed=i).inputs for i, p in enumerate(prompts)]
        feeds = [feeds[i % len(feeds)] for i in range(-(-len(feeds) // size) * size)]
        batches = [
            stacked(feeds[i : i + size], torch.device("cpu")) for i in range(0, len(feeds), size)
        ]
        with torch.no_grad():
            seen = [drawn(generator.components, b) for b in batches]
        self.grids: dict[str, HeldGrid] = {}
        self._ends: dict[str, tuple[float, int]] = {}
        self.components = tuple(
            self._rounding(generator, c, seen, cpu) for c in generator.components
        )

    def _rounding(
        self, generator: Generator, component: Component, seen: Sequence[Named], cpu: str
    ) -> Component:
        rows = [tuple(t[n] for n in component.inputs) for t in seen]
        plain = float_graph(component.module, rows[0])
        levels = known_levels(generator, component, plain)
        graph = prepare_pt2e(plain, CommonQuantizer(cpu == "portable", levels=levels))
        with torch.no_grad():
            for row in rows:
                graph(*row)
        forget_clamped(graph)
        take_levels(graph, component, self._ends)
        made = with_grids(graph, HeldGrid)
        self._ends |= _ends(graph, component)
        for node in graph.graph.nodes:
            grid = made.get(str(node.target))
            if grid is not None and grid.of_weight:
                self.grids[f"{component.name}.{node.args[0].target}"] = grid
        _share(graph, component)
        for grid in made.values():
            grid.on = False
        with torch.no_grad():
            result = graph(*rows[0])
        first = result[0] if isinstance(result, tuple) else result
        if not torch.allclose(first, seen[0][component.outputs[0]], atol=1e-3):
            raise BadInput(_REWRITTEN.format(component.name))
        for grid in made.values():
            grid.on = True
        return replace(component, module=graph)

    def modules(self) -> list[nn.Module]:
        """The graphs, by component in order."""
        return [c.module for c in self.components]

    def draw(self, inputs: Named) -> Named:
        """Every named tensor as int8 gives it, with gradients; inputs by name, their first axis the
        `size` pictures."""
        return drawn(self.components, inputs)

    @contextmanager
    def on_grids(self, components: Sequence[Component]) -> Iterator[None]:
        """Inside, the generator's own modules compute with weights on the twin's grids, as their
        int8 artifact will; gradients pass."""
        held: list[tuple[nn.Module, str, nn.Parameter]] = []
        try:
            for layer, leaf, grid in self._layers(components):
                weight = layer._parameters.pop(leaf)
                assert weight is not None
                held.append((layer, leaf, weight))
                setattr(layer, leaf, grid(weight))
            yield
        finally:
            for layer, leaf, weight in held:
                delattr(layer, leaf)
                layer._parameters[leaf] = weight

    @torch.no_grad()
    def settle(self, components: Sequence[Component]) -> None:
        """Puts weights on the twin's grids for good; int8 keeps a grid that it finds."""
        for layer, leaf, grid in self._layers(components):
            weight = layer._parameters[leaf]
            assert weight is not None
            weight.copy_(grid(weight))

    def _layers(self, components: Sequence[Component]) -> list[tuple[nn.Module, str, HeldGrid]]:
        found = []
        for c in components:
            for name, grid in self.grids.items():
                head, _, path = name.partition(".")
                if head == c.name:
                    parent, _, leaf = path.rpartition(".")
                    found.append((c.module.get_submodule(parent), leaf, grid))
        return found


def _ends(graph: GraphModule, component: Component) -> dict[str, tuple[float, int]]:
    """By output: scale and zero point of the grid that it ends on (`quantize.handed_on`)."""
    grids = {
        name: graph.get_submodule(str(node.target))
        for name, node in ends_of(component, graph)
        if getattr(node, "op", "") == "call_module"
    }
    return {
        name: (float(grid.scale), int(grid.zero))
        for name, grid in grids.items()
        if isinstance(grid, HeldGrid)
    }


def _share(graph: GraphModule, component: Component) -> None:
    """Gives the graph the module's own parameters, by their names."""
    own = dict(component.module.named_parameters())
    for name, _ in list(graph.named_parameters()):
        if name not in own:
            raise BadInput(_REWRITTEN.format(component.name))
        parent, _, leaf = name.rpartition(".")
        graph.get_submodule(parent)._parameters[leaf] = own[name]
    for node in list(graph.graph.nodes):  # a guard of the example's values
        if node.op == "call_module" and "guard" in str(node.target):
            graph.graph.erase_node(node)
    graph.recompile()
