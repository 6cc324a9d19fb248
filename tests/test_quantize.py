"""Grids that components hand to each other, and grids on which means have no ties."""

import math

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from genedge.toolkit import quantize as module
from genedge.toolkit.bias import round_biases
from genedge.toolkit.observers import clamp_bounds
from genedge.toolkit.quantize import quantize
from genedge.toolkit.quantizer import MOVES, CommonQuantizer
from genedge.toolkit.replace import float_graph
from genedge.toolkit.rewriting import tensor_of
from genedge.toolkit.ties import (
    PARTS,
    drop_clamps,
    tie_free,
    tie_free_steps,
    tie_free_sum,
    untie,
    untie_layers,
    untie_slopes,
)

ROUND = torch.ops.quantized_decomposed.quantize_per_tensor.default


def grids(graph, name):
    """(scale, zero point) of every rounding of the placeholder and of what only moves it."""
    found, left = [], [n for n in graph.graph.nodes if n.op == "placeholder" and n.name == name]
    while left:
        for user in left.pop().users:
            if user.target is ROUND:
                found.append((user.args[1], user.args[2]))
            elif user.target in MOVES:
                left.append(user)
    return found


def ending(graph):
    (result,) = next(n for n in graph.graph.nodes if n.op == "output").args
    result = result[0] if isinstance(result, (tuple, list)) else result
    return result.args[1], result.args[2]


def test_a_component_reads_the_grid_that_the_one_before_ends_on():
    graphs = quantize(tiny.tiny()).graphs
    read = grids(graphs["image"], "code")
    assert len(set(read)) == 1
    assert read[0] == pytest.approx(ending(graphs["text"]))


def test_left_out_it_has_a_grid_of_its_own():
    graphs = quantize(tiny.tiny(), without=["handed-on"]).graphs
    assert set(grids(graphs["image"], "code")) != {ending(graphs["text"])}


def test_a_last_layer_kept_in_float_hands_no_grid_on():
    graphs = quantize(tiny.tiny(), keep=["text.write"]).graphs
    assert module.handed_on(tiny.tiny().components[0], graphs["text"]) == {}
    assert grids(graphs["image"], "code")


@given(st.floats(1e-4, 1e3), st.integers(-100_000, 100_000))
def test_a_sum_times_the_ratio_is_never_near_a_tie(ratio, total):
    p, q = tie_free(ratio)
    assert q % 2 == 1
    assert p / q == pytest.approx(ratio, rel=0.02)
    fraction = (total * p % q) / q  # exact: whole numbers until here
    assert abs(fraction - 0.5) >= 0.499 / q
    assert math.gcd(q, 2) == 1


@given(st.floats(0.02, 50), st.floats(0.02, 50))
def test_both_ratios_of_a_sum_have_one_odd_denominator(one, two):
    p, r, q = tie_free_sum(one, two)
    assert q % 2 == 1
    assert p / q == pytest.approx(one, rel=0.07)
    assert r / q == pytest.approx(two, rel=0.07)


@given(st.lists(st.floats(1e-6, 4), min_size=1, max_size=5), st.integers(-(2**20), 2**20))
def test_a_layers_sum_times_its_ratio_is_never_near_a_tie(ratios, total):
    steps = tie_free_steps(np.array(ratios))
    assert np.abs(steps / ratios - 1).max() < 3.01e-4
    for step in steps:
        value = total * step
        if abs(value) < 300:  # what is not clipped
            assert abs(abs(value) % 1 - 0.5) > 0.9 * min(1 / 4096, step / 20)


def test_the_mean_of_a_text_side_ends_on_such_a_grid():
    graph = quantize(tiny.tiny()).graphs["text"]
    mean = next(n for n in graph.graph.nodes if n.target is torch.ops.aten.mean.dim)
    step = mean.args[0].args[1]
    node = mean
    while node.target is not ROUND:
        (node,) = node.users
    ratio = step / (8 * node.args[1])  # of eight tokens
    p, q = tie_free(ratio)
    assert p / q == pytest.approx(ratio, rel=1e-6)
    assert q in PARTS or q % 3 == 0


class Product(torch.nn.Module):
    """A product of two layers, whose result is moved before another layer reads it."""

    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Linear(8, 16), torch.nn.Linear(8, 16)
        self.last = torch.nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.last((self.one(x) * self.two(x)).view(1, 4, 2, 2))


