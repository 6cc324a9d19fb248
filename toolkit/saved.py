"""A generator as a folder: safetensors, JSON and a tokenizer, no pickle."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genedge.runtime.artifact import writing
from genedge.runtime.errors import BadInput, EnvironmentFailed
from genedge.runtime.image import image_values
from genedge.runtime.signature import Signature, signature_from_json
from genedge.runtime.tokenizer import load_tokenizer

from . import channels
from .constructors import CONSTRUCTORS, called, modules_of, named
from .generator import Component, Generator, fits_float, still
from .weights import as_int8, from_int8

GENERATOR_FILE, TOKENIZER_FILE = "generator.json", "tokenizer.json"
STEPS = ":steps"  # behind the name of weights stored as int8: what their whole numbers count
PICTURES_FILE = "pictures.npz"
# 1 has no kept channels, and constructors of CONSTRUCTORS alone; 2 has neither weights stored as
# int8 nor pictures.
_SCHEMA = 3


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
    if not fits_float(tensor):
        return tensor.dtype
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
            found[name] = value.float() if fits_float(value) else value
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


def _constructed(name: str) -> dict[str, nn.Module]:
    """What the constructor of this name makes. Raises BadInput."""
    return modules_of(called(named(CONSTRUCTORS.get(name, name)), name), name)


def _is_made_by_its_constructor(generator: Generator) -> bool:
    """Whether a folder of it would load and draw the same: what the constructor makes takes the
    weights, and its first picture is that of the generator."""
    try:
        modules = _constructed(generator.constructor)
        made = []
        for c in generator.components:
            module = copy.deepcopy(modules[c.name]).eval()
            channels.keep(module, c.kept)
            module.load_state_dict(c.module.state_dict())
            made.append(replace(c, module=module))
        output = generator.signature.output_name
        drawn = replace(generator, components=tuple(made)).example()[output]
        return torch.allclose(drawn, generator.example()[output], atol=1e-4)
    except Exception:  # the user's own code runs
        return False


def of_function(made: Generator, model: str) -> Generator:
    """What the user's function `model` returned, as it draws (evaluation), and so that a folder saved
    from it loads again: its own constructor stays where that makes its modules (a function may
    change those of a known one)."""
    still(made)
    if made.constructor == model or (made.constructor and _is_made_by_its_constructor(made)):
        return made
    components = tuple(replace(c, kept={}) for c in made.components)
    return replace(made, constructor=model, components=components)


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
        modules = copy.deepcopy(_constructed(name))  # a function may give the same ones each time
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
