"""How a diffusion model's latents are walked from noise to a picture: what all walks share.

One small class per algorithm: those that count in noise levels are in walks_sigma.py, those that
count in the signal's share in walks_alpha.py. Each follows scheduler_config.json as diffusers does,
in float32 where diffusers uses it, and draws no random numbers of its own. Letters are the papers':
x is the sample, sigma its noise level, alpha and alphas_cumprod the signal's share, denoised (x0)
what the model thinks the picture is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import BadInput

ONLY = "only"  # marks a parameter of which nothing but the default is known here
VARIANCE_PRESERVING: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": None,
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}


def needed(noise: np.ndarray | None, name: str) -> np.ndarray:
    """The noise of a step. Raises BadInput where it was not drawn; `name` draws it."""
    if noise is None:
        raise BadInput(f"{name} draws noise at each step but the last; none was given")
    return noise