class Residual(torch.nn.Module):
    """A sum of a stream and what a layer adds to it, twice."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.two = (torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.last = torch.nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.one(x))
        return self.last(torch.relu(x + self.two(x)))


def converted(net, example, count=20):
    graph = module.float_graph(net.eval(), example)
    prepared = module.prepare_pt2e(graph, CommonQuantizer(portable=True))
    for _ in range(count):
        prepared(*(torch.randn_like(x) for x in example))
    return convert_pt2e(prepared)


def test_terms_and_results_of_sums_have_ratios_without_ties():
    torch.manual_seed(0)
    example = (torch.randn(1, 4, 8, 8),)
    graph = converted(Residual(), example)
    before = graph(*example)
    assert untie(graph) == 2
    for node in graph.graph.nodes:
        if node.target is not torch.ops.aten.add.Tensor:
            continue
        (relu,) = node.users
        (result,) = relu.users
        ratios = [float(term.args[1]) / float(result.args[1]) for term in node.args]
        assert any(
            all(abs(r * q - round(r * q)) < 1e-6 * q and round(r * q) > 0 for r in ratios)
            for q in PARTS
        )
    assert untie_layers(graph) == 4
    assert (graph(*example) - before).abs().max() < before.abs().max() / 20


class Joined(torch.nn.Module):
    """A sum joined with a layer, and that layer's result in another sum."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.two = (torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.last = torch.nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.first(x)
        more = self.one(x)
        x = self.last(torch.cat([x + more, more], 1))
        return self.two(x + more)


def test_joined_parts_keep_one_grid_when_ties_are_taken_away():
    torch.manual_seed(0)
    graph = converted(Joined(), (torch.randn(1, 4, 8, 8),))
    (join,) = (n for n in graph.graph.nodes if n.target is torch.ops.aten.cat.default)

    def steps():
        (rounding,) = join.users
        return {n.args[1:3] for n in (*join.args[0], rounding)}

    before = steps()
    assert len(before) == 1
    assert untie(graph)
    assert len(steps()) == 1
    assert steps() != before


