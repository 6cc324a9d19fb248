"""Generators of other kinds than the bundled one, and small nets, each with one trait that pruning
must get right or leave alone."""

import torch
import torch.nn.functional as F
from torch import nn

from genedge.runtime.signature import Signature, TensorSpec
from genedge.toolkit.generator import Component, Generator

STYLES = ("flat", "soft")


class Attention(nn.Module):
    """Self-attention with heads over the places of a feature map, as in diffusion models."""

    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (
            f(h).flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)
            for f in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)
        return x + self.out(mixed.unflatten(2, x.shape[2:]))


class Norms(nn.Module):
    """Convolutions, GroupNorm, SiLU, attention, nearest enlargement."""

    def __init__(self):
        super().__init__()
        self.entry = nn.Conv2d(4, 32, 3, padding=1)
        self.style = nn.Linear(2, 64)
        self.norm1 = nn.GroupNorm(8, 64)
        self.conv1 = nn.Conv2d(32, 64, 3, padding=1)
        self.attention = Attention(64, 4)
        self.conv2 = nn.Conv2d(64, 48, 3, padding=1)
        self.norm2 = nn.GroupNorm(6, 48)
        self.conv3 = nn.Conv2d(48, 32, 3, padding=1)
        self.exit = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, code, style):
        x = self.conv1(F.silu(self.entry(code)))
        x = F.silu(self.norm1(x) + self.style(style)[:, :, None, None])
        x = F.silu(self.norm2(self.conv2(self.attention(x))))
        x = F.silu(self.conv3(F.interpolate(x, scale_factor=4.0, mode="nearest")))
        return torch.sigmoid(self.exit(x))


