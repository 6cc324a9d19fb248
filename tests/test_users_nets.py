"""Nets that users bring to prune and distill: each has one trait of ordinary torch code."""

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genedge.recipes import TARGETS
from genedge.runtime.errors import BadInput
from genedge.runtime.verify import Limits
from genedge.toolkit.blame import feeds_of, measure_losses
from genedge.toolkit.distill import distill, learn_mode, learnable
from genedge.toolkit.drawings import check_learns, psnr_to
from genedge.toolkit.export import export
from genedge.toolkit.models import resolve
from genedge.toolkit.own import generator_of, image, noise
from genedge.toolkit.prune import multiply_adds, prune
from genedge.toolkit.quantize import quantize
from genedge.toolkit.saved import save
from genedge.toolkit.taps import graphs_of
from genedge.toolkit.verbs.shrink import _work

WIDE = 16


class Net(nn.Module):
    """Three convolutions; 16 × 16 grey pixels from noise."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, WIDE, 3, padding=1)
        self.middle = nn.Conv2d(WIDE, WIDE, 3, padding=1)
        self.also = nn.Conv2d(WIDE, WIDE, 3, padding=1)
        self.last = nn.Conv2d(WIDE, 1, 3, padding=1)
        self.make()

    def make(self):
        """What a test adds."""

    def between(self, x):
        return torch.relu(self.also(torch.relu(self.middle(x))))

    def forward(self, noise):
        return torch.sigmoid(self.last(self.between(torch.relu(self.first(noise)))))


def made(module, **more):
    spec = noise(1, 1, 16, 16)
    return generator_of(
        module, inputs={"noise": spec}, output=(0, 1), calibration=8, golden=4, **more
    )


class double(Net):  # named as a method of every module is
    pass


class Frozen(Net):
    def make(self):
        self.table = nn.Parameter(torch.ones(1, WIDE, 1, 1), requires_grad=False)
        self.order = nn.Parameter(torch.arange(WIDE), requires_grad=False)

    def between(self, x):
        return super().between(x * self.table)[:, self.order]


class Spectral(Net):
    def make(self):
        self.last = nn.utils.spectral_norm(self.last)


class Weighted(Net):
    def make(self):
        self.also = nn.utils.parametrizations.weight_norm(self.also)
        self.extra = nn.Sequential(*(nn.Conv2d(WIDE, WIDE, 3, padding=1) for _ in range(2)))

    def between(self, x):
        return self.extra(super().between(x))


class ByKeyword(Net):
    def between(self, x):
        return torch.relu(self.also(input=torch.relu(self.middle(input=x))))


class InPlace(Net):
    def between(self, x):
        y = torch.exp(self.also(torch.relu(self.middle(x))))
        y += 1
        return y


class Normed(Net):
    def make(self):
        self.norm = nn.BatchNorm2d(WIDE)

    def between(self, x):
        return torch.relu(self.norm(self.middle(x)))


class Recurrent(Net):
    kind = nn.GRU

    def make(self):
        self.recurrent = self.kind(WIDE, WIDE, batch_first=True)
        self.extra = nn.Conv2d(WIDE, WIDE, 3, padding=1)

    def between(self, x):
        y = self.recurrent(self.extra(x).flatten(2).transpose(1, 2))[0]
        return super().between(y.transpose(1, 2).unflatten(2, (16, 16)))


class Rnn(Recurrent):
    kind = nn.RNN


class Lstm(Recurrent):
    kind = nn.LSTM


class More(Net):
    def forward(self, noise):
        drawn = super().forward(noise)
        return (drawn, noise) if self.training else drawn


class Attending(Net):
    def make(self):
        self.heads = nn.TransformerEncoderLayer(WIDE, 2, 32, batch_first=True)

    def between(self, x):
        y = F.avg_pool2d(x, 4).flatten(2).transpose(1, 2)
        y = self.heads(y) + F.scaled_dot_product_attention(y, y, y)
        y = y.transpose(1, 2).unflatten(2, (4, 4))
        return self.middle(x + F.interpolate(y, scale_factor=4.0))


@functools.cache
def kept_whole():
    """The same net each time."""
    return made(Net(), name="whole")


def taught(teacher, student, tmp_path, **options):
    options = {"steps": 3, "batch": 2} | options
    return distill(teacher, student, work=tmp_path / "work", **options)


def test_a_student_of_the_teachers_own_function_leaves_the_teacher_as_it_was(tmp_path):
    teacher = resolve(f"{__name__}:kept_whole")
    before = teacher.hash()
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other.components[0].module.last.weight.mul_(-3)
    save(other, tmp_path / "other")
    student = resolve(f"{__name__}:kept_whole@{tmp_path / 'other'}")
    assert teacher.hash() == before
    assert student.hash() == other.hash() != before
    assert psnr_to(teacher, student) < 40


def test_a_component_may_be_called_as_a_method_of_modules_is(tmp_path):
    teacher = made(double(), name="double")
    small = prune(teacher, ratio=0.5, prompts=2)
    assert taught(teacher, small, tmp_path).components[0].name == "double"


def test_what_asks_for_no_gradients_stays_and_whole_numbers_do_not_stop_it(tmp_path):
    teacher = made(Frozen())
    small = prune(teacher, ratio=0.5, prompts=2)
    better = taught(teacher, small, tmp_path, rate=1e-2)
    nets = [g.components[0].module for g in (small, better)]
    assert torch.equal(nets[0].table, nets[1].table)
    assert not torch.equal(nets[0].first.weight, nets[1].first.weight)
    for net in nets:
        asked = {n for n, p in net.named_parameters() if p.requires_grad}
        assert asked == {f"{n}.{w}" for n in ("first", "middle", "also", "last")
                         for w in ("weight", "bias")}  # fmt: skip


def test_a_net_that_was_frozen_to_draw_learns_whole(tmp_path):
    teacher = made(Net().requires_grad_(False))
    student = made(Net().requires_grad_(False))
    with torch.no_grad():
        student.components[0].module.last.weight.mul_(0.5)
    better = taught(teacher, student, tmp_path)
    learned = dict(better.components[0].module.named_parameters())
    for name, parameter in student.components[0].module.named_parameters():
        assert not torch.equal(parameter, learned[name]), name
        assert not learned[name].requires_grad


@pytest.mark.parametrize("importance", ["taylor", "activation", "magnitude"])
@pytest.mark.parametrize("net", [Spectral, ByKeyword])
def test_every_ranking_takes_them(net, importance):
    small = prune(made(net()), ratio=0.5, importance=importance, prompts=2)
    assert small.history[-1]["pruned"]


def test_a_forward_without_gradients_is_said_with_what_to_do():
    with pytest.raises(BadInput, match=r"can not be differentiated .* --importance activation"):
        prune(made(InPlace()), ratio=0.5, prompts=2)
    assert prune(made(InPlace()), ratio=0.5, importance="activation", prompts=2)


def test_a_weight_that_is_computed_from_others_is_named_as_the_reason():
    left = prune(made(Weighted()), ratio=0.5, prompts=2).history[-1]["left_alone"]
    assert left["weighted.middle"].startswith("also's weight is computed from others"), left


@pytest.mark.parametrize("net", [Recurrent, Rnn, Lstm])
def test_what_feeds_a_recurrent_layer_is_left_alone_and_the_rest_pruned(net):
    note = prune(made(net(), name="net"), ratio=0.5, prompts=2).history[-1]
    assert "net.middle" in note["pruned"]
    assert "net.extra" in note["left_alone"]


def test_attention_counts_as_what_it_multiplies():
    tokens, hidden = 16, 32
    convolutions = 256 * 9 * WIDE * (1 + WIDE + 1)
    projections = tokens * WIDE * (3 * WIDE + WIDE + 2 * hidden)
    products = 2 * tokens * tokens * WIDE
    assert multiply_adds(made(Attending())) == convolutions + projections + 2 * products


def with_statistics():
    net = Normed()
    for _ in range(20):
        net(torch.randn(8, 1, 16, 16))
    return net.eval()


@pytest.mark.parametrize("batch", [1, 4])
def test_batch_norm_that_knows_its_statistics_keeps_them(tmp_path, batch):
    teacher = made(with_statistics())
    same = taught(teacher, copy.deepcopy(teacher), tmp_path, batch=batch, rate=1e-5)
    before, after = (g.components[0].module.norm.running_mean for g in (teacher, same))
    assert torch.equal(before, after)
    assert psnr_to(teacher, same) > 60


def test_batch_norm_that_begins_untrained_learns_statistics(tmp_path):
    fresh = Normed()
    learn_mode(fresh, 1)
    assert not fresh.norm.training  # of one picture it would make nonsense
    assert fresh.training
    learn_mode(fresh, 4)
    assert fresh.norm.training
    made_now = taught(made(with_statistics()), made(Normed()), tmp_path, batch=4)
    assert made_now.components[0].module.norm.running_mean.abs().max() > 0


def test_a_forward_that_returns_more_in_training_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(BadInput, match="does not draw in training mode"):
        taught(made(Net()), made(More(), name="more"), tmp_path)
    assert not (tmp_path / "work").exists()
    student = made(Net())
    check_learns(student, [student.prepare("a", 0).inputs], lambda m: learn_mode(m, 1))


def test_blame_takes_a_folded_batch_norm_as_part_of_its_layer():
    generator = made(with_statistics())
    graphs = graphs_of(generator, quantize(generator))
    by_name = {loss.layer: loss for loss in measure_losses(graphs, feeds_of(generator, 2)).losses}
    assert set(by_name) == {f"normed.{n}" for n in ("first", "middle", "last")}
    assert all(loss.alone > 20 for loss in by_name.values()), by_name


@pytest.mark.parametrize("target", TARGETS)
def test_a_layer_that_stays_float_between_two_grids_is_not_rounded_by_the_runtime(tmp_path, target):
    generator = made(Net())
    free = Limits(psnr=1, ssim=0.01, flat=0, signed=99, lead=-100)
    (one,) = export(generator, [target], out=tmp_path, keep=["net.middle"], limits=free)
    assert one.found["to_simulation"] > 70


def test_prune_says_how_many_channels_went():
    wide, gone = prune(made(Net()), ratio=0.3, prompts=2).history[-1]["channels"]
    assert (wide, gone) == (WIDE, 0) or gone % 8 == 0
    wide, gone = prune(made(Net()), ratio=0.5, prompts=2).history[-1]["channels"]
    assert (wide, gone) == (WIDE, 8)


def test_an_input_may_be_called_picture(tmp_path):
    class Shown(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, picture):
            return torch.sigmoid(self.net(picture))

    pictures = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 1), np.uint8)
    generator = generator_of(
        Shown(), inputs={"picture": image(1, 16, 16)}, output=(0, 1), images={"picture": pictures}
    )
    (one,) = export(generator, ["onnx"], out=tmp_path, limits=Limits(psnr=20, ssim=0.5, lead=-100))
    assert one.found["prompts"] == len(generator.golden)


def test_a_range_that_cuts_values_off_is_said(capsys):
    class Tanh(Net):
        def forward(self, noise):
            return torch.tanh(self.last(torch.relu(self.first(noise))))

    made(Net())
    assert not capsys.readouterr().err
    made(Tanh())
    assert "genedge: warning: tanh gives values from -" in (said := capsys.readouterr().err)
    assert "output (0, 1) cuts" in said


def test_weights_that_are_no_numbers_are_named(tmp_path):
    broken = made(Net())
    with torch.no_grad():
        broken.components[0].module.last.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(BadInput, match=r"net\.last\.weight holds numbers that are not finite"):
        export(broken, ["onnx"], out=tmp_path)


class Slim(nn.Module):
    """A net of another class, with layers of the same sizes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.one = nn.Conv2d(1, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, noise):
        return torch.sigmoid(self.two(torch.relu(self.one(noise))))


def test_layers_of_a_student_of_another_class_are_compared(tmp_path):
    teacher, student = made(Net()), made(Slim())
    assert teacher.components[0].name != student.components[0].name
    made_now = taught(teacher, student, tmp_path, losses={"features": 0.5}, steps=30, batch=4)
    assert psnr_to(teacher, made_now) > psnr_to(teacher, student)


def test_parameters_that_learn_are_each_named_once():
    net = Net()
    net.also = net.middle
    assert len(learnable([net, net])) == 6
    net.first.requires_grad_(False)
    assert len(learnable([net])) == 4


@pytest.mark.parametrize("what", ["work", "log"])
def test_checkpoints_and_logs_do_not_lie_in_the_folder_that_is_written_last(tmp_path, what):
    places = {"work": None, "log": None} | {what: tmp_path / "out" / "more"}
    with pytest.raises(BadInput, match=r"lies in .*, which is written whole at the end"):
        _work(tmp_path / "out", False, **places)
    assert _work(tmp_path / "out", False, None) == tmp_path / "out.work"
