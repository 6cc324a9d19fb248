"""Public architectures, written from their papers as users would bring them; random weights."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from genedge.toolkit.own import choice, generator_of, noise


class DCGAN(nn.Module):
    """Radford, Metz, Chintala, "Unsupervised representation learning with deep convolutional
    generative adversarial networks", ICLR 2016: transposed convolutions, BatchNorm, ReLU, tanh."""

    def __init__(self, wide=16):
        super().__init__()
        widths = [100, 8 * wide, 4 * wide, 2 * wide]
        layers = []
        for i, (a, b) in enumerate(pairwise(widths)):
            layers += [
                nn.ConvTranspose2d(a, b, 4, 2 if i else 1, 1 if i else 0, bias=False),
                nn.BatchNorm2d(b),
                nn.ReLU(True),
            ]
        layers += [nn.ConvTranspose2d(2 * wide, 3, 4, 2, 1, bias=False), nn.Tanh()]
        self.main = nn.Sequential(*layers)

    def forward(self, z):
        return self.main(z)


class ModulatedConv(nn.Module):
    """Weights scaled by the style, then demodulated; one group for each picture of the batch."""

    def __init__(self, before, after, kernel=3, demodulate=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel))
        self.gain = 1 / math.sqrt(before * kernel**2)
        self.demodulate, self.padding = demodulate, kernel // 2

    def forward(self, x, style):
        batch, channels, height, width = x.shape
        weight = (self.weight * self.gain)[None] * (style + 1)[:, None, :, None, None]
        if self.demodulate:
            norm = torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
            weight = weight * norm
        weight = weight.reshape(-1, *self.weight.shape[1:])
        x = x.reshape(1, batch * channels, height, width)
        x = F.conv2d(x, weight, padding=self.padding, groups=batch)
        return x.reshape(batch, -1, height, width)


class StyleBlock(nn.Module):
    def __init__(self, before, after, latent):
        super().__init__()
        self.to_style1, self.to_style2 = nn.Linear(latent, before), nn.Linear(latent, after)
        self.to_rgb_style = nn.Linear(latent, after)
        self.conv1, self.conv2 = ModulatedConv(before, after), ModulatedConv(after, after)
        self.to_rgb = ModulatedConv(after, 3, 1, demodulate=False)
        self.strength = nn.Parameter(torch.full((1, after, 1, 1), 0.1))

    def forward(self, x, rgb, w, grain):
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = F.leaky_relu(self.conv1(x, self.to_style1(w)) + self.strength * grain, 0.2)
        x = F.leaky_relu(self.conv2(x, self.to_style2(w)), 0.2)
        new = self.to_rgb(x, self.to_rgb_style(w))
        return x, new if rgb is None else F.interpolate(rgb, scale_factor=2) + new


class StyleGAN2(nn.Module):
    """Karras et al., "Analyzing and improving the image quality of StyleGAN", CVPR 2020: a mapping
    network, a learned constant, modulated convolutions, skip connections to RGB, noise as inputs."""

    def __init__(self, latent=32, widths=(32, 24, 16)):
        super().__init__()
        self.mapping = nn.Sequential(
            nn.Linear(latent, latent), nn.LeakyReLU(0.2), nn.Linear(latent, latent)
        )
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.blocks = nn.ModuleList(
            StyleBlock(a, b, latent) for a, b in zip((widths[0], *widths), widths, strict=False)
        )

    def forward(self, z, grain8, grain16, grain32):
        w = self.mapping(z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8))
        x, rgb = self.constant.expand(z.shape[0], -1, -1, -1), None
        for block, grain in zip(self.blocks, (grain8, grain16, grain32), strict=True):
            x, rgb = block(x, rgb, w, grain)
        return rgb


