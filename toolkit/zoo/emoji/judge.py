"""How good drawn pictures are, against the real art: PSNR, retrieval and sharpness."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .data import STYLES, Art


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
def judge(drawn: Tensor, rows: np.ndarray, art: Art) -> dict[str, float]:
    """Means over drawn pictures of the art's `rows`.

    drawn: uint8 (N, 4, 64, 64), premultiplied, the n-th of row rows[n]. Retrieval: the nearest
    real pictures of the row's style (squared error over black and white together), among all that
    the style has; R@1 and R@5 say how often the row's own emoji is among them. Sharpness: mean
    size of the gradient over white, divided by that of the real pictures.
    """
    real = torch.from_numpy(art.pictures[rows]).permute(0, 3, 1, 2)
    first, five = [], []
    for s in range(len(STYLES)):
        mine = np.flatnonzero(art.style_of[rows] == s)
        if not len(mine):
            continue
        there = np.flatnonzero(art.style_of == s)
        all_real = composites(torch.from_numpy(art.pictures[there]).permute(0, 3, 1, 2))
        distance = torch.cdist(composites(drawn[mine]).flatten(1), all_real.flatten(1))
        nearest = art.emoji_of[there][distance.topk(5, largest=False).indices.numpy()]
        hit = nearest == art.emoji_of[rows[mine]][:, None]
        first.append(hit[:, 0])
        five.append(hit.any(1))
    return {
        "psnr": float(picture_psnr(drawn, real).mean()),
        "r1": float(np.concatenate(first).mean()),
        "r5": float(np.concatenate(five).mean()),
        "sharpness": float(_sharpness(drawn).mean() / _sharpness(real).mean()),
    }
