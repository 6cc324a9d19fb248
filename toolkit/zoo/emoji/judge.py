"""How good drawn pictures are, against the real art: PSNR, retrieval and sharpness."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .data import Art


def composites(pictures: Tensor) -> Tensor:
    """uint8 (N, 4, 64, 64), premultiplied → float32 (N, 6, 64, 64): over black, over white."""
    values = pictures.float()
    return torch.cat([values[:, :3], values[:, :3] + 255 - values[:, 3:]], 1)


def picture_psnr(drawn: Tensor, real: Tensor) -> Tensor:
    """(N,): PSNR in dB over black or over white, whichever is lower; capped at 100."""
    difference = (composites(drawn) - composites(real)).square()
    halves = torch.stack([difference[:, :3].mean((1, 2, 3)), difference[:, 3:].mean((1, 2, 3))])
    return (10 * torch.log10(255**2 / halves.amax(0).clamp(min=255**2 / 1e10))).cpu()


def _sharpness(pictures: Tensor) -> Tensor:
    white = composites(pictures)[:, 3:]
    across = (white[..., 1:] - white[..., :-1]).abs().mean((1, 2, 3))
    return across + (white[..., 1:, :] - white[..., :-1, :]).abs().mean((1, 2, 3))


@torch.no_grad()
def nearest_emoji(drawn: Tensor, style: np.ndarray, art: Art, count: int) -> np.ndarray:
    """int64 (N, count): the emoji whose real pictures of the drawn picture's style are nearest.

    drawn: uint8 (N, 4, 64, 64), premultiplied; style: int64 (N,). Distance: squared error over
    black and over white together; held-out pictures are among those searched.
    """
    found = np.zeros((len(drawn), count), np.int64)
    for s in np.unique(style):
        mine, there = np.flatnonzero(style == s), np.flatnonzero(art.style_of == s)
        real = composites(torch.from_numpy(art.pictures[there]).permute(0, 3, 1, 2)).flatten(1)
        distance = torch.cdist(composites(drawn[mine]).flatten(1), real)
        found[mine] = art.emoji_of[there][distance.topk(count, largest=False).indices.numpy()]
    return found


def judge(drawn: Tensor, rows: np.ndarray, art: Art) -> dict[str, float]:
    """Means over drawn pictures of the art's `rows`.

    drawn: uint8 (N, 4, 64, 64), premultiplied, the n-th of row rows[n]. Retrieval: the nearest
    real pictures of the row's style, among all that the style has; R@1 and R@5 say how often the
    row's own emoji is among them. Sharpness: mean size of the gradient over white, divided by that
    of the real pictures.
    """
    real = torch.from_numpy(art.pictures[rows]).permute(0, 3, 1, 2)
    hit = nearest_emoji(drawn, art.style_of[rows], art, 5) == art.emoji_of[rows][:, None]
    return {
        "psnr": float(picture_psnr(drawn, real).mean()),
        "r1": float(hit[:, 0].mean()),
        "r5": float(hit.any(1).mean()),
        "sharpness": float(_sharpness(drawn).mean() / _sharpness(real).mean()),
    }
