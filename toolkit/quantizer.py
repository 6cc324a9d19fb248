"""Which operators become int8, and on which grids: what all three targets fuse.

Convolution or linear layer, addition, multiplication, each with the ReLU or clamp behind it; what
only moves numbers keeps their grid.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import HistogramObserver
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)

from .observers import (
    PerChannelSquaredErrorObserver,
    PerChannelTransposedObserver,
    PortablePerChannelTransposedObserver,
    PortableWeightObserver,
    clamp_bounds,
)
from .rewriting import FLOAT

_aten = torch.ops.aten
TRANSPOSED = _aten.conv_transpose2d.input
WEIGHTED = (_aten.conv2d.default, _aten.linear.default, TRANSPOSED)
_BINARY = {_aten.add.Tensor, _aten.mul.Tensor}
ACTIVATIONS = {_aten.relu.default, _aten.hardtanh.default}
# What counts as a layer where losses are told apart: the weighted ones first.
LAYERS = (*WEIGHTED, _aten.add.Tensor, _aten.mul.Tensor)
MOVES = {
    _aten.view.default,
    _aten.reshape.default,
    _aten.permute.default,
    _aten.transpose.int,
    _aten.unsqueeze.default,
    _aten.flatten.using_ints,
    _aten.pixel_shuffle.default,
    _aten.max_pool2d.default,  # gives some of its numbers again
}
# What gives nothing but numbers of its input.
_COPIES = MOVES | {
    _aten.transpose.int,
    _aten.upsample_nearest2d.vec,
    _aten.upsample_nearest2d.default,
}
_KEY = "quantization_annotation"
# A clamp to [0, 1] ends in whole grey levels: 0 and 255 are exact.
GREY_LEVELS = FixedQParamsQuantizationSpec(
    dtype=torch.int8,
    scale=1 / 255,
    zero_point=-128,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
)
# A last clamp by its bounds. Zero must be a whole number: 256 levels of [-1, 1] would all end half
# a grey level too high, so it gets 255, of which both ends and the middle are exact.
_LAST_LEVELS = {
    (0.0, 1.0): GREY_LEVELS,
    (-1.0, 1.0): replace(GREY_LEVELS, scale=1 / 127, zero_point=0),
}


def layer_name(node: Node) -> str:
    """A layer's name under the float module: its path; ":" and the node's name for a sum or product.

    Sums and products have no module of their own: they are named after the one that computes them.
    """
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return path if node.target in WEIGHTED else f"{path}:{node.name}"


class CommonQuantizer(Quantizer):  # type: ignore[misc]
    """Annotates what all three targets fuse; `keep` names modules that stay float."""

    def __init__(
        self,
        portable: bool = False,
        keep: Iterable[str] = (),
        observer: Any = HistogramObserver,
        levels: Mapping[str, QuantizationSpec] | None = None,
    ) -> None:
        super().__init__()
        weight = PortableWeightObserver if portable else PerChannelSquaredErrorObserver
        self.activation = QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=observer.with_args(eps=2**-12),
            quant_min=-128,
            quant_max=127,
            qscheme=torch.per_tensor_affine,
        )
        self.symmetric = replace(self.activation, qscheme=torch.per_tensor_symmetric)
        self.weight = QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=weight.with_args(eps=2**-16),
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        )
        transposed = (
            PortablePerChannelTransposedObserver if portable else PerChannelTransposedObserver
        )
        self.transposed = replace(
            self.weight,
            observer_or_fake_quant_ctr=transposed.with_args(eps=2**-16),
            ch_axis=1,
        )
        self.keep = tuple(keep)
        self.levels = dict(levels or {})

    def _input(self, node: Node) -> QuantizationSpec:
        """How what a layer reads is rounded: pictures, enlarged or not, and words of an int8 table
        keep the levels that they have."""
        source = _copied(node)
        return self.levels.get(source.name, self._of(source))

    def _of(self, source: Node) -> QuantizationSpec:
        """How a result is rounded: around zero where a transposed convolution reads negative numbers,
        which OpenVINO computes in float where zero is not the grid's own."""
        read = _reach(source, lambda n: n.target is TRANSPOSED and _one_group(n), _COPIES)
        return self.symmetric if read and not _never_negative(source) else self.activation

    def _join(self, node: Node) -> QuantizationAnnotation:
        """A concatenation: one grid for its parts and its result, since XNNPACK has no other, and
        draws what is rounded again to come onto one wrongly."""
        first, *others = dict.fromkeys(node.args[0])  # type: ignore[arg-type]
        shared = SharedQuantizationSpec((first, node))
        parts = {first: self._of(node)} | dict.fromkeys(others, shared)
        return QuantizationAnnotation(parts, shared, True)

    def _kept(self, node: Node) -> bool:
        if FLOAT in node.meta:
            return True
        stack = node.meta.get("nn_module_stack") or {}
        paths = [path for path, _ in stack.values()]
        name = layer_name(node)
        return name in self.keep or any(
            p == k or p.startswith(k + ".") for p in paths for k in self.keep
        )

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.nodes:
            if node.op != "call_function":
                continue
            if _is_join(node) and all(_KEY in part.meta for part in node.args[0]):
                if _reach(node, lambda n: n.target in LAYERS, _COPIES | {_aten.cat.default}):
                    node.meta[_KEY] = self._join(node)
                continue
            if self._kept(node):
                continue
            if node.target in WEIGHTED and (node.target is not TRANSPOSED or _one_group(node)):
                weight = self.transposed if node.target is TRANSPOSED else self.weight
                inputs = {node.args[0]: self._input(node.args[0]), node.args[1]: weight}
            elif node.target in _BINARY and all(_is_float(a) for a in node.args[:2]):
                inputs = {a: self._input(a) for a in node.args[:2]}
            elif (source := _moved(node)) is not None and _KEY in source.meta:
                shared = SharedQuantizationSpec(source)
                node.meta[_KEY] = QuantizationAnnotation({source: shared}, shared, True)
                continue
            else:
                continue
            users = list(node.users)
            last = users[0] if len(users) == 1 and users[0].target in ACTIVATIONS else node
            output = last_levels(last) or self._of(last)
            if last is node:
                node.meta[_KEY] = QuantizationAnnotation(inputs, output, True)
            else:
                node.meta[_KEY] = QuantizationAnnotation(inputs, None, True)
                last.meta[_KEY] = QuantizationAnnotation({}, output, True)
        return model

    def validate(self, model: GraphModule) -> None:
        return None


