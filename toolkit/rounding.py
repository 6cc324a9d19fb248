"""Learned rounding: weights are rounded one column after another, each making up for those before.

After Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained
transformers" (ICLR 2023), formulas 2 and 3: what a layer's output loses is a quadratic form of its
weights' errors, so that the best answer to a column's error is known in closed form: seconds for a
layer where gradients (AdaRound, BRECQ) take minutes, and no random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from .quantizer import WEIGHTED
from .saturation import PAIR, largest_pair

_aten = torch.ops.aten
_TRANSPOSED = _aten.conv_transpose2d.input
WIDEST = 4608  # weights of one output: wider ones would need gigabytes
_PLACES = 256  # of each input picture whose columns are looked at
_DAMPING = 0.01  # of the mean diagonal
_BLOCK = 128


def _weight(graph: GraphModule, node: Node) -> tuple[Any, Any] | None:
    """A layer's weight and its observer in a prepared graph; None where it is not its own."""
    observed: Any = node.args[1]
    if observed.op != "call_module" or observed.args[0].op != "get_attr":
        return None
    if len(observed.users) != 1 or len(observed.args[0].users) != 1:
        return None
    value: Any = graph
    for part in str(observed.args[0].target).split("."):
        value = getattr(value, part)
    return value, graph.get_submodule(str(observed.target))


class _Moments(Interpreter):  # type: ignore[misc]
    """Runs a float graph and sums x xᵀ over what each wanted layer reads, by the layer's name."""

    def __init__(self, graph: GraphModule, wanted: set[str]) -> None:
        super().__init__(graph)
        self.wanted = wanted
        self.sums: dict[str, Tensor] = {}
        self.places = torch.Generator().manual_seed(0)

    def run_node(self, n: Node) -> Any:
        if n.name in self.wanted:
            args, _ = self.fetch_args_kwargs_from_env(n)
            columns = self._columns(n, args)
            product = (columns @ columns.T).double()
            before = self.sums.get(n.name)
            self.sums[n.name] = product if before is None else before + product
        return super().run_node(n)

    def _columns(self, n: Node, args: tuple[Any, ...]) -> Tensor:
        """(inputs of one output, places)."""
        x: Tensor = args[0]
        weight: Tensor = args[1]
        kernel = weight.shape[2:]
        if n.target is _aten.linear.default:
            columns = x.flatten(0, -2).T
        elif n.target is _TRANSPOSED:
            columns = F.unfold(_spread(x, kernel, args), kernel).transpose(0, 1).flatten(1)
        else:
            usual: tuple[Any, ...] = ((1, 1), (0, 0), (1, 1))  # stride, padding, dilation
            stride, padding, dilation = (*args[3:6], *usual[len(args[3:6]) :])
            columns = F.unfold(x, kernel, dilation, padding, stride).transpose(0, 1).flatten(1)
        if columns.shape[1] > _PLACES:
            columns = columns[:, torch.randperm(columns.shape[1], generator=self.places)[:_PLACES]]
        return columns


def _spread(x: Tensor, kernel: Sequence[int], args: tuple[Any, ...]) -> Tensor:
    """What a plain convolution with the turned kernel reads where a transposed one reads x."""
    stride, padding, more = _transposed_shape(args)
    wide = x.new_zeros(
        *x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True))
    )
    wide[:, :, :: stride[0], :: stride[1]] = x
    sides = [(k - 1 - p, k - 1 - p + e) for k, p, e in zip(kernel, padding, more, strict=True)]
    return F.pad(wide, (*sides[1], *sides[0]))


