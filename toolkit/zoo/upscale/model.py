"""The compact network of Real-ESRGAN (Wang et al., "Real-ESRGAN: Training real-world blind
super-resolution with pure synthetic data", ICCV workshops 2021; "realesr-animevideov3")."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS, LAYERS, SCALE = 64, 16, 4


class Compact(nn.Module):
    """Convolutions with PReLU at the small size, pixel shuffle, plus the enlarged input.

    Input and output in [0, 1], (N, 3, H, W) → (N, 3, 4 H, 4 W).
    """

    def __init__(self) -> None:
        super().__init__()
        widths = [3] + [CHANNELS] * (LAYERS + 1)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.slopes = nn.ModuleList(nn.PReLU(CHANNELS) for _ in self.convs)
        self.exit = nn.Conv2d(CHANNELS, 3 * SCALE**2, 3, padding=1)

    def forward(self, small: Tensor) -> Tensor:
        x = small
        for conv, slope in zip(self.convs, self.slopes, strict=True):
            x = slope(conv(x))
        detail = F.pixel_shuffle(self.exit(x), SCALE)
        return F.hardtanh(detail + F.interpolate(small, scale_factor=float(SCALE)), 0.0, 1.0)
