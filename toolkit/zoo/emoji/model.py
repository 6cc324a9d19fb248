"""The two components of `emoji`: a text side that writes a code, and a decoder that draws it.

Both are made of convolutions, linear layers, additions, multiplications and ReLU alone, without
normalisation, so that every target runs them whole and int8 needs no islands of float.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE_CHANNELS, CODE_SIZE = 64, 4
STYLE_COUNT = 7
TOKENS, VOCABULARY, MEANINGS = 32, 4096, 16
# What a bounded text side clamps its layers' outputs to. Unbounded, the largest of 320 prompts are 12,
# 53, 10, 26, 11, 49 and 9, and most prompts never come near: one int8 range for all is then coarse.
BOUNDS = {
    "conv1": (0.0, 6.0),
    "conv2": (0.0, 11.0),
    "pooled": (0.0, 0.75),
    "words": (-3.6, 3.6),
    "scaled": (-5.2, 5.2),
    "shifted": (0.0, 5.2),
    "things": (0.0, 10.0),
    "code": (-5.0, 5.0),
}
# Of a Chooser: the things that training names; in nats, how much less likely a thing must be to be
# silenced, what is added so that roundings on the way to the clamp at MARGIN change nothing, and where
# likelihoods are clamped.
THINGS, MARGIN, SLACK, MOST_LIKELY = 1597, 0.15, 0.05, 14.0
FIRST_BLOCKS, BLOCKS = (0, 2, 2, 1), (0, 3, 3, 2)  # before and after growing


class Clamp(nn.Module):
    """Between two numbers, which are saved with the weights."""

    def __init__(self, low: float = -math.inf, high: float = math.inf) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """x: of any shape."""
        if self.high < math.inf:
            return F.hardtanh(x, self.low, self.high)
        return x if self.low < 0 else torch.relu(x)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.low, self.high])

    def set_extra_state(self, state: Tensor) -> None:
        self.low, self.high = (float(v) for v in state)


class Modulated(nn.Module):
    """Residual block: convolution, scale and shift from `z`, ReLU, convolution, sum, ReLU.

    bounded: clamps of the first convolution, of the hidden units and of the sum instead.
    """

    def __init__(self, channels: int, width: int, bounded: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale = nn.Conv2d(width, channels, 1)
        self.shift = nn.Conv2d(width, channels, 1)
        self.clamps: nn.ModuleList | None = None
        nn.init.kaiming_normal_(self.conv1.weight, nonlinearity="relu")
        nn.init.normal_(self.conv2.weight, std=1e-3)
        for layer, bias in ((self.scale, 1.0), (self.shift, 0.0)):
            nn.init.normal_(layer.weight, std=0.02)
            layer.bias = nn.Parameter(torch.full((channels,), bias))
        if bounded:
            self.bound()

    def bound(self) -> None:
        """Puts clamps in, wide open."""
        self.clamps = nn.ModuleList([Clamp(), Clamp(0.0), Clamp(0.0)])

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x: (B, C, H, W); z: (B, width, 1, 1)."""
        if self.clamps is None:
            h = torch.relu(self.conv1(x) * self.scale(z) + self.shift(z))
            return torch.relu(x + self.conv2(h))
        first, hidden, total = self.clamps
        h = hidden(first(self.conv1(x)) * self.scale(z) + self.shift(z))
        drawn: Tensor = total(x + self.conv2(h))
        return drawn