class DiTBlock(nn.Module):
    """Adaptive layer norm, zero-free here, around attention and an MLP."""

    def __init__(self, wide, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(wide, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(wide, elementwise_affine=False, eps=1e-6)
        self.qkv, self.out = nn.Linear(wide, 3 * wide), nn.Linear(wide, wide)
        self.mlp = nn.Sequential(
            nn.Linear(wide, 4 * wide), nn.GELU(approximate="tanh"), nn.Linear(4 * wide, wide)
        )
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(wide, 6 * wide))
        self.heads = heads

    def forward(self, x, c):
        a, b, g, d, e, h = self.modulation(c)[:, None].chunk(6, 2)
        n, length, wide = x.shape
        y = self.norm1(x) * (1 + b) + a
        qkv = self.qkv(y).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        x = x + g * self.out(y.transpose(1, 2).reshape(n, length, wide))
        return x + h * self.mlp(self.norm2(x) * (1 + e) + d)


class DiT(nn.Module):
    """Peebles, Xie, "Scalable diffusion models with transformers", ICCV 2023: patches, blocks with
    adaptive norm by time and class, here as one flow step from noise."""

    def __init__(self, wide=48, depth=2, heads=4, classes=5, patch=4, side=32):
        super().__init__()
        self.patch, self.side = patch, side
        self.embed = nn.Conv2d(3, wide, patch, patch)
        self.places = nn.Parameter(torch.randn(1, (side // patch) ** 2, wide) * 0.1)
        self.label = nn.Linear(classes, wide, bias=False)
        self.time = nn.Sequential(nn.Linear(wide, wide), nn.SiLU(), nn.Linear(wide, wide))
        frequencies = torch.exp(-math.log(10000) * torch.arange(wide // 2) / (wide // 2))
        self.register_buffer("frequencies", frequencies)
        self.blocks = nn.ModuleList(DiTBlock(wide, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(wide, elementwise_affine=False, eps=1e-6)
        self.last = nn.Linear(wide, 3 * patch**2)

    def forward(self, x, y):
        angles = torch.ones(x.shape[0], 1) * 999.0 * self.frequencies
        c = self.time(torch.cat([angles.cos(), angles.sin()], 1)) + self.label(y)
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            tokens = block(tokens, c)
        p, n = self.patch, self.side // self.patch
        out = self.last(self.norm(tokens)).view(-1, n, n, p, p, 3)
        return out.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, n * p, n * p)


def dcgan():
    torch.manual_seed(0)
    module = DCGAN()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(std=0.1)
                layer.running_var.uniform_(0.05, 0.2)
    return generator_of(module, inputs={"z": noise(1, 100, 1, 1)}, output=(-1, 1), golden=4)


def stylegan2():
    torch.manual_seed(0)
    inputs = {"z": noise(1, 32)} | {f"grain{n}": noise(1, 1, n, n) for n in (8, 16, 32)}
    return generator_of(StyleGAN2(), inputs=inputs, output=(-2, 2), golden=4)


def dit():
    torch.manual_seed(0)
    inputs = {"x": noise(1, 3, 32, 32), "y": choice(5)}
    return generator_of(DiT(), inputs=inputs, output=(-2, 2), golden=4)


class Attention(nn.Module):
    def __init__(self, wide, heads=2):
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(4, wide), heads
        self.qkv, self.out = nn.Linear(wide, 3 * wide), nn.Linear(wide, wide)

    def forward(self, x):
        b, c, h, w = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).view(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.out(seen).transpose(1, 2).view(b, c, h, w)


class UNetBlock(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, after), nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class UNet(nn.Module):
    """Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, in one step: group
    norm, SiLU, attention at the lowest resolution, skips."""

    def __init__(self, wide=32):
        super().__init__()
        self.first = nn.Conv2d(3, wide, 3, padding=1)
        self.down1, self.down2 = UNetBlock(wide, wide), UNetBlock(wide, 2 * wide)
        self.shrink = nn.Conv2d(wide, wide, 3, stride=2, padding=1)
        self.attention = Attention(2 * wide)
        self.middle = UNetBlock(2 * wide, 2 * wide)
        self.up = UNetBlock(3 * wide, wide)
        self.norm, self.last = nn.GroupNorm(4, wide), nn.Conv2d(wide, 3, 3, padding=1)

    def forward(self, x):
        high = self.down1(self.first(x))
        low = self.middle(self.attention(self.down2(self.shrink(high))))
        low = F.interpolate(low, scale_factor=2.0, mode="nearest")
        return self.last(F.silu(self.norm(self.up(torch.cat([low, high], 1)))))


def unet():
    torch.manual_seed(0)
    return generator_of(UNet(), inputs={"x": noise(1, 3, 32, 32)}, output=(-2, 2), golden=4)
