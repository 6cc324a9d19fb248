"""Walks that count in the signal's share (alpha): DDIM, PLMS and consistency models; see walks.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .errors import BadInput
from .schedules import alphas_cumprod_of, whole_timesteps
from .walks import ONLY, VARIANCE_PRESERVING, needed

_CLIPPED: dict[str, Any] = {
    "clip_sample_range": 1.0,
    "set_alpha_to_one": True,
    "thresholding": (ONLY, False),
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}


def _parts(
    kind: str, x: np.ndarray, output: np.ndarray, alpha: np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """What the model thinks is the picture in x, and what the noise; of x's shape.

    kind: what the model predicts; alpha: the signal's share of x's variance.
    """
    signal, spread = np.sqrt(alpha), np.sqrt(1 - alpha)
    if kind == "epsilon":
        return (x - spread * output) / signal, output
    if kind == "sample":
        return output, (x - signal * output) / spread
    return signal * x - spread * output, signal * output + spread * x


@dataclass(frozen=True)
class DDIM:
    """Denoising diffusion implicit models (Song et al., arXiv 2010.02502, formula 12 with η = 0)."""

    known: ClassVar[dict[str, Any]] = (
        VARIANCE_PRESERVING
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
        denoised, epsilon = _parts(self.prediction_type, x, output, alpha)
        if self.clip is not None:
            denoised = denoised.clip(-self.clip, self.clip)
        return np.sqrt(alpha_behind) * denoised + np.sqrt(1 - alpha_behind) * epsilon, denoised


@dataclass(frozen=True)
class PLMS:
    """Pseudo linear multistep (Liu et al., arXiv 2202.09778, formulas 9 and 12): the mean direction of
    up to four steps. The second step is walked twice, the second time from where it began."""

    known: ClassVar[dict[str, Any]] = {
        k: v for k, v in VARIANCE_PRESERVING.items() if k != "rescale_betas_zero_snr"
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
class LCM:
    """Multistep consistency sampling of latent consistency models (Luo et al., arXiv 2310.04378,
    algorithm 3): each step but the last adds noise of its own."""

    known: ClassVar[dict[str, Any]] = (
        VARIANCE_PRESERVING
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
        denoised, _ = _parts(self.prediction_type, x, output, alpha)
        if self.clip is not None:
            denoised = denoised.clip(-self.clip, self.clip)
        at = float(self.timesteps[i]) * self.timestep_scaling
        c_skip = np.float32(0.25 / (at**2 + 0.25))
        c_out = np.float32(at / math.sqrt(at**2 + 0.25))
        denoised = c_out * denoised + c_skip * x
        if i == len(self.timesteps) - 1:
            return denoised, denoised
        noise = needed(noise, "LCMScheduler")
        ahead = self.alphas_cumprod[i + 1]
        return np.sqrt(ahead) * denoised + np.sqrt(1 - ahead) * noise, denoised
