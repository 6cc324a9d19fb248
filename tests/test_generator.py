"""A generator is saved without pickle, loads in another process, and refuses damage."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from genedge.runtime.errors import BadInput, EnvironmentFailed
from genedge.toolkit import constructors
from genedge.toolkit import saved as folders
from genedge.toolkit.models import resolve
from genedge.toolkit.quantize import OBSERVERS, Int8Embedding, quantize
from genedge.toolkit.quantizer import CommonQuantizer
from genedge.toolkit.saved import load_saved, save


@pytest.fixture
def saved(generator, tmp_path, monkeypatch):
    monkeypatch.setitem(constructors.CONSTRUCTORS, "tiny", "test_generator:parts")
    save(replace(generator, constructor="tiny"), tmp_path / "g")
    return tmp_path / "g"


def parts():
    from tiny import Image, Text

    return {"text": Text(), "image": Image()}


def test_a_saved_generator_draws_the_same_bits(saved, generator):
    again = load_saved(saved)
    feed = generator.prepare("red apple", 5)
    assert np.array_equal(again.pixels(feed), generator.pixels(feed))
    assert again.hash() == generator.hash()
    assert (again.golden, again.calibration) == (generator.golden, generator.calibration)


def test_half_precision_weights_take_half_the_bytes(generator, tmp_path, monkeypatch):

    monkeypatch.setitem(constructors.CONSTRUCTORS, "tiny", "test_generator:parts")
    save(replace(generator, constructor="tiny"), tmp_path / "g", half=True)
    for tensor in load_file(tmp_path / "g" / "image.safetensors").values():
        assert tensor.dtype == (torch.float16 if tensor.dim() > 1 else torch.float32)
    load_saved(tmp_path / "g")


@pytest.mark.parametrize("file", ["generator.json", "image.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_a_damaged_generator_is_named(saved, file, how):
    path = saved / file
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadInput, match=file):
        load_saved(saved)


def test_weights_of_another_shape_are_refused(saved):
    from safetensors.torch import save_file

    weights = load_file(saved / "image.safetensors")
    weights["up.weight"] = weights["up.weight"][:4].contiguous()
    save_file(weights, saved / "image.safetensors")
    with pytest.raises(BadInput, match="does not fit"):
        load_saved(saved)


def test_a_constructor_that_is_not_known_is_never_imported(saved):
    row = json.loads((saved / "generator.json").read_text())
    row["constructor"] = "os:system"
    (saved / "generator.json").write_text(json.dumps(row))
    with pytest.raises(BadInput, match="if you trust that function"):
        load_saved(saved)


def test_a_function_of_the_user_is_a_model():
    assert resolve("tiny:tiny").name == "tiny"
    with pytest.raises(BadInput, match="not a Generator"):
        resolve("test_generator:parts")


def test_the_token_table_is_stored_as_int8():
    table = torch.randn(50, 8)
    embedded = Int8Embedding(table)
    tokens = torch.tensor([[0, 7, 49]])
    assert embedded.table.dtype == torch.int8
    assert (embedded(tokens) - table[tokens]).abs().max() <= table.abs().max() / 127 / 2 + 1e-6


def test_the_last_clamp_ends_in_whole_grey_levels(generator):
    quantized = quantize(generator, calibration=4)
    feed = generator.prepare("red apple", 1)
    tensors = generator.tensors(feed)
    picture = quantized.modules["image"](tensors["code"], tensors["style"]) * 255
    assert torch.equal(picture.round(), picture) or (picture - picture.round()).abs().max() < 1e-3


def test_peak_of_calibration_does_not_grow_with_the_prompts(generator):
    """Observers keep histograms, not activations: their state has the same size after more."""
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    from genedge.toolkit.programs import example_inputs, export_module

    component = generator.components[1]
    example = example_inputs(generator, component)
    prepared = prepare_pt2e(export_module(component.module, example).module(), CommonQuantizer())
    sizes = []
    for _ in range(2):
        for _ in range(5):
            prepared(*example)
        sizes.append(sum(t.numel() for t in prepared.state_dict().values()))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("way", list(OBSERVERS))
@pytest.mark.parametrize(
    ("clamp", "low", "high"),
    [(torch.relu, -1, 40), (lambda x: torch.nn.functional.hardtanh(x, 0, 3), -1, 3)],
)
def test_what_a_clamp_drops_gets_no_steps_of_the_grid(way, clamp, low, high):
    """relu(a + b) with a from −100 to 40 and b from 0 to 1: of a, only what is above −1 can show;
    where the sum is clamped to 3, only what is below 3."""
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    from genedge.toolkit.observers import forget_clamped
    from genedge.toolkit.programs import export_module

    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = torch.nn.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 1)
            with torch.no_grad():
                for conv, weight in ((self.one, 100.0), (self.two, 1.0)):
                    conv.weight.fill_(weight)
                    conv.bias.zero_()

        def forward(self, x, y):
            return clamp(self.one(x) + self.two(y))

    x = torch.linspace(-1, 0.4, 64).view(1, 1, 8, 8)
    y = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    graph = export_module(Sum(), (x, y)).module()
    prepared = prepare_pt2e(graph, CommonQuantizer(observer=OBSERVERS[way]))
    prepared(x, y)
    add = next(n for n in prepared.graph.nodes if n.target is torch.ops.aten.add.Tensor)
    one = prepared.get_submodule(add.args[0].target)
    assert float(one.min_val) == pytest.approx(-100)
    assert forget_clamped(prepared) >= 1
    assert float(one.min_val) == pytest.approx(low, abs=0.2)
    assert float(one.max_val) == pytest.approx(high, abs=0.2)
    scale, _ = one.calculate_qparams()
    assert float(scale) < 1.1 * (high - low) / 255


def leaves():
    raise SystemExit("weights.pt is missing; run download.sh")


def test_a_function_that_leaves_the_program_is_one_line():
    with pytest.raises(BadInput, match=r"leaves raised SystemExit: weights\.pt is missing"):
        resolve("test_generator:leaves")


def test_a_disk_that_fills_while_weights_are_written_is_named(tmp_path, monkeypatch):
    def full(*given):
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr(folders, "save_file", full)
    with pytest.raises(EnvironmentFailed, match="is the disk full"):
        save(resolve("tiny:tiny"), tmp_path / "made")
    assert not list(tmp_path.iterdir())


def narrowed():
    """The bundled generator by its own constructor's name, with other modules than that makes."""
    made = resolve("emoji")
    text, image = made.components
    return replace(made, components=(text, replace(image, module=nn.Conv2d(3, 3, 1))))


