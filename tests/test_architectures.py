"""Public architectures through the own-module door, and what can not be lowered."""

import architectures
import pytest
import torch
from torch import nn

from genedge.recipes import TARGETS
from genedge.runtime.errors import BadInput
from genedge.runtime.verify import Limits
from genedge.toolkit.export import export
from genedge.toolkit.own import generator_of, noise

MAKERS = {n: getattr(architectures, n) for n in ("dcgan", "stylegan2", "dit", "unet")}
# Untrained nets draw noise, which the limits of flat ground and of the lead were not made for.
FLOAT = Limits(psnr=60, ssim=0.999, flat=0, signed=0.05)
INT8 = Limits(psnr=40, ssim=0.98, flat=0, signed=0.5, lead=-100)


def _long(*pair):
    return pytest.param(*pair, marks=pytest.mark.grid)


# ExecuTorch's lowering takes longest: one of them always, the others with the long grids.
@pytest.mark.parametrize(
    ("kind", "target"),
    [
        _long(k, t) if t == "executorch" and k != "dcgan" else (k, t)
        for k in MAKERS
        for t in TARGETS
    ],
)
def test_float_is_the_same_picture(kind, target, tmp_path):
    (one,) = export(MAKERS[kind](), [target], precision="fp32", out=tmp_path, limits=FLOAT)
    assert one.found["psnr_worst"] >= 60


@pytest.mark.parametrize("kind", ["dcgan", "stylegan2", _long("dit"), _long("unet")])
def test_int8_is_near(kind, tmp_path):
    done = export(MAKERS[kind](), ["onnx", "openvino"], out=tmp_path, limits=INT8)
    for one in done:
        assert one.found["psnr_worst"] >= 40
        assert one.found["stored_int8"] >= 0.9


class Part(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return self.how(x)


class Whole(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.conv, self.inner = nn.Conv2d(4, 3, 1), Part(how)

    def forward(self, x):
        return self.inner(self.conv(x))


def decomposed(x):
    return torch.linalg.qr(x)[0]


def leaves(x):
    return x * float(x.sum())


@pytest.mark.parametrize(
    ("how", "target", "message"),
    [
        (decomposed, "onnx", r"onnx has no linalg_qr, which inner \(Part\) calls; use values"),
        (decomposed, "executorch", r"has no linalg_qr, which inner \(Part\) calls; use values"),
        (decomposed, "openvino", r"has no linalg_qr, which inner \(Part\) calls; use values"),
        (leaves, "onnx", r"inner \(Part\) can not be traced.*use tensor arithmetic"),
    ],
)
def test_what_can_not_be_lowered_names_module_and_operator(how, target, message, tmp_path):
    generator = generator_of(Whole(how), inputs={"x": noise(1, 4, 16, 16)}, output=(0, 1), golden=2)
    with pytest.raises(BadInput, match=message):
        export(generator, [target], precision="fp32", out=tmp_path)
    assert not list(tmp_path.iterdir())
