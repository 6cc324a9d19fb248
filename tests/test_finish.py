"""Which corrections an int8 graph gets: those that it needs, or comes nearer to float by."""

import pytest
import tiny
import torch
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from genedge.toolkit.finish import FLAT, SIGNED, Compared, corrected, finish, with_ready_weights
from genedge.toolkit.generator import Component
from genedge.toolkit.programs import example_inputs
from genedge.toolkit.quantize import quantize
from genedge.toolkit.quantizer import CommonQuantizer
from genedge.toolkit.replace import float_graph
from genedge.toolkit.rewriting import tensor_of

SPAN = (0.0, 1.0)
WEIGHTS = torch.ops.quantized_decomposed.dequantize_per_channel.default


class Ends(nn.Module):
    """Hands its input on, clamped to [0, 1] or not."""

    def __init__(self, clamped):
        super().__init__()
        self.layer, self.clamped = nn.Conv2d(3, 3, 1), clamped
        self.layer.weight.data = torch.eye(3)[:, :, None, None]
        self.layer.bias.data.zero_()

    def forward(self, x):
        x = self.layer(x)
        return nn.functional.hardtanh(x, 0.0, 1.0) if self.clamped else x


@pytest.fixture
def fed():
    """Pictures of which half is three grey levels above black."""
    torch.manual_seed(0)
    rows = [torch.rand(1, 3, 8, 8) for _ in range(8)]
    for row in rows:
        row[..., 4:] = 3 / 255
    return [(row,) for row in rows]


def prepared(clamped, fed):
    net = Ends(clamped).eval()
    graph = prepare_pt2e(float_graph(net, fed[0]), CommonQuantizer(portable=True))
    for row in fed:
        graph(*row)
    return graph, Component("image", net, ("x",), ("picture",))


def wanted(fed, change):
    return [{"picture": change(row[0].clone())} for row in fed]


def test_what_needs_no_correction_gets_none(fed):
    graph, component = prepared(True, fed)
    true = wanted(fed, lambda x: x)
    plain = finish(graph, Compared(component, fed, true, (), SPAN))
    assert plain.flat == 1
    assert plain.signed < SIGNED
    bent = finish(graph, Compared(component, fed, true, (), SPAN), stretch=True)
    assert bent.error > plain.error
    best = corrected(graph, Compared(component, fed, true, ("bias",), SPAN))
    assert best.error == plain.error
    assert corrected(graph, Compared(component, fed, true, (), SPAN)).error <= plain.error


def test_a_mean_error_moves_the_last_bias(fed):
    graph, component = prepared(True, fed)
    true = wanted(fed, lambda x: (x * 0.9 + 0.05) - 2 / 255)
    assert finish(graph, Compared(component, fed, true, (), SPAN)).signed > SIGNED
    assert corrected(graph, Compared(component, fed, true, (), SPAN)).signed < SIGNED
    assert corrected(graph, Compared(component, fed, true, ("bias",), SPAN)).signed > SIGNED


def test_flat_ground_that_is_lifted_gets_the_stretch(fed):
    def black(x):
        x[..., 4:] = 0
        return x

    graph, component = prepared(True, fed)
    true = wanted(fed, black)
    assert finish(graph, Compared(component, fed, true, (), SPAN)).flat < FLAT
    assert corrected(graph, Compared(component, fed, true, ("bias",), SPAN)).flat > FLAT
    assert corrected(graph, Compared(component, fed, true, ("bias", "flat"), SPAN)).flat < FLAT


def test_without_a_last_clamp_there_is_no_stretch(fed):
    graph, component = prepared(False, fed)
    true = wanted(fed, lambda x: x - 1 / 255)
    best = corrected(graph, Compared(component, fed, true))  # no picture
    assert (best.flat, best.signed) == (1, 0)
    assert best.error < finish(graph, Compared(component, fed, true)).error
    off = wanted(fed, lambda x: x - 2 / 255)
    assert finish(graph, Compared(component, fed, off, (), SPAN)).signed > SIGNED
    assert corrected(graph, Compared(component, fed, off, (), SPAN)).signed < SIGNED


def test_several_outputs_and_ones_without_places_are_taken():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return nn.functional.hardtanh(self.one(x), 0.0, 1.0), self.two(x)

    class One(Two):
        def forward(self, x):
            return super().forward(x)[0]

    torch.manual_seed(0)
    fed = [(torch.randn(1, 4),) for _ in range(8)]
    for net, outputs in ((Two(), ("a", "b")), (One(), ("a",))):
        graph = prepare_pt2e(float_graph(net.eval(), fed[0]), CommonQuantizer(portable=True))
        for row in fed:
            graph(*row)
        results = [net(*row) for row in fed]
        results = [r if isinstance(r, tuple) else (r,) for r in results]
        true = [dict(zip(outputs, r, strict=True)) for r in results]
        best = corrected(graph, Compared(Component("x", net, ("x",), outputs), fed, true))
        assert len(best.outputs[0]) == len(outputs)
        assert best.error < -2


def test_weights_made_ready_once_give_the_same_values_and_share_biases():
    generator = tiny.tiny()
    quantized = quantize(generator, calibration=4)
    graph = quantized.graphs["image"]
    ready = with_ready_weights(graph)
    assert [n.target for n in graph.graph.nodes].count(WEIGHTS) > 1
    assert WEIGHTS not in [n.target for n in ready.graph.nodes]
    component = generator.components[-1]
    inputs = tuple(torch.rand(t.shape) for t in example_inputs(generator, component))
    with torch.no_grad():
        before = graph(*inputs)
        assert torch.equal(ready(*inputs), before)
        tensor = next(
            tensor_of(graph, n.args[2])
            for n in graph.graph.nodes
            if "conv2d" in str(n.target) and len(n.args) > 2
        )
        tensor.data += 1
        assert not torch.equal(graph(*inputs), before)
        assert torch.equal(ready(*inputs), graph(*inputs))
