"""Own modules as users bring them: each another kind of input or output."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from genedge.toolkit.own import choice, generator_of, image, noise


class Grey(nn.Module):
    """Noise alone → a grey picture of 12 × 20, from −1 to 1."""

    def __init__(self):
        super().__init__()
        self.entry = nn.Linear(8, 24 * 15)
        self.conv = nn.Conv2d(24, 16, 3, padding=1)
        self.exit = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, z):
        x = torch.relu(self.entry(z).view(-1, 24, 3, 5))
        x = torch.relu(self.conv(x))
        return F.hardtanh(F.pixel_shuffle(self.exit(x), 4))


class Blend(nn.Module):
    """Two pictures and noise that it ignores → RGBA with straight alpha."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(1, 16, 3, padding=1)
        self.exit = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, photo, ignored, mask):
        return F.hardtanh(self.exit(torch.relu(self.a(photo) + self.b(mask))), 0.0, 1.0)


class Classes(nn.Module):
    """A class that the seed chooses → RGBA with premultiplied colour."""

    def __init__(self):
        super().__init__()
        self.entry = nn.Linear(5, 16 * 16)
        self.exit = nn.Conv2d(16, 64, 3, padding=1)

    def forward(self, label):
        x = torch.relu(self.entry(label).view(-1, 16, 4, 4))
        return F.hardtanh(F.pixel_shuffle(self.exit(x), 4) + 0.5, 0.0, 1.0)


def blocks(count, height, width, channels, seed=0):
    """uint8 (count, height, width, channels): pictures of a few flat blocks."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (count, -(-height // 4), -(-width // 4), channels), np.uint8)
    return small.repeat(4, 1).repeat(4, 2)[:, :height, :width]


def grey():
    torch.manual_seed(1)
    return generator_of(Grey(), inputs={"z": noise(1, 8)}, output=(-1, 1), golden=4)


def blend():
    torch.manual_seed(2)
    return generator_of(
        Blend(),
        inputs={
            "photo": image(3, 16, 24, low=-1),
            "ignored": noise(1, 4),
            "mask": image(1, 16, 24),
        },
        output=(0, 1),
        layout="rgba",
        images={"photo": blocks(24, 16, 24, 3), "mask": blocks(24, 16, 24, 1, 1)[..., 0]},
        golden=4,
    )


def classes():
    torch.manual_seed(3)
    return generator_of(
        Classes(),
        inputs={"label": choice(5)},
        output=(0, 1),
        layout="rgba-premultiplied",
        calibration=8,
        golden=4,
    )


def bare():
    return Grey()


def broken():
    raise FileNotFoundError("weights.bin is not here")