def test_a_changed_generator_is_saved_under_the_function_that_changed_it():
    made = resolve("test_generator:narrowed")
    assert made.constructor == "test_generator:narrowed"


class Darker(nn.Module):
    """The weights of `inner` by their own names, drawn otherwise."""

    def __init__(self, inner):
        super().__init__()
        self.__dict__["inner"] = inner
        for name, child in inner.named_children():
            self.add_module(name, child)

    def forward(self, *inputs):
        return self.inner(*inputs) / 2


def darker():
    made = resolve("emoji")
    text, image = made.components
    return replace(made, components=(text, replace(image, module=Darker(image.module))))


def test_the_same_weights_in_other_code_are_not_the_known_generator():
    made = resolve("test_generator:darker")
    assert made.constructor == "test_generator:darker"
    known = resolve("emoji").components[1].module.state_dict()
    assert made.components[1].module.state_dict().keys() == known.keys()


def unchanged():
    return resolve("emoji")


def test_a_known_generator_keeps_its_constructor():
    assert resolve("test_generator:unchanged").constructor == unchanged().constructor


class Odd(nn.Module):
    """Buffers that float32 does not hold."""

    def __init__(self):
        super().__init__()
        self.register_buffer("turns", torch.tensor([[1 + 2j, 3 - 4j]]))
        self.register_buffer("large", torch.tensor([(1 << 40) + 1, -((1 << 25) + 1)]))
        self.register_buffer("small", torch.tensor([3, -4]))


def odd():
    made = resolve("tiny:tiny")
    component = replace(made.components[0], module=Odd())
    return replace(made, components=(component,), constructor="test_generator:odd")


def test_whole_and_complex_numbers_are_stored_exactly(tmp_path):
    made = odd()
    buffers = made.components[0].module
    buffers.turns.mul_(2j)
    buffers.large.add_(6)
    save(made, tmp_path / "made", half=True)
    back = load_saved(tmp_path / "made", trusted="test_generator:odd")
    for name, value in buffers.state_dict().items():
        assert torch.equal(back.components[0].module.state_dict()[name], value), name
    assert back.hash() == made.hash()
    buffers.turns.imag.add_(1)
    assert made.hash() != back.hash()