class Twice(torch.nn.Module):
    """One layer, run twice."""

    def __init__(self):
        super().__init__()
        self.first, self.again = (torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return self.again(torch.relu(self.again(torch.relu(self.first(x)))))


def test_a_layer_that_is_run_twice_has_biases_in_steps_of_each():
    torch.manual_seed(0)
    example = (torch.randn(1, 4, 8, 8),)
    graph = converted(Twice(), example)
    before = graph(*example)
    assert round_biases(graph) == 3
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.conv2d.default:
            source, weight, bias = node.args[:3]
            steps = float(source.args[1]) * tensor_of(graph, weight.args[1]).double()
            counts = tensor_of(graph, bias).double() / steps
            assert (counts - counts.round()).abs().max() < 1e-2
    assert (graph(*example) - before).abs().max() < before.abs().max() / 20


class Heads(torch.nn.Module):
    """Colours and opacity by layers of their own, each in [0, 1]."""

    def __init__(self):
        super().__init__()
        self.colours, self.opacity = torch.nn.Conv2d(4, 3, 1), torch.nn.Conv2d(4, 1, 1)

    def forward(self, x):
        clamp = torch.nn.functional.hardtanh
        return torch.cat([clamp(self.colours(x), 0.0, 1.0), clamp(self.opacity(x), 0.0, 1.0)], 1)


def test_heads_of_a_picture_are_joined_in_whole_grey_levels():
    torch.manual_seed(0)
    example = (torch.randn(1, 4, 8, 8),)
    drawn = converted(Heads(), example)(*example) * 255
    assert (drawn - drawn.round()).abs().max() < 1e-4
    assert {0.0, 255.0} <= set(drawn.unique().tolist())


class Clamped(torch.nn.Module):
    """A clamp that what comes reaches, one that it does not, and the clamp of a picture."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (torch.nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, x):
        x = torch.nn.functional.hardtanh(self.one(x), -0.3, 0.4)
        x = torch.nn.functional.hardtanh(self.two(x), -100.0, 100.0)
        return torch.nn.functional.hardtanh(self.three(x), 0.0, 1.0)


def test_clamps_that_the_grid_makes_anyway_are_dropped():
    torch.manual_seed(0)
    example = (torch.randn(1, 4, 8, 8),)
    graph = converted(Clamped(), example)
    before, clamp = graph(*example), torch.ops.aten.hardtanh.default
    assert drop_clamps(graph) == 2
    assert [n.args[1:] for n in graph.graph.nodes if n.target is clamp] == [(0.0, 1.0)]
    assert (graph(*example) - before).abs().max() <= 1 / 255 + 1e-6


def test_bounds_of_a_clamp_that_are_left_out_are_one():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    clamp = torch.ops.aten.hardtanh.default
    found = [clamp_bounds(graph.call_function(clamp, (x, *given))) for given in ((), (0,), (2, 3))]
    assert found == [(-1, 1), (0, 1), (2, 3)]


def test_a_clamp_within_its_grid_stays():
    """Two steps narrower than what the grid holds: without it, other numbers would come out."""
    torch.manual_seed(0)
    example = (torch.randn(1, 4, 8, 8),)
    graph = converted(Clamped(), example)
    node = next(n for n in graph.graph.nodes if n.target is torch.ops.aten.hardtanh.default)
    (reader,) = node.users
    node.args = (node.args[0], -0.3, 0.4 - 3 * float(reader.args[1]))
    assert drop_clamps(graph) == 1
    assert node in list(graph.graph.nodes)


def test_a_sum_of_two_settled_terms_stays():
    """The stream is read by a sum of its own before: neither term can move again."""

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = (torch.nn.Conv2d(4, 4, 1) for _ in range(2))

        def forward(self, x):
            a, b = self.one(x), self.two(x)
            first = torch.relu(a + b)
            return first + a

    torch.manual_seed(0)
    graph = converted(Twice(), (torch.randn(1, 4, 4, 4),))
    assert untie(graph) == 1


def test_a_sum_that_ends_in_a_fixed_grid_and_one_with_a_constant():
    """What is added to a picture and clamped to [0, 1], as enlargers end; a learned constant."""

    class Enlarger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = (torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
            self.constant = torch.nn.Parameter(torch.rand(1, 4, 8, 8))

        def forward(self, x):
            h = torch.relu(self.one(x) + self.constant)
            return torch.nn.functional.hardtanh(x + self.two(h), 0.0, 1.0)

    torch.manual_seed(0)
    example = (torch.rand(1, 4, 8, 8),)
    net = module.float_graph(Enlarger().eval(), example)
    place = next(n.name for n in net.graph.nodes if n.op == "placeholder")
    quantizer = CommonQuantizer(portable=True, levels={place: module.GREY_LEVELS})
    prepared = module.prepare_pt2e(net, quantizer)
    for _ in range(20):
        prepared(torch.rand(1, 4, 8, 8))
    graph = convert_pt2e(prepared)
    before = graph(*example)
    assert untie(graph) == 2
    assert untie_layers(graph) == 2
    assert (graph(*example) - before).abs().max() < 0.05
    last = [n for n in graph.graph.nodes if n.target is torch.ops.aten.add.Tensor][-1]
    ratios = [float(term.args[1]) * 255 for term in last.args]
    assert any(all(abs(r * q - round(r * q)) < 1e-4 for r in ratios) for q in range(1, 129, 2))


def test_a_product_and_what_is_moved_from_it_keep_one_grid():
    torch.manual_seed(0)
    example = (torch.randn(1, 8),)
    graph = module.float_graph(Product().eval(), example)
    prepared = module.prepare_pt2e(graph, CommonQuantizer(portable=True))
    for _ in range(20):
        prepared(torch.randn(1, 8))
    converted = convert_pt2e(prepared)
    before = converted(*example)
    assert untie(converted) == 1
    assert (converted(*example) - before).abs().max() < before.abs().max() / 20
    product = next(n for n in converted.graph.nodes if n.target is torch.ops.aten.mul.Tensor)
    steps = [float(a.args[1]) for a in product.args]
    (first,) = product.users
    moved = next(n for n in converted.graph.nodes if n.target is torch.ops.aten.view.default)
    (second,) = moved.users
    assert first.target is ROUND
    assert second.target is ROUND
    assert first.args[1:3] == second.args[1:3]
    ratio = steps[0] * steps[1] / first.args[1]
    p, q = tie_free(ratio)
    assert p / q == pytest.approx(ratio, rel=1e-6)


def test_slopes_and_grids_of_a_prelu_have_ratios_without_ties():
    class Chain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = (torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
            self.slopes = torch.nn.PReLU(4)
            self.slopes.weight.data = torch.tensor([0.313, -0.2, 0.0, 1.07])

        def forward(self, x):
            return self.two(self.slopes(self.one(x)))

    torch.manual_seed(0)
    example = (torch.randn(1, 4, 8, 8),)
    graph = converted(Chain(), example)
    before = graph(*example)
    assert untie(graph) == 1
    assert untie_layers(graph) == 2
    assert untie_slopes(graph) == 1
    assert (graph(*example) - before).abs().max() < before.abs().max() / 20
    prelu = next(n for n in graph.graph.nodes if n.target is torch.ops.aten.prelu.default)
    (result,) = prelu.users
    ratio = float(prelu.args[0].args[1]) / float(result.args[1])
    p, q = tie_free(ratio)
    assert p / q == pytest.approx(ratio, rel=1e-6)
    slopes = tensor_of(graph, prelu.args[1])
    assert slopes[2] == 0
    assert torch.allclose(slopes, torch.tensor([0.313, -0.2, 0.0, 1.07]), rtol=3.1e-4)
    for moved in (slopes.double().abs() * ratio)[[0, 1, 3]].tolist():
        assert any(abs(moved * q - round(moved * q)) < 2e-7 * moved * q for q in range(65, 2049, 2))


def test_a_maximum_keeps_the_grid_of_what_it_is_of():
    class Most(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(1, 2)

        def forward(self, x):
            rows = torch.relu(self.first(x)).view(-1, 1, 1, 6)
            return self.last(nn.functional.max_pool2d(rows, (1, 6)).view(-1, 1))

    torch.manual_seed(0)
    prepared = prepare_pt2e(float_graph(Most(), (torch.randn(3, 4),)), CommonQuantizer())
    prepared(torch.randn(3, 4))
    graph = convert_pt2e(prepared).graph
    (pool,) = (n for n in graph.nodes if n.target is torch.ops.aten.max_pool2d.default)
    (after,) = pool.users
    assert "dequantize" in str(pool.args[0].target)
    assert "quantize_per_tensor" in str(after.target)
    assert after.args[1:3] == pool.args[0].args[1:3]
