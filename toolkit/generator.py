"""A Generator: torch modules, and everything around them that makes a picture of a prompt."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.fx import GraphModule

from genedge.runtime.artifact import writing
from genedge.runtime.errors import BadInput, EnvironmentFailed, GenedgeError
from genedge.runtime.image import image_values
from genedge.runtime.picture import to_pixels
from genedge.runtime.run import Feed, prepare
from genedge.runtime.signature import Signature, signature_from_json
from genedge.runtime.tokenizer import PromptTokenizer, load_tokenizer

from . import channels
from .diffusers_folder import is_pipeline
from .weights import as_int8, from_int8

GENERATOR_FILE, TOKENIZER_FILE = "generator.json", "tokenizer.json"
STEPS = ":steps"  # behind the name of weights stored as int8: what their whole numbers count
PICTURES_FILE = "pictures.npz"
# 1 has no kept channels, and constructors of CONSTRUCTORS alone; 2 has neither weights stored as
# int8 nor pictures.
_SCHEMA = 3

MODELS = ("emoji", "emoji-teacher", "upscale")  # what comes with genedge
# Constructors by name: a saved generator names one of these, or package.module:function.
# emoji-chooser is what `emoji` is made by, emoji-teacher-chooser what `emoji-teacher` is; folders that
# were saved before these name "emoji" and "emoji-teacher".
CONSTRUCTORS = {
    "emoji": "genedge.toolkit.zoo.emoji:components",
    "emoji-chooser": "genedge.toolkit.zoo.emoji:choosing",
    "emoji-teacher": "genedge.toolkit.zoo.emoji.teacher:components",
    "emoji-teacher-chooser": "genedge.toolkit.zoo.emoji.teacher:choosing",
    "upscale": "genedge.toolkit.zoo.upscale:components",
}


@dataclass(frozen=True)
class Component:
    """One torch module of a generator; its inputs and outputs by name, in order.

    kept: channels that pruning left of the constructor's module; empty where it left all.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kept: channels.Kept = field(default_factory=dict)


