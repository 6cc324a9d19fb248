"""Operators that tools of this kind have drawn wrongly: each on three targets, in float and int8."""

import importlib

import numpy as np
import pytest
import torch
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from genedge.recipes import TARGETS, Names, Options
from genedge.runtime import artifact as artifacts
from genedge.runtime.metrics import sqnr
from genedge.toolkit.bias import round_biases
from genedge.toolkit.programs import export_module
from genedge.toolkit.quantizer import CommonQuantizer


class Around(nn.Module):
    """The operator between two convolutions, so that int8 reaches it and leaves it."""

    def __init__(self, inner, after):
        super().__init__()
        self.before, self.inner = nn.Conv2d(4, 36, 3, padding=1), inner
        self.after = nn.Conv2d(after, 4, 1)

    def forward(self, x):
        return self.after(self.inner(torch.relu(self.before(x))))


class SplitConcat(nn.Module):
    def forward(self, x):
        a, b = torch.chunk(x, 2, 1)
        return torch.cat([b, torch.relu(a)], 1)


class Joined(nn.Module):
    """A sum and a layer that is never negative, joined: skips of a U-Net are such."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(36, 18, 3, padding=1), nn.Conv2d(36, 18, 3, padding=1)
        self.three = nn.Conv2d(18, 18, 1)

    def forward(self, x):
        low = torch.relu(self.one(x))
        return torch.cat([self.two(x) + self.three(low), low], 1)


def transposed(groups, output_padding, norm=False):
    layer = nn.ConvTranspose2d(
        36, 16, 3, stride=2, padding=1, output_padding=output_padding, groups=groups
    )
    if not norm:
        return layer
    batch = nn.BatchNorm2d(16)
    with torch.no_grad():
        batch.running_mean.normal_()
        batch.running_var.uniform_(0.5, 2)
    return nn.Sequential(layer, batch)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(36, 36, 3, padding=1), nn.Conv2d(36, 36, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.two(torch.relu(self.one(x))))


CASES = {
    "transposed": lambda: (transposed(1, 0), 16),
    "transposed, output padding": lambda: (transposed(1, 1), 16),
    "transposed, groups": lambda: (transposed(2, 1), 16),
    "transposed, batch norm": lambda: (transposed(1, 1, True), 16),
    "pixel shuffle 2": lambda: (nn.PixelShuffle(2), 9),
    "pixel shuffle 3": lambda: (nn.PixelShuffle(3), 4),
    "concatenation of a layer and a sum": lambda: (Joined(), 36),
    "split and concatenation": lambda: (SplitConcat(), 36),
    "PReLU": lambda: (nn.PReLU(36), 36),
}


def lowered(program, target, folder, precision="int8", **about):
    """(a function from x to y, the file) of a program with one input x and one output y."""
    names = Names(("x",), ("y",))
    recipe = importlib.import_module(f"genedge.recipes.{target}")
    files = recipe.export({"part": program}, folder, Options(precision, {"part": names}))["part"]
    stored = tuple(artifacts.stored(f) for f in files)
    component = artifacts.Component("part", names.inputs, names.outputs, stored, **about)
    run = importlib.import_module(f"genedge.runtime.run_{target}").load(folder, component, 1)
    return lambda x: run({"x": x.numpy()})["y"], files[0]


def quantized(module, feeds):
    """The int8 graph, calibrated on these inputs."""
    graph = export_module(module, (feeds[0],)).module()
    prepared = prepare_pt2e(graph, CommonQuantizer(portable=True))
    for x in feeds:
        prepared(x)
    return convert_pt2e(prepared)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_an_operator_gives_what_float_gives(case, precision, target, tmp_path):
    torch.manual_seed(0)
    inner, channels = CASES[case]()
    module = Around(inner, channels).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "inner" in name and parameter.dim() == 1 and parameter.numel() == 36:
                parameter.uniform_(0, 0.5)
    x = torch.randn(1, 4, 6, 6)
    wanted = module(x).detach().numpy()
    graph = module if precision == "fp32" else quantized(module, [x])
    run, _ = lowered(export_module(graph, (x,)), target, tmp_path, precision)
    drawn = run(x)
    assert drawn.shape == wanted.shape
    assert sqnr(drawn, wanted) >= {"fp32": 80, "int8": 28}[precision]
    assert abs(float(np.mean(drawn - wanted))) <= 0.05 * float(np.std(wanted))


@pytest.mark.parametrize("target", TARGETS)
def test_int8_gives_what_its_simulation_gives(target, tmp_path):
    """Sums are rounded before and after, biases added in whole steps: nearly every value is equal."""
    torch.manual_seed(0)
    inner = nn.Sequential(Residual(), Residual())
    module = Around(inner, 36).eval()
    feeds = [torch.randn(1, 4, 12, 12) for _ in range(8)]
    graph = quantized(module, feeds)
    assert round_biases(graph) == 6
    run, _ = lowered(export_module(graph, (feeds[0],)), target, tmp_path)
    off = [np.abs(run(x) - graph(x).detach().numpy()) > 1e-4 for x in feeds]
    assert np.mean(off) <= 0.02


@pytest.mark.parametrize("target", TARGETS)
def test_int8_weights_alone_meet_float_inputs(target, tmp_path):
    """ONNX Runtime and OpenVINO would round the inputs of such layers to int8, unasked."""
    from genedge.toolkit.pipeline_precision import WeightQuantizer

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 64)).eval()
    x = torch.randn(1, 5, 256)
    graph = prepare_pt2e(export_module(module, (x,)).module(), WeightQuantizer(False))
    graph(x)
    program = export_module(convert_pt2e(graph), (x,))
    run, _ = lowered(program, target, tmp_path, float_arithmetic=True)
    assert sqnr(run(x), program.module()(x).detach().numpy()) > 100


def exported_int8(module, x, target, folder):
    """What inspect reads in the int8 file of a module, which must give what float gives."""
    run, file = lowered(export_module(quantized(module, [x]), (x,)), target, folder)
    assert sqnr(run(x), module(x).detach().numpy()) >= 28
    return importlib.import_module(f"genedge.runtime.inspect_{target}").read(file, "part")


class Scaled(nn.Module):
    """A constant for each channel, once multiplied with what is drawn, once added to it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(1, 36, 1, 1) - 0.5)
        self.shift = nn.Parameter(torch.randn(1, 36, 1, 1))

    def forward(self, x):
        return torch.relu(x * self.scale + self.shift)