def _transposed_shape(args: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    """Stride, padding and output padding of a transposed convolution's arguments."""
    usual: tuple[Any, ...] = ((1, 1), (0, 0), (0, 0))
    given: tuple[Any, ...] = tuple(tuple(a) * (2 if len(a) == 1 else 1) for a in args[3:6])
    whole = given + usual[len(given) :]
    return whole[0], whole[1], whole[2]


def _rows(weight: Tensor, transposed: bool) -> Tensor:
    """(out, in × kernel); of a transposed convolution the kernel is turned."""
    return weight.transpose(0, 1).flip(2, 3).flatten(1) if transposed else weight.flatten(1)


def _unrowed(rows: Tensor, weight: Tensor, transposed: bool) -> Tensor:
    """The weight's own shape again."""
    if not transposed:
        return rows.view(weight.shape)
    before, after, *kernel = weight.shape
    return rows.view(after, before, *kernel).flip(2, 3).transpose(0, 1)


@torch.no_grad()
def learn_rounding(
    prepared: GraphModule,
    graph: GraphModule,
    inputs: Sequence[tuple[Tensor, ...]],
    portable: bool = True,
) -> int:
    """Moves the weights of `prepared`, in place, onto the grids that its observers chose.

    graph: the float graph that it was prepared of. inputs: rows for it, each a tuple of float32 tensors
    as its component takes them. portable: rows of which a pair
    of products could then overflow 16 bits keep the nearest values. Layers with groups, or with
    weights that lie on their grid, stay. Returns how many layers were changed.
    """
    found = {}
    for node in prepared.graph.nodes:
        if (
            node.target in WEIGHTED
            and (pair := _weight(prepared, node)) is not None
            and _plain(node)
        ):
            layer = _Layer(*pair, node.target is _TRANSPOSED)
            if layer.rows.shape[1] <= WIDEST and not layer.on_grid:
                found[node.name] = layer
    if not found:
        return 0
    moments = _Moments(graph, set(found))
    for row in inputs:
        moments.run(*row)
    changed = 0
    for name, layer in found.items():
        if name not in moments.sums:
            continue
        observer = layer.observer
        whole = rounded_columns(
            layer.rows, layer.steps, moments.sums[name], observer.quant_min, observer.quant_max
        )
        if portable:
            kernel = layer.weight.shape[2:]
            over = largest_pair(whole.view(len(whole), -1, *kernel)) > PAIR
            whole = torch.where(over[:, None], layer.nearest, whole)
        layer.weight.copy_(_unrowed(whole * layer.steps, layer.weight, layer.transposed))
        changed += 1
    return changed


class _Layer:
    """A weight as rows, one for each output channel; their steps, (out, 1); nearest whole numbers."""

    def __init__(self, weight: Any, observer: Any, transposed: bool) -> None:
        self.weight, self.observer, self.transposed = weight, observer, transposed
        self.rows = _rows(weight.detach(), transposed)
        self.steps = observer.calculate_qparams()[0].view(-1, 1)
        whole = (self.rows / self.steps).round()
        self.nearest = whole.clamp(observer.quant_min, observer.quant_max)

    @property
    def on_grid(self) -> bool:
        return torch.allclose(self.nearest * self.steps, self.rows, rtol=1e-5, atol=0)


def _plain(node: Node) -> bool:
    """Whether the layer has one group, and padding in numbers."""
    args: Any = node.args
    if node.target is _TRANSPOSED:
        groups = args[6] if len(args) > 6 else 1
        dilation = args[7] if len(args) > 7 else (1,)
        kernel = args[1].meta["val"].shape[2:] if "val" in args[1].meta else ()
        padding = _transposed_shape(args)[1]
        small = all(p < k for p, k in zip(padding, kernel, strict=False))
        return bool(groups == 1 and set(dilation) == {1} and small)
    if node.target is _aten.conv2d.default:
        return (len(args) < 7 or args[6] == 1) and not (len(args) > 4 and isinstance(args[4], str))
    return True


def rounded_columns(rows: Tensor, steps: Tensor, moments: Tensor, low: int, high: int) -> Tensor:
    """Whole numbers (out, in), `low` to `high`, that times `steps` give nearly what `rows` give.

    rows: float32 (out, in). steps: (out, 1). moments: (in, in), the sum of x xᵀ over inputs. Columns
    that read the largest inputs are rounded first.
    """
    diagonal = moments.diagonal().clone()
    moments = moments.clone()
    moments.diagonal().add_(_DAMPING * diagonal.mean() + 1e-12)
    order = diagonal.argsort(descending=True, stable=True)
    inverse = torch.linalg.cholesky(moments[order][:, order])
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(inverse), upper=True).float()
    left, whole = rows[:, order].clone(), torch.empty_like(rows)
    for begin in range(0, left.shape[1], _BLOCK):
        end = min(begin + _BLOCK, left.shape[1])
        errors = torch.empty(left.shape[0], end - begin)
        for i in range(begin, end):
            column = (left[:, i : i + 1] / steps).round().clamp(low, high)
            errors[:, i - begin] = (left[:, i] - (column * steps)[:, 0]) / inverse[i, i]
            left[:, i + 1 : end] -= errors[:, i - begin, None] * inverse[i, i + 1 : end]
            whole[:, i] = column[:, 0]
        left[:, end:] -= errors @ inverse[begin:end, end:]
    result = torch.empty_like(whole)
    result[:, order] = whole
    return result
