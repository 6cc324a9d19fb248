"""From a calibrated graph to an int8 one: converted, without ties, corrected where that comes nearer.

Two corrections cost accuracy of the picture for something else. A stretch before a last clamp to
[0, 1] brings flat ground back, a moved last bias brings the mean back. Each is taken where the
component's outputs need it, or come nearer to float by it: of `emoji` neither is, for 0.8 dB.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from .bias import correct_last_bias, push_flat_outwards, round_biases
from .generator import Component
from .rewriting import tensor_of
from .ties import drop_clamps, untie, untie_layers, untie_slopes

_WEIGHTS = torch.ops.quantized_decomposed.dequantize_per_channel.default
FLAT = 0.995  # of the darkest and brightest: less of it within two grey levels needs the stretch
SIGNED = 0.3  # grey levels: a larger mean error of a channel needs the moved bias. Smaller ones are chance


@dataclass(frozen=True)
class Finished:
    """One int8 graph of a component, and what it gave.

    outputs: of every row that it was fed. error: mean over rows of the logarithm of the squared
    error. flat: of a picture, the share of what is darkest or brightest in float that came within two
    grey levels; else 1. signed: of a picture, the largest mean error of a channel, in grey levels;
    else 0.
    """

    graph: GraphModule
    outputs: list[tuple[Tensor, ...]]
    error: float
    flat: float = 1.0
    signed: float = 0.0


@dataclass(frozen=True)
class Compared:
    """What int8 graphs of a component are run on and compared with.

    fed: its inputs, a row for each prompt; wanted: what the float generator gives there, by name.
    without: some of `quantize.PARTS`, left out. span: lowest and highest value of its one output,
    where that is a picture.
    """

    component: Component
    fed: Sequence[tuple[Tensor, ...]]
    wanted: Sequence[dict[str, Tensor]]
    without: Collection[str] = ()
    span: tuple[float, float] | None = None

    @property
    def targets(self) -> list[Tensor]:
        """What float gives as the one output."""
        return [tensors[self.component.outputs[0]] for tensors in self.wanted]


def finish(
    prepared: GraphModule, compared: Compared, *, stretch: bool = False, move: bool = False
) -> Finished:
    """Converts a calibrated graph and runs it. stretch, move: the two corrections."""
    graph = convert_pt2e(copy.deepcopy(prepared))
    if stretch:
        push_flat_outwards(graph)
    drop_clamps(graph)
    if "ties" not in compared.without:
        untie(graph)
        untie_layers(graph)
        untie_slopes(graph)
    ready = with_ready_weights(graph)
    if move:
        correct_last_bias(ready, compared.fed, compared.targets)
    if "whole-biases" not in compared.without:
        round_biases(graph)
    outputs = _outputs(ready, compared.fed)
    error = _error(compared.component, outputs, compared.wanted)
    span = compared.span
    if span is None or span[1] <= span[0]:
        return Finished(graph, outputs, error)
    pairs = [(o, t) for (o,), t in zip(outputs, compared.targets, strict=True)]
    return Finished(graph, outputs, error, *_flat_and_signed(pairs, *span))


def corrected(prepared: GraphModule, compared: Compared) -> Finished:
    """The best of `finish` with and without each correction: flat ground kept (FLAT) and no mean error
    (SIGNED) before all, then nearest to float. Of several outputs none is corrected, nor whole numbers."""
    without, component = compared.without, compared.component
    one = len(component.outputs) == 1 and compared.targets[0].is_floating_point()
    stretches = one and ends_in_picture(prepared)
    ways = itertools.product(
        (False, True) if stretches and "flat" not in without else (False,),
        (False, True) if one and "bias" not in without else (False,),
    )
    found = [finish(prepared, compared, stretch=stretch, move=move) for stretch, move in ways]
    return min(found, key=lambda f: (f.flat < FLAT, f.signed > SIGNED, f.error))


def ends_in_picture(graph: GraphModule) -> bool:
    """Whether the last clamp of a graph is one to [0, 1]."""
    ends = [n for n in graph.graph.nodes if n.target is torch.ops.aten.hardtanh.default]
    return bool(ends) and tuple(ends[-1].args[1:3]) == (0.0, 1.0)


@torch.no_grad()
def with_ready_weights(quantized: GraphModule) -> GraphModule:
    """The graph with weights dequantized once, not in each run, which took a third of the time.

    All other tensors are shared, so that a bias that is changed in place is changed in both.
    """
    ready = GraphModule(quantized, copy.deepcopy(quantized.graph))
    for node in list(ready.graph.nodes):
        if node.target is not _WEIGHTS or any(a.op != "get_attr" for a in node.all_input_nodes):
            continue
        values = [tensor_of(ready, a) if isinstance(a, Node) else a for a in node.args]
        name = f"ready_{node.name}"
        ready.register_buffer(name, node.target(*values, **node.kwargs))
        with ready.graph.inserting_before(node):
            node.replace_all_uses_with(ready.graph.get_attr(name))
        ready.graph.erase_node(node)
    ready.recompile()
    return ready


@torch.no_grad()
def _outputs(graph: nn.Module, inputs: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    results = [graph(*row) for row in inputs]
    return [r if isinstance(r, tuple) else (r,) for r in results]


def _error(
    component: Component, results: list[tuple[Tensor, ...]], wanted: Sequence[dict[str, Tensor]]
) -> float:
    """Mean over prompts of the logarithm of the squared error of the component's outputs."""
    total = 0.0
    for outputs, tensors in zip(results, wanted, strict=True):
        for name, output in zip(component.outputs, outputs, strict=True):
            total += math.log10(
                float((output.float() - tensors[name].float()).square().mean()) + 1e-20
            )
    return total / len(results)


def _flat_and_signed(
    pairs: Sequence[tuple[Tensor, Tensor]], low: float, high: float
) -> tuple[float, float]:
    """See Finished; pairs of (1, C) or (1, C, …), int8 and float, as pictures clamp them."""
    grey = (high - low) / 255
    kept = flat = 0
    errors = []
    for output, true in pairs:
        error = output.clamp(low, high) - true.clamp(low, high)
        ground = (true <= low) | (true >= high)
        kept += int((ground & (error.abs() <= 2 * grey)).sum())
        flat += int(ground.sum())
        errors.append(error.movedim(1, -1).flatten(0, -2).mean(0) / grey)
    return kept / flat if flat else 1.0, float(torch.stack(errors).mean(0).abs().max())
