"""Networks that are written otherwise than the bundled ones: each has one trait that int8 must get
right, or leave in float."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from genedge.runtime.errors import BadInput
from genedge.toolkit.constructors import CONSTRUCTORS
from genedge.toolkit.export import export
from genedge.toolkit.fallback import keep_float
from genedge.toolkit.generator import Component
from genedge.toolkit.int8_twin import Int8Twin
from genedge.toolkit.models import resolve
from genedge.toolkit.own import generator_of, noise
from genedge.toolkit.quantize import Int8Embedding, quantize, simulated, with_int8_tables
from genedge.toolkit.replace import float_graph
from genedge.toolkit.saturation import preflight
from genedge.toolkit.saved import load_saved, save

WIDE = 8


class Around(nn.Module):
    """First layer, the one under test, last layer and sigmoid; 16 × 16 grey pixels from noise."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv2d(1, WIDE, 3, padding=1)
        self.last = nn.Conv2d(WIDE, 1, 3, padding=1)
        self.make()
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.2, 2)

    def make(self):
        pass

    def forward(self, noise):
        x = torch.relu(self.first(noise.view(-1, 1, 16, 16)))
        return torch.sigmoid(2 * self.last(self.middle(x)))


class Position(Around):
    """A table of places that is added whole, its width asked for."""

    def make(self):
        self.table = nn.Embedding(16, WIDE)

    def middle(self, x):
        rows = self.table.weight * self.table.embedding_dim**0.5
        return x + rows.T.view(1, WIDE, 16, 1)


class Scaled(nn.Embedding):
    def forward(self, x):
        return super().forward(x) * 20


class Same(Around):
    def make(self):
        self.conv = nn.Conv2d(WIDE, WIDE, 3, padding="same", dilation=2)

    def middle(self, x):
        return torch.relu(self.conv(x))


class Even(Same):
    def make(self):
        self.conv = nn.Conv2d(WIDE, WIDE, (4, 3), padding="same", bias=False)


class Valid(Same):
    def make(self):
        self.conv = nn.Conv2d(WIDE, WIDE, 1, padding="valid", groups=2)


class Before(Around):
    """A pre-activation residual: norm and sum read one convolution."""

    def make(self):
        self.one, self.norm = nn.Conv2d(WIDE, WIDE, 3, padding=1), nn.BatchNorm2d(WIDE)
        self.two = nn.Conv2d(WIDE, WIDE, 3, padding=1)

    def middle(self, x):
        y = self.one(x)
        return y + self.two(torch.relu(self.norm(y)))


class Twice(Around):
    """One convolution, run twice, each time before another norm."""

    def make(self):
        self.conv = nn.Conv2d(WIDE, WIDE, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(WIDE), nn.BatchNorm2d(WIDE)])

    def middle(self, x):
        for norm in self.norms:
            x = torch.relu(norm(self.conv(x)))
        return x


class NoStatistics(Around):
    def make(self):
        self.conv = nn.Conv2d(WIDE, WIDE, 3, padding=1)
        self.norm = nn.BatchNorm2d(WIDE, track_running_stats=False)

    def middle(self, x):
        return torch.relu(self.norm(self.conv(x)))


class Row(Around):
    """Convolutions along one axis."""

    def make(self):
        self.conv = nn.Conv1d(WIDE, WIDE, 3, padding="same")
        self.halved = nn.Conv1d(WIDE, 2 * WIDE, 4, stride=2, padding=1, groups=2)

    def middle(self, x):
        row = torch.relu(self.halved(torch.relu(self.conv(x.flatten(2)))))
        return row.reshape(x.shape)


class Share(Around):
    """A sum of which a tenth of one side is taken, and a clamp behind it."""

    def make(self):
        self.conv = nn.Conv2d(WIDE, WIDE, 3, padding=1)

    def middle(self, x):
        return torch.relu(torch.add(x, 12 * self.conv(x), alpha=0.1))


class Enlarged(Around):
    def make(self):
        self.up = nn.ConvTranspose2d(WIDE, WIDE, 2, 2)
        with torch.no_grad():
            self.up.weight[:, 0] *= 20  # one channel, whose step would be coarse for the others

    def forward(self, noise):
        x = torch.relu(self.first(noise.view(-1, 1, 16, 16)))
        return torch.sigmoid(self.last(torch.relu(self.up(x[..., ::2, ::2]))))


class Held(Around):
    """A buffer that is added: no parameter."""

    def make(self):
        self.register_buffer("place", torch.randn(1, WIDE, 16, 16))

    def middle(self, x):
        return x + self.place


def made(module):
    about = {"inputs": {"noise": noise(256)}, "output": (0, 1), "layout": "gray", "name": "model"}
    return generator_of(module().eval(), **about, calibration=16, golden=8)


def drawn(generator, seed=3):
    return generator.tensors(generator.prepare("", seed))[generator.signature.output_name]


@pytest.mark.parametrize(
    "module", [Position, Same, Even, Valid, Before, Twice, NoStatistics, Share, Row]
)
def test_int8_draws_what_float_draws(module):
    generator = made(module)
    error = (drawn(simulated(generator, quantize(generator))) - drawn(generator)).abs()
    assert error.max() < 0.06


@pytest.mark.parametrize("module", [Same, Even, Valid])
def test_a_convolution_whose_padding_is_a_word_is_int8(module):
    quantized = quantize(made(module))
    conv = made(module).components[0].module.conv.weight
    assert tuple(conv.shape) in quantized.int8_shapes["model"]