class Transposed(nn.Module):
    """Linear layer, view, transposed convolutions with BatchNorm: a DCGAN."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(18, 32 * 16)
        self.entry = nn.Conv2d(32, 64, 3, padding=1)
        self.up1 = nn.ConvTranspose2d(64, 48, 4, 2, 1)
        self.norm1 = nn.BatchNorm2d(48)
        self.up2 = nn.ConvTranspose2d(48, 32, 4, 2, 1)
        self.norm2 = nn.BatchNorm2d(32)
        self.exit = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, noise, style):
        x = self.project(torch.cat([noise, style], 1)).view(-1, 32, 4, 4)
        x = torch.relu(self.norm1(self.up1(torch.relu(self.entry(x)))))
        return torch.sigmoid(self.exit(torch.relu(self.norm2(self.up2(x)))))


def _generator(name, module, first, shape):
    signature = Signature(
        inputs={
            first: TensorSpec("float32", shape, -6, 6, "noise"),
            "style": TensorSpec("float32", (1, 2), 0, 1, "style"),
        },
        output_name="picture",
        output=TensorSpec("float32", (1, 3, 16, 16), 0, 1),
        layout="rgb",
        styles=STYLES,
    )
    return Generator(
        name=name,
        components=(Component("image", module.eval(), (first, "style"), ("picture",)),),
        signature=signature,
        calibration=tuple(f"picture {i}" for i in range(16)),
        golden=tuple(f"golden {i}" for i in range(8)),
    )


def norms() -> Generator:
    torch.manual_seed(0)
    module = Norms()
    with torch.no_grad():
        module.exit.weight.mul_(4)
    return _generator("norms", module, "code", (1, 4, 4, 4))


def transposed() -> Generator:
    torch.manual_seed(0)
    module = Transposed()
    with torch.no_grad():
        for norm in (module.norm1, module.norm2):
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.05, 0.2)
            norm.weight.uniform_(0.5, 1.5)
        module.exit.weight.mul_(2)
    return _generator("transposed", module, "noise", (1, 16))


class Between(nn.Module):
    """First convolution, the layers under test, last convolution."""

    def __init__(self, wide=32, narrow=32):
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.a = nn.Conv2d(24, wide, 3, padding=1)
        self.b = nn.Conv2d(narrow, 24, 3, padding=1)
        self.last = nn.Conv2d(24, 3, 3, padding=1)
        self.make()

    def make(self):
        pass

    def middle(self, x):
        return torch.relu(x)

    def forward(self, x):
        return self.last(torch.relu(self.b(self.middle(self.a(torch.relu(self.first(x)))))))


class Shuffle2(Between):
    def __init__(self):
        super().__init__(128, 32)

    def middle(self, x):
        return torch.relu(F.pixel_shuffle(x, 2))


class Shuffle3(Between):
    def __init__(self):
        super().__init__(216, 24)
        self.shuffle = nn.PixelShuffle(3)

    def middle(self, x):
        return self.shuffle(torch.relu(x))


class Unshuffle(Between):
    def __init__(self):
        super().__init__(16, 64)

    def middle(self, x):
        return F.pixel_unshuffle(x, 2)


class ShuffleOfParts(Between):
    """Two convolutions side by side, shuffled, then beside an enlarged third."""

    def __init__(self):
        super().__init__(64, 48)

    def make(self):
        self.c = nn.Conv2d(24, 64, 1)
        self.d = nn.Conv2d(64, 16, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        h = F.pixel_shuffle(torch.cat([self.a(x), self.c(x)], 1), 2)
        y = F.interpolate(self.d(self.a(x)), scale_factor=2.0)
        return self.last(torch.relu(self.b(torch.relu(torch.cat([h, y], 1)))))


class Residual(Between):
    def make(self):
        self.c1 = nn.Conv2d(32, 48, 3, padding=1)
        self.c2 = nn.Conv2d(48, 32, 3, padding=1)
        self.d1 = nn.Conv2d(32, 32, 3, padding=1)

    def middle(self, x):
        x = x + self.c2(torch.relu(self.c1(torch.relu(x))))
        return torch.relu(x + self.d1(x))


class Modulation(Between):
    """Scale and shift, cut from one layer, as in FiLM and adaptive norms."""

    def make(self):
        self.both = nn.Conv2d(24, 64, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        scale, shift = self.both(x.mean((2, 3), keepdim=True)).chunk(2, 1)
        return self.last(torch.relu(self.b(torch.relu(self.a(x) * (1 + scale) + shift))))


class Concat(Between):
    def __init__(self):
        super().__init__(32, 72)

    def make(self):
        self.c = nn.Conv2d(24, 40, 1)
        self.norm = nn.BatchNorm2d(72)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = self.norm(torch.cat([self.a(x), torch.relu(self.c(x))], 1))
        return self.last(torch.relu(self.b(torch.relu(x))))


class Halves(Between):
    """The two halves of one layer go separate ways."""

    def __init__(self):
        super().__init__(64, 32)

    def make(self):
        self.c = nn.Conv2d(32, 24, 1)

    def forward(self, x):
        one, other = self.a(torch.relu(self.first(x))).chunk(2, 1)
        return self.last(torch.relu(self.b(torch.relu(one)) + self.c(torch.sigmoid(other))))


class Depthwise(Between):
    def make(self):
        self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.act = nn.PReLU(32)

    def middle(self, x):
        return self.act(self.deep(torch.relu(x)))


class Grouped(Between):
    def __init__(self):
        super().__init__(64, 128)

    def make(self):
        self.grouped = nn.Conv2d(64, 128, 3, padding=1, groups=8)

    def middle(self, x):
        return torch.relu(self.grouped(torch.relu(x)))


class TransposedPair(Between):
    def __init__(self):
        super().__init__(32, 40)

    def make(self):
        self.up = nn.ConvTranspose2d(32, 64, 4, 2, 1)
        self.deep = nn.ConvTranspose2d(64, 64, 3, 1, 1, groups=16)
        self.up2 = nn.ConvTranspose2d(64, 40, 3, 2, 1, output_padding=1)

    def middle(self, x):
        return torch.relu(self.up2(torch.relu(self.deep(torch.relu(self.up(torch.relu(x)))))))


class Heads(Between):
    def make(self):
        self.attention = Attention(32, 4)

    def middle(self, x):
        return self.attention(torch.relu(x))


class GroupNorm(Between):
    def make(self):
        self.norm = nn.GroupNorm(8, 32)

    def middle(self, x):
        return F.silu(self.norm(x))


class NormOverAll(Between):
    def make(self):
        self.norm = nn.GroupNorm(1, 32)

    def middle(self, x):
        return F.silu(self.norm(x))


class FixedView(Between):
    """Writes the number of its channels into forward."""

    def middle(self, x):
        return torch.relu(x.view(-1, 32, *x.shape[2:]))


class MeanOfChannels(Between):
    """Uses all channels without a layer that reads them."""

    def middle(self, x):
        return torch.relu(x) - x.mean(1, keepdim=True)


class ViewAndPermute(Between):
    """A pixel shuffle that is written out."""

    def __init__(self):
        super().__init__(128, 32)

    def middle(self, x):
        b, c, h, w = x.shape
        x = x.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return torch.relu(x.reshape(b, c // 4, h * 2, w * 2))


class Twice(Between):
    """One layer, called twice."""

    def make(self):
        self.again = nn.Conv2d(32, 32, 3, padding=1)

    def middle(self, x):
        return torch.relu(self.again(torch.relu(self.again(x))))


class Bias(Between):
    """A parameter that belongs to no layer."""

    def make(self):
        self.constant = nn.Parameter(torch.randn(1, 32, 1, 1))

    def middle(self, x):
        return torch.relu(x + self.constant)


class Tokens(Between):
    """Tokens: linear layers, LayerNorm, multi-head attention of torch."""

    def make(self):
        self.norm = nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.wide = nn.Linear(32, 64)
        self.back = nn.Linear(64, 32)

    def middle(self, x):
        t = self.norm(x.flatten(2).transpose(1, 2))
        t = t + self.attention(t, t, t)[0]
        t = t + self.back(F.gelu(self.wide(t)))
        return t.transpose(1, 2).unflatten(2, x.shape[2:])
