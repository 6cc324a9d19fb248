"""Weights on a grid of whole numbers: found, kept by the quantizer, stored as int8 without loss."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import tiny
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from genedge.runtime.errors import BadInput
from genedge.toolkit.bias import correct_last_bias
from genedge.toolkit.generator import Component
from genedge.toolkit.observers import PerChannelSquaredErrorObserver, PortableWeightObserver
from genedge.toolkit.quantize import known_levels, on_grid, with_int8_tables
from genedge.toolkit.quantizer import CommonQuantizer
from genedge.toolkit.replace import float_graph
from genedge.toolkit.saturation import PAIR
from genedge.toolkit.saved import load_saved, save
from genedge.toolkit.weights import as_int8, from_int8, grid_steps


def on_a_grid(seed, rows=5, columns=40, largest=127):
    """Whole numbers as a trained layer has them, and a step for each row."""
    random = torch.Generator().manual_seed(seed)
    counts = (torch.randn(rows, columns, generator=random) * largest / 4).round()
    counts[:, 0] = largest
    steps = torch.rand(rows, generator=random) * 0.01 + 1e-4
    return counts.clamp(-largest, largest), steps


@given(st.integers(0, 2**31), st.integers(40, 127))
def test_a_grid_is_found_and_gives_the_weights_back(seed, largest):
    counts, steps = on_a_grid(seed, largest=largest)
    stored, found = as_int8(counts * steps[:, None])
    assert stored.dtype == torch.int8
    assert torch.allclose(from_int8(stored, found), counts * steps[:, None], rtol=1e-6, atol=0)


@given(st.integers(0, 2**31))
def test_other_weights_lie_on_none(seed):
    weights = torch.randn(3, 60, generator=torch.Generator().manual_seed(seed))
    assert not grid_steps(weights).any()
    assert as_int8(weights) is None


def test_one_row_off_the_grid_keeps_the_tensor_float():
    counts, steps = on_a_grid(0)
    weights = counts * steps[:, None]
    weights[3, 7] += 0.4 * steps[3]
    assert as_int8(weights) is None
    assert (grid_steps(weights) == 0).tolist() == [False, False, False, True, False]


def test_zeros_and_a_whole_table_have_one_step():
    assert grid_steps(torch.zeros(2, 9)).tolist() == [1, 1]
    counts, _ = on_a_grid(1)
    counts[2] = counts[2].clamp(-9, 9)  # a row too small to tell its step by itself
    stored, steps = as_int8(counts * 0.003)
    assert steps.shape == (1,)
    assert torch.equal(stored.float(), counts)


def test_the_coarsest_grid_is_found():
    """What lies on 32 steps lies on 64 and 96 too; with 96, pairs of products would overflow."""
    counts, steps = on_a_grid(4, largest=32)
    weights = counts * steps[:, None]
    assert torch.allclose(grid_steps(weights), steps, rtol=1e-5)
    observer = PortableWeightObserver(
        dtype=torch.int8, quant_min=-127, quant_max=127, ch_axis=0,
        qscheme=torch.per_channel_symmetric, eps=2**-16,
    )  # fmt: skip
    observer(weights)
    assert torch.allclose(observer.calculate_qparams()[0], steps, rtol=1e-5)


@pytest.mark.parametrize("kind", [PerChannelSquaredErrorObserver, PortableWeightObserver])
def test_the_quantizer_keeps_a_grid_and_loses_nothing(kind):
    counts, steps = on_a_grid(2, largest=PAIR // 2)  # no pair of these overflows
    observer = kind(
        dtype=torch.int8, quant_min=-127, quant_max=127, ch_axis=0,
        qscheme=torch.per_channel_symmetric, eps=2**-16,
    )  # fmt: skip
    observer(counts * steps[:, None])
    assert torch.allclose(observer.calculate_qparams()[0], steps, rtol=1e-5)


def test_a_grid_that_could_overflow_gets_a_coarser_step_under_portable():
    counts, steps = on_a_grid(3)
    counts[:, 1] = counts[:, 0]  # 127 beside 127
    observer = PortableWeightObserver(
        dtype=torch.int8, quant_min=-127, quant_max=127, ch_axis=0,
        qscheme=torch.per_channel_symmetric, eps=2**-16,
    )  # fmt: skip
    observer(counts * steps[:, None])
    assert (observer.calculate_qparams()[0] > 1.5 * steps).all()


def test_a_generator_on_a_grid_is_saved_small_and_exact(tmp_path):
    generator = tiny()
    part = generator.components[-1]
    with torch.no_grad():
        for value in part.module.parameters():
            if value.dim() > 1:
                steps = value.flatten(1).abs().amax(1) / 127
                value.copy_(
                    from_int8((value / steps.view(-1, *[1] * (value.dim() - 1))).round(), steps)
                )
    save(replace(generator, constructor="tiny:tiny"), tmp_path / "small", half=True)
    assert json.loads((tmp_path / "small" / "generator.json").read_text())["schema"] == 3
    again = load_saved(tmp_path / "small", trusted="tiny:tiny").components[-1].module.state_dict()
    for name, value in part.module.state_dict().items():
        exact = {"rtol": 1e-6, "atol": 1e-9} if value.dim() > 1 else {"rtol": 1e-3, "atol": 1e-4}
        assert torch.allclose(again[name], value, **exact), name
    size = (tmp_path / "small" / f"{part.name}.safetensors").stat().st_size
    assert size < 0.6 * 2 * sum(v.numel() for v in part.module.state_dict().values()) + 20_000


def test_int8_weights_without_their_steps_are_refused(tmp_path):
    generator = tiny()
    save(replace(generator, constructor="tiny:tiny"), tmp_path / "small", half=True)
    path = tmp_path / "small" / f"{generator.components[-1].name}.safetensors"
    tensors = load_file(path)
    name = next(k for k, v in tensors.items() if v.dim() > 1)
    save_file(tensors | {name: torch.ones_like(tensors[name]).to(torch.int8)}, path)
    with pytest.raises(BadInput, match=f"{path.name} does not fit: {name} is stored as int8"):
        load_saved(tmp_path / "small", trusted="tiny:tiny")


def test_a_module_is_put_on_the_grid_once_for_all():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(40, 12), nn.Linear(12, 24), nn.Linear(24, 6))
    first = on_grid(module)
    again = on_grid(first)
    for one, two, before in zip(
        first.parameters(), again.parameters(), module.parameters(), strict=True
    ):
        assert torch.allclose(one, two, atol=1e-6)
        assert one.dim() == 1 or as_int8(one.detach()) is not None
        assert (one - before).abs().max() <= 0.05 * before.abs().max()


def test_words_of_an_int8_table_are_rounded_once():
    """The layer that reads them keeps their steps: no second rounding, so no ties to break."""
    torch.manual_seed(0)
    module = with_int8_tables(nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 4)))
    graph = float_graph(module, (torch.arange(6),))
    part = Component("text", module, ("tokens",), ("y",))
    (spec,) = known_levels(tiny(), part, graph).values()
    assert spec.zero_point == 0
    assert spec.scale == pytest.approx(float(module[0].scale))
    prepared = prepare_pt2e(graph, CommonQuantizer(levels=known_levels(tiny(), part, graph)))
    prepared(torch.arange(6))
    rounded = [
        n for n in convert_pt2e(prepared).graph.nodes if "quantize_per_tensor" in str(n.target)
    ]
    assert rounded[0].args[1:3] == (pytest.approx(float(module[0].scale)), 0)


def test_biases_that_move_nothing_are_left_alone():
    """A constant picture, and channels that a clamp holds at 0, must not become NaN or run away."""
    torch.manual_seed(0)
    for bias, clamped in ((-9.0, True), (0.0, False)):
        layer = nn.Conv2d(3, 2, 1)
        nn.init.constant_(layer.bias, bias)
        module = nn.Sequential(layer, nn.Hardtanh(0, 1)) if clamped else layer
        fed = [(torch.rand(1, 3, 4, 4),) for _ in range(3)]
        graph = module.eval()(fed[0][0]), torch.export.export(module, fed[0]).module()
        targets = [torch.zeros_like(graph[0]) for _ in fed]
        assert not correct_last_bias(graph[1], fed, targets)
        targets[0] = torch.rand_like(graph[0])
        correct_last_bias(graph[1], fed, targets)
        after = next(p for n, p in graph[1].named_parameters() if n.endswith("bias"))
        assert bool(torch.isfinite(after).all())
        assert (after - bias).abs().max() < (1e-6 if clamped else 2)
