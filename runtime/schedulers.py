"""scheduler_config.json → the walk that it describes; what it says is checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from .errors import BadInput
from .walks import ONLY
from .walks_alpha import DDIM, LCM, PLMS
from .walks_sigma import DPMSolverPlusPlus2M, Euler, EulerAncestral, FlowMatchEuler

# Parameters of other algorithms, which diffusers leaves in a config and its class then ignores.
_OF_OTHERS = set(
    """
    algorithm_type beta_end beta_schedule beta_start clip_sample clip_sample_range
    dynamic_thresholding_ratio euler_at_final final_sigmas_type flow_shift interpolation_type
    lambda_min_clipped lower_order_final original_inference_steps prediction_type
    rescale_betas_zero_snr sample_max_value set_alpha_to_one sigma_max sigma_min skip_prk_steps
    solver_order solver_type steps_offset thresholding timestep_scaling timestep_spacing
    timestep_type trained_betas use_beta_sigmas use_exponential_sigmas use_flow_sigmas
    use_karras_sigmas use_lu_lambdas variance_type
    """.split()  # noqa: SIM905
)


class Scheduler(Protocol):
    """One walk of a fixed number of steps.

    timesteps: what the denoiser is told at each of its runs, float32 (runs,): one a step, and one more
    under PLMS. start: what noise of unit
    variance is multiplied by. draws: arrays of noise that one picture takes, the first included.
    """

    @property
    def timesteps(self) -> np.ndarray: ...
    @property
    def start(self) -> float: ...
    @property
    def draws(self) -> int: ...

    def scaled(self, x: np.ndarray, i: int) -> np.ndarray:
        """What the denoiser is shown of x at step i."""

    def step(
        self,
        x: np.ndarray,
        output: np.ndarray,
        i: int,
        before: np.ndarray | None,
        noise: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(x after step i, what the next step is told: denoised, of most). before: what the step
        before told, None at the first. noise: drawn for this step, where the algorithm takes any."""


# By the class that scheduler_config.json names.
SCHEDULERS: dict[str, Any] = {
    "EulerDiscreteScheduler": Euler,
    "EulerAncestralDiscreteScheduler": EulerAncestral,
    "DDIMScheduler": DDIM,
    "PNDMScheduler": PLMS,
    "DPMSolverMultistepScheduler": DPMSolverPlusPlus2M,
    "LCMScheduler": LCM,
    "FlowMatchEulerDiscreteScheduler": FlowMatchEuler,
}


def checked_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of the class that `config` names, defaults filled in, and "_class_name".

    Raises BadInput where class, parameter or value is unknown here, with those that are known.
    """
    name = str(config.get("_class_name", ""))
    if name not in SCHEDULERS:
        raise BadInput(f"scheduler {name!r} is not supported; supported: {', '.join(SCHEDULERS)}")
    known = SCHEDULERS[name].known
    read: dict[str, Any] = {"_class_name": name}
    for key, rule in known.items():
        choices = rule[-1:] if isinstance(rule, tuple) and rule[0] == ONLY else rule
        default = choices[0] if isinstance(choices, tuple) else rule
        value = config.get(key, default)
        if isinstance(choices, tuple):
            if value not in choices:
                words = ", ".join(map(repr, choices))
                raise BadInput(f"{name}: {key} {value!r} is not supported; supported: {words}")
        elif not _of_kind(value, default, key):
            raise BadInput(f"{name}: {key} {value!r} is not supported; the default is {default!r}")
        read[key] = value
    for key in config:
        if key not in known and key not in _OF_OTHERS and not key.startswith("_"):
            raise BadInput(f"{name}: parameter {key!r} is unknown; known: {', '.join(known)}")
    if read.get("use_karras_sigmas") and read.get("use_exponential_sigmas"):
        raise BadInput(f"{name}: sigmas can be spread by one rule alone, Karras or exponential")
    if read["num_train_timesteps"] < 1:
        raise BadInput(f"{name}: num_train_timesteps {read['num_train_timesteps']} is too small")
    return read


def _of_kind(value: Any, default: Any, key: str) -> bool:
    if key == "trained_betas":
        numbers = isinstance(value, list) and all(isinstance(v, float) for v in value)
        return value is None or numbers
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if isinstance(default, int):
        return isinstance(value, int)
    return isinstance(value, (int, float)) or (default is None and value is None)


def scheduler(config: Mapping[str, Any], steps: int, mu: float | None = None) -> Scheduler:
    """The walk of `steps` steps that scheduler_config.json describes.

    mu: exponent of the shift of time, where the config asks for one that follows the picture's size.
    Raises what `checked_config` raises, and BadInput for a number of steps that can not be walked.
    """
    read = checked_config(config)
    if not 1 <= steps <= read["num_train_timesteps"]:
        raise BadInput(f"{steps} steps: use 1 to {read['num_train_timesteps']}")
    made: Scheduler = SCHEDULERS[read["_class_name"]].of(read, steps, mu)
    again = isinstance(made, PLMS) and steps > 1
    if len(made.timesteps) != steps + again:
        raise BadInput(
            f"{read['_class_name']} walks {len(made.timesteps)} steps where {steps} were asked for; "
            f"use a number of steps that divides {read['num_train_timesteps']}"
        )
    return made
