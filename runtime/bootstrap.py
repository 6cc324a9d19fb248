"""Confidence intervals by the bootstrap (Efron, 1979): percentiles over resampled rounds or prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEVEL = 0.99  # of every interval that a verdict rests on
_RESAMPLES = 4000
_FEWEST = 8  # values below which resampling says too little: the extremes of single ones count
# Student's t for the LEVEL, two-sided, by count of values.
_STUDENT = {2: 63.66, 3: 9.92, 4: 5.84, 5: 4.60, 6: 4.03, 7: 3.71}


@dataclass(frozen=True)
class Interval:
    """A value and the LEVEL confidence interval around it."""

    value: float
    low: float
    high: float

    def at_most(self, limit: float) -> str:
        """`pass`, `fail`, or `inconclusive` where the interval straddles the limit."""
        return "pass" if self.high <= limit else "fail" if self.low > limit else "inconclusive"

    def at_least(self, limit: float) -> str:
        """`pass`, `fail`, or `inconclusive` where the interval straddles the limit."""
        return "pass" if self.low >= limit else "fail" if self.high < limit else "inconclusive"


def _drawn(count: int) -> np.ndarray:
    """(_RESAMPLES, count): indices with replacement, the same in every run."""
    return np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))


def _bounds(statistics: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(statistics, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def ratio_interval(times: np.ndarray, baseline: np.ndarray) -> Interval:
    """Times ÷ baseline of rounds that were run in turn.

    Both are (rounds, runs), in the same unit; a round's time is the median of its runs. Each round
    gives one ratio, so that drift between rounds cancels; their median is the value. Raises
    ValueError where the numbers of rounds differ or are below 2.
    """
    if len(times) != len(baseline) or len(times) < 2:
        raise ValueError(f"can not pair {len(times)} rounds with {len(baseline)}")
    ratios = np.median(times, axis=1) / np.median(baseline, axis=1)
    return Interval(float(np.median(ratios)), *_bounds(np.median(ratios[_drawn(len(ratios))], 1)))


def median_interval(values: np.ndarray) -> Interval:
    """The median of (N,) values. Raises ValueError where there are none."""
    if not len(values):
        raise ValueError("no values")
    return Interval(float(np.median(values)), *_bounds(np.median(values[_drawn(len(values))], 1)))


def sample_bounds(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float]:
    """Between which the statistic of a whole may lie, of which the (N, …) values are a sample.

    statistic: of (R, N, …), along the second axis; R results. Below 8 values the bounds are the
    lowest and the highest that a single one of them gives.
    """
    if len(values) < _FEWEST:
        single = statistic(values[:, None])
        return float(single.min()), float(single.max())
    return _bounds(statistic(values[_drawn(len(values))]))


def mean_bounds(values: np.ndarray) -> tuple[float, float]:
    """Between which the mean of a whole may lie, of which the (N,) values are a sample, where single
    values cancel: below 8 of them by Student's t (1908), as both of two can well lie on one side."""
    student = _STUDENT.get(len(values))
    if student is None:
        return sample_bounds(values, lambda v: np.asarray(v.mean(1)))
    reach = student * float(values.std(ddof=1)) / len(values) ** 0.5
    return float(values.mean()) - reach, float(values.mean()) + reach


def mean_difference(mine: np.ndarray, other: np.ndarray) -> Interval:
    """Mean of mine − other, both (N,), paired by prompt. Raises ValueError where lengths differ."""
    if mine.shape != other.shape or not len(mine):
        raise ValueError(f"can not pair {mine.shape} with {other.shape}")
    apart = mine - other
    return Interval(float(apart.mean()), *_bounds(apart[_drawn(len(apart))].mean(1)))
