"""What `emoji-small` has instead of its teacher's two sides.

The decoder has a tenth of its teacher's multiply-adds and weights. What int8 loses, it loses where
activations are rounded; so it rounds a third as often. Its blocks shift by code and style and do not
scale, and there are few of them. The text side is the teacher's, bounded: see model.BOUNDS.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from genedge.toolkit.quantize import on_grid

from .model import Stages, TextSide


def bounded(text: TextSide) -> TextSide:
    """A copy with clamped layers, its token table on its int8 grid; no other weight changes.

    What int8 rounds then has the range that most prompts use.
    """
    made = copy.deepcopy(text)
    made.bounded, made.embedding = True, on_grid(made.embedding)
    return made


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


class SmallDecoder(Stages):
    """The small decoder; the same inputs and output as the teacher's Decoder."""

    def __init__(
        self,
        widths: tuple[int, ...] = (128, 96, 56, 32),
        blocks: tuple[int, ...] = (0, 1, 2, 1),
        z_width: int = 64,
    ) -> None:
        super().__init__(Shifted, widths, blocks, z_width)
        self.begin = nn.Conv2d(z_width, widths[0], 1)

    def unclamped(self, code: Tensor, style: Tensor) -> Tensor:
        """See Stages."""
        z = torch.relu(self.code_in(code.flatten(1)) + self.style_in(style))
        z = z.view(-1, self.code_in.out_features, 1, 1)
        x = torch.relu(self.entry(code) + self.begin(z))
        for blocks, up in zip(self.blocks, self.ups, strict=True):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, z)
            x = self.shuffle(torch.relu(up(x)))
        picture: Tensor = self.exit(x)
        return picture