class Stages(nn.Module):
    """Code and style → premultiplied RGBA picture, 64×64: the layers of both decoders.

    block: a residual block of channels and the width of `z`. widths and blocks: channels and
    residual blocks at 4×4, 8×8, 16×16 and 32×32.
    """

    def __init__(
        self,
        block: Callable[[int, int], nn.Module],
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        z_width: int,
    ) -> None:
        super().__init__()
        self.style_in = nn.Linear(STYLE_COUNT, z_width)
        self.code_in = nn.Linear(CODE_CHANNELS * CODE_SIZE**2, z_width)
        self.entry = nn.Conv2d(CODE_CHANNELS, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(block(w, z_width) for _ in range(n))
            for w, n in zip(widths, blocks, strict=True)
        )
        after = [*widths[1:], 16]
        self.ups = nn.ModuleList(nn.Conv2d(w, 4 * a, 1) for w, a in zip(widths, after, strict=True))
        self.shuffle = nn.PixelShuffle(2)
        self.exit = nn.Conv2d(16, 4, 3, padding=1)
        nn.init.normal_(self.style_in.weight, std=0.5)

    def unclamped(self, code: Tensor, style: Tensor) -> Tensor:
        """The picture before the clamp to [0, 1], float32 (B, 4, 64, 64): what training looks at."""
        raise NotImplementedError

    def forward(self, code: Tensor, style: Tensor) -> Tensor:
        """code: float32 (B, 64, 4, 4); style: float32 (B, 7), one-hot.

        Returns float32 (B, 4, 64, 64) in [0, 1]: premultiplied red, green, blue, and alpha.
        """
        return F.hardtanh(self.unclamped(code, style), 0.0, 1.0)


