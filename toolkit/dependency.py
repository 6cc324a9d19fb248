"""Which channels of a component stand or fall together.

torch-pruning traces the component and says which layers an index of a channel reaches (Fang et
al., "DepGraph: towards any structural pruning", CVPR 2023). Its graph takes a pixel shuffle for an
operation that keeps channels, drops ties between two channels that reach the same place, and lets
a norm or a convolution lose part of a group; here such channels are tied into units. What the graph
gets wrong elsewhere is found by proof (see prune.py), not trusted.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch_pruning import ops
from torch_pruning._helpers import _HybridIndex

from .channels import SLICED, width

MULTIPLE = 8  # what int8 kernels of the three targets like channels to be a multiple of
LONGEST_WALK = 16  # indices that are followed, in widths of the widest layer
MOST_VISITS = 64  # of one place, with other indices each: more are a circle
Place = tuple[str, str]  # layer and side
Element = tuple[str, str, int]
Unit = Mapping[Place, tuple[int, ...]]


@dataclass(frozen=True)
class Group:
    """Layers that share channels. units: smallest sets of channels that can be removed.

    step: units are removed down to a multiple of this, so that every layer has a multiple of 8.
    """

    layers: tuple[str, ...]
    units: tuple[Unit, ...]
    step: int

    @property
    def name(self) -> str:
        return ", ".join(self.layers)


class _Union:
    """Disjoint sets of elements."""

    def __init__(self) -> None:
        self.parent: dict[Element, Element] = {}

    def find(self, e: Element) -> Element:
        self.parent.setdefault(e, e)
        root = e
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[e] != root:
            self.parent[e], e = root, self.parent[e]
        return root

    def join(self, a: Element, b: Element) -> None:
        self.parent[self.find(a)] = self.find(b)


def _scaled(block: int, widen: bool) -> Callable[[Sequence[_HybridIndex]], list[_HybridIndex]]:
    """One channel ↔ `block` channels that follow one another."""
    if widen:
        return lambda pairs: [
            _HybridIndex(p.idx * block + k, p.root_idx) for p in pairs for k in range(block)
        ]
    return lambda pairs: list({_HybridIndex(p.idx // block, p.root_idx) for p in pairs})


def _map_shuffles(graph: torch_pruning.DependencyGraph) -> None:
    """Gives the edges of pixel shuffles the mapping that torch-pruning does not know."""
    for node in graph.module2node.values():
        grad = node.grad_fn
        up = getattr(grad, "_saved_upscale_factor", None)
        down = getattr(grad, "_saved_downscale_factor", None)
        if not isinstance(up, int) and not isinstance(down, int):
            continue
        # The node counts channels as they are behind it; its inputs' channels are more or fewer.
        block = int(up or down or 1) ** 2
        for source in node.inputs:
            for dep in source.dependencies:
                if dep.target is node:
                    dep.index_mapping = [*dep.index_mapping, _scaled(block, widen=up is None)]
            for dep in node.dependencies:
                if dep.target is source:
                    dep.index_mapping = [_scaled(block, widen=up is not None), *dep.index_mapping]


def _reached(
    graph: torch_pruning.DependencyGraph, module: nn.Module, channels: int, most: int
) -> Iterator:
    """(node, side, pairs of index and root index) of everything that `module`'s outputs reach.

    A view that the graph misreads multiplies or moves indices each time it is passed, there and back
    without end: beyond `most` pairs or MOST_VISITS nothing is followed, nor where a mapping has no place
    for an index; side is "" there.
    """
    function = graph.get_pruner_of_module(module).prune_out_channels
    pairs = tuple(_HybridIndex(i, i) for i in range(channels))
    stack, seen = [(graph.module2node[module], function, pairs)], set()
    visits: Counter[tuple[int, object]] = Counter()
    while stack:
        node, function, pairs = stack.pop()
        key = (id(node), function, pairs)
        if key in seen:
            continue
        seen.add(key)
        visits[key[:2]] += 1
        if visits[key[:2]] > MOST_VISITS:
            yield node, "", pairs
            continue
        yield node, "out" if graph.is_out_channel_pruning_fn(function) else "in", pairs
        for dep in node.dependencies:
            if not dep.is_triggered_by(function):
                continue
            moved: Sequence[_HybridIndex] = pairs
            try:
                for mapping in dep.index_mapping:
                    if mapping is not None:
                        moved = mapping(moved)
            except IndexError:
                yield dep.target, "", pairs
                continue
            if len(moved) > most:
                yield dep.target, "", pairs
            elif moved:
                stack.append((dep.target, dep.handler, tuple(sorted(set(moved)))))


def _tie_blocks(union: _Union, name: str, module: nn.Module) -> None:
    """A norm's groups and a convolution's groups stay whole."""
    if isinstance(module, nn.GroupNorm):
        size = module.num_channels // module.num_groups
        for i in range(module.num_channels):
            union.join((name, "out", i), (name, "out", i - i % size))
    elif isinstance(module, _ConvNd) and module.groups > 1:
        first = module.in_channels // module.groups
        for side in ("in", "out"):
            channels = width(module, side) or 0
            for i in range(channels):
                group = i // (channels // module.groups)
                union.join((name, side, i), (name, "in", group * first))


def _convolutions_at_the_ends(model: nn.Module, order: Sequence[str]) -> dict[str, str]:
    convs = [n for n in order if isinstance(model.get_submodule(n), _ConvNd)]
    if not convs:
        return {}
    return {convs[0]: "the first convolution", convs[-1]: "the last convolution"}


def _order_of_calls(model: nn.Module, example: tuple[Tensor, ...]) -> list[str]:
    order: list[str] = []
    hooks = [
        m.register_forward_pre_hook(lambda *_, n=n: order.append(n))  # type: ignore[misc]
        for n, m in model.named_modules()
        if n
    ]
    try:
        with torch.no_grad():
            model(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return order


def _trace(model: nn.Module, example: tuple[Tensor, ...]) -> torch_pruning.DependencyGraph:
    def outputs(out: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
        # Each output gets an operation of its own, so that a layer that ends in it is seen to.
        return [o + 0 for o in (out if isinstance(out, tuple) else (out,))]

    graph = torch_pruning.DependencyGraph()
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Maximum recursive depth")  # what it loses is left alone
        graph.build_dependency(
            model,
            example,
            forward_fn=lambda m, x: m(*x),
            output_transform=outputs,
            verbose=False,
        )
    _map_shuffles(graph)
    return graph


def groups_of(
    model: nn.Module,
    example: tuple[Tensor, ...],
    keep: Mapping[str, str] | None = None,
    also: Collection[str] = (),
) -> tuple[list[Group], dict[str, str]]:
    """Groups that may lose channels, and layer → reason for each layer that may not.

    model: its parameters require gradients. keep: layers to leave alone → reason. also: layers that
    may lose channels though they are the first or the last convolution.
    """
    graph = _trace(model, example)
    layers = {m: n for n, m in model.named_modules() if n}
    params = {p: n for n, p in model.named_parameters()}
    order = _order_of_calls(model, example)
    ends = _convolutions_at_the_ends(model, order)
    never = {n: why for n, why in ends.items() if n not in also} | dict(keep or {})
    union, frozen = _Union(), {}
    alone: dict[str, str] = {}
    roots = [m for m in graph.module2node if isinstance(m, (_ConvNd, nn.Linear)) and m in layers]

    def place(node: torch_pruning.dependency.Node, side: str) -> Place | None:
        if node.module in layers:
            return layers[node.module], side
        if isinstance(node.module, nn.Parameter) and node.module in params:
            return params[node.module], f"axis{node.pruning_dim % node.module.dim()}"
        return None

    widths = [width(m, side) or 1 for m in layers for side in ("in", "out")]
    most = LONGEST_WALK * max(widths, default=1)
    for module in roots:
        name = layers[module]
        for node, side, pairs in _reached(graph, module, width(module, "out") or 0, most):
            kind, spot, reason = node.type, place(node, side) if side else None, ""
            if not side:
                reason = "its channels could not be followed through a view or a recurrent layer"
            elif kind == ops.OPTYPE.OUTPUT:
                reason = "its channels cross the component's boundary"
            elif kind == ops.OPTYPE.EMBED:
                reason = "its channels are those of the token table"
            elif kind in (ops.OPTYPE.LN, ops.OPTYPE.MHA, ops.OPTYPE.LSTM):
                reason = (
                    f"its channels enter {type(node.module).__name__}, which works on all of them"
                )
            limit = None
            if spot is not None:
                param = isinstance(node.module, nn.Parameter)
                limit = node.module.shape[int(spot[1][4:])] if param else width(node.module, side)
            for p in pairs:
                root = (name, "out", p.root_idx)
                if reason:
                    frozen[root] = reason
                elif spot is not None and limit is not None:
                    if p.idx < limit:
                        union.join(root, (*spot, p.idx))
                    else:
                        frozen[root] = f"its channels could not be followed to {spot[0]}"
    for module, name in layers.items():
        _tie_blocks(union, name, module)
        if name in never:
            for i in range(width(module, "in") or 0):
                frozen[name, "in", i] = f"its channels enter {name}: {never[name]}"
            for i in range(width(module, "out") or 0):
                frozen[name, "out", i] = f"it shares channels with {name}: {never[name]}"
    reasons: dict[Element, str] = {}
    for e, reason in frozen.items():
        reasons.setdefault(union.find(e), reason)
    sets: dict[Element, dict[Place, list[int]]] = {}
    for e in list(union.parent):
        sets.setdefault(union.find(e), {}).setdefault(e[:2], []).append(e[2])
    found: dict[tuple[str, ...], list[Unit]] = {}
    for root, places in sets.items():
        makers = tuple(
            sorted(n for n, side in places if side == "out" and model.get_submodule(n) in roots)
        )
        eaters = [n for n, side in places if side == "in"]
        if not makers:
            continue
        reason = reasons.get(root, "" if eaters else "no layer reads its channels alone")
        if reason:
            for maker in makers:
                alone.setdefault(maker, never.get(maker, reason))
        else:
            unit = {p: tuple(sorted(i)) for p, i in places.items()}
            found.setdefault(makers, []).append(unit)
    groups = []
    for makers, units in found.items():
        step = max(MULTIPLE // math.gcd(MULTIPLE, len(i)) for u in units for i in u.values())
        if len(units) <= step:
            why = f"its channels stand in {len(units)} set(s), too few to leave a multiple of 8"
            for maker in makers:
                alone.setdefault(maker, why)
        else:
            units.sort(key=lambda u: min(u.items()))
            groups.append(Group(makers, tuple(units), step))
    groups.sort(key=lambda g: min(order.index(n) if n in order else len(order) for n in g.layers))
    for module, name in layers.items():
        unseen = isinstance(module, SLICED[:2]) and module not in graph.module2node
        if unseen and name not in alone:
            alone[name] = "the graph does not see it"
    return groups, {n: r for n, r in alone.items() if not any(n in g.layers for g in groups)}
