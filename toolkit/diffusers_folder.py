"""Looks at a diffusers directory before anything in it is loaded: what may not be there is refused.

Nothing is unpickled, no code of the directory runs, and no network is asked.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genedge.runtime.errors import BadInput
from genedge.runtime.schedulers import checked_config

INDEX = "model_index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Component classes that are exported, and the name that their weights have in the directory.
_DIFFUSERS, _TRANSFORMERS = "diffusion_pytorch_model", "model"
CLASSES = {
    "UNet2DConditionModel": _DIFFUSERS,
    "SD3Transformer2DModel": _DIFFUSERS,
    "AutoencoderKL": _DIFFUSERS,
    "AutoencoderTiny": _DIFFUSERS,
    "CLIPTextModel": _TRANSFORMERS,
    "CLIPTextModelWithProjection": _TRANSFORMERS,
}
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
_SCHEDULER = "scheduler"


@dataclass(frozen=True)
class Part:
    """One component of the directory. variant: "" or "fp16", the word in its files' names."""

    name: str
    kind: str
    folder: Path
    variant: str = ""


@dataclass(frozen=True)
class Folder:
    """A directory that was looked at. index: model_index.json. scheduler: every parameter.

    left_out: parts that it has and an artifact has not.
    """

    path: Path
    pipeline: str
    index: Mapping[str, Any]
    parts: Mapping[str, Part]
    scheduler: Mapping[str, Any]
    left_out: tuple[str, ...]

    def config(self, part: str) -> dict[str, Any]:
        """config.json of the part."""
        return read_json(self.parts[part].folder / "config.json")


def is_pipeline(path: Path) -> bool:
    """Whether this is a diffusers directory."""
    return (path / INDEX).is_file()


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file. Raises BadInput where it is missing or damaged."""
    if not path.is_file():
        raise BadInput(f"{path} is missing; save the pipeline again")
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise BadInput(f"{path} is damaged ({problem}); save the pipeline again") from None
    if not isinstance(row, dict):
        raise BadInput(f"{path} is damaged (no JSON object); save the pipeline again")
    return row


def look_at(path: Path, pipelines: Mapping[str, tuple[str, ...]]) -> Folder:
    """Reads model_index.json and looks at every file that will be loaded.

    pipelines: by supported class, the parts that it must have. Raises BadInput, in one line, for
    code or a pickle anywhere in it, a class that is not supported, a file that is missing or
    damaged, and a scheduler that is not supported.
    """
    index = read_json(path / INDEX)
    kind = str(index.get("_class_name", ""))
    if kind not in pipelines:
        raise BadInput(
            f"{path}: pipeline {kind!r} is not supported; supported: {', '.join(pipelines)}"
        )
    for file in sorted(path.rglob("*")):
        if file.suffix == ".py":
            raise BadInput(f"{file}: Python code in a model's directory is not run; remove it")
        if file.suffix.lower() in PICKLES:
            raise BadInput(
                f"{file} is a pickle, which can run code when it is read; save the pipeline with "
                f"safe_serialization=True and remove it"
            )
    parts: dict[str, Part] = {}
    left_out = []
    for name, row in index.items():
        if name.startswith("_") or not isinstance(row, list) or row in ([None, None], []):
            continue
        library, word = [*row, None][:2]
        if name in LEFT_OUT:
            left_out.append(name)
            continue
        known = TOKENIZERS if name.startswith("tokenizer") else (*CLASSES,)
        if name == _SCHEDULER:
            continue
        if word not in known or library not in ("diffusers", "transformers"):
            raise BadInput(
                f"{path / name}: {library}.{word} is not supported; supported: {', '.join(known)}"
            )
        parts[name] = _part(path / name, name, str(word))
    for name in pipelines[kind]:
        if name not in parts:
            raise BadInput(f"{path}: {kind} without {name} is not supported; add it to {INDEX}")
    scheduler = read_json(path / _SCHEDULER / "scheduler_config.json")
    named = index.get(_SCHEDULER) or [None, None]
    try:
        # The class that model_index.json names is the one that diffusers makes.
        config = checked_config(scheduler | {"_class_name": named[1]})
    except BadInput as problem:
        raise BadInput(f"{path / _SCHEDULER}: {problem}") from None
    return Folder(path, kind, index, parts, config, tuple(left_out))


def _part(folder: Path, name: str, kind: str) -> Part:
    if not folder.is_dir():
        raise BadInput(f"{folder} is missing; save the pipeline again")
    if name.startswith("tokenizer"):
        if not any((folder / f).is_file() for f in ("tokenizer.json", "vocab.json")):
            raise BadInput(f"{folder} has no tokenizer.json, nor vocab.json; save it again")
        return Part(name, kind, folder)
    if "auto_map" in read_json(folder / "config.json"):
        raise BadInput(
            f"{folder / 'config.json'}: auto_map names code of its own, which is not run"
        )
    for variant in ("", "fp16"):
        files = _weights(folder, CLASSES[kind], variant)
        if files:
            for file in files:
                check_safetensors(file)
            return Part(name, kind, folder, variant)
    raise BadInput(
        f"{folder} has no weights ({CLASSES[kind]}.safetensors, its fp16 variant, or shards with an "
        f"index); save the pipeline again"
    )


def _weights(folder: Path, stem: str, variant: str) -> list[Path]:
    """The files of one variant; empty where there are none. Raises BadInput for a missing shard."""
    middle = f".{variant}" if variant else ""
    whole = folder / f"{stem}{middle}.safetensors"
    if whole.is_file():
        return [whole]
    # Both spellings are in use: model.safetensors.index.fp16.json and model.fp16.safetensors.….
    names = {f"{stem}.safetensors.index{middle}.json", f"{stem}{middle}.safetensors.index.json"}
    index = next((folder / n for n in sorted(names) if (folder / n).is_file()), None)
    if index is None:
        return []
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise BadInput(f"{index} is damaged (no weight_map); save the pipeline again")
    shards = []
    for shard in sorted({str(v) for v in table.values()}):
        if Path(shard).name != shard:
            raise BadInput(f"{index}: shard {shard!r} lies in another folder")
        if not (folder / shard).is_file():
            raise BadInput(f"{folder / shard} is missing, {index.name} names it; fetch it again")
        shards.append(folder / shard)
    return shards


def check_safetensors(file: Path) -> None:
    """Raises BadInput where the file's length is not what its header says.

    Layout: https://github.com/huggingface/safetensors, "Format": 8 bytes of length, JSON, numbers.
    """
    size = file.stat().st_size
    with file.open("rb") as f:
        first = f.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= size - 8:
            raise BadInput(f"{file} is no whole safetensors file (cut short?); fetch it again")
        try:
            header = json.loads(f.read(length))
            ends = [row["data_offsets"][1] for k, row in header.items() if k != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise BadInput(f"{file}: the safetensors header is damaged; fetch it again") from None
    wanted = 8 + length + max(ends, default=0)
    if size != wanted:
        raise BadInput(
            f"{file} has {size:,} bytes, its header says {wanted:,} (cut short?); fetch it again"
        )
