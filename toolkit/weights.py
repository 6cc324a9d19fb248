"""Weights that lie on a grid of whole numbers: found, and stored as int8.

A generator that was trained through an int8 grid (quantization-aware training) may keep its weights
on it. Then int8 costs the weights nothing, and a file of theirs has half the bytes of float16.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 127  # whole number of the largest weight of a row
_FEWEST = 32  # steps that the largest weight must have, so that no coarse pattern passes for a grid
_OFF = 1e-3  # share of a step that float32 may err by
_PROBED = 16  # columns that are looked at first: nearly every row and count of steps ends there


def grid_steps(rows: Tensor) -> Tensor:
    """(N,): the largest step of which each row of (N, K) is a whole multiple, −127 to 127; 0 where
    none is, 1 for a row of zeros. (A row of 32 steps is one of 96 finer ones, too.)
    """
    largest = rows.abs().amax(1)
    steps = torch.where(largest == 0, 1.0, 0.0)
    for count in range(_FEWEST, LARGEST + 1):
        left = (steps == 0).nonzero().flatten()
        if not left.numel():
            break
        left = left[_whole(rows[left, :_PROBED], largest[left] / count)]
        left = left[_whole(rows[left], largest[left] / count)]
        steps[left] = largest[left] / count
    return steps


def _whole(rows: Tensor, step: Tensor) -> Tensor:
    """(N,): whether each row is a whole multiple of its step."""
    if not rows.numel():
        return torch.ones(rows.shape[0], dtype=torch.bool)
    counts = rows / step[:, None]
    return (counts - counts.round()).abs().amax(1) < _OFF


def as_int8(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """int8 and float32 steps, (1,) or (N,), whose product is `weight`; None where it is on no grid."""
    if weight.dim() < 2 or not weight.is_floating_point():
        return None
    for rows in (weight.reshape(1, -1), weight.flatten(1)):
        steps = grid_steps(rows.float())
        if bool((steps > 0).all()):
            counts = (rows.float() / steps[:, None]).round().to(torch.int8)
            return counts.view(weight.shape), steps
    return None


def from_int8(counts: Tensor, steps: Tensor) -> Tensor:
    """float32: what `as_int8` took apart."""
    return counts.float() * steps.view(-1, *[1] * (counts.dim() - 1))
