"""How a diffusion model's latents are walked from noise to a picture: one small class per algorithm.

Each follows scheduler_config.json as diffusers does, in float32 where diffusers uses it, and draws
no random numbers of its own. Letters are the papers': x is the sample, sigma its noise level,
alpha and alphas_cumprod the signal's share, denoised (x0) what the model thinks the picture is.
"""

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
    whole_timesteps,
)

ONLY = "only"  # marks a parameter of which nothing but the default is known here
_VARIANCE_PRESERVING: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": None,
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}
_CLIPPED: dict[str, Any] = {
    "clip_sample_range": 1.0,
    "set_alpha_to_one": True,
    "thresholding": (ONLY, False),
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}


@dataclass(frozen=True)
class Euler:
    """Euler's method on the probability-flow ODE (Karras et al., arXiv 2206.00364, algorithm 2
    without churn)."""

    known: ClassVar[dict[str, Any]] = _VARIANCE_PRESERVING | {
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

    known: ClassVar[dict[str, Any]] = _VARIANCE_PRESERVING | {
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
            result = result + _needed(noise, "EulerAncestralDiscreteScheduler") * up
        return result, denoised


def _needed(noise: np.ndarray | None, name: str) -> np.ndarray:
    if noise is None:
        raise BadInput(f"{name} draws noise at each step but the last; none was given")
    return noise


@dataclass(frozen=True)
class DDIM:
    """Denoising diffusion implicit models (Song et al., arXiv 2010.02502, formula 12 with η = 0)."""

    known: ClassVar[dict[str, Any]] = (
        _VARIANCE_PRESERVING
        | _CLIPPED
        | {"clip_sample": True, "timestep_spacing": ("leading", "trailing", "linspace")}
    )
    timesteps: np.ndarray
    alphas_cumprod: np.ndarray  # at each step, and behind it
    prediction_type: str
    clip: float | None
    start: float = 1.0
    draws: int = 1

    @classmethod
    def of(cls, c: Mapping[str, Any], steps: int, mu: float | None) -> DDIM:
        cumulative = alphas_cumprod_of(c)
        train = c["num_train_timesteps"]
        t = whole_timesteps(c, steps)
        final = np.float32(1) if c["set_alpha_to_one"] else cumulative[0]
        behind = [cumulative[p] if p >= 0 else final for p in t - train // steps]
        table = np.stack([cumulative[t], np.array(behind, np.float32)], 1)
        clip = float(c["clip_sample_range"]) if c["clip_sample"] else None
        return cls(t.astype(np.float32), table, c["prediction_type"], clip)

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
        alpha, alpha_behind = self.alphas_cumprod[i]
        signal, spread = np.sqrt(alpha), np.sqrt(1 - alpha)
        if self.prediction_type == "epsilon":
            denoised, epsilon = (x - spread * output) / signal, output
        elif self.prediction_type == "sample":
            denoised, epsilon = output, (x - signal * output) / spread
        else:
            denoised, epsilon = signal * x - spread * output, signal * output + spread * x
        if self.clip is not None:
            denoised = denoised.clip(-self.clip, self.clip)
        return np.sqrt(alpha_behind) * denoised + np.sqrt(1 - alpha_behind) * epsilon, denoised


@dataclass(frozen=True)
class PLMS:
    """Pseudo linear multistep (Liu et al., arXiv 2202.09778, formulas 9 and 12): the mean direction of
    up to four steps. The second step is walked twice, the second time from where it began."""

    known: ClassVar[dict[str, Any]] = {
        k: v for k, v in _VARIANCE_PRESERVING.items() if k != "rescale_betas_zero_snr"
    } | {
        "prediction_type": ("epsilon", "v_prediction"),
        "skip_prk_steps": False,
        "set_alpha_to_one": False,
        "timestep_spacing": ("leading", "linspace", "trailing"),
    }
    timesteps: np.ndarray
    alphas_cumprod: np.ndarray  # (runs, 2): where each run's step begins, and where it ends
    prediction_type: str
    start: float = 1.0
    draws: int = 1

    @classmethod
    def of(cls, c: Mapping[str, Any], steps: int, mu: float | None) -> PLMS:
        if not c["skip_prk_steps"]:
            raise BadInput(
                "PNDMScheduler: skip_prk_steps False is not supported; Stable Diffusion has true"
            )
        t = whole_timesteps(c, steps)
        stride = c["num_train_timesteps"] // steps
        begin, end = t, t - stride
        if len(t) > 1:
            # The first step ends where the second begins, is walked to it, and again from its start.
            t = np.concatenate([t[:1], t[1:2], t[1:]])
            begin, end = t.copy(), t - stride
            begin[1], end[1] = t[1] + stride, t[1]
        cumulative = alphas_cumprod_of(c)
        final = np.float32(1) if c["set_alpha_to_one"] else cumulative[0]
        table = [[cumulative[p] if p >= 0 else final for p in side] for side in (begin, end)]
        pairs = np.array(table, np.float32).T
        return cls(t.astype(np.float32), pairs, c["prediction_type"])

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
        """before, and the second of the results: outputs, the newest first; of the first step also
        the sample that it began at."""
        if before is None:
            memory, e = np.concatenate([output, x]), output
        elif i == 1:
            memory, x = before[:1], before[1:]
            e = (output + memory) / 2
        else:
            memory = np.concatenate([output, before[:3]])
            weights = _ADAMS_BASHFORTH[len(memory)]
            e = np.tensordot(weights / weights.sum(), memory, 1)[None]
        alpha, alpha_end = self.alphas_cumprod[i]
        if self.prediction_type == "v_prediction":
            e = np.sqrt(alpha) * e + np.sqrt(1 - alpha) * x
        below = alpha * np.sqrt(1 - alpha_end) + np.sqrt(alpha * (1 - alpha) * alpha_end)
        return np.sqrt(alpha_end / alpha) * x - (alpha_end - alpha) * e / below, memory


# Weights of the newest output and those before it, by how many there are; each row's sum divides.
_ADAMS_BASHFORTH = {n: np.array(w, np.float32) for n, w in (
    (2, (3, -1)), (3, (23, -16, 5)), (4, (55, -59, 37, -9)),
)}  # fmt: skip


@dataclass(frozen=True)
class DPMSolverPlusPlus2M:
    """DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2); order 1 is DDIM."""

    known: ClassVar[dict[str, Any]] = _VARIANCE_PRESERVING | {
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
class LCM:
    """Multistep consistency sampling of latent consistency models (Luo et al., arXiv 2310.04378,
    algorithm 3): each step but the last adds noise of its own."""

    known: ClassVar[dict[str, Any]] = (
        _VARIANCE_PRESERVING
        | _CLIPPED
        | {
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": ("scaled_linear", "linear", "squaredcos_cap_v2"),
            "clip_sample": False,
            "original_inference_steps": 50,
            "timestep_scaling": 10.0,
            # Read by no line of diffusers' scheduler: the walk is that of its distillation.
            "timestep_spacing": ("leading", "trailing", "linspace"),
        }
    )
    timesteps: np.ndarray
    alphas_cumprod: np.ndarray  # at each step
    prediction_type: str
    clip: float | None
    timestep_scaling: float
    start: float = 1.0

    @property
    def draws(self) -> int:
        return len(self.timesteps)

    @classmethod
    def of(cls, c: Mapping[str, Any], steps: int, mu: float | None) -> LCM:
        original = c["original_inference_steps"]
        train = c["num_train_timesteps"]
        if original > train or steps > original:
            raise BadInput(
                f"LCMScheduler: {steps} steps, original_inference_steps {original} and "
                f"num_train_timesteps {train} must not fall in this order; use fewer steps"
            )
        every = np.arange(1, original + 1)[::-1] * (train // original) - 1
        at = np.floor(np.linspace(0, original, steps, endpoint=False)).astype(np.int64)
        clip = float(c["clip_sample_range"]) if c["clip_sample"] else None
        t = every[at]
        cumulative = alphas_cumprod_of(c)[t]
        scaling = float(c["timestep_scaling"])
        return cls(t.astype(np.float32), cumulative, c["prediction_type"], clip, scaling)

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
        alpha = self.alphas_cumprod[i]
        signal, spread = np.sqrt(alpha), np.sqrt(1 - alpha)
        if self.prediction_type == "epsilon":
            denoised = (x - spread * output) / signal
        elif self.prediction_type == "sample":
            denoised = output
        else:
            denoised = signal * x - spread * output
        if self.clip is not None:
            denoised = denoised.clip(-self.clip, self.clip)
        at = float(self.timesteps[i]) * self.timestep_scaling
        c_skip = np.float32(0.25 / (at**2 + 0.25))
        c_out = np.float32(at / math.sqrt(at**2 + 0.25))
        denoised = c_out * denoised + c_skip * x
        if i == len(self.timesteps) - 1:
            return denoised, denoised
        noise = _needed(noise, "LCMScheduler")
        ahead = self.alphas_cumprod[i + 1]
        return np.sqrt(ahead) * denoised + np.sqrt(1 - ahead) * noise, denoised


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
