"""What schedulers begin with: timesteps, and how much signal and noise there is at each of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import BadInput


def float_timesteps(c: Mapping[str, Any], steps: int) -> np.ndarray:
    """float32 (steps,), from the last timestep of training down; between two of them under "linspace"."""
    train = c["num_train_timesteps"]
    if c["timestep_spacing"] == "linspace":
        return np.linspace(0, train - 1, steps, dtype=np.float32)[::-1]
    return _spaced(c, steps).astype(np.float32)


def whole_timesteps(c: Mapping[str, Any], steps: int) -> np.ndarray:
    """int64 (steps,), the same, rounded. Raises BadInput where the first one was not trained."""
    train = c["num_train_timesteps"]
    if c["timestep_spacing"] == "linspace":
        return np.linspace(0, train - 1, steps).round()[::-1].astype(np.int64)
    t = _spaced(c, steps).astype(np.int64)
    if t.max() >= train:
        raise BadInput(
            f"{steps} steps with steps_offset {c['steps_offset']} begin at timestep {t.max()}, "
            f"training ended at {train - 1}; use fewer steps"
        )
    return t


def _spaced(c: Mapping[str, Any], steps: int) -> np.ndarray:
    train = c["num_train_timesteps"]
    if c["timestep_spacing"] == "leading":
        return np.asarray((np.arange(steps) * (train // steps))[::-1] + c["steps_offset"])
    return np.asarray(np.arange(train, 0, -train / steps).round() - 1)


def alphas_cumprod_of(c: Mapping[str, Any], floor_last: bool = False) -> np.ndarray:
    """float32 (num_train_timesteps,): share of the signal's variance that is left at each timestep.

    floor_last: where the last one is rescaled to 0, it becomes 2⁻²⁴, so that its sigma is finite.
    """
    count = c["num_train_timesteps"]
    if c["trained_betas"] is not None:
        betas = np.array(c["trained_betas"], np.float32)
    elif c["beta_schedule"] == "linear":
        betas = _linspace(c["beta_start"], c["beta_end"], count)
    elif c["beta_schedule"] == "scaled_linear":
        betas = _linspace(c["beta_start"] ** 0.5, c["beta_end"] ** 0.5, count) ** 2
    else:  # Nichol and Dhariwal, arXiv 2102.09672, formula 17
        bars = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        betas = np.array([min(1 - b / a, 0.999) for a, b in itertools.pairwise(bars)])
        betas = betas.astype(np.float32)
    if c.get("rescale_betas_zero_snr"):
        betas = _zero_terminal_snr(betas)
    cumulative = _cumprod(1 - betas)
    if c.get("rescale_betas_zero_snr") and floor_last:
        cumulative[-1] = 2**-24
    return cumulative


def _zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Betas whose last step holds no signal (Lin et al., arXiv 2305.08891, algorithm 1)."""
    roots = np.sqrt(_cumprod(1 - betas))
    first, last = roots[0], roots[-1]
    roots = (roots - last) * (first / (first - last))
    bars = roots**2
    return np.float32(1) - np.concatenate([bars[:1], bars[1:] / bars[:-1]])


def _linspace(first: float, last: float, count: int) -> np.ndarray:
    """float32, each half counted from its own end, as torch does."""
    step = np.float32((np.float32(last) - np.float32(first)) / np.float32(max(count - 1, 1)))
    i = np.arange(count, dtype=np.float32)
    ahead, back = np.float32(first) + step * i, np.float32(last) - step * (count - 1 - i)
    return np.where(np.arange(count) < count // 2, ahead, back).astype(np.float32)


def _cumprod(values: np.ndarray) -> np.ndarray:
    """float32, multiplied up in float64, as torch does."""
    return np.cumprod(values.astype(np.float64)).astype(np.float32)


def sigmas_of(cumulative: np.ndarray) -> np.ndarray:
    return np.asarray(((1 - cumulative) / cumulative) ** np.float32(0.5))


def spread_of(c: Mapping[str, Any], sigmas: np.ndarray, steps: int) -> np.ndarray | None:
    """Karras' or exponential spacing between the ends of `sigmas`, from high to low; None where the
    config asks for neither."""
    low, high = c.get("sigma_min"), c.get("sigma_max")
    low = float(sigmas[-1]) if low is None else low
    high = float(sigmas[0]) if high is None else high
    if c["use_karras_sigmas"]:  # arXiv 2206.00364, formula 5, rho = 7
        ramp = np.linspace(0, 1, steps)
        spread: np.ndarray = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
        return spread
    if c["use_exponential_sigmas"]:
        return np.exp(np.linspace(math.log(high), math.log(low), steps))
    return None


def sigma_to_t(sigma: float, logs: np.ndarray) -> float:
    """The timestep, between two of training, whose sigma this is; logs: of every timestep's."""
    log = np.log(np.maximum(sigma, 1e-10))
    low = int(np.cumsum(log >= logs).argmax().clip(max=len(logs) - 2))
    share = np.clip((logs[low] - log) / (logs[low] - logs[low + 1]), 0, 1)
    return float((1 - share) * low + share * (low + 1))