@dataclass(frozen=True)
class Generator:
    """A trained generator. Passes take one and return one.

    components run in order, each reading named tensors and adding its own. calibration: prompts
    that int8 ranges are measured on. golden: prompts that artifacts are verified with; none of the
    two lists holds a prompt of the other. pictures: for a generator with image inputs, by prompt of
    both lists (there a mere name) and by input, uint8 (H, W, C). history: one row per pass that made
    it.
    """

    name: str
    components: tuple[Component, ...]
    signature: Signature
    tokenizer: PromptTokenizer | None = None
    tokenizer_json: str = ""
    calibration: tuple[str, ...] = ()
    golden: tuple[str, ...] = ()
    constructor: str = ""
    history: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)
    pictures: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises BadInput: layers are named component.layer."""
        for component in self.components:
            if "." in component.name:
                raise BadInput(f"component {component.name!r}: a component's name holds no dot")

    def images_of(self, prompt: str) -> Mapping[str, np.ndarray]:
        """What the image inputs are fed for a prompt that the generator lists; {} for others."""
        return self.pictures.get(prompt, {})

    def prepare(
        self,
        prompt: str,
        seed: int,
        style: str = "",
        images: Mapping[str, np.ndarray] | None = None,
    ) -> Feed:
        """Inputs for one picture; see genedge.runtime.run.prepare.

        images: by image input; where None, those that the generator lists for this prompt.
        """
        images = self.images_of(prompt) if images is None else images
        return prepare(self.signature, self.tokenizer, prompt, seed, style, images)

    @torch.no_grad()
    def tensors(self, feed: Feed) -> dict[str, Tensor]:
        """Every named tensor of one picture: inputs, what passes between components, output."""
        named = {k: torch.from_numpy(v) for k, v in feed.inputs.items()}
        for component in self.components:
            results = component.module(*(named[n] for n in component.inputs))
            results = results if isinstance(results, tuple) else (results,)
            named |= dict(zip(component.outputs, results, strict=True))
        return named

    def example(self) -> dict[str, Tensor]:
        """Every named tensor of the first prompt that the generator lists."""
        prompt = [*self.calibration, *self.golden, "a picture"][0]
        return self.tensors(self.prepare(prompt, seed=0))

    def pixels(self, feed: Feed) -> np.ndarray:
        """uint8 (H, W, 4), straight alpha: the float reference."""
        return to_pixels(self.tensors(feed)[self.signature.output_name].numpy(), self.signature)

    def hash(self) -> str:
        """sha256 over names, shapes and bytes of all weights, and over the tokenizer."""
        digest = hashlib.sha256(self.tokenizer_json.encode())
        for name, tensor in sorted(weights_of(self).items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def with_modules(self, modules: Sequence[nn.Module], note: Mapping[str, Any]) -> Generator:
        """The same generator with other modules, one per component, and a row of history more."""
        components = tuple(
            replace(c, module=m.eval()) for c, m in zip(self.components, modules, strict=True)
        )
        return replace(self, components=components, history=(*self.history, note))


def weights_of(generator: Generator) -> dict[str, Tensor]:
    """All parameters and buffers, as "component.name"."""
    return {
        f"{c.name}.{k}": v for c in generator.components for k, v in c.module.state_dict().items()
    }


def golden_seed(index: int) -> int:
    """The fixed seed of the golden prompt of this index."""
    return 1000 + index


def save(
    generator: Generator,
    directory: Path,
    force: bool = False,
    half: bool = False,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Writes generator.json, <component>.safetensors and tokenizer.json, whole or not at all.

    beside: further files of text, by name. half: stores weights that lie on an int8 grid as int8, exactly, and others of two or more axes
    as float16. Raises what genedge.runtime.artifact.writing raises, and BadInput for a generator
    without a constructor's name.
    """
    if generator.constructor not in CONSTRUCTORS and ":" not in generator.constructor:
        raise BadInput(
            f"{generator.name}: only a generator of a known constructor can be saved; set its "
            f"`constructor` to the package.module:function that makes it"
        )
    with writing(directory, force) as folder:
        schema = _schema_of(generator)
        for component in generator.components:
            weights = component.module.state_dict().items()
            tensors: dict[str, Tensor] = {}
            kept: set[int] = set()  # modules that are held twice have one storage
            for key, value in weights:
                packed = as_int8(value) if half else None
                plain = value.to(_dtype(value, half)).contiguous()
                plain = plain.clone() if plain.data_ptr() in kept else plain
                kept.add(plain.data_ptr())
                tensors[key] = packed[0] if packed else plain
                if packed:
                    tensors[key + STEPS], schema = packed[1], _SCHEMA
            try:
                save_file(tensors, folder / f"{component.name}.safetensors")
            except SafetensorError as problem:  # what it makes of an OSError
                text = f"{directory.parent}: {problem}; is the disk full? Free some space"
                raise EnvironmentFailed(text) from None
            (folder / f"{component.name}.safetensors").chmod(0o644)  # the library writes 0600
        (folder / TOKENIZER_FILE).write_text(generator.tokenizer_json, encoding="utf-8")
        for name, text in (beside or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
        if generator.pictures:
            arrays = {
                f"{which}:{n}": np.stack([generator.pictures[p][n] for p in prompts])
                for which, prompts in _lists(generator.calibration, generator.golden).items()
                for n in generator.signature.images
            }
            np.savez_compressed(folder / PICTURES_FILE, allow_pickle=False, **arrays)  # type: ignore[arg-type]
        row = {
            "schema": schema,
            "name": generator.name,
            "constructor": generator.constructor,
            "signature": generator.signature.to_json(),
            "components": [
                {"name": c.name, "inputs": list(c.inputs), "outputs": list(c.outputs)}
                | ({"kept": _plain(c.kept)} if c.kept else {})
                for c in generator.components
            ],
            "calibration": list(generator.calibration),
            "golden": list(generator.golden),
            "history": list(generator.history),
        }
        text = json.dumps(row, indent=1, ensure_ascii=False) + "\n"
        (folder / GENERATOR_FILE).write_text(text, encoding="utf-8")


def _dtype(tensor: Tensor, half: bool) -> torch.dtype:
    return torch.float16 if half and tensor.dim() > 1 else torch.float32


def _floats(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file, those stored as int8 multiplied by their steps. Raises RuntimeError
    where an int8 tensor has none."""
    found = {}
    for name, value in stored.items():
        if value.dtype == torch.int8:
            if name + STEPS not in stored:
                raise RuntimeError(f"{name} is stored as int8 and its {name + STEPS} is missing")
            found[name] = from_int8(value, stored[name + STEPS])
        elif not name.endswith(STEPS):
            found[name] = value.float()
    return found


def _lists(calibration: tuple[str, ...], golden: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    both = {"calibration": calibration, "golden": golden}
    return {k: v for k, v in both.items() if v}


def _read_pictures(
    path: Path, signature: Signature, lists: Mapping[str, tuple[str, ...]]
) -> dict[str, dict[str, np.ndarray]]:
    """Raises BadInput where the file is missing, damaged, or lacks a picture."""
    found: dict[str, dict[str, np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for which, prompts in lists.items():
                for name, spec in signature.images.items():
                    stack = arrays[f"{which}:{name}"]
                    for prompt, levels in zip(prompts, stack, strict=True):
                        image_values(levels, name, spec)
                        found.setdefault(prompt, {})[name] = levels
    except BadInput:
        raise
    except (OSError, LookupError, ValueError, zipfile.BadZipFile) as problem:
        raise BadInput(f"{path} is missing or damaged ({problem})") from None
    return found


def _schema_of(generator: Generator) -> int:
    if generator.pictures:
        return _SCHEMA
    plain = generator.constructor in CONSTRUCTORS
    return 1 if plain and not any(c.kept for c in generator.components) else 2


def _plain(kept: channels.Kept) -> dict[str, dict[str, list[int]]]:
    return {n: {side: list(ids) for side, ids in sides.items()} for n, sides in kept.items()}


def _kept(row: Mapping[str, Any]) -> channels.Kept:
    return {
        str(n): {str(side): tuple(int(i) for i in ids) for side, ids in sides.items()}
        for n, sides in row.items()
    }


def named(text: str) -> Callable[..., Any]:
    """The function of "package.module:function", in the working folder too, where no other module
    has that name. Raises BadInput where there is none."""
    module, _, function = text.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.append(os.getcwd())  # noqa: PTH109
    try:
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as problem:
        raise BadInput(f"{text}: no such function ({problem})") from None
    except (Exception, SystemExit) as problem:  # importing runs the user's own module
        line = (str(problem).strip().splitlines() or [""])[0][:200]
        raise BadInput(
            f"{text} can not be imported ({type(problem).__name__}: {line})"
        ) from problem


def modules_of(made: Any, name: str) -> dict[str, nn.Module]:
    """Modules by component name, of what a constructor of this name returned. Raises BadInput."""
    if isinstance(made, Generator):
        return {c.name: c.module for c in made.components}
    if isinstance(made, dict) and all(isinstance(m, nn.Module) for m in made.values()):
        return made
    raise BadInput(
        f"{name} returned {type(made).__name__}, neither a Generator nor modules by name"
    )


def load_saved(directory: Path, trusted: str = "") -> Generator:
    """Reads what `save` wrote. Raises BadInput naming the file that is missing or damaged.

    trusted: the package.module:function that made the generator. The folder may be a stranger's,
    so a function that it names is imported only where the caller has named it too.
    """
    path = directory / GENERATOR_FILE
    if not path.is_file():
        raise BadInput(f"{directory} holds no {GENERATOR_FILE}; name a folder saved by genedge")
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        if row["schema"] > _SCHEMA:
            raise BadInput(f"{path}: schema {row['schema']} is newer; update genedge")
        signature = signature_from_json(row["signature"], str(path))
        name = str(row["constructor"])
        if name not in CONSTRUCTORS and name != trusted:
            raise BadInput(
                f"{directory} was made by {name}; if you trust that function, name the model "
                f"{name}@{directory}"
            )
        modules = modules_of(called(named(CONSTRUCTORS.get(name, name)), name), name)
        components = tuple(
            Component(
                c["name"],
                modules[c["name"]].eval(),
                tuple(c["inputs"]),
                tuple(c["outputs"]),
                _kept(c.get("kept", {})),
            )
            for c in row["components"]
        )
        if any(c.kept for c in components):  # what is one module may have lost other channels each
            components = tuple(replace(c, module=copy.deepcopy(c.module)) for c in components)
        for c in components:
            channels.keep(c.module, c.kept)
        prompts = tuple(row["calibration"]), tuple(row["golden"])
    except (ValueError, LookupError, TypeError, AttributeError) as problem:
        raise BadInput(f"{path} is damaged ({problem!r})") from None
    for component in components:
        file = directory / f"{component.name}.safetensors"
        try:
            weights = _floats(load_file(file))
            component.module.load_state_dict(weights)
        except RuntimeError as problem:
            reason = str(problem).splitlines()[-1].strip()
            raise BadInput(f"{file} does not fit: {reason}") from None
        except Exception as problem:  # safetensors raises its own bare kinds
            raise BadInput(f"{file} is missing or damaged ({problem})") from None
    pictures: dict[str, dict[str, np.ndarray]] = {}
    if signature.images:
        pictures = _read_pictures(directory / PICTURES_FILE, signature, _lists(*prompts))
    tokenizer = None
    if signature.tokenizer is not None:
        tokenizer = load_tokenizer(directory / TOKENIZER_FILE, dict(signature.tokenizer))
    return Generator(
        name=str(row["name"]),
        components=components,
        signature=signature,
        tokenizer=tokenizer,
        tokenizer_json=(directory / TOKENIZER_FILE).read_text(encoding="utf-8")
        if tokenizer
        else "",
        calibration=prompts[0],
        golden=prompts[1],
        constructor=str(row["constructor"]),
        history=tuple(row["history"]),
        pictures=pictures,
    )


def called(function: Callable[..., Any], name: str) -> Any:
    """What the user's own function returns; whatever it raises becomes one line."""
    try:
        return function()
    except GenedgeError:
        raise
    except (Exception, SystemExit) as problem:
        line = (str(problem).strip().splitlines() or [""])[0][:200]
        raise BadInput(f"{name} raised {type(problem).__name__}: {line}") from problem


def still(generator: Generator) -> None:
    """Its modules as they draw: norms and dropout in evaluation. Graphs of torch.export are so."""
    for component in generator.components:
        if component.module.training and not isinstance(component.module, GraphModule):
            component.module.eval()


def resolve(model: str, pipeline: Mapping[str, Any] | None = None) -> Generator:
    """MODEL of the command line: `emoji`, a folder saved by genedge, a diffusers directory, or
    package.module:function.

    package.module:function@FOLDER is a folder saved from what that function makes. pipeline: how a
    diffusers directory draws (steps, guidance, …: `genedge.toolkit.pipeline.load_pipeline`); None
    where only a generator of one pass will do. Raises BadInput where it is none of these.
    """
    if model in MODELS:
        module = importlib.import_module(CONSTRUCTORS[model].split(":")[0])
        folder_of = Path(str(module.__file__)).parent / "checkpoint"
        if not folder_of.is_dir():
            raise BadInput(
                f"the weights of {model} are in genedge's repository, not in its package; clone it "
                f"and run: pip install -e '.[toolkit]'"
            )
        return load_saved(folder_of)
    function, at, folder = model.partition("@")
    if at and ":" in function:
        return load_saved(Path(folder), trusted=function)
    if ":" in model:
        made = called(named(model), model)
        if isinstance(made, nn.Module):
            raise BadInput(
                f"{model} returned a module without a description; return "
                f"genedge.toolkit.own.generator_of(module, inputs=…, output=…) (docs/own.md)"
            )
        if not isinstance(made, Generator):
            raise BadInput(f"{model} returned {type(made).__name__}, not a Generator")
        still(made)
        return made if made.constructor else replace(made, constructor=model)
    if is_pipeline(Path(model)):
        from .pipeline import load_pipeline

        if pipeline is None:
            raise BadInput(
                f"{model} is a pipeline of several steps; only export and verify work on one"
            )
        return load_pipeline(Path(model), **pipeline)
    if Path(model).is_dir():
        return load_saved(Path(model))
    raise BadInput(
        f"model {model!r} is unknown; use {', '.join(MODELS)}, a folder saved by genedge, "
        f"a diffusers directory, or package.module:function"
    )
