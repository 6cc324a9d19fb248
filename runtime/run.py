"""From an artifact and a prompt to a picture, on whichever runtime the artifact is for."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from .artifact import Artifact, Words, check_files, read_artifact
from .bundled import artifact_path
from .errors import BadInput, EnvironmentFailed, GenedgeError, MissingProgram
from .image import check_names, image_inputs, image_levels
from .noise import LARGEST_SEED, MEANING_CHOICE, checked_seed, choice, new_seed, noise
from .picture import parse_background, suspicion, to_image, to_pixels
from .sampler import draw
from .signature import Signature
from .tokenizer import PromptTokenizer, checked_prompt, load_tokenizer
from .words import WordTokenizer, word_tokenizer

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]

# One line per target: the module that loads a component, and what its users install.
_RUNNERS = {
    "openvino": ("run_openvino", "openvino"),
    "onnx": ("run_onnx", "onnxruntime"),
    "executorch": ("run_executorch", "executorch"),
}


class PictureWarning(UserWarning):
    """A picture was drawn, and may not be what was asked for: the text says why."""


@dataclass(frozen=True)
class Feed:
    """Everything one picture is drawn from, and what the user should be told of it."""

    inputs: dict[str, np.ndarray]
    prompt: str
    seed: int
    style: str
    warnings: tuple[str, ...]

    @property
    def hashes(self) -> dict[str, str]:
        """By input: 16 hex digits of the sha256 of its dtype, shape and bytes."""
        found = {}
        for name, value in self.inputs.items():
            about = f"{value.dtype.str} {list(value.shape)} ".encode()
            found[name] = hashlib.sha256(about + value.tobytes()).hexdigest()[:16]
        return found


def split_style(prompt: str, styles: tuple[str, ...]) -> tuple[str, str]:
    """("a red apple", "noto") of "a red apple, noto style" or "a red apple in noto style".

    Case and white space are those of ASCII, as in other languages' implementations.
    """
    names = "|".join(re.escape(s) for s in styles)
    # Possessive at the end: what spaces are given up there would be tried in every other way.
    end = r"\s++style\s*+[.!]?+\s*+"
    found = re.fullmatch(rf"(?isa)(.*?)(?:\s*+,\s*+|\s+in\s++)({names}){end}", prompt)
    return (found[1], found[2].lower()) if styles and found else (prompt, "")


def prepare(
    signature: Signature,
    tokenizer: PromptTokenizer | Mapping[str, WordTokenizer] | None,
    prompt: str,
    seed: int,
    style: str = "",
    images: Mapping[str, np.ndarray] | None = None,
) -> Feed:
    """Inputs of the generator for one picture.

    style: a name of the signature's styles; "" takes the one that the prompt names (", … style" at
    its end), else one chosen by the seed. images: by image input, uint8 (H, W, C). tokenizer: a
    pipeline has one for each prompt input. Raises BadInput for a prompt, seed, style or image that
    can not be used.
    """
    seed, warnings = checked_seed(seed), []
    pictures = image_inputs(signature, images)
    named = ""
    text = prompt
    if tokenizer is not None:
        text, named = split_style(checked_prompt(prompt), signature.styles)
        checked_prompt(text)
    style = style or named
    if style and style not in signature.styles:
        known = ", ".join(signature.styles) or "none"
        raise BadInput(f"style {style!r} is unknown; this generator has: {known}")
    if signature.styles and not style:
        style = signature.styles[choice(seed, len(signature.styles))]
    inputs = {}
    for name, spec in signature.inputs.items():
        if spec.source == "prompt":
            if tokenizer is None:
                raise BadInput(f"input {name} needs a tokenizer, and the artifact has none")
            one = tokenizer[name] if isinstance(tokenizer, Mapping) else tokenizer
            value, lost = one.encode(text)
            used = int((value != one.pad).sum())
            if lost:
                warnings.append(f"the prompt is too long; not drawn: {lost!r}")
            elif isinstance(one, PromptTokenizer) and used > 0.75 * len(text.encode()):
                warnings.append(f"the generator knows no word of {text!r}; the picture is a guess")
        elif spec.source == "noise":
            value = noise(seed, spec.shape)
        elif spec.source == "image":
            value = pictures[name]
        elif spec.source == "meaning":
            value = np.zeros(spec.shape, spec.dtype)
            value[..., choice(seed, spec.shape[-1], MEANING_CHOICE)] = 1
        else:
            value = np.zeros(spec.shape, spec.dtype)
            value[..., signature.styles.index(style)] = 1
        inputs[name] = spec.check(name, value)
    # Two tokenizers of one pipeline lose the same words: said once.
    return Feed(inputs, prompt, seed, style, tuple(dict.fromkeys(warnings)))


def load_component_runs(artifact: Artifact, threads: int) -> list[Run]:
    """One callable per component. Raises MissingProgram where the runtime is not installed,
    BadInput where it refuses a file."""
    module, program = _RUNNERS[artifact.target]
    runs = []
    for component in artifact.components:
        try:
            loader = importlib.import_module(f".{module}", __package__)
            runs.append(loader.load(artifact.directory, component, threads))
        except ImportError as missing:
            raise MissingProgram(
                f"{program} is not installed ({missing}); "
                f"run: pip install 'genedge[{artifact.target}]'"
            ) from missing
        except MemoryError:
            raise EnvironmentFailed("memory ran out while the artifact was loaded") from None
        except GenedgeError:
            raise
        except Exception as problem:
            raise BadInput(
                f"{artifact.directory / component.files[0].path}: {program} can not load it "
                f"({_last_line(problem)}); export it again"
            ) from problem
    return runs


def _last_line(problem: Exception) -> str:
    """What a runtime says, 200 letters at most; of a silent one the kind of error."""
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return lines[-1][:200]


@contextlib.contextmanager
def _guarded(artifact: Artifact) -> Iterator[None]:
    """What a runtime raises while it draws, as EnvironmentFailed."""
    try:
        yield
    except GenedgeError:
        raise
    except MemoryError:
        raise EnvironmentFailed("memory ran out while the picture was drawn") from None
    except Exception as problem:
        raise EnvironmentFailed(
            f"{artifact.target} stopped while it drew ({_last_line(problem)}); "
            f"run genedge verify on {artifact.directory}"
        ) from problem


@dataclass
class Pipeline:
    """A loaded artifact. Safe to call from several threads: one picture at a time is drawn.

    A context manager: on leaving, or by `close`, it lets go of its runtime.
    """

    artifact: Artifact
    tokenizer: PromptTokenizer | Mapping[str, WordTokenizer] | None
    runs: list[Run]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the runtime's memory, after the picture that is being drawn; twice is no harm."""
        with self._lock:
            self.runs = []

    def prepare(
        self,
        prompt: str,
        seed: int,
        style: str = "",
        images: Mapping[str, np.ndarray] | None = None,
    ) -> Feed:
        """See the function of this name."""
        return prepare(self.artifact.signature, self.tokenizer, prompt, seed, style, images)

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The generator's output, float32, of the signature's shape, as the runtime gave it.

        Raises BadInput where an input is missing or its dtype or shape is another, or the pipeline
        is closed; EnvironmentFailed where the runtime can not go on, or memory runs out.
        """
        signature = self.artifact.signature
        tensors = {}
        for name, spec in signature.inputs.items():
            if name not in inputs:
                raise BadInput(f"input {name} is missing")
            tensors[name] = spec.check(name, inputs[name])
        with self._lock:
            if not self.runs:
                raise BadInput(f"{self.artifact.directory} is closed; load it again")
            with _guarded(self.artifact):
                if self.artifact.sampler is not None:
                    return self._sampled(tensors)
                for component, run in zip(self.artifact.components, self.runs, strict=True):
                    tensors |= run({n: tensors[n] for n in component.inputs})
        return tensors[signature.output_name]

    def _sampled(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The same, of a pipeline: its sampler calls the components."""
        spec = self.artifact.sampler
        assert spec is not None
        assert isinstance(self.tokenizer, Mapping)
        pairs = zip(self.artifact.components, self.runs, strict=True)
        components = {c.name: _picking(c.inputs, run) for c, run in pairs}
        negative = {n: t.encode(spec.negative or "")[0] for n, t in self.tokenizer.items()}
        return draw(spec, components, inputs, negative)[self.artifact.signature.output_name]

    def values(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The same, where all of it is finite.

        Raises what `outputs` raises, EnvironmentFailed where it holds infinities or NaN.
        """
        result = self.outputs(inputs)
        if not np.isfinite(result).all():
            raise EnvironmentFailed(
                f"{self.artifact.target} returned numbers that are not finite; "
                f"run genedge verify on {self.artifact.directory}"
            )
        return result

    def to_pixels(self, values: np.ndarray) -> np.ndarray:
        """What `values` gave → uint8 (H, W, 4), straight alpha."""
        return to_pixels(values, self.artifact.signature)

    def pixels(self, feed: Feed) -> np.ndarray:
        """uint8 (H, W, 4), straight alpha."""
        return self.to_pixels(self.values(feed.inputs))

    def generate(
        self,
        prompt: str = "",
        seed: int | None = None,
        style: str = "",
        background: str = "transparent",
        images: Mapping[str, Image.Image] | None = None,
    ) -> Image.Image:
        """A PIL image: RGBA on `transparent`, RGB on `white` or `#rrggbb`.

        Without a seed one is drawn. images: by image input. `image.info` holds prompt, seed (as text), style, model and the
        artifact's hash. Warns with PictureWarning where words of the prompt were not used, or the
        picture looks like none. Raises BadInput for a prompt, seed, style, background or image that
        can not be used.
        """
        return next(
            self.generate_many(
                [prompt], seed=seed, style=style, background=background, images=images
            )
        )

    def generate_many(
        self,
        prompts: str | Sequence[str] = "",
        *,
        count: int = 1,
        seed: int | None = None,
        style: str = "",
        background: str = "transparent",
        images: Mapping[str, Image.Image] | None = None,
    ) -> Iterator[Image.Image]:
        """Pictures one after another, as they are drawn: `count` of each prompt.

        The pictures of a prompt have the seeds seed … seed + count − 1. Everything is looked at
        before the first is drawn: raises what `generate` raises, and for a count below 1. Stop
        whenever enough are drawn.
        """
        texts = [prompts] if isinstance(prompts, str) else _texts(prompts)
        ground = parse_background(background)
        first = new_seed() if seed is None else checked_seed(seed)
        if count < 1:
            raise BadInput(f"count {count} is too small; use 1 or more")
        if first > LARGEST_SEED - (count - 1):
            raise BadInput(f"seed {first} with count {count} leaves the range 0 to {LARGEST_SEED}")
        known, given = self.artifact.signature.images, _pictures(images)
        check_names(self.artifact.signature, given)
        levels = {n: image_levels(p, f"picture {n}", n, known[n]) for n, p in given.items()}
        for text in texts:
            self.prepare(text, first, style, levels)
        return self._drawn(texts, range(first, first + count), style, ground, levels)

    def _drawn(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        style: str,
        ground: tuple[int, int, int] | None,
        images: Mapping[str, np.ndarray],
    ) -> Iterator[Image.Image]:
        for prompt in prompts:
            for seed in seeds:
                feed = self.prepare(prompt, seed, style, images)
                pixels = self.pixels(feed)
                for text in (*feed.warnings, suspicion(pixels)):
                    if text:
                        # Each time, and kept nowhere: texts quote prompts.
                        warnings.warn_explicit(
                            text, PictureWarning, "genedge", 1, module=__name__, registry={}
                        )
                image = to_image(pixels, ground)
                image.info.update(self.about(feed))
                yield image

    def about(self, feed: Feed) -> dict[str, str]:
        """What a picture is saved with: prompt, seed, style, model and the artifact's hash."""
        return {
            "prompt": feed.prompt,
            "seed": str(feed.seed),
            "style": feed.style,
            "model": self.artifact.name,
            "artifact": self.artifact.hash,
        }


def _texts(prompts: Any) -> list[str]:
    """Raises BadInput where they are no texts."""
    found = list(prompts) if isinstance(prompts, Iterable) else [prompts]
    for text in found:
        if not isinstance(text, str):
            raise BadInput(f"a prompt is a text, not {type(text).__name__}")
    return found


def _pictures(images: Any) -> Mapping[str, Image.Image]:
    """Raises BadInput where they are no PIL images by input."""
    if images is None:
        return {}
    if not isinstance(images, Mapping):
        raise BadInput(
            "images takes PIL images by input, such as images={'small': Image.open(path)}"
        )
    for name, picture in images.items():
        if not isinstance(picture, Image.Image):
            raise BadInput(
                f"images {name!r} is {type(picture).__name__}, not a PIL image; use Image.open or Image.fromarray"
            )
    return images


def _picking(
    names: tuple[str, ...], run: Run
) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda tensors: run({n: np.ascontiguousarray(tensors[n]) for n in names})


def pinned(pipeline: Pipeline) -> dict[str, str]:
    """Threads and inference precision as the runtime itself reports them, where it does."""
    return dict(getattr(pipeline.runs[-1], "pinned", {}))


def _words(directory: Path, words: Words) -> WordTokenizer:
    path = directory / words.file.path
    return word_tokenizer(path.read_text(encoding="utf-8"), words.length, words.pad, path.name)


def load(path: str | Path, threads: int = 1, check: bool = True) -> Pipeline:
    """Opens an artifact's folder, or a bundled one by its name ("emoji").

    threads: that one picture is drawn on; ExecuTorch has one pool for all its artifacts, so those
    that are loaded at a time have one number. check: compare every file's sha256 first. Raises
    BadInput where the folder is no artifact or damaged, or that number another, MissingProgram where
    its runtime is not installed.
    """
    if not isinstance(path, (str, Path)):
        raise BadInput(f"{path!r} names no artifact; give a folder, or a bundled name")
    if threads < 1:
        raise BadInput(f"threads {threads} is too small; use 1 or more")
    artifact = read_artifact(artifact_path(path) if isinstance(path, str) else path)
    if check:
        check_files(artifact)
    tokenizer: PromptTokenizer | Mapping[str, WordTokenizer] | None = None
    if artifact.sampler is not None:
        tokenizer = {n: _words(artifact.directory, w) for n, w in artifact.words.items()}
    elif artifact.tokenizer is not None and artifact.signature.tokenizer is not None:
        tokenizer = load_tokenizer(
            artifact.directory / artifact.tokenizer.path, dict(artifact.signature.tokenizer)
        )
    return Pipeline(artifact, tokenizer, load_component_runs(artifact, threads))
