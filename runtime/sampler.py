"""A diffusion pipeline's picture: text encoders, denoiser run for N steps, decoder.

Knows named tensors and callables, no runtime: an artifact and the float generator are drawn with
through the same lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import BadInput

if TYPE_CHECKING:
    from .schedulers import Scheduler

Component = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
LATENTS, TIMESTEP, PREDICTION, FINAL = "latents", "timestep", "prediction", "final_latents"


@dataclass(frozen=True)
class SamplerSpec:
    """What the manifest says of a pipeline.

    config: scheduler_config.json with every parameter. mu: exponent of the shift of time, where the
    config asks for it. guidance: weight of the prompt against the negative one; guided: whether the
    denoiser runs twice a step for it. negative: the text, or None where zeros stand for it. latent:
    (C, H, W). scaling, shift, mean, std: final latents ÷ scaling + shift, or × std ÷ scaling + mean,
    go to the decoder. encoders, denoiser, decoder: names of components. left_out: parts of the
    directory that are not in the artifact.
    """

    pipeline: str
    config: Mapping[str, Any]
    mu: float | None
    steps: int
    guidance: float
    guided: bool
    negative: str | None
    latent: tuple[int, int, int]
    scaling: float
    shift: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    encoders: tuple[str, ...]
    denoiser: str
    decoder: str
    left_out: tuple[str, ...] = ()

    def walk(self) -> Scheduler:
        """Raises BadInput where scheduler or steps are not supported."""
        from .schedulers import scheduler  # not for generators of one pass: it takes time to load

        return scheduler(self.config, self.steps, self.mu)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings. Infinite parameters, all of them defaults, stay out."""
        config = {k: v for k, v in self.config.items() if not _infinite(v)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()} | {
            "config": config
        }


def _infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)


def sampler_from_json(row: Mapping[str, Any], where: str) -> SamplerSpec:
    """Reads what `to_json` wrote. Raises BadInput naming `where` and what is wrong."""
    try:
        mean, std = row["mean"], row["std"]
        channels, height, width = (int(n) for n in row["latent"])
        spec = SamplerSpec(
            pipeline=str(row["pipeline"]),
            config=dict(row["config"]),
            mu=None if row["mu"] is None else float(row["mu"]),
            steps=int(row["steps"]),
            guidance=float(row["guidance"]),
            guided=bool(row["guided"]),
            negative=None if row["negative"] is None else str(row["negative"]),
            latent=(channels, height, width),
            scaling=float(row["scaling"]),
            shift=float(row["shift"]),
            mean=None if mean is None else tuple(float(v) for v in mean),
            std=None if std is None else tuple(float(v) for v in std),
            encoders=tuple(str(n) for n in row["encoders"]),
            denoiser=str(row["denoiser"]),
            decoder=str(row["decoder"]),
            left_out=tuple(str(n) for n in row["left_out"]),
        )
        spec.walk()
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise BadInput(f"{where}: the sampler is incomplete or malformed ({problem!r})") from None
    except BadInput as problem:
        raise BadInput(f"{where}: {problem}") from None
    return spec


def draw(
    spec: SamplerSpec,
    components: Mapping[str, Component],
    inputs: Mapping[str, np.ndarray],
    negative: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """What the decoder gives, by name.

    inputs: token ids by name, and "noise", float32 (draws, C, H, W): the first is where the walk
    begins, the others are taken by the steps that add noise. negative: token ids of the negative
    prompt. components: by name; each takes all named tensors and picks its own.
    """
    walk = spec.walk()
    condition = _encoded(spec, components, inputs)
    against = None
    if spec.guided:
        zeros = spec.negative is None
        against = (
            {k: np.zeros_like(v) for k, v in condition.items()}
            if zeros
            else _encoded(spec, components, negative)
        )
    noise = inputs["noise"]
    denoise = components[spec.denoiser]
    x, before = noise[:1] * np.float32(walk.start), None
    for i, t in enumerate(walk.timesteps):
        shown = {LATENTS: walk.scaled(x, i), TIMESTEP: np.array([t], np.float32)}
        output = denoise(shown | condition)[PREDICTION]
        if against is not None:
            without = denoise(shown | against)[PREDICTION]
            output = without + np.float32(spec.guidance) * (output - without)
        x, before = walk.step(
            x, output, i, before, noise[i + 1 : i + 2] if walk.draws > 1 else None
        )
    return dict(components[spec.decoder]({FINAL: unscaled(spec, x)}))


def _encoded(
    spec: SamplerSpec, components: Mapping[str, Component], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name in spec.encoders:
        found |= components[name](inputs)
    return found


def unscaled(spec: SamplerSpec, x: np.ndarray) -> np.ndarray:
    """Latents of the walk → latents as the decoder was trained on them."""
    if spec.mean is not None and spec.std is not None:
        mean, std = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (spec.mean, spec.std))
        return np.asarray(x * std / np.float32(spec.scaling) + mean)
    return np.asarray(x / np.float32(spec.scaling) + np.float32(spec.shift))
