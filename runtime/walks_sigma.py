"""Walks that count in noise levels (sigma): Euler's method, DPM-Solver++ and flow matching; see walks.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .errors import BadInput
from .schedules import (
    alphas_cumprod_of,
    float_timesteps,
    sigma_to_t,
    sigmas_of,
    spread_of,
)
from .walks import ONLY, VARIANCE_PRESERVING, needed


@dataclass(frozen=True)
class Euler:
    """Euler's method on the probability-flow ODE (Karras et al., arXiv 2206.00364, algorithm 2
    without churn)."""

    known: ClassVar[dict[str, Any]] = VARIANCE_PRESERVING | {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "interpolation_type": ("linear", "log_linear"),
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": (ONLY, False),
        "sigma_min": None,
        "sigma_max": None,
        "timestep_spacing": ("linspace", "leading", "trailing"),
        "timestep_type": ("discrete", "continuous"),
        "final_sigmas_type": ("zero", "sigma_min"),
    }
    timesteps: np.ndarray
    sigmas: np.ndarray
    start: float
    prediction_type: str
    draws: int = 1

    @classmethod
    def of(cls, c: Mapping[str, Any], steps: int, mu: float | None) -> Euler:
        cumulative = alphas_cumprod_of(c, floor_last=True)
        t = float_timesteps(c, steps)
        all_sigmas = sigmas_of(cumulative)
        logs = np.log(all_sigmas)
        if c["interpolation_type"] == "linear":
            sigmas = np.interp(t, np.arange(len(all_sigmas)), all_sigmas)
        else:
            ends = logs[-1], logs[0]
            sigmas = np.exp(np.linspace(*ends, steps + 1, dtype=np.float32))
        spread = spread_of(c, sigmas, steps)
        if spread is not None:
            sigmas = spread
            t = np.array([sigma_to_t(s, logs) for s in sigmas])
        last = all_sigmas[0] if c["final_sigmas_type"] == "sigma_min" else 0.0
        # log_linear already has a sigma more than there are steps, and diffusers adds the last one.
        sigmas = np.append(sigmas, last).astype(np.float32)
        if c["timestep_type"] == "continuous" and c["prediction_type"] == "v_prediction":
            t = 0.25 * np.log(sigmas[:-1])
        t = np.asarray(t[:steps], np.float32)
        return cls(t, sigmas, _first_sigma(c, sigmas), c["prediction_type"])

    def scaled(self, x: np.ndarray, i: int) -> np.ndarray:
        return np.asarray(x / np.sqrt(self.sigmas[i] ** 2 + 1))

    def step(
        self,
        x: np.ndarray,
        output: np.ndarray,
        i: int,
        before: np.ndarray | None,
        noise: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        sigma = self.sigmas[i]
        denoised = _denoised(self.prediction_type, x, output, sigma)
        d = (x - denoised) / sigma
        return x + d * (self.sigmas[i + 1] - sigma), denoised


def _first_sigma(c: Mapping[str, Any], sigmas: np.ndarray) -> float:
    """What noise of unit variance is multiplied by before the first of these sigmas."""
    top = float(sigmas.max())
    return math.sqrt(top**2 + 1) if c["timestep_spacing"] == "leading" else top


def _denoised(kind: str, x: np.ndarray, output: np.ndarray, sigma: np.float32) -> np.ndarray:
    """What the model thinks the picture is, of a sample whose signal is not scaled down."""
    if kind == "epsilon":
        return np.asarray(x - sigma * output)
    if kind == "v_prediction":
        return np.asarray(output * (-sigma / np.sqrt(sigma**2 + 1)) + x / (sigma**2 + 1))
    return output


@dataclass(frozen=True)
class EulerAncestral:
    """Euler's method to a lower sigma, then noise up to the next one (ancestral sampling, after
    Karras et al., arXiv 2206.00364, with the noise of arXiv 2006.11239)."""

    known: ClassVar[dict[str, Any]] = VARIANCE_PRESERVING | {
        "prediction_type": ("epsilon", "v_prediction"),
        "timestep_spacing": ("linspace", "leading", "trailing"),
    }
    timesteps: np.ndarray
    sigmas: np.ndarray
    start: float
    prediction_type: str

    @property
    def draws(self) -> int:
        return len(self.timesteps)

    @classmethod
    def of(cls, c: Mapping[str, Any], steps: int, mu: float | None) -> EulerAncestral:
        t = float_timesteps(c, steps)
        every = sigmas_of(alphas_cumprod_of(c, floor_last=True))
        sigmas = np.append(np.interp(t, np.arange(len(every)), every), 0.0).astype(np.float32)
        return cls(t, sigmas, _first_sigma(c, sigmas), c["prediction_type"])

    def scaled(self, x: np.ndarray, i: int) -> np.ndarray:
        return np.asarray(x / np.sqrt(self.sigmas[i] ** 2 + 1))

    def step(
        self,
        x: np.ndarray,
        output: np.ndarray,
        i: int,
        before: np.ndarray | None,
        noise: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        sigma, ahead = self.sigmas[i : i + 2]
        denoised = _denoised(self.prediction_type, x, output, sigma)
        up = np.sqrt(ahead**2 * (sigma**2 - ahead**2) / sigma**2)
        down = np.sqrt(ahead**2 - up**2)
        result = x + (x - denoised) / sigma * (down - sigma)
        if up > 0:
            result = result + needed(noise, "EulerAncestralDiscreteScheduler") * up
        return result, denoised


@dataclass(frozen=True)
class DPMSolverPlusPlus2M:
    """DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2); order 1 is DDIM."""

    known: ClassVar[dict[str, Any]] = VARIANCE_PRESERVING | {
        "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
        "solver_order": (2, 1),
        "thresholding": (ONLY, False),
        "dynamic_thresholding_ratio": 0.995,
        "sample_max_value": 1.0,
        "algorithm_type": ("dpmsolver++",),
        "solver_type": ("midpoint", "heun"),
        "lower_order_final": True,
        "euler_at_final": False,
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": (ONLY, False),
        "use_lu_lambdas": (ONLY, False),
        "use_flow_sigmas": False,
        "flow_shift": 1.0,
        "final_sigmas_type": ("zero", "sigma_min"),
        "lambda_min_clipped": -math.inf,
        "variance_type": (None, "learned", "learned_range"),
        "timestep_spacing": ("linspace", "leading", "trailing"),
        "use_dynamic_shifting": (ONLY, False),
        "time_shift_type": ("exponential",),
    }
    timesteps: np.ndarray
    sigmas: np.ndarray
    prediction_type: str
    flow: bool  # alpha = 1 − sigma; else alpha² + sigma² = 1
    order: int
    heun: bool
    first_order_last: bool
    start: float = 1.0
    draws: int = 1

    @classmethod
    def of(cls, c: Mapping[str, Any], steps: int, mu: float | None) -> DPMSolverPlusPlus2M:
        cumulative = alphas_cumprod_of(c, floor_last=True)
        train = c["num_train_timesteps"]
        all_sigmas = sigmas_of(cumulative)
        logs = np.log(all_sigmas)
        lambdas = np.log(np.sqrt(cumulative)) - np.log(np.sqrt(1 - cumulative))
        last_t = train - int(np.searchsorted(lambdas[::-1], c["lambda_min_clipped"]))
        if c["timestep_spacing"] == "linspace":
            t = np.linspace(0, last_t - 1, steps + 1).round()[::-1][:-1]
        elif c["timestep_spacing"] == "leading":
            ratio = last_t // (steps + 1)
            t = (np.arange(steps + 1) * ratio)[::-1][:-1] + c["steps_offset"]
        else:
            t = np.arange(last_t, 0, -train / steps).round() - 1
        spread = spread_of(c, all_sigmas[::-1], steps)
        if spread is not None:
            sigmas = spread
            t = np.array([sigma_to_t(s, logs) for s in sigmas])
            if c["use_karras_sigmas"] and c["beta_schedule"] != "squaredcos_cap_v2":
                t = t.round()
        elif c["use_flow_sigmas"]:
            sigmas = 1.0 - np.linspace(1, 1 / train, steps + 1)
            shift = c["flow_shift"]
            sigmas = (shift * sigmas / (1 + (shift - 1) * sigmas))[::-1][:-1]
            t = sigmas * train
        else:
            sigmas = np.interp(t.astype(np.int64), np.arange(train), all_sigmas)
        last = all_sigmas[0] if c["final_sigmas_type"] == "sigma_min" else 0.0
        few = c["lower_order_final"] and len(t) < 15
        return cls(
            t.astype(np.int64).astype(np.float32),
            np.append(sigmas, last).astype(np.float32),
            c["prediction_type"],
            bool(c["use_flow_sigmas"]),
            int(c["solver_order"]),
            c["solver_type"] == "heun",
            bool(c["euler_at_final"] or few or c["final_sigmas_type"] == "zero"),
        )

    def scaled(self, x: np.ndarray, i: int) -> np.ndarray:
        return x

    def _alpha_sigma(self, i: int) -> tuple[np.float32, np.float32]:
        sigma = self.sigmas[i]
        if self.flow:
            return np.float32(1) - sigma, sigma
        alpha = 1 / np.sqrt(sigma**2 + np.float32(1))
        return alpha, sigma * alpha

    def step(
        self,
        x: np.ndarray,
        output: np.ndarray,
        i: int,
        before: np.ndarray | None,
        noise: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        alpha, sigma = self._alpha_sigma(i)
        if self.prediction_type == "epsilon":
            denoised = (x - sigma * output) / alpha
        elif self.prediction_type == "v_prediction":
            denoised = alpha * x - sigma * output
        elif self.prediction_type == "flow_prediction":
            denoised = x - self.sigmas[i] * output
        else:
            denoised = output
        alpha_t, sigma_t = self._alpha_sigma(i + 1)
        with np.errstate(divide="ignore"):  # log 0 at the last step: exp(−∞) is 0
            lambda_t, lambda_s = (np.log(alpha_t) - np.log(sigma_t), np.log(alpha) - np.log(sigma))
        h = lambda_t - lambda_s
        phi = np.expm1(-h)
        result = sigma_t / sigma * x - alpha_t * phi * denoised
        last = i == len(self.timesteps) - 1
        if self.order == 2 and before is not None and not (last and self.first_order_last):
            alpha_b, sigma_b = self._alpha_sigma(i - 1)
            with np.errstate(divide="ignore"):
                r0 = (lambda_s - (np.log(alpha_b) - np.log(sigma_b))) / h
            D1 = (denoised - before) / r0
            result += (alpha_t * (phi / h + 1) if self.heun else -0.5 * alpha_t * phi) * D1
        return result, denoised


@dataclass(frozen=True)
class FlowMatchEuler:
    """Euler's method on the straight path from noise to picture (Lipman et al., arXiv 2210.02747;
    the shift of time is that of Esser et al., arXiv 2403.03206, section 5.3.2)."""

    known: ClassVar[dict[str, Any]] = {
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": False,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "invert_sigmas": (ONLY, False),
        "shift_terminal": None,
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": (ONLY, False),
        "time_shift_type": ("exponential", "linear"),
        "stochastic_sampling": (ONLY, False),
    }
    timesteps: np.ndarray
    sigmas: np.ndarray
    start: float = 1.0
    draws: int = 1

    @classmethod
    def of(cls, c: Mapping[str, Any], steps: int, mu: float | None) -> FlowMatchEuler:
        train = c["num_train_timesteps"]
        shift = 1.0 if c["use_dynamic_shifting"] else c["shift"]
        every = np.arange(train, 0, -1, dtype=np.float32) / np.float32(train)
        every = shift * every / (1 + (shift - 1) * every)
        sigmas = np.linspace(float(every[0]) * train, float(every[-1]) * train, steps) / train
        if not c["use_dynamic_shifting"]:
            sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
        elif mu is None:
            raise BadInput("the scheduler shifts time by the picture's size; no mu was given")
        else:
            weight = math.exp(mu) if c["time_shift_type"] == "exponential" else mu
            sigmas = weight / (weight + (1 / sigmas - 1))
        if c["shift_terminal"]:
            if steps == 1:
                raise BadInput("shift_terminal places the last of several steps; use 2 or more")
            rest = 1 - sigmas
            sigmas = 1 - rest / (rest[-1] / (1 - c["shift_terminal"]))
        spread = spread_of(c, sigmas, steps)
        sigmas = (sigmas if spread is None else spread).astype(np.float32)
        return cls(sigmas * np.float32(train), np.append(sigmas, np.float32(0)))

    def scaled(self, x: np.ndarray, i: int) -> np.ndarray:
        return x

    def step(
        self,
        x: np.ndarray,
        output: np.ndarray,
        i: int,
        before: np.ndarray | None,
        noise: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        sigma = self.sigmas[i]
        return x + (self.sigmas[i + 1] - sigma) * output, x - sigma * output
