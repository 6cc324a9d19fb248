"""The small decoder of `emoji-small`: a tenth of its teacher's multiply-adds and weights.

What int8 loses, it loses where activations are rounded; so this decoder rounds a third as often as
its teacher. Its blocks shift by code and style and do not scale, and there are few of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model import CODE_CHANNELS, CODE_SIZE, STYLE_COUNT


class Shifted(nn.Module):
    """Residual block: convolution, shift from `z`, ReLU, convolution, sum, ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shift = nn.Conv2d(width, channels, 1)
        nn.init.kaiming_normal_(self.conv1.weight, nonlinearity="relu")
        nn.init.normal_(self.conv2.weight, std=1e-3)
        nn.init.normal_(self.shift.weight, std=0.05)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x: (B, C, H, W); z: (B, width, 1, 1)."""
        h = torch.relu(self.conv1(x) + self.shift(z))
        return torch.relu(x + self.conv2(h))


class SmallDecoder(nn.Module):
    """Code and style → premultiplied RGBA picture, 64×64; the same inputs as the teacher's Decoder.

    widths and blocks: channels and residual blocks at 4×4, 8×8, 16×16 and 32×32.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (128, 96, 56, 32),
        blocks: tuple[int, ...] = (0, 1, 2, 1),
        z_width: int = 64,
    ) -> None:
        super().__init__()
        self.style_in = nn.Linear(STYLE_COUNT, z_width)
        self.code_in = nn.Linear(CODE_CHANNELS * CODE_SIZE**2, z_width)
        self.entry = nn.Conv2d(CODE_CHANNELS, widths[0], 3, padding=1)
        self.begin = nn.Conv2d(z_width, widths[0], 1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(Shifted(w, z_width) for _ in range(n))
            for w, n in zip(widths, blocks, strict=True)
        )
        after = [*widths[1:], 16]
        self.ups = nn.ModuleList(nn.Conv2d(w, 4 * a, 1) for w, a in zip(widths, after, strict=True))
        self.shuffle = nn.PixelShuffle(2)
        self.exit = nn.Conv2d(16, 4, 3, padding=1)
        nn.init.normal_(self.style_in.weight, std=0.5)

    def unclamped(self, code: Tensor, style: Tensor) -> Tensor:
        """The picture before the clamp to [0, 1]."""
        z = torch.relu(self.code_in(code.flatten(1)) + self.style_in(style))
        z = z.view(-1, self.code_in.out_features, 1, 1)
        x = torch.relu(self.entry(code) + self.begin(z))
        for blocks, up in zip(self.blocks, self.ups, strict=True):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, z)
            x = self.shuffle(torch.relu(up(x)))
        picture: Tensor = self.exit(x)
        return picture

    def forward(self, code: Tensor, style: Tensor) -> Tensor:
        """code: float32 (B, 64, 4, 4); style: float32 (B, 7), one-hot.

        Returns float32 (B, 4, 64, 64) in [0, 1]: premultiplied red, green, blue, and alpha.
        """
        return F.hardtanh(self.unclamped(code, style), 0.0, 1.0)
