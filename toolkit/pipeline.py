"""A diffusers directory → a Generator that draws by a sampler: each part a component of its own.

Every convention of a pipeline class (which hidden layer, what is joined to what, how latents are
scaled) is that of the class of this name in diffusers 0.42.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genedge.runtime.artifact import Artifact, Words, file_json, stored
from genedge.runtime.errors import BadInput, MissingProgram
from genedge.runtime.run import Feed, prepare
from genedge.runtime.sampler import FINAL, LATENTS, PREDICTION, TIMESTEP, SamplerSpec, draw
from genedge.runtime.signature import Signature, TensorSpec
from genedge.runtime.words import WordTokenizer, plain_words, word_tokenizer

from .diffusers_folder import Folder, look_at
from .generator import Component, Generator
from .pipeline_parts import ClipText, Decoder, StableDiffusion3Transformer, UNet

# By class: the parts that it must have; see _DEFAULTS for steps and guidance.
PIPELINES = {
    "StableDiffusionPipeline": ("tokenizer", "text_encoder", "unet", "vae"),
    "LatentConsistencyModelPipeline": ("tokenizer", "text_encoder", "unet", "vae"),
    "StableDiffusionXLPipeline": (
        "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet", "vae",
    ),
    "StableDiffusion3Pipeline": (
        "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "transformer", "vae",
    ),
}  # fmt: skip
# Steps and guidance that diffusers' class draws with where nobody says otherwise.
_DEFAULTS = {
    "StableDiffusionPipeline": (50, 7.5),
    "LatentConsistencyModelPipeline": (4, 8.5),
    "StableDiffusionXLPipeline": (50, 5.0),
    "StableDiffusion3Pipeline": (28, 7.0),
}
_T5_LENGTH = 256  # of zeros, where StableDiffusion3Pipeline has no third text encoder
PICTURE = "picture"
GOLDEN = (
    "a red apple on a wooden table",
    "a lighthouse at night, oil painting",
    "portrait of an old sailor, detailed",
    "a blue bird on a branch in the rain",
    "a small house in the mountains, winter",
    "two cups of coffee beside a window",
    "a city street at dawn, wide angle",
    "a bowl of oranges, still life",
)
CALIBRATION = (
    "a photograph of a cat on a sofa",
    "an astronaut riding a horse on the moon",
    "a castle on a hill, watercolour",
    "a bicycle against a brick wall",
    "a field of sunflowers under a stormy sky",
    "a plate of sushi, top view",
    "a robot reading a newspaper",
    "snow on pine trees",
    "a wooden boat on a calm lake",
    "an abstract pattern of circles",
    "a woman with a green umbrella",
    "a train crossing a bridge, long exposure",
)


@dataclass(frozen=True)
class SampledGenerator(Generator):
    """A generator whose picture takes many runs of one of its components.

    sampler: the walk. words: tokenizers by input; word_files: their files' text, by input.
    """

    sampler: SamplerSpec | None = None
    words: Mapping[str, WordTokenizer] = field(default_factory=dict)
    word_files: Mapping[str, str] = field(default_factory=dict)

    def prepare(
        self,
        prompt: str,
        seed: int,
        style: str = "",
        images: Mapping[str, np.ndarray] | None = None,
    ) -> Feed:
        """Token ids and noise for one picture. Raises what the function of this name raises."""
        return prepare(self.signature, self.words, prompt, seed, style, images)

    @torch.no_grad()
    def tensors(self, feed: Feed) -> dict[str, Tensor]:
        """Every named tensor of one picture; of those that change by the step, the first."""
        found: dict[str, Tensor] = {}

        def keep(name: str, tensors: Mapping[str, Tensor]) -> None:
            for key, value in tensors.items():
                found.setdefault(key, value)

        self.walked(feed, keep)
        return found

    def example(self) -> dict[str, Tensor]:
        """The same, of a walk that is cut short: every component runs in it all the same."""
        assert self.sampler is not None
        one = replace(self, sampler=short(self.sampler))
        return one.tensors(self.prepare(self.calibration[0], 0))

    @torch.no_grad()
    def walked(self, feed: Feed, watch: Callable[[str, Mapping[str, Tensor]], None]) -> np.ndarray:
        """The values of one picture. watch: told each component's name, inputs and outputs, at each
        of its runs."""
        assert self.sampler is not None
        runs = {c.name: _run(c, watch) for c in self.components}
        negative = {n: t.encode(self.sampler.negative or "")[0] for n, t in self.words.items()}
        return draw(self.sampler, runs, feed.inputs, negative)[self.signature.output_name]


def short(spec: SamplerSpec) -> SamplerSpec:
    """The same walk in two steps at most."""
    return replace(spec, steps=min(2, spec.steps))


def _run(
    component: Component, watch: Callable[[str, Mapping[str, Tensor]], None]
) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    def run(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        fed = {n: torch.from_numpy(np.ascontiguousarray(tensors[n])) for n in component.inputs}
        results = component.module(*fed.values())
        results = results if isinstance(results, tuple) else (results,)
        given = dict(zip(component.outputs, results, strict=True))
        watch(component.name, fed | given)
        return {n: v.numpy() for n, v in given.items()}

    return run


def load_pipeline(
    path: Path,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    size: int | None = None,
    golden: int | None = None,
) -> SampledGenerator:
    """Reads a diffusers directory, without a network and without its code.

    steps, guidance: those of diffusers' own class where left out. negative: the prompt that guidance
    leads away from. size: of the picture in pixels, a side; what the model was trained on where left
    out. golden: how many prompts artifacts are verified with. Raises what
    `genedge.toolkit.diffusers_folder.look_at` raises, BadInput where weights do not fit their config
    or a value can not be used, MissingProgram where diffusers is not installed.
    """
    folder = look_at(path, PIPELINES)
    usual = _DEFAULTS[folder.pipeline]
    steps, guidance = (
        usual[0] if steps is None else steps,
        usual[1] if guidance is None else guidance,
    )
    if not math.isfinite(guidance) or guidance < 0:
        raise BadInput(f"guidance {guidance} can not be used; use 0 or more")
    parts = {n: _load(folder, n) for n in folder.parts if not n.startswith("tokenizer")}
    denoiser = "transformer" if "transformer" in parts else "unet"
    config = parts[denoiser].config
    latent = _latent(folder, config, parts["vae"], size)
    side = latent[1] * _reduction(parts["vae"])
    embedded = config.get("time_cond_proj_dim")
    guided = guidance > 1 and embedded is None
    if folder.pipeline == "LatentConsistencyModelPipeline" and embedded is None:
        raise BadInput(f"{path / denoiser}: this pipeline needs time_cond_proj_dim in its config")
    zeros = bool(folder.index.get("force_zeros_for_empty_prompt")) and not negative
    zeros = zeros and folder.pipeline == "StableDiffusionXLPipeline"
    words, word_files = _tokenizers(folder, parts)
    encoders, texts = _encoders(folder, parts)
    stem = _denoiser(folder, parts[denoiser], side, guidance)
    vae = parts["vae"].config
    mean, std = vae.get("latents_mean"), vae.get("latents_std")
    both = folder.pipeline == "StableDiffusionXLPipeline" and bool(mean) and bool(std)
    shift = vae.get("shift_factor") if folder.pipeline == "StableDiffusion3Pipeline" else None
    spec = SamplerSpec(
        pipeline=folder.pipeline,
        config=_config(folder),
        mu=_mu(folder.scheduler, latent, config),
        steps=steps,
        guidance=float(guidance),
        guided=guided,
        negative=None if zeros else negative or "",
        latent=latent,
        scaling=float(vae.get("scaling_factor", 1.0)),
        shift=float(shift or 0.0),
        mean=tuple(mean) if both else None,
        std=tuple(std) if both else None,
        encoders=tuple(c.name for c in encoders),
        denoiser=denoiser,
        decoder="vae",
        left_out=folder.left_out,
    )
    walk = spec.walk()
    tokens = {
        name: TensorSpec("int64", (1, w.length), 0, w.tokenizer.get_vocab_size() - 1, "prompt")
        for name, w in words.items()
    }
    noise = TensorSpec("float32", (walk.draws, *latent), -6, 6, "noise")
    return SampledGenerator(
        name=path.resolve().name,
        components=(
            *encoders,
            Component(denoiser, stem, (LATENTS, TIMESTEP, *texts), (PREDICTION,)),
            Component("vae", Decoder(parts["vae"]).eval(), (FINAL,), (PICTURE,)),
        ),
        signature=Signature(
            inputs={**tokens, "noise": noise},
            output_name=PICTURE,
            output=TensorSpec("float32", (1, 3, side, side), -1, 1),
            layout="rgb",
        ),
        tokenizer_json="\n".join(word_files.values()),
        calibration=CALIBRATION,
        golden=GOLDEN[: golden or 4],
        sampler=spec,
        words=words,
        word_files=word_files,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No network for the libraries, and no talk of theirs."""
    wanted = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    wanted |= dict.fromkeys(("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"), "critical")
    asked = {k: os.environ.get(k) for k in wanted}
    os.environ.update(wanted)
    loggers = [logging.getLogger(n) for n in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for key, value in asked.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _libraries() -> tuple[Any, Any]:
    try:
        from genedge.runtime.silence import silenced

        with silenced(), _quiet():
            import diffusers
            import transformers

            _ = diffusers.AutoencoderKL, transformers.CLIPTextModel  # imported where first named
    except ImportError as missing:
        raise MissingProgram(
            f"a diffusers directory needs {missing.name}; run: pip install 'genedge[diffusers]'"
        ) from missing
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    return diffusers, transformers


def _load(folder: Folder, name: str) -> Any:
    """One part as a module of float32. Raises BadInput where its weights do not fit."""
    part = folder.parts[name]
    diffusers, transformers = _libraries()
    library = diffusers if hasattr(diffusers, part.kind) else transformers
    extra = {"torch_dtype": torch.float32} if library is diffusers else {"dtype": torch.float32}
    try:
        with _quiet():
            model, about = getattr(library, part.kind).from_pretrained(
                str(part.folder),
                local_files_only=True,
                use_safetensors=True,
                variant=part.variant or None,
                output_loading_info=True,
                **extra,
            )
    except MemoryError:
        raise
    except Exception as problem:  # each library has kinds of its own
        line = " ".join(str(problem).split()) or type(problem).__name__
        raise BadInput(f"{part.folder} can not be loaded ({line[:240]})") from problem
    absent = sorted(about["missing_keys"])
    if absent:
        raise BadInput(
            f"{part.folder}: its weights lack {absent[0]}"
            f"{f' and {len(absent) - 1} more' if len(absent) > 1 else ''}; save the pipeline again"
        )
    return model.eval().requires_grad_(False)


def _reduction(vae: Any) -> int:
    """Pixels of a side per latent."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def _latent(folder: Folder, config: Any, vae: Any, size: int | None) -> tuple[int, int, int]:
    side, reduction = config.sample_size, _reduction(vae)
    if size is not None:
        if size < reduction or size % reduction:
            raise BadInput(f"size {size} can not be drawn; use a multiple of {reduction}")
        side = size // reduction
    if not isinstance(side, int):
        raise BadInput(f"{folder.path}: sample_size {side!r} is no number; name a --size")
    return int(config.in_channels), side, side


def _config(folder: Folder) -> dict[str, Any]:
    """The scheduler's, as the pipeline's class sets it right when it is made."""
    config = dict(folder.scheduler)
    if folder.pipeline == "StableDiffusionPipeline":
        if "steps_offset" in config:
            config["steps_offset"] = 1
        if "clip_sample" in config:
            config["clip_sample"] = False
    return config


def _mu(config: Mapping[str, Any], latent: tuple[int, int, int], model: Any) -> float | None:
    """The exponent of the shift of time, which grows with the picture: a line through two points."""
    if not config.get("use_dynamic_shifting"):
        return None
    patches = (latent[1] // model.patch_size) * (latent[2] // model.patch_size)
    first, last = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (last - first)
    return float(config["base_shift"] + slope * (patches - first))


def _tokenizers(
    folder: Folder, parts: Mapping[str, Any]
) -> tuple[dict[str, WordTokenizer], dict[str, str]]:
    """By input (tokens, tokens_2): the tokenizer, and its file's text."""
    _, transformers = _libraries()
    words, files = {}, {}
    for name in sorted(n for n in folder.parts if n.startswith("tokenizer")):
        where = folder.parts[name].folder
        try:
            with _quiet():
                theirs = transformers.CLIPTokenizer.from_pretrained(
                    str(where), local_files_only=True
                )
        except Exception as problem:
            line = " ".join(str(problem).split())
            raise BadInput(f"{where} can not be loaded ({line[:240]})") from problem
        encoder = parts[name.replace("tokenizer", "text_encoder")]
        length = min(theirs.model_max_length, encoder.config.max_position_embeddings)
        key = name.replace("tokenizer", "tokens")
        files[key] = plain_words(theirs.backend_tokenizer.to_str())
        words[key] = word_tokenizer(files[key], length, theirs.pad_token_id, str(where))
    return words, files


def _encoders(
    folder: Folder, parts: Mapping[str, Any]
) -> tuple[tuple[Component, ...], tuple[str, ...]]:
    """Text encoders, and the names of what they give in the order that the denoiser takes."""
    single = "text_encoder_2" not in folder.parts
    components: list[Component] = []
    contexts: list[str] = []
    pools: list[str] = []
    for name in sorted(n for n in folder.parts if n.startswith("text_encoder")):
        if getattr(parts[name].config, "use_attention_mask", False):
            raise BadInput(f"{folder.path / name}: use_attention_mask is not supported here")
        end = name.removeprefix("text_encoder")
        pooled = folder.parts[name].kind == "CLIPTextModelWithProjection" and not single
        outputs = (f"context{end}", f"pooled{end}") if pooled else (f"context{end}",)
        module = ClipText(parts[name], last=single, pooled=pooled).eval()
        components.append(Component(name, module, (f"tokens{end}",), outputs))
        contexts.append(outputs[0])
        pools += outputs[1:]
    return tuple(components), (*contexts, *pools)


def _denoiser(folder: Folder, model: Any, side: int, guidance: float) -> nn.Module:
    if folder.pipeline == "StableDiffusion3Pipeline":
        if "text_encoder_3" in folder.parts:
            raise BadInput(f"{folder.path}: a third text encoder is not supported; set it to null")
        width = model.config.joint_attention_dim
        return StableDiffusion3Transformer(model, width, _T5_LENGTH).eval()
    size, embedded = None, model.config.get("time_cond_proj_dim")
    if folder.pipeline == "StableDiffusionXLPipeline":
        size = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32)
    strength = None if embedded is None else embedded_guidance(guidance - 1, embedded)
    return UNet(model, size, strength).eval()


