"""Channels get like ranges, and the float picture stays what it was."""

import pytest
import torch
from torch import nn

from genedge.runtime.metrics import sqnr
from genedge.toolkit.equalize import equalize, groups_of
from genedge.toolkit.programs import example_inputs, export_module
from genedge.toolkit.quantize import calibrate


class Residual(nn.Module):
    """Shuffle, residual stream, scale by another input, mean: all that a group may pass."""

    def __init__(self):
        super().__init__()
        self.up = nn.Conv2d(4, 32, 1)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.scale, self.end = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)
        with torch.no_grad():
            self.one.weight[0] *= 40
            self.up.weight[4:8] *= 30

    def forward(self, x, z):
        x = torch.relu(nn.functional.pixel_shuffle(self.up(x), 2))
        x = torch.relu(x + self.two(torch.relu(self.one(x) * self.scale(z))))
        return self.end(x.mean((2, 3), keepdim=True).flatten(1))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_float_output_stays_the_same(share):
    torch.manual_seed(0)
    x, z = torch.randn(1, 4, 6, 6), torch.randn(1, 3, 1, 1)
    graph = export_module(Residual().eval(), (x, z)).module()
    before = graph(x, z).detach().numpy()
    first = next(iter(graph.parameters())).detach().clone()
    names = equalize(graph, [(x, z)], share)
    assert len(names) >= 2
    assert sqnr(graph(x, z).detach().numpy(), before) >= 100
    assert not torch.equal(first, next(iter(graph.parameters())))


def test_a_tensor_that_leaves_is_left_alone(generator):
    """The code is the text side's output: nobody there knows who reads it."""
    component = generator.components[0]
    graph = export_module(component.module, example_inputs(generator, component)).module()
    ends = {n.name for g in groups_of(graph) for n in g.tensors}
    output = next(n for n in graph.graph.nodes if n.op == "output").all_input_nodes[0]
    assert output.name not in ends


def test_a_large_channel_no_longer_takes_the_whole_range():
    torch.manual_seed(0)
    x, z = torch.randn(1, 4, 6, 6), torch.randn(1, 3, 1, 1)
    module = Residual().eval()
    graph = export_module(module, (x, z)).module()
    seen = []
    for scaled in (False, True):
        if scaled:
            equalize(graph, [(x, z)], 1.0)
        values = {}
        from genedge.toolkit.equalize import _Largest

        nodes = [n for n in graph.graph.nodes if n.name in ("relu_1",)]
        run = _Largest(graph, nodes)
        run.run(x, z)
        values = run.largest(nodes[0])
        seen.append(float(values.max() / values.median()))
    assert seen[1] < seen[0] / 2


class Odd(nn.Module):
    """Square of a channel, mean over channels, a clamp, a pre-shuffle tensor read twice."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.one, self.two = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1)
        self.small, self.mean = nn.Conv2d(2, 8, 1), nn.Conv2d(1, 8, 1)

    def forward(self, x, z):
        h = torch.relu(self.one(x))
        if self.kind == "square":
            return self.two(h * h)
        if self.kind == "mean":
            return self.mean(h.mean(1, keepdim=True)) + self.two(h)
        if self.kind == "clamp":
            return self.two(nn.functional.hardtanh(h, 0.0, 0.5))
        return self.two(h)[..., :1, :1] + self.small(nn.functional.pixel_shuffle(h, 2))[..., :1, :1]


@pytest.mark.parametrize("kind", ["square", "mean", "clamp", "shuffle"])
def test_what_can_not_be_scaled_exactly_is_left_alone(kind):
    torch.manual_seed(0)
    x, z = torch.randn(1, 4, 6, 6), torch.randn(1, 3, 1, 1)
    graph = export_module(Odd(kind).eval(), (x, z)).module()
    before = graph(x, z).detach().numpy()
    equalize(graph, [(x, z)], 1.0)
    assert sqnr(graph(x, z).detach().numpy(), before) >= 100


def test_other_ways_to_set_ranges_keep_the_weights(generator):
    """Each way quantizes a module of its own."""
    ways = {c.name: ("histogram", "histogram-equalized") for c in generator.components}
    prepared, _ = calibrate(generator, ways, "portable", (), 4, without=["rounding"])
    changed = 0
    for component in generator.components:
        given = dict(component.module.named_parameters())
        plain, equalized = (
            dict(prepared[component.name, way].named_parameters()) for way in ways[component.name]
        )
        assert plain
        assert all(torch.equal(v, given[n]) for n, v in plain.items())
        changed += sum(not torch.equal(v, given[n]) for n, v in equalized.items())
    assert changed
