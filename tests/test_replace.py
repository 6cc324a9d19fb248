"""Known operators are replaced by others that compute the same: at least 100 dB."""

import pytest
import torch
import torch.nn.functional as F
from architectures import ModulatedConv
from torch import nn

from genedge.runtime.artifact import read_artifact
from genedge.runtime.inspect import inspect
from genedge.runtime.metrics import sqnr
from genedge.runtime.verify import Limits
from genedge.toolkit import replace
from genedge.toolkit.export import export
from genedge.toolkit.own import generator_of, noise

aten = torch.ops.aten


def decibels(module, *example):
    """dB to the module itself, and the operators of the graph that replaced it."""
    module = module.eval()
    graph = replace.float_graph(module, example)
    with torch.no_grad():
        other = [torch.randn_like(x) * 2 + 0.5 for x in example]
        found = sqnr(graph(*other).numpy(), module(*other).numpy())
    return found, {n.target for n in graph.graph.nodes if n.op == "call_function"}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 24])
def test_group_norm(groups, affine, batch):
    torch.manual_seed(groups)
    module = nn.GroupNorm(groups, 24, affine=affine)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    found, operators = decibels(module, torch.randn(batch, 24, 6, 5))
    assert found >= 100
    assert aten.group_norm.default not in operators
    assert aten.rsqrt.default in operators


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("factor", [2, 3, (2, 4)])
def test_nearest_enlargement(factor, batch):
    module = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Upsample(scale_factor=factor))
    found, operators = decibels(module, torch.randn(batch, 3, 4, 6))
    assert found >= 100
    assert aten.cat.default in operators
    assert not operators & set(replace._NEAREST)


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, **self.options)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("options", [{}, {"scale": 0.3}])
def test_attention(options, batch):
    q, k, v = (torch.randn(batch, 2, n, 8) for n in (5, 7, 7))
    found, operators = decibels(Attention(**options), q, k, v)
    assert found >= 100
    assert aten.scaled_dot_product_attention.default not in operators


def test_attention_with_a_mask_is_left_alone():
    found, operators = decibels(Attention(is_causal=True), *torch.randn(3, 1, 2, 5, 8).unbind())
    assert found >= 100
    assert aten.scaled_dot_product_attention.default in operators


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_modulated_convolution(kernel, demodulate):
    torch.manual_seed(0)
    module = ModulatedConv(6, 9, kernel, demodulate)
    found, operators = decibels(module, torch.randn(1, 6, 5, 7), torch.randn(1, 6))
    assert found >= 100
    graph = replace.float_graph(module, (torch.randn(1, 6, 5, 7), torch.randn(1, 6)))
    (conv,) = (n for n in graph.graph.nodes if n.target is aten.conv2d.default)
    assert conv.args[1].op == "get_attr"
    assert operators


def test_clamps_become_what_int8_fuses():
    class Ends(nn.Module):
        def forward(self, x):
            x = torch.clamp(x, -1, 1) + torch.clamp(x, min=0) + torch.clamp_min(x, 0)
            return F.relu6(9 * x) - torch.clamp(x, max=0.5) - torch.clamp(x, min=0.5)

    found, operators = decibels(Ends(), torch.randn(2, 3, 4, 4))
    assert found >= 100
    assert {aten.hardtanh.default, aten.relu.default, aten.clamp.default} < operators
    assert not {aten.relu6.default, aten.clamp_min.default} & operators


class Residuals(nn.Module):
    """Layers that are scaled or taken away, and products that have to stay."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1, bias=False)
        self.three, self.four = nn.ConvTranspose2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = x + 0.2 * self.one(x)
        x = x - self.two(torch.relu(x))
        x = torch.relu(x) - self.three(x) / 3
        y = self.four(x)
        return (x - x) + y * 0.5 - y


def test_a_layer_times_a_number_has_scaled_weights():
    torch.manual_seed(0)
    found, operators = decibels(Residuals(), torch.randn(1, 4, 5, 6))
    assert found >= 100
    assert aten.div.Tensor not in operators
    graph = replace.float_graph(Residuals().eval(), (torch.randn(1, 4, 5, 6),))
    left = [n.target for n in graph.graph.nodes]
    assert left.count(aten.mul.Tensor) == 1  # its layer is read twice
    assert left.count(aten.sub.Tensor) == 2


def test_a_layer_that_is_run_twice_is_stored_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return 0.5 * self.one(torch.relu(0.2 * self.one(x)))

    graph = replace.float_graph(Twice().eval(), (torch.randn(1, 4, 5, 6),))
    assert [n.target for n in graph.graph.nodes].count(aten.mul.Tensor) == 2
    assert {n.target for n in graph.graph.nodes if n.op == "get_attr"} == {"one.weight", "one.bias"}


@pytest.mark.parametrize("target", ["executorch", "onnx"])  # OpenVINO fuses such products itself
def test_scaled_residuals_are_int8(target, tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(4, 3, 1)
            self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            x = torch.relu(self.first(x))
            x = x + 0.2 * self.one(x)
            return torch.clamp(x - self.two(torch.relu(x)), 0, 1)

    torch.manual_seed(0)
    generator = generator_of(Scaled(), inputs={"x": noise(1, 4, 16, 16)}, output=(0, 1), golden=4)
    (done,) = export(generator, [target], out=tmp_path, limits=Limits(flat=0, signed=0.5))
    (component,) = inspect(read_artifact(done.directory))
    kinds = {o.kind for o in component.operators if o.computes == "float"}
    assert not kinds & {"Mul", "Multiply", "Sub", "Subtract"}


def test_what_would_change_something_is_left_alone(monkeypatch):
    def wrong(graph):
        for node in graph.graph.nodes:
            if node.target is aten.relu.default:
                node.target = aten.neg.default
                return 1
        return 0

    monkeypatch.setattr(replace, "PASSES", (wrong,))
    found, operators = decibels(
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), torch.randn(1, 3, 4, 4)
    )
    assert found >= 100
    assert aten.relu.default in operators


class Gain(nn.Module):
    """A layer with an equalized learning rate, and an embedding of a fixed time."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 5))
        self.time = nn.Linear(4, 6)

    def forward(self, x):
        return F.linear(x, self.weight * 0.3) + self.time(torch.ones(x.shape[0], 4) * 0.5)


def test_what_depends_on_no_input_is_computed_once():
    found, operators = decibels(Gain(), torch.randn(1, 5))
    assert found >= 100
    assert operators == {aten.linear.default, aten.add.Tensor}


def test_what_overwrites_its_input_becomes_a_function():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1), nn.ReLU6(inplace=True)
    )
    found, operators = decibels(module, torch.randn(1, 3, 8, 8))
    assert found >= 100
    assert {aten.relu.default, aten.hardtanh.default} <= operators
    assert not operators & {aten.relu_.default, aten.hardtanh_.default}


class Overwrites(nn.Module):
    """Overwrites a view of what is read afterwards."""

    def forward(self, x):
        y = x * 2
        y.flatten().relu_()
        return y + 1


def test_what_is_read_again_stays():
    found, operators = decibels(Overwrites(), torch.randn(1, 3, 8, 8))
    assert found >= 100
    assert aten.relu_.default in operators