def embedded_guidance(guidance: float, width: int) -> Tensor:
    """float32 (1, width): sines and cosines of 1000 × guidance, as latent consistency models are
    told of it (Luo et al., arXiv 2310.04378)."""
    half = width // 2
    rates = torch.exp(torch.arange(half) * -(math.log(10000.0) / (half - 1)))
    angles = torch.tensor([[1000.0 * guidance]]) * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 2))


def options_of(artifact: Artifact) -> dict[str, Any] | None:
    """Of an artifact of a pipeline: what `load_pipeline` must be told to draw as it does."""
    spec = artifact.sampler
    if spec is None:
        return None
    side = artifact.signature.output.shape[-1]
    negative = spec.negative or None
    return {"steps": spec.steps, "guidance": spec.guidance, "negative": negative, "size": side}


def manifest_rows(generator: SampledGenerator, folder: Path) -> dict[str, Any]:
    """Writes the tokenizers' files; returns what a pipeline adds to the manifest."""
    assert generator.sampler is not None
    rows = {}
    for name, text in generator.word_files.items():
        path = folder / f"{name.replace('tokens', 'tokenizer')}.json"
        path.write_text(text, encoding="utf-8")
        words = Words(stored(path), generator.words[name].length, generator.words[name].pad)
        rows[name] = {**file_json(words.file), "length": words.length, "pad": words.pad}
    return {"steps": ["sampler"], "sampler": generator.sampler.to_json(), "words": rows}


def with_components(
    generator: SampledGenerator, modules: Mapping[str, nn.Module]
) -> SampledGenerator:
    """The same pipeline with other modules for some of its components."""
    components = [replace(c, module=modules.get(c.name, c.module)) for c in generator.components]
    return replace(generator, components=tuple(components))
