"""The numpy schedulers walk exactly where diffusers' own walk."""

import numpy as np
import pytest
import torch

from genedge.runtime.errors import BadInput
from genedge.runtime.schedulers import SCHEDULERS, checked_config, scheduler

diffusers = pytest.importorskip("diffusers")
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("linspace", "leading", "trailing")


def _cases():
    for name in ("EulerDiscreteScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"):
        for prediction in PREDICTIONS:
            yield name, {**STABLE, "prediction_type": prediction}
        for spacing in SPACINGS:
            offset = {"timestep_spacing": spacing, "steps_offset": 1}
            yield name, {**STABLE, **offset}
            zero = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
            yield name, {**STABLE, **offset, **zero}
        for schedule in ("linear", "squaredcos_cap_v2"):
            yield name, {"beta_schedule": schedule}
        yield name, {"trained_betas": list(np.linspace(1e-4, 0.02, 1000))}
    for rule in ("use_karras_sigmas", "use_exponential_sigmas"):
        yield "EulerDiscreteScheduler", {**STABLE, rule: True}
        yield "DPMSolverMultistepScheduler", {**STABLE, rule: True}
        yield "FlowMatchEulerDiscreteScheduler", {rule: True}
    yield "EulerDiscreteScheduler", {**STABLE, "interpolation_type": "log_linear"}
    yield "EulerDiscreteScheduler", {**STABLE, "final_sigmas_type": "sigma_min"}
    yield "EulerDiscreteScheduler", {**STABLE, "use_karras_sigmas": True, "sigma_max": 12.0}
    edm = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    yield "EulerDiscreteScheduler", {**edm, "use_karras_sigmas": True}
    yield "DDIMScheduler", {**STABLE, "clip_sample": False, "set_alpha_to_one": False}
    yield "DDIMScheduler", {**STABLE, "clip_sample_range": 2.0}
    for extra in (
        {"solver_order": 1},
        {"solver_type": "heun"},
        {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
        {"euler_at_final": True},
        {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"},
        {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"},
    ):
        yield "DPMSolverMultistepScheduler", {**STABLE, **extra}
    for prediction in PREDICTIONS[:2]:
        for spacing in SPACINGS:
            more = {"prediction_type": prediction, "timestep_spacing": spacing}
            yield "EulerAncestralDiscreteScheduler", {**STABLE, **more}
            yield "PNDMScheduler", {**STABLE, **more, "skip_prk_steps": True}
    zero = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    yield "EulerAncestralDiscreteScheduler", zero
    yield "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True, "steps_offset": 1}
    for prediction in PREDICTIONS:
        yield "LCMScheduler", {"prediction_type": prediction}
    yield "LCMScheduler", {"clip_sample": True, "original_inference_steps": 100}
    yield "LCMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    yield "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}
    yield "FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.1}
    for shift in ("exponential", "linear"):
        dynamic = {"use_dynamic_shifting": True, "time_shift_type": shift}
        yield "FlowMatchEulerDiscreteScheduler", dynamic


CASES = list(_cases())


def _model(x, t):
    """Stands for a denoiser: smooth, of any timestep, the same in float32 on both sides."""
    return np.tanh(0.7 * x + np.float32(np.sin(t / 300))).astype(np.float32)


def _theirs(name, config, steps, noises, monkeypatch):
    theirs = getattr(diffusers, name).from_config(config)
    mu = {"mu": 0.8} if config.get("use_dynamic_shifting") else {}
    theirs.set_timesteps(steps, **mu)
    left = iter([*noises[1:], noises[0]])  # an ancestral step multiplies the last one by 0
    for file in ("lcm", "euler_ancestral_discrete"):
        monkeypatch.setattr(
            f"diffusers.schedulers.scheduling_{file}.randn_tensor",
            lambda *a, **k: torch.from_numpy(next(left)),
        )
    start = getattr(theirs, "init_noise_sigma", 1.0)
    x = torch.from_numpy(noises[0]) * start
    steps = []
    for t in theirs.timesteps:
        shown = theirs.scale_model_input(x, t) if hasattr(theirs, "scale_model_input") else x
        output = torch.from_numpy(_model(shown.numpy(), float(t)))
        x = theirs.step(output, t, x).prev_sample
        steps.append(x.numpy())
    return theirs.timesteps.numpy().astype(np.float32), float(start), steps


def _ours(config, steps, noises):
    mine = scheduler(config, steps, mu=0.8)
    x, before, walked = noises[0] * np.float32(mine.start), None, []
    for i, t in enumerate(mine.timesteps):
        output = _model(mine.scaled(x, i), float(t))
        noise = noises[i + 1] if mine.draws > 1 and i + 1 < mine.draws else None
        x, before = mine.step(x, output, i, before, noise)
        assert x.dtype == np.float32
        walked.append((x, before))
    return mine, walked


@pytest.mark.parametrize("steps", [1, 2, 4, 20])
@pytest.mark.parametrize(("name", "config"), CASES)
def test_a_walk_equals_diffusers_own(name, config, steps, monkeypatch):
    noises = np.random.default_rng(0).normal(size=(steps, 1, 4, 8, 8)).astype(np.float32)
    if steps == 1 and "shift_terminal" in config:
        with pytest.raises(BadInput, match="use 2 or more"):
            scheduler({"_class_name": name, **config}, steps)
        return
    timesteps, start, theirs = _theirs(name, config, steps, noises, monkeypatch)
    mine, ours = _ours({"_class_name": name, **config}, steps, noises)
    np.testing.assert_allclose(mine.timesteps, timesteps, rtol=1e-6, atol=2e-4)
    assert mine.start == pytest.approx(start, rel=1e-6)
    largest = np.abs(noises[0]).max() * mine.start
    for (a, denoised), b in zip(ours, theirs, strict=True):
        assert np.isfinite(b).all()
        # Of the largest number so far: Euler begins at 50, at 16,000 where no signal is left, and
        # what is denoised there is as large; float32 holds no more of these.
        largest = max(1, largest, np.abs(denoised).max())
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5 * largest)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "HeunDiscreteScheduler"}, "'HeunDiscreteScheduler' is not supported; s"),
        ({}, "scheduler '' is not supported"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "noise"}, "prediction_type 'noise'"),
        ({"_class_name": "DDIMScheduler", "thresholding": True}, "thresholding True is not"),
        ({"_class_name": "DDIMScheduler", "new_trick": 1}, "parameter 'new_trick' is unknown"),
        ({"_class_name": "LCMScheduler", "beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'"),
        ({"_class_name": "LCMScheduler", "beta_start": "0.1"}, "beta_start '0.1'"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
            "algorithm_type 'sde-dpmsolver\\+\\+' is not supported; supported: 'dpmsolver",
        ),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, "solver_order 3"),
        (
            {"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True},
            "use_beta_sigmas True",
        ),
        (
            {
                "_class_name": "EulerDiscreteScheduler",
                "use_karras_sigmas": True,
                "use_exponential_sigmas": True,
            },
            "one rule alone",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": True},
            "stochastic_sampling True",
        ),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(config, message):
    with pytest.raises(BadInput, match=message):
        checked_config(config)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_defaults_are_those_of_diffusers(name):
    theirs = dict(getattr(diffusers, name)().config)
    mine = checked_config({"_class_name": name})
    for key, value in mine.items():
        assert key == "_class_name" or value == theirs[key] or value is theirs[key], key


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_config_that_diffusers_saved_is_read(name):
    # SDXL's Euler config carries these words of the scheduler it once was.
    old = {"clip_sample": False, "skip_prk_steps": True, "set_alpha_to_one": False}
    config = {**dict(getattr(diffusers, name)().config), **old, "_class_name": name}
    if name != "FlowMatchEulerDiscreteScheduler":
        assert checked_config(config)["_class_name"] == name


def test_more_steps_than_were_trained_are_refused():
    with pytest.raises(BadInput, match="1001 steps: use 1 to 1000"):
        scheduler({"_class_name": "DDIMScheduler"}, 1001)
    with pytest.raises(BadInput, match="use fewer steps"):
        scheduler({"_class_name": "LCMScheduler"}, 60)


def test_runge_kutta_steps_of_pndm_are_refused():
    with pytest.raises(BadInput, match="skip_prk_steps False is not supported"):
        scheduler({"_class_name": "PNDMScheduler"}, 4)
