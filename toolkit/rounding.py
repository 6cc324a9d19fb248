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

from .saturation import PAIR, largest_pair

_aten = torch.ops.aten
_LAYERS = (_aten.conv2d.default, _aten.linear.default)
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
        if n.target is _aten.linear.default:
            columns = x.flatten(0, -2).T
        else:
            usual: tuple[Any, ...] = ((1, 1), (0, 0), (1, 1))  # stride, padding, dilation
            stride, padding, dilation = (*args[3:6], *usual[len(args[3:6]) :])
            columns = F.unfold(x, weight.shape[2:], dilation, padding, stride)
            columns = columns.transpose(0, 1).flatten(1)
        if columns.shape[1] > _PLACES:
            columns = columns[:, torch.randperm(columns.shape[1], generator=self.places)[:_PLACES]]
        return columns


@torch.no_grad()
def learn_rounding(
    prepared: GraphModule,
    graph: GraphModule,
    inputs: Sequence[tuple[Tensor, ...]],
    portable: bool = True,
) -> int:
    """Moves the weights of `prepared`, in place, onto the grids that its observers chose.

    graph: the float graph that it was prepared of. inputs: rows for it. portable: rows of which a pair
    of products could then overflow 16 bits keep the nearest values. Layers with groups, or with
    weights that lie on their grid, stay. Returns how many layers were changed.
    """
    found = {}
    for node in prepared.graph.nodes:
        if node.target in _LAYERS and (pair := _weight(prepared, node)) is not None:
            groups = node.args[6] if node.target is _LAYERS[0] and len(node.args) > 6 else 1
            wide = pair[0].flatten(1).shape[1] <= WIDEST
            if groups == 1 and wide and not isinstance(_padding(node), str):
                found[node.name] = pair
    found = {k: v for k, v in found.items() if not _on_grid(*v)}
    if not found:
        return 0
    moments = _Moments(graph, set(found))
    for row in inputs:
        moments.run(*row)
    changed = 0
    for name, (weight, observer) in found.items():
        if name not in moments.sums:
            continue
        rows, steps, nearest = _nearest(weight, observer)
        whole = rounded_columns(
            rows, steps, moments.sums[name], observer.quant_min, observer.quant_max
        )
        if portable:
            over = largest_pair(whole.view(weight.shape)) > PAIR
            whole = torch.where(over[:, None], nearest, whole)
        weight.copy_((whole * steps).view(weight.shape))
        changed += 1
    return changed


def _nearest(weight: Tensor, observer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of a weight, their steps (out, 1), and the nearest whole numbers of steps."""
    steps = observer.calculate_qparams()[0].view(-1, 1)
    rows = weight.detach().flatten(1)
    return rows, steps, (rows / steps).round().clamp(observer.quant_min, observer.quant_max)


def _on_grid(weight: Tensor, observer: Any) -> bool:
    rows, steps, nearest = _nearest(weight, observer)
    return torch.allclose(nearest * steps, rows, rtol=1e-5, atol=0)


def _padding(node: Node) -> Any:
    return node.args[4] if node.target is _LAYERS[0] and len(node.args) > 4 else 0


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
