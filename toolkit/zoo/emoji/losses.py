"""What training compares: predicted pictures, before their clamp, with real ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN = 0.06  # how far beyond 0 and 1 flat ground is pushed, so that rounding can not lift it
SLACK = 0.1  # how far beyond that it may go freely: a wide range costs int8 its resolution


def with_white(picture: Tensor) -> Tensor:
    """(B, 4, H, W), premultiplied → (B, 7, H, W): over black, alpha, over white."""
    return torch.cat([picture, picture[:, :3] + 1 - picture[:, 3:]], 1)


def picture_loss(raw: Tensor, target: Tensor) -> Tensor:
    """L1 + 0.5 × L1 of the gradients + 0.5 × L1 of the 4×-reduced picture; a scalar.

    raw: (B, 4, H, W), unclamped; target: the same shape in [0, 1], premultiplied. Where the target
    is 0 or 1 exactly, raw is pulled MARGIN beyond it, and gently back from further than SLACK.
    """
    low, high = target <= 0, target >= 1
    beyond = torch.where(low, -raw, raw - 1)  # of interest where the target is 0 or 1
    flat = F.relu(MARGIN - beyond) + 0.2 * F.relu(beyond - MARGIN - SLACK)
    error = torch.where(low | high, flat, (raw - target).abs())
    difference = with_white(raw.clamp(0, 1)) - with_white(target)
    white = difference[:, 4:].abs()
    across = (difference[..., 1:] - difference[..., :-1]).abs().mean()
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    coarse = F.avg_pool2d(difference, 4).abs().mean()
    return (4 * error.mean() + 3 * white.mean()) / 7 + 0.25 * (across + down) + 0.5 * coarse


def mean_decibels(raw: Tensor, target: Tensor) -> Tensor:
    """Mean over pictures of their error in dB, over black or over white, whichever is larger: PSNR
    with the sign of a loss; a scalar. Arguments are those of picture_loss.

    A picture's error counts by its own size, so that good ones go on getting better (after Chen et
    al., "Simple baselines for image restoration", ECCV 2022). Below -50 dB nothing is asked.
    """
    error = (with_white(raw.clamp(0, 1)) - with_white(target)).square()
    halves = torch.stack([error[:, :3].mean((1, 2, 3)), error[:, 4:].mean((1, 2, 3))])
    return 10 * halves.amax(0).clamp(min=1e-5).log10().mean()
