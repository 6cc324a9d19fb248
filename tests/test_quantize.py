"""Grids that components hand to each other, and grids on which means have no ties."""

import math

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from genedge.toolkit import quantize as module
from genedge.toolkit.quantize import quantize
from genedge.toolkit.quantizer import MOVES, CommonQuantizer
from genedge.toolkit.ties import PARTS, tie_free, untie

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


def test_a_product_and_what_is_moved_from_it_keep_one_grid():
    torch.manual_seed(0)
    example = (torch.randn(1, 8),)
    graph = module.float_graph(Product().eval(), example)
    prepared = module.prepare_pt2e(graph, CommonQuantizer(portable=True))
    for _ in range(20):
        prepared(torch.randn(1, 8))
    converted = module.convert_pt2e(prepared)
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
