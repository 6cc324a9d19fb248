"""Cross-layer equalization: channels of one tensor get like ranges, exactly, before int8.

After Nagel et al., "Data-free quantization through weight equalization and bias correction" (ICCV
2019). Where everything between layers that write a tensor and layers that read it is positively
homogeneous (ReLU, PReLU, addition, multiplication, mean, moves), a channel may be multiplied by any
positive number in the writers and divided by it in the readers: the float picture stays the same.
One scale per tensor then serves all of its channels. Writers keep a scale per channel of their
own, so that only the readers' weights pay; `share` says how much of the gain is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

_aten = torch.ops.aten
_LAYERS = (_aten.conv2d.default, _aten.linear.default)
_SUMS = (_aten.add.Tensor,)
_SAME = (_aten.relu.default, _aten.prelu.default, _aten.mean.dim, _aten.dropout.default)
_MOVES = (_aten.view.default, _aten.reshape.default, _aten.flatten.using_ints)
# Shares of the largest channel below which a channel counts as this large. Calibration has not seen
# every channel at its largest: without this, words that it lacks were clipped (25 dB → 1 dB).
_LEAST_RANGE, _LEAST_WEIGHT = 0.25, 0.1


@dataclass
class Group:
    """Tensors whose channels are scaled together.

    writers: layers, and how many rows in a row of each make one channel (more than 1 before a
    pixel shuffle). readers: layers that take one of the tensors. tensors: what passes between, each
    with its own count of rows for a channel.
    """

    writers: dict[Node, int] = field(default_factory=dict)
    readers: set[Node] = field(default_factory=set)
    tensors: dict[Node, int] = field(default_factory=dict)


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(int(n) for n in node.meta["val"].shape)


def _channels(node: Node) -> int:
    """Channels of an activation: axis 1, of (1, C), (1, C, H, W)."""
    shape = _shape(node)
    return shape[1] if len(shape) in (2, 4) else 0


def _parameter(graph: GraphModule, node: Any) -> Tensor | None:
    if not isinstance(node, Node) or node.op != "get_attr" or len(node.users) != 1:
        return None
    value: Any = graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) else None


def _plain(graph: GraphModule, layer: Node) -> bool:
    """Whether the layer's weight is its own and mixes all channels (no groups)."""
    groups = layer.args[6] if layer.target is _aten.conv2d.default and len(layer.args) > 6 else 1
    bias = layer.args[2] if len(layer.args) > 2 else None
    own = _parameter(graph, layer.args[1]) is not None
    return bool(own and groups == 1) and (bias is None or _parameter(graph, bias) is not None)


def _backward(graph: GraphModule, node: Any, group: Group, repeat: int) -> bool:
    """Adds `node` and what writes it; false where some of it can not be scaled."""
    if not isinstance(node, Node) or node.op != "call_function" or not _channels(node):
        return False
    if node in group.tensors:
        return group.tensors[node] == repeat
    group.tensors[node] = repeat
    if node.target in _LAYERS:
        group.writers[node] = repeat
        return _plain(graph, node)
    count = (
        1 if node.target is _aten.prelu.default else 2
    )  # its slopes are no tensor that is scaled
    sources = [a for a in node.args[:count] if isinstance(a, Node)]
    if node.target is _aten.pixel_shuffle.default:
        return repeat == 1 and _backward(graph, sources[0], group, int(str(node.args[1])) ** 2)
    if not sources or any(_channels(n) != _channels(node) for n in sources):
        return False
    if node.target in _SUMS:
        return len(sources) == 2 and all(_backward(graph, n, group, repeat) for n in sources)
    if node.target is _aten.mul.Tensor:  # one factor takes the scale; _closed looks at the other
        return _backward(graph, sources[0], group, repeat)
    if node.target is _aten.mean.dim and 1 in [a % 4 for a in node.args[1]]:  # type: ignore[union-attr, operator]
        return False
    if node.target in _MOVES and any(set(_shape(n)[2:]) - {1} for n in (node, sources[0])):
        return False
    known = node.target in _SAME or node.target in _MOVES
    return known and _backward(graph, sources[0], group, repeat)


def _closed(group: Group) -> bool:
    """Whether every user of the group's tensors is inside, or a layer that reads it."""
    for node, repeat in group.tensors.items():
        for user in node.users:
            if user in group.tensors:
                continue
            if repeat != 1 or user.target not in _LAYERS or user.args[0] is not node:
                return False
            group.readers.add(user)
    products = [n for n in group.tensors if n.target is _aten.mul.Tensor]
    return not any(n.args[1] in group.tensors for n in products)


