"""A limit keeps as few layers float as it needs, the same ones on every target, or is refused."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from genedge.recipes import TARGETS
from genedge.runtime.artifact import read_artifact
from genedge.runtime.errors import BadInput, LimitMissed
from genedge.runtime.inspect import inspect
from genedge.runtime.verify import Limits
from genedge.toolkit.export import export
from genedge.toolkit.fallback import keep_float
from genedge.toolkit.quantize import OBSERVERS, quantize

LOOSE = {"flat": 0.5, "signed": 3, "lead": -100}


class WideText(nn.Module):
    """Most of the bytes of the generator with an outlier, and none of its trouble."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(320, 64)
        self.noise = nn.Linear(4, 64)
        self.write = nn.Linear(64, 64)

    def forward(self, tokens, noise):
        h = torch.relu(self.embedding(tokens).mean(1) + self.noise(noise))
        return self.write(h).view(-1, 4, 4, 4)


@pytest.fixture(scope="module")
def outlier():
    """One channel of the entry is 200 times as large as the others, and divided again behind it."""
    from tiny import tiny

    generator = tiny()
    torch.manual_seed(3)
    text, image = generator.components
    module = image.module
    text = replace(text, module=WideText().eval())
    generator = replace(generator, components=(text, image))
    feed = generator.tensors(generator.prepare("red round", 1))
    with torch.no_grad():
        values = torch.relu(
            module.entry(feed["code"]) + module.style(feed["style"]).view(1, 16, 1, 1)
        )
        means = values.mean((0, 2, 3))
        channel = int(torch.where(means > 0.1 * means.max(), means, means.max() + 1).argmin())
        for layer in (module.entry, module.style):
            layer.weight[channel] *= 200
            layer.bias[channel] *= 200
        module.up.weight[:, channel] /= 200
    return generator


@pytest.fixture
def unequalized(monkeypatch):
    """Equalization removes this outlier before any layer has to stay float."""
    monkeypatch.delitem(OBSERVERS, "histogram-equalized")


def test_equalization_removes_an_outlier(outlier, monkeypatch):
    better = measured(outlier)
    monkeypatch.delitem(OBSERVERS, "histogram-equalized")
    assert better > measured(outlier) + 10


def test_an_outlier_channel_is_kept_float_and_little_else(outlier, unequalized):
    assert measured(outlier) < 30
    choice = keep_float(outlier, psnr=40, cpu="vnni")
    assert choice.psnr >= 40
    whole = sum(p.numel() for c in outlier.components for p in c.module.parameters())
    assert choice.bytes / 4 <= 0.1 * whole
    assert any("entry" in name or "image:add" in name for name in choice.layers)
    again = quantize(outlier, cpu="vnni", keep=choice.layers)
    assert again.planned_float >= choice.bytes


def measured(generator):
    from genedge.toolkit.fallback import _score
    from genedge.toolkit.quantize import simulated

    return _score(generator, simulated(generator, quantize(generator, cpu="vnni")))[0]


def test_the_same_layers_are_float_in_every_artifact(outlier, unequalized, tmp_path):
    done = export(
        outlier, TARGETS, cpu="vnni", out=tmp_path, fallback=True, limits=Limits(psnr=40, **LOOSE)
    )
    kept = done[0].kept
    assert kept
    for one in done:
        artifact = read_artifact(one.directory)
        assert artifact.about["float_layers"] == list(kept)
        assert one.found["psnr"] >= 40
        sizes = {
            int(torch.tensor(t.shape).prod()): t.dtype
            for t in inspect(artifact)[1].stored
            if len(t.shape) == 4
        }
        entry = "image.entry" in kept
        assert sizes.get(16 * 4 * 9) == ("float32" if entry else "int8")
    words = ",".join(kept)
    again = export(
        outlier,
        ["onnx"],
        cpu="vnni",
        out=tmp_path / "b",
        keep=words.split(","),
        limits=Limits(psnr=40, **LOOSE),
    )
    files = [
        (d.directory / "image.onnx").read_bytes()
        for d in (again[0], done[list(TARGETS).index("onnx")])
    ]
    assert files[0] == files[1]
    assert json.loads((again[0].directory / "manifest.json").read_text())["float_layers"] == list(
        kept
    )


def test_a_limit_that_no_fallback_holds_is_refused(generator, tmp_path):
    with pytest.raises(
        LimitMissed, match=r"the limit can not be met: with .* layers in float PSNR is"
    ):
        export(generator, ["onnx"], out=tmp_path, fallback=True, limits=Limits(psnr=99.9, **LOOSE))
    assert list(tmp_path.iterdir()) == []


def test_a_limit_that_int8_holds_keeps_nothing(generator):
    choice = keep_float(generator, psnr=20, calibration=8)
    assert (choice.layers, choice.bytes) == ((), 0)


def test_a_sum_can_be_named(generator, loose, tmp_path):
    (kept,) = export(generator, ["onnx"], out=tmp_path, keep=["image:add"], limits=loose)
    assert kept.kept == ("image:add",)
    with pytest.raises(BadInput, match="image:add_9"):
        export(generator, ["onnx"], out=tmp_path / "b", keep=["image:add_9"])