def _is_float(value: object) -> bool:
    if not isinstance(value, Node) or value.target in (_aten.to.dtype, _aten._to_copy.default):
        return False
    tensor = value.meta.get("val")
    return isinstance(tensor, Tensor) and tensor.dtype == torch.float32


def _one_group(node: Node) -> bool:
    """Whether a transposed convolution mixes all channels: XNNPACK has no others in int8."""
    return len(node.args) <= 6 or bool(node.args[6] == 1)


def _never_negative(node: Node) -> bool:
    if node.target is _aten.hardtanh.default:
        return clamp_bounds(node)[0] >= 0
    return node.target is _aten.relu.default


def _reach(node: Node, asked: Callable[[Node], bool], through: Container[Any]) -> bool:
    """Whether such a node reads the result, as it is or after operators of `through` alone."""
    return any(
        asked(user) or (user.target in through and _reach(user, asked, through))
        for user in node.users
    )


def _copied(node: Node) -> Node:
    """What gives the numbers that a node moves or repeats."""
    while node.target in _COPIES:
        node = node.args[0]  # type: ignore[assignment]
    return node


def _is_join(node: Node) -> bool:
    return node.target is _aten.cat.default and len(set(node.args[0])) > 1  # type: ignore[arg-type]


def _moved(node: Node) -> Node | None:
    """What a node only moves or repeats; None where it computes."""
    if node.target is _aten.cat.default:
        parts = set(node.args[0])  # type: ignore[arg-type]
        return parts.pop() if len(parts) == 1 else None
    return node.args[0] if node.target in MOVES else None  # type: ignore[return-value]


def last_levels(node: Node) -> QuantizationSpec | None:
    """The fixed grid of a clamp that pictures end in; None of any other node."""
    return _LAST_LEVELS.get(clamp_bounds(node)) if node.target is _aten.hardtanh.default else None