def groups_of(graph: GraphModule) -> list[Group]:
    """Every group of the exported float graph that can be scaled exactly, without overlap."""
    found: list[Group] = []
    taken: set[Node] = set()
    for reader in graph.graph.nodes:
        if reader.target not in _LAYERS or reader.args[0] in taken:
            continue
        group = Group()
        if not _backward(graph, reader.args[0], group, 1) or not _grown(graph, group):
            continue
        if taken & set(group.tensors) or not all(_plain(graph, r) for r in group.readers):
            continue
        taken |= set(group.tensors)
        found.append(group)
    return found


def _grown(graph: GraphModule, group: Group) -> bool:
    """Takes in what else reads the tensors (a residual stream goes on), until it is closed."""
    while not _closed(group):
        outside = [
            (u, 1 if u.target is _aten.pixel_shuffle.default else repeat)
            for n, repeat in group.tensors.items()
            for u in n.users
            if u not in group.tensors and not (u.target in _LAYERS and u.args[0] is n)
        ]
        if not outside or not all(_backward(graph, u, group, repeat) for u, repeat in outside):
            return False
    return True


class _Largest(Interpreter):  # type: ignore[misc]
    """Runs the graph and keeps, for each channel of the wanted tensors, what int8 must hold.

    That is the largest magnitude; of what is added and then goes through a ReLU, the negative side
    counts only down to −max of the other summand: below, the sum is 0 anyway.
    """

    def __init__(self, graph: GraphModule, wanted: Iterable[Node]) -> None:
        super().__init__(graph)
        self.wanted = set(wanted)
        self.high: dict[Node, Tensor] = {}
        self.low: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self.wanted:
            rows = value.transpose(0, 1).flatten(1)
            high, low = rows.amax(1), -rows.amin(1)
            self.high[n] = torch.maximum(self.high.get(n, high), high)
            self.low[n] = torch.maximum(self.low.get(n, low), low)
        return value

    def largest(self, n: Node) -> Tensor:
        low = self.low[n]
        users = list(n.users)
        if len(users) == 1 and users[0].target in _SUMS and _before_relu(users[0]):
            other = next((a for a in users[0].args[:2] if a is not n), None)
            if isinstance(other, Node) and other in self.high:
                low = torch.minimum(low, self.high[other].clamp(min=0))
        return torch.maximum(self.high[n], low)


def _before_relu(node: Node) -> bool:
    users = list(node.users)
    return len(users) == 1 and users[0].target is _aten.relu.default


@torch.no_grad()
def equalize(
    graph: GraphModule, inputs: Sequence[tuple[Tensor, ...]], share: float = 0.5
) -> list[tuple[str, ...]]:
    """Scales channels in place; returns the names of the tensors that were scaled, by group.

    inputs: calibration inputs of the float graph. share: 1 gives all channels of what a layer reads
    the same range, 0 all of its input weights; 0.5 the geometric mean of both.
    """
    groups = groups_of(graph)
    interpreter = _Largest(graph, (n for g in groups for n in g.tensors if not _before_relu(n)))
    for row in inputs:
        interpreter.run(*row)
    for group in groups:
        seen = [interpreter.largest(n) for n in group.tensors if n in interpreter.high]
        count = min(s.numel() for s in seen)  # before a pixel shuffle several rows are one channel
        seen = [s.view(count, -1).amax(1) for s in seen]
        values = torch.stack([s / s.max().clamp(min=1e-12) for s in seen]).amax(0)
        columns = []
        for reader in group.readers:
            weight = _parameter(graph, reader.args[1])
            assert weight is not None
            largest = weight.abs().transpose(0, 1).flatten(1).amax(1)
            columns.append(largest / largest.max().clamp(min=1e-12))
        weights = torch.stack(columns).amax(0)
        scale = values.clamp(min=_LEAST_RANGE) ** -share
        scale *= weights.clamp(min=_LEAST_WEIGHT) ** (1 - share)
        scale /= scale.log().mean().exp()
        for writer, repeat in group.writers.items():
            rows = scale.repeat_interleave(repeat)
            for argument in writer.args[1:3]:
                parameter = _parameter(graph, argument)
                if parameter is not None:
                    parameter.mul_(rows.view(-1, *[1] * (parameter.dim() - 1)))
        for reader in group.readers:
            weight = _parameter(graph, reader.args[1])
            assert weight is not None
            weight.div_(scale.view(1, -1, *[1] * (weight.dim() - 2)))
    return [tuple(n.name for n in g.tensors) for g in groups]
