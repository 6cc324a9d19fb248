"""Learned rounding: int8 weights that make up for each other's errors."""

import copy

import pytest
import torch
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from genedge.toolkit.grids import Grid, with_grids
from genedge.toolkit.programs import export_module
from genedge.toolkit.quantize import on_grid, quantize
from genedge.toolkit.quantizer import CommonQuantizer
from genedge.toolkit.rounding import (
    _rows,
    _spread,
    _unrowed,
    learn_rounding,
    rounded_columns,
)
from genedge.toolkit.saturation import PAIR, largest_pair


def mixed(rows: int, width: int) -> torch.Tensor:
    """Inputs whose columns depend on each other, as those of a trained layer do."""
    draw = torch.Generator().manual_seed(1)
    few = torch.randn(rows, width // 4, generator=draw)
    noise = torch.randn(rows, width, generator=draw)
    return few @ torch.randn(width // 4, width, generator=draw) + 0.1 * noise


def test_the_output_loses_less_than_by_the_nearest_numbers():
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(24, 200, generator=draw), mixed(2000, 200)
    steps = weight.abs().amax(1, keepdim=True) / 31
    whole = rounded_columns(weight, steps, (x.T @ x).double(), -31, 31)
    assert torch.equal(whole, whole.round())
    assert whole.abs().max() <= 31
    nearest = (weight / steps).round()
    errors = [((w * steps - weight) @ x.T).square().mean() for w in (whole, nearest)]
    assert errors[0] < errors[1] / 4


def test_inputs_that_say_nothing_leave_the_nearest_numbers():
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 32, generator=draw)
    steps = weight.abs().amax(1, keepdim=True) / 127
    whole = rounded_columns(weight, steps, torch.eye(32).double(), -127, 127)
    assert torch.equal(whole, (weight / steps).round())


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(6, 16, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.two = nn.Conv2d(16, 8, 3, dilation=2)
        self.end = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.grouped(torch.relu(self.one(x))))
        return self.end(torch.relu(self.two(x)).mean((2, 3)))


def prepared(module, rows, portable):
    graph = export_module(module, rows[0]).module()
    float_graph = copy.deepcopy(graph)
    ready = prepare_pt2e(graph, CommonQuantizer(portable))
    with torch.no_grad():
        for row in rows:
            ready(*row)
    return ready, float_graph


@pytest.mark.parametrize("portable", [True, False])
def test_every_plain_layer_of_a_graph_is_rounded_and_comes_nearer(portable):
    torch.manual_seed(0)
    rows = [(mixed(6 * 14, 14).view(1, 6, 14, 14) + i,) for i in range(8)]
    module = Layers().eval()
    ready, graph = prepared(module, rows, portable)
    nearest = {}
    for name, weight in ready.named_parameters():
        nearest[name] = weight.detach().clone()
    assert learn_rounding(ready, graph, rows, portable) == 3  # the grouped one stays
    after = dict(ready.named_parameters())
    moved = {n for n, w in nearest.items() if not torch.equal(w, after[n])}
    assert moved == {"one.weight", "two.weight", "end.weight"}
    assert learn_rounding(ready, graph, rows, portable) == 0  # they lie on their grid now
    if portable:
        for node in ready.graph.nodes:
            if node.target is torch.ops.aten.conv2d.default and "grouped" not in str(node.args[1]):
                observer = ready.get_submodule(str(node.args[1].target))
                weight = ready.get_parameter(str(node.args[1].args[0].target))
                steps = observer.calculate_qparams()[0].view(-1, 1, 1, 1)
                assert largest_pair((weight / steps).round()).max() <= PAIR


def test_weights_that_lie_on_a_grid_stay():
    torch.manual_seed(0)
    rows = [(mixed(6 * 14, 14).view(1, 6, 14, 14),)]
    ready, graph = prepared(on_grid(Layers()).eval(), rows, True)
    assert learn_rounding(ready, graph, rows) == 0


def test_parts_can_be_left_out(generator):
    plain = quantize(generator, calibration=4, without=("rounding", "equalization", "histogram"))
    assert set(plain.ranges.values()) == {"minmax"}
    full = quantize(generator, calibration=4)
    stored = [
        torch.cat(
            [t.flatten() for t in q.graphs["image"].state_dict().values() if t.dtype == torch.int8]
        )
        for q in (plain, full)
    ]
    assert not torch.equal(*stored)


@pytest.mark.parametrize(
    ("stride", "padding", "more"), [(1, 0, 0), (2, 1, 0), (2, 1, 1), (3, 2, 1)]
)
def test_columns_of_a_transposed_convolution_are_what_it_reads(stride, padding, more):
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(5, 7, 4, stride, padding, more)
    x = torch.randn(2, 5, 6, 8)
    args = (x, layer.weight, layer.bias, [stride], [padding], [more])
    columns = torch.nn.functional.unfold(_spread(x, (4, 4), args), (4, 4))
    drawn = _rows(layer.weight, True) @ columns + layer.bias[:, None]
    with torch.no_grad():
        wanted = layer(x)
        torch.testing.assert_close(drawn.view(wanted.shape), wanted, atol=1e-5, rtol=1e-5)
        assert torch.equal(_unrowed(_rows(layer.weight, True), layer.weight, True), layer.weight)


def test_a_transposed_convolution_is_rounded_too():
    torch.manual_seed(0)
    module = nn.Sequential(nn.ConvTranspose2d(6, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 1)).eval()
    rows = [(mixed(6 * 14, 14).view(1, 6, 14, 14) + i,) for i in range(8)]
    ready, graph = prepared(module, rows, True)
    nearest = copy.deepcopy(ready)
    assert learn_rounding(ready, graph, rows) == 2
    with torch.no_grad():
        errors = []
        for one in (ready, nearest):
            for parameter in with_grids(one, Grid).values():
                parameter.on = parameter.per_channel
            errors.append(sum(float((one(*r) - module(*r)).square().mean()) for r in rows))
    assert errors[0] < errors[1] / 2