@pytest.mark.parametrize("module", [Same, Even, Valid, Before, Twice, NoStatistics, Row])
def test_the_graph_computes_what_the_module_computes(module):
    whole = module().eval()
    x = torch.randn(1, 256)
    with torch.no_grad():
        assert torch.allclose(float_graph(whole, (x,))(x), whole(x), atol=1e-5)


@pytest.mark.parametrize("module", [Before, Row])
def test_three_targets_draw_the_simulation(module, loose, tmp_path):
    found = export(made(module), ["openvino", "onnx", "executorch"], out=tmp_path, limits=loose)
    assert all(one.found["to_simulation"] > 45 for one in found)


def test_a_table_that_computes_more_than_rows_stays_as_it_is():
    module = nn.Sequential(Scaled(8, 4), nn.Embedding(8, 4, max_norm=1.0), nn.Embedding(8, 4, 0))
    kinds = [type(m) for m in with_int8_tables(module)]
    assert kinds == [Scaled, nn.Embedding, Int8Embedding]
    table = with_int8_tables(module)[2]
    assert (table.num_embeddings, table.embedding_dim, table.padding_idx) == (8, 4, 0)
    assert (table.weight - module[2].weight).abs().max() <= table.scale / 2 + 1e-6


class Tied(Around):
    def make(self):
        self.conv = nn.Conv2d(WIDE, WIDE, 3, padding=1)
        self.again, self.other = self.conv, nn.Conv2d(WIDE, WIDE, 3, padding=1)
        self.other.weight = self.conv.weight

    def middle(self, x):
        return torch.relu(self.other(torch.relu(self.again(torch.relu(self.conv(x))))))


def tied():
    return {"model": Tied()}


@pytest.mark.parametrize("half", [False, True])
def test_modules_that_are_held_twice_are_saved(half, tmp_path, monkeypatch):
    monkeypatch.setitem(CONSTRUCTORS, "tied", f"{__name__}:tied")
    generator = replace(made(Tied), constructor="tied")
    save(generator, tmp_path / "saved", half=half)
    again = load_saved(tmp_path / "saved")
    assert torch.allclose(drawn(again), drawn(generator), atol=0.02)


def in_training():
    generator = made(Before)
    generator.components[0].module.train()
    return generator


def test_a_generator_that_was_left_in_training_mode_draws_as_in_evaluation(loose, tmp_path):
    before = copy.deepcopy(in_training().components[0].module.norm.running_var)
    found = resolve(f"{__name__}:in_training")
    assert not any(m.training for c in found.components for m in c.module.modules())
    generator = in_training()
    export(generator, ["onnx"], precision="fp32", out=tmp_path, limits=loose)
    assert torch.equal(generator.components[0].module.norm.running_var, before)


def test_layers_stay_float_around_a_buffer_and_without_calibration_prompts():
    generator = replace(made(Held), calibration=())
    plain = quantize(generator)
    score = (drawn(simulated(generator, plain)) - drawn(generator)).square().mean()
    chosen = keep_float(generator, psnr=55)
    nearer = (drawn(simulated(generator, chosen.quantized)) - drawn(generator)).square().mean()
    assert nearer < score


class Index(nn.Module):
    """Gives whole numbers: which of two is larger."""

    def forward(self, noise):
        return (noise.view(-1, 1, 16, 16) > 0).long()


class Coloured(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, index):
        return torch.sigmoid(self.conv(index.float()))


def test_a_component_may_hand_on_whole_numbers():
    generator = made(Plain)
    parts = (
        Component("index", Index().eval(), ("noise",), ("index",)),
        Component("image", Coloured().eval(), ("index",), (generator.signature.output_name,)),
    )
    generator = replace(generator, components=parts)
    error = (drawn(simulated(generator, quantize(generator))) - drawn(generator)).abs()
    assert error.max() < 0.06


class Plain(Around):
    def middle(self, x):
        return x


def test_each_channel_of_a_transposed_convolution_has_its_own_step_in_the_twin():
    generator = made(Enlarged)
    twin = Int8Twin(generator, 4)
    weight = generator.components[0].module.up.weight
    grid = next(g for n, g in twin.grids.items() if n.endswith("up.weight"))
    error = (grid(weight) - weight).abs().amax((0, 2, 3)).detach()
    assert error[1:].max() < error[0] / 10
    before = weight.detach().clone()
    twin.settle(generator.components)
    assert not torch.equal(weight, before)


def test_transposed_convolutions_that_can_overflow_are_named():
    generator = made(Enlarged)
    found = preflight(quantize(generator, cpu="vnni").graphs)
    assert any(risk.layer == "model.up" and risk.of == WIDE for risk in found)


def test_a_list_of_one_picture_is_no_picture():
    class Listed(Plain):
        def forward(self, noise):
            return [super().forward(noise)]

    with pytest.raises(BadInput, match="gives list, not one picture"):
        made(Listed)


def test_words_are_saved_as_utf8_in_any_locale(tmp_path, monkeypatch):
    plain = Path.write_text

    def narrow(path, text, encoding=None, **more):
        return plain(path, text, encoding=encoding or "latin-1", **more)

    monkeypatch.setattr(Path, "write_text", narrow)
    monkeypatch.setitem(CONSTRUCTORS, "tied", f"{__name__}:tied")
    generator = replace(made(Tied), constructor="tied", golden=("苹果",) * 8)
    save(generator, tmp_path / "saved")
    assert load_saved(tmp_path / "saved").golden == generator.golden