class Enlarged(nn.Module):
    """Transposed convolutions that read negative numbers: an input, and a layer's result."""

    def __init__(self):
        super().__init__()
        self.one = nn.ConvTranspose2d(4, 36, 4, stride=2, padding=1)
        self.two = nn.ConvTranspose2d(36, 8, 4, stride=2, padding=1)
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x):
        return self.last(torch.relu(self.two(self.one(x))))


@pytest.mark.parametrize("target", ["executorch", "openvino"])  # ONNX Runtime has none in int8
def test_a_transposed_convolution_of_negative_numbers_is_int8(target, tmp_path):
    torch.manual_seed(0)
    found = exported_int8(Enlarged().eval(), torch.randn(1, 4, 6, 6) + 0.5, target, tmp_path)
    assert not [o for o in found.operators if o.computes == "float"]


@pytest.mark.parametrize("target", TARGETS)
def test_joined_layers_are_int8(target, tmp_path):
    torch.manual_seed(0)
    found = exported_int8(Around(Joined(), 36).eval(), torch.randn(1, 4, 6, 6), target, tmp_path)
    assert {o.kind for o in found.operators if o.computes == "float"} <= {"Relu"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_constant_meets_an_activation_in_int8(target, tmp_path):
    torch.manual_seed(0)
    module = Around(Scaled(), 36).eval()
    found = exported_int8(module, torch.randn(1, 4, 6, 6), target, tmp_path)
    assert not [o for o in found.operators if o.computes == "float"]
