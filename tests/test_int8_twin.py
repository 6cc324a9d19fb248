"""Training towards int8: the twin computes what int8 would, and a generator comes nearer to it."""

import functools

import kinds
import pytest
import torch
from tiny import tiny

from genedge.runtime.errors import BadInput
from genedge.toolkit.distill import distill
from genedge.toolkit.drawings import drawn, psnr_to, stacked
from genedge.toolkit.int8_twin import Int8Twin, Rounded
from genedge.toolkit.losses import NEAR, int8_loss
from genedge.toolkit.quantize import quantize, simulated
from genedge.toolkit.weights import grid_steps

SIZE = 8


@functools.cache
def outlier():
    """One channel is 30 times as large as it need be: its sum's one range is coarse for the others."""
    generator = tiny()
    image = generator.components[1].module
    with torch.no_grad():
        for layer in (image.entry, image.style):
            layer.weight[3] *= 30
            layer.bias[3] *= 30
        image.up.weight[:, 3] /= 30
    return generator


@functools.cache
def some():
    generator = outlier()
    feeds = [generator.prepare(p, i).inputs for i, p in enumerate(generator.calibration)]
    return stacked(feeds[:SIZE], torch.device("cpu"))


@torch.no_grad()
def apart(generator):
    """PSNR in dB of eight pictures of the twin to those of the generator."""
    one, other = (
        draw(some())["picture"] for draw in (plain(generator), Int8Twin(generator, SIZE).draw)
    )
    return float(-10 * torch.log10((one - other).square().mean()))


def plain(generator):
    return lambda inputs: drawn(generator.components, inputs)


@pytest.fixture(scope="module")
def nearer(tmp_path_factory):
    options = {"steps": 100, "batch": SIZE, "losses": {"int8": 10.0, "features": 0.0}}
    return distill(outlier(), outlier(), work=tmp_path_factory.mktemp("int8"), **options)


def test_int8_comes_nearer_to_float_and_float_stays_near_its_teacher(nearer):
    assert apart(nearer) > apart(outlier()) + 3
    assert psnr_to(outlier(), nearer) > 33


def test_weights_end_on_grids_that_the_quantizer_keeps(nearer):
    for component in nearer.components:
        layers = [m for m in component.module.modules() if hasattr(m, "weight")]
        for layer in [m for m in layers if not isinstance(m, torch.nn.Embedding)]:
            assert (grid_steps(layer.weight.detach().flatten(1)) > 0).all()


def test_the_twin_draws_what_the_simulation_of_the_artifact_draws():
    """Where both set ranges one way, and nothing is done to the graph afterwards."""
    without = ("equalization", "rounding", "flat", "bias", "whole-biases", "handed-on", "ties")
    generator = outlier()
    int8 = simulated(generator, quantize(generator, cpu="vnni", without=without))
    feeds = [generator.prepare(p, i) for i, p in enumerate(generator.calibration[:SIZE])]
    twin = Int8Twin(generator, SIZE, cpu="vnni").draw(
        stacked([f.inputs for f in feeds], torch.device("cpu"))
    )["picture"]
    exact = torch.cat([generator.tensors(f)["picture"] for f in feeds])
    real = torch.cat([int8.tensors(f)["picture"] for f in feeds])
    assert (twin - real).abs().mean() < 0.5 * (exact - real).abs().mean()


def test_words_of_a_table_and_codes_are_rounded_once_as_the_artifact_rounds_them():
    generator = tiny()
    grids = {}
    for component in Int8Twin(generator, SIZE).components:
        for node in component.module.graph.nodes:
            if node.op == "call_module":
                grid = component.module.get_submodule(str(node.target))
                grids[component.name, str(node.args[0])] = grid
    table = generator.components[0].module.embedding.weight.detach()
    words = grids["text", "unsqueeze"]
    assert float(words.scale) == pytest.approx(float(table.abs().max()) / 127)
    assert int(words.zero) == 0
    written, read = grids["text", "view"], grids["image", "code"]
    assert (float(read.scale), int(read.zero)) == (float(written.scale), int(written.zero))


def test_twin_and_generator_share_their_weights():
    generator = tiny()
    twin = Int8Twin(generator, SIZE)
    before = twin.draw(some())["picture"]
    with torch.no_grad():
        generator.components[1].module.exit.bias.add_(0.1)
    assert (twin.draw(some())["picture"] - before).mean() > 0.03
    twin.draw(some())["picture"].mean().backward()
    assert all(p.grad is not None for p in generator.components[1].module.parameters())


def test_on_grids_gives_every_weight_back_even_after_an_error():
    generator = tiny()
    twin, held = Int8Twin(generator, SIZE), dict(generator.components[1].module.named_parameters())

    def fail_inside():
        with twin.on_grids(generator.components):
            assert not isinstance(generator.components[1].module.up.weight, torch.nn.Parameter)
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    after = dict(generator.components[1].module.named_parameters())
    assert {k: id(v) for k, v in after.items()} == {k: id(v) for k, v in held.items()}


def test_near_enough_costs_nothing():
    true = torch.rand(4, 3, 8, 8)
    close, far = (int8_loss(true + shift, true) for shift in (NEAR / 2, NEAR * 4))
    assert close == 0
    assert far > 3 * NEAR


def test_folded_weights_are_refused(tmp_path):
    generator = kinds.transposed()
    with pytest.raises(BadInput, match="loss int8 can not follow image"):
        distill(generator, generator, work=tmp_path, steps=1, losses={"int8": 1.0})
    assert not list(tmp_path.iterdir())  # another try with other losses is not refused


def test_rounding_is_that_of_torch_and_so_are_its_gradients():
    torch.manual_seed(0)
    x, scale, zero = torch.randn(4, 3, 9, 9) * 3, torch.tensor([0.05]), torch.tensor([100])
    weight, made = torch.randn(4, 3, 9, 9), []
    for function in (
        lambda v: torch.fake_quantize_per_tensor_affine(v, scale, zero.int(), 0, 255),
        lambda v: Rounded.apply(v, 0.05, 100.0, 0, 255),
    ):
        value = x.clone().requires_grad_()
        result = function(value)
        (result * weight).sum().backward()
        made.append((result.detach(), value.grad))
    (theirs, slope), (ours, gradient) = made
    assert ((ours - theirs).abs() > 1e-5).float().mean() < 1e-3  # ties
    assert torch.equal(gradient, slope)
    assert 0 < (gradient == 0).float().mean() < 1
