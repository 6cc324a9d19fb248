"""A small decoder of its own kind, for trials: a tenth of the teacher's multiply-adds and weights.

Its blocks shift by code and style and do not scale, and there are few of them: it rounds a third as
often as its teacher. A student had it before `emoji`'s decoder was pruned from the teacher's.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from genedge.toolkit.generator import Generator
from genedge.toolkit.zoo.emoji.model import Stages


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


def begun(teacher: Generator) -> Generator:
    """The teacher's text side, and an untrained small decoder."""
    text, image = teacher.components
    torch.manual_seed(0)
    return replace(teacher, name="begun", components=(text, replace(image, module=SmallDecoder())))
