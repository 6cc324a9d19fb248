"""From an artifact and a prompt to a picture, on whichever runtime the artifact is for."""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from .artifact import Artifact, check_files, read_artifact
from .errors import BadInput, EnvironmentFailed, MissingProgram
from .noise import MEANING_CHOICE, checked_seed, choice, new_seed, noise
from .picture import parse_background, to_image, to_pixels
from .signature import Signature
from .tokenizer import PromptTokenizer, checked_prompt, load_tokenizer

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]

# One line per target: the module that loads a component, and what its users install.
_RUNNERS = {
    "openvino": ("run_openvino", "openvino"),
    "onnx": ("run_onnx", "onnxruntime"),
    "executorch": ("run_executorch", "executorch"),
}


@dataclass(frozen=True)
class Feed:
    """Everything one picture is drawn from, and what the user should be told of it."""

    inputs: dict[str, np.ndarray]
    prompt: str
    seed: int
    style: str
    warnings: tuple[str, ...]


def split_style(prompt: str, styles: tuple[str, ...]) -> tuple[str, str]:
    """("a red apple", "noto") of "a red apple, noto style" or "a red apple in noto style".

    Case and white space are those of ASCII, as in other languages' implementations.
    """
    names = "|".join(re.escape(s) for s in styles)
    found = re.fullmatch(rf"(?isa)(.*?)(?:\s*,\s*|\s+in\s+)({names})\s+style\s*[.!]?\s*", prompt)
    return (found[1], found[2].lower()) if styles and found else (prompt, "")


def prepare(
    signature: Signature,
    tokenizer: PromptTokenizer | None,
    prompt: str,
    seed: int,
    style: str = "",
) -> Feed:
    """Inputs of the generator for one picture.

    style: a name of the signature's styles; "" takes the one that the prompt names (", … style" at
    its end), else one chosen by the seed. Raises BadInput for a prompt, seed or style that can not
    be used.
    """
    seed, warnings = checked_seed(seed), []
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
            value, lost = tokenizer.encode(text)
            used = int((value != tokenizer.pad).sum())
            if lost:
                warnings.append(f"the prompt is too long; not drawn: {lost!r}")
            elif used > 0.75 * len(text.encode()):
                warnings.append(f"the generator knows no word of {text!r}; the picture is a guess")
        elif spec.source == "noise":
            value = noise(seed, spec.shape)
        elif spec.source == "meaning":
            value = np.zeros(spec.shape, spec.dtype)
            value[..., choice(seed, spec.shape[-1], MEANING_CHOICE)] = 1
        else:
            value = np.zeros(spec.shape, spec.dtype)
            value[..., signature.styles.index(style)] = 1
        inputs[name] = spec.check(name, value)
    return Feed(inputs, prompt, seed, style, tuple(warnings))


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
        except Exception as problem:
            line = str(problem).strip().splitlines()[-1:] or [type(problem).__name__]
            raise BadInput(
                f"{artifact.directory / component.files[0].path}: {program} can not load it "
                f"({line[0][:200]}); export it again"
            ) from problem
    return runs


@dataclass
class Pipeline:
    """A loaded artifact. Safe to call from several threads: one picture at a time is drawn."""

    artifact: Artifact
    tokenizer: PromptTokenizer | None
    runs: list[Run]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self, prompt: str, seed: int, style: str = "") -> Feed:
        """See the function of this name."""
        return prepare(self.artifact.signature, self.tokenizer, prompt, seed, style)

    def values(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The generator's output, float32, of the signature's shape.

        Raises BadInput where an input is missing or its dtype or shape is another,
        EnvironmentFailed where the runtime returns infinities or NaN.
        """
        signature = self.artifact.signature
        tensors = {}
        for name, spec in signature.inputs.items():
            if name not in inputs:
                raise BadInput(f"input {name} is missing")
            tensors[name] = spec.check(name, inputs[name])
        with self._lock:
            for component, run in zip(self.artifact.components, self.runs, strict=True):
                tensors |= run({n: tensors[n] for n in component.inputs})
        result = tensors[signature.output_name]
        if not np.isfinite(result).all():
            raise EnvironmentFailed(
                f"{self.artifact.target} returned numbers that are not finite; "
                f"run genedge verify on {self.artifact.directory}"
            )
        return result

    def pixels(self, feed: Feed) -> np.ndarray:
        """uint8 (H, W, 4), straight alpha."""
        return to_pixels(self.values(feed.inputs), self.artifact.signature)

    def generate(
        self,
        prompt: str,
        seed: int | None = None,
        style: str = "",
        background: str = "transparent",
    ) -> Image.Image:
        """A PIL image: RGBA on `transparent`, RGB on `white` or `#rrggbb`.

        Without a seed one is drawn. Raises BadInput for a prompt, seed, style or background that
        can not be used.
        """
        ground = parse_background(background)
        feed = self.prepare(prompt, new_seed() if seed is None else seed, style)
        return to_image(self.pixels(feed), ground)


def load(path: str | Path, threads: int = 1, check: bool = True) -> Pipeline:
    """Opens an artifact's folder; with `check`, after comparing every file's sha256.

    Raises BadInput, MissingProgram.
    """
    artifact = read_artifact(Path(path))
    if check:
        check_files(artifact)
    tokenizer = None
    if artifact.tokenizer is not None and artifact.signature.tokenizer is not None:
        tokenizer = load_tokenizer(
            artifact.directory / artifact.tokenizer.path, dict(artifact.signature.tokenizer)
        )
    return Pipeline(artifact, tokenizer, load_component_runs(artifact, threads))