class Decoder(Stages):
    """The large decoder: its blocks scale and shift by code and style.

    bounded: clamps after the first layer, in the blocks and before each doubling, wide open at first.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (320, 224, 144, 80),
        blocks: tuple[int, ...] = BLOCKS,
        z_width: int = 256,
        bounded: bool = False,
    ) -> None:
        super().__init__(Modulated, widths, blocks, z_width)
        self.z_hidden = nn.Linear(z_width, z_width)
        self.clamps: nn.ModuleList | None = None
        if bounded:
            self.bound()

    def bound(self) -> None:
        """Puts clamps in, wide open; the pictures stay as they are."""
        self.clamps = nn.ModuleList([Clamp(0.0), Clamp(), Clamp(), Clamp(), Clamp(0.0)])
        for block in self.modules():
            if isinstance(block, Modulated):
                block.bound()

    def unclamped(self, code: Tensor, style: Tensor) -> Tensor:
        """See Stages."""
        z = torch.relu(self.code_in(code.flatten(1)) + self.style_in(style))
        z = torch.relu(self.z_hidden(z)).view(-1, self.z_hidden.out_features, 1, 1)
        x = self.entry(code)
        x = self.clamps[0](x) if self.clamps is not None else torch.relu(x)
        for i, (blocks, up) in enumerate(zip(self.blocks, self.ups, strict=True), 1):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, z)
            x = up(x)
            if self.clamps is not None:
                x = self.clamps[i](x)
            elif up is self.ups[-1]:
                x = torch.relu(x)  # before the shuffle: fused, and int8 spends no step below 0
            x = self.shuffle(x)
        picture: Tensor = self.exit(x)
        return picture


class TextSide(nn.Module):
    """Tokens and a choice → code.

    The choice, made outside by whole numbers so that no rounding can flip it, picks one meaning
    where the prompt has several: it scales and shifts the hidden units.

    bounded: each layer's output is clamped to its BOUNDS instead of to what is above 0.
    """

    def __init__(
        self,
        vocabulary: int = VOCABULARY,
        embedding: int = 160,
        width: int = 384,
        hidden: int = 896,
        things: int = 1344,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        self.bounded = bounded
        # No bias, and a padding token of zeros: what is not said adds exactly nothing. With biases
        # the count of padding tokens swamped all else, and the loss fell five times slower.
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=0)
        self.conv1 = nn.Conv2d(embedding, width, (1, 3), padding=(0, 1), bias=False)
        self.conv2 = nn.Conv2d(width, width, (1, 3), padding=(0, 1), bias=False)
        self.words = nn.Linear(width, hidden)
        self.scale = nn.Linear(MEANINGS, hidden, bias=False)
        self.shift = nn.Linear(MEANINGS, hidden, bias=False)
        self.hidden = nn.Linear(hidden, things)
        self.write = nn.Linear(things, CODE_CHANNELS * CODE_SIZE**2)
        for layer in (self.conv1, self.conv2, self.words, self.hidden):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        with torch.no_grad():
            self.words.weight.mul_(8)  # the mean over 32 places is small: prompts have few tokens
        nn.init.normal_(self.scale.weight, mean=1.0, std=0.5)
        nn.init.normal_(self.shift.weight, std=0.5)

    def _within(self, name: str, x: Tensor) -> Tensor:
        low, high = BOUNDS[name]
        if self.bounded:
            return F.hardtanh(x, low, high)
        return x if low else torch.relu(x)

    def pooled(self, tokens: Tensor) -> Tensor:
        """tokens: int64 (B, T) → float32 (B, width): the mean over 32 places.

        T may be below 32 in training: padding adds nothing, two tokens of it behind the longest
        prompt are enough.
        """
        x = self.embedding(tokens).transpose(1, 2).unsqueeze(2)
        x = self._within("conv1", self.conv1(x))
        x = self._within("conv2", self.conv2(x))
        mean = x.mean((2, 3), keepdim=True).flatten(1)
        if tokens.shape[1] != TOKENS:
            mean = mean * (tokens.shape[1] / TOKENS)
        return self._within("pooled", mean) if self.bounded else mean

    def thing(self, pooled: Tensor, meaning: Tensor) -> Tensor:
        """float32 (B, things): hidden units that tell what is meant.

        pooled: what `pooled` gives; meaning: float32 (B, 16), one-hot.
        """
        h = self._within("words", self.words(pooled))
        h = self._within("scaled", h * self.scale(meaning))
        h = self._within("shifted", h + self.shift(meaning))
        return self._within("things", self.hidden(h))

    def forward(self, tokens: Tensor, meaning: Tensor) -> Tensor:
        """tokens: int64 (B, 32); meaning: float32 (B, 16), one-hot.

        Returns float32 (B, 64, 4, 4).
        """
        code = self._within("code", self.write(self.thing(self.pooled(tokens), meaning)))
        return code.view(-1, CODE_CHANNELS, CODE_SIZE, CODE_SIZE)


class Chooser(TextSide):
    """A text side that decides: its units are things, and the likeliest silences all that are less
    likely by MARGIN nats; `write` holds the code of each thing.

    Without it, prompts that fit several things get a mean of their codes, which is drawn as a lump.
    The most is found by pooling, and taken away by a linear layer, so that int8 has no islands.
    """

    def __init__(
        self,
        vocabulary: int = VOCABULARY,
        embedding: int = 160,
        width: int = 384,
        hidden: int = 504,
        things: int = THINGS,
    ) -> None:
        super().__init__(vocabulary, embedding, width, hidden, things, bounded=True)
        self.most = nn.Linear(1, things).requires_grad_(False)
        nn.init.constant_(self.most.weight, -1.0)
        nn.init.constant_(self.most.bias, MARGIN + SLACK)

    @torch.no_grad()
    def codes(self) -> Tensor:
        """float32 (things, 64, 4, 4): what is written where one thing is meant for sure."""
        flat = self._within("code", self.write(MARGIN * torch.eye(self.write.in_features)))
        return flat.view(-1, CODE_CHANNELS, CODE_SIZE, CODE_SIZE)

    @torch.no_grad()
    def set_codes(self, codes: Tensor) -> None:
        """Writes these from now on; codes: float32 (things, 64, 4, 4), within BOUNDS["code"]."""
        self.write.weight.copy_(codes.flatten(1).T / MARGIN)
        self.write.bias.zero_()

    def likely(self, pooled: Tensor, meaning: Tensor) -> Tensor:
        """float32 (B, things), in nats: how likely each thing is meant, up to a constant.

        Arguments are those of `thing`.
        """
        h = self._within("words", self.words(pooled))
        h = self._within("scaled", h * self.scale(meaning))
        likely: Tensor = self.hidden(self._within("shifted", h + self.shift(meaning)))
        return likely

    def thing(self, pooled: Tensor, meaning: Tensor) -> Tensor:
        """float32 (B, things): MARGIN where the likeliest is, 0 elsewhere, but for near ties."""
        return self.chosen(self.likely(pooled, meaning))

    def chosen(self, likely: Tensor) -> Tensor:
        """What `thing` gives, of what `likely` gives."""
        kept = F.hardtanh(likely, 0.0, MOST_LIKELY)
        row = kept.view(-1, 1, 1, kept.shape[1])
        most = F.max_pool2d(row, (1, kept.shape[1])).view(-1, 1)
        return F.hardtanh(kept + self.most(most), 0.0, MARGIN)
