"""An artifact: a directory that is whole or absent, checked by hash when it is read."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BadInput, EnvironmentFailed
from .files import alive
from .sampler import SamplerSpec, sampler_from_json
from .signature import Signature, signature_from_json

SCHEMA = 1
TARGETS = ("openvino", "onnx", "executorch")
PRECISIONS = ("fp32", "fp16", "int8")
CPUS = ("portable", "vnni", "arm")
STEPS = ("feed_forward", "sampler")
MANIFEST = "manifest.json"
_INPUT = "input:"  # arrays of golden.npz that hold hashes of an input
_IMAGE = "image:"  # and those that hold the pictures that an image input was fed
OWN_FILES = (MANIFEST, "generator.json")  # what marks a folder as written by genedge


@dataclass(frozen=True)
class StoredFile:
    """A file of the artifact: its name in the directory, its size and its sha256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Component:
    """One graph: names of its inputs and outputs in order, and the files that hold it.

    The first file is the one to load; the others lie beside it. file_names: what the file calls an
    input or output, where it is another word. float_arithmetic: int8 weights were planned to meet
    float inputs; runtimes that would round those, unasked, are told not to.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    files: tuple[StoredFile, ...]
    file_names: Mapping[str, str] = field(default_factory=dict)
    float_arithmetic: bool = False


@dataclass(frozen=True)
class Words:
    """A pipeline's tokenizer of one input: its file, ids per prompt, and the id that fills up."""

    file: StoredFile
    length: int
    pad: int


@dataclass(frozen=True)
class Artifact:
    """What manifest.json says, and where it lies. `hash` is the sha256 of manifest.json.

    sampler: of a pipeline, None for a generator of one pass. words: its tokenizers by input.
    """

    directory: Path
    hash: str
    name: str
    target: str
    precision: str
    cpu: str
    components: tuple[Component, ...]
    signature: Signature
    tokenizer: StoredFile | None
    golden: StoredFile | None
    golden_count: int
    generator_hash: str
    about: Mapping[str, Any]
    sampler: SamplerSpec | None = None
    words: Mapping[str, Words] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size in bytes of all files but the golden pictures; they are apart from any budget."""
        files = [f for c in self.components for f in c.files]
        own = sum(f.bytes for f in files) + (self.tokenizer.bytes if self.tokenizer else 0)
        own += sum(w.file.bytes for w in self.words.values())
        return own + (self.directory / MANIFEST).stat().st_size


@dataclass(frozen=True)
class Golden:
    """Golden prompts and what the float generator drew for them.

    prompts: N texts; seeds: N; pictures: uint8 (N, H, W, 4), straight alpha. simulated: the same
    by the simulation of the int8 graph, or None where the artifact is not int8. inputs: hashes of
    what the float generator was fed (`Feed.hashes`), N per "source:name"; None in older artifacts.
    precise: pictures computed in float64, where the reference was drawn anew. images: by image
    input, what it was fed: uint8 (N, H, W, C).
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    pictures: np.ndarray
    simulated: np.ndarray | None
    inputs: Mapping[str, tuple[str, ...]] | None = None
    precise: np.ndarray | None = None
    images: Mapping[str, np.ndarray] = field(default_factory=dict)

    def images_of(self, index: int) -> dict[str, np.ndarray]:
        """Pictures of the golden prompt of this index, by image input."""
        return {name: pictures[index] for name, pictures in self.images.items()}


def spread(golden: Golden, count: int | None) -> Golden:
    """`count` of the golden prompts, evenly from the first to the last; None: all of them."""
    whole = len(golden.prompts)
    if count is None or count >= whole:
        return golden
    kept = [i * whole // count for i in range(count)]

    def of(pictures: np.ndarray | None) -> np.ndarray | None:
        return None if pictures is None else pictures[kept]

    return Golden(
        prompts=tuple(golden.prompts[i] for i in kept),
        seeds=tuple(golden.seeds[i] for i in kept),
        pictures=golden.pictures[kept],
        simulated=of(golden.simulated),
        inputs={k: tuple(v[i] for i in kept) for k, v in (golden.inputs or {}).items()} or None,
        precise=of(golden.precise),
        images={name: pictures[kept] for name, pictures in golden.images.items()},
    )


def sha256_of(path: Path) -> str:
    """Hex digest of the file's bytes, read as a stream."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def stored(path: Path) -> StoredFile:
    """Describes a file that was just written."""
    return StoredFile(path.name, path.stat().st_size, sha256_of(path))


def _old(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.old")


def recover(directory: Path) -> None:
    """Undoes what a crash left: an old folder moved aside comes back. While another process writes
    there, nothing is done: it moves folders itself."""
    old = _old(directory)
    if not old.is_dir() or any(alive(p) for p in _partials(directory)):
        return
    if directory.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # another process was first
            old.rename(directory)


def _partials(directory: Path) -> list[Path]:
    """Half-written folders on the way to `directory`."""
    escaped = glob.escape(directory.name)
    return list(directory.parent.glob(f".{escaped}.partial-*")) if directory.parent.is_dir() else []


def check_out(directory: Path, force: bool = False) -> None:
    """Raises BadInput where `writing` could not put a folder there."""
    directory = directory.absolute()
    recover(directory)
    for partial in _partials(directory):
        if not alive(partial):  # a crash left it
            shutil.rmtree(partial, ignore_errors=True)
    if directory.exists() and not force:
        raise BadInput(f"{directory} exists already; use --force to replace it, or another --out")
    if directory.exists() and not any((directory / n).is_file() for n in OWN_FILES):
        raise BadInput(f"{directory} exists and was not written by genedge; choose another --out")
    there = next(p for p in directory.parents if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "no right to write in it" if there.is_dir() else f"{there} is a file"
        raise BadInput(f"{directory.parent} can not be written ({why}); choose another --out")


@contextlib.contextmanager
def writing(directory: Path, force: bool = False) -> Iterator[Path]:
    """Gives a folder to fill; on leaving, it becomes `directory` in one rename.

    Where the body raises, nothing is left. Raises BadInput where `directory` exists and `force` is
    false, or its parent can not be written; EnvironmentFailed where the disk is full.
    """
    directory = directory.absolute()
    check_out(directory, force)
    partial = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
    except OSError as problem:
        raise BadInput(
            f"{directory.parent} can not be written ({problem.strerror}); choose another --out"
        ) from None
    try:
        yield partial
        if directory.exists():
            if not force:
                raise BadInput(
                    f"{directory} was written by another process meanwhile; use --force to replace it"
                )
            directory.rename(_old(directory))
        partial.rename(directory)
        shutil.rmtree(_old(directory), ignore_errors=True)
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentFailed(
                f"{directory.parent}: the disk is full; free some space and export again"
            ) from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_manifest(folder: Path, row: Mapping[str, Any]) -> None:
    """The last file of an artifact to be written."""
    text = json.dumps(row, indent=1, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def file_json(file: StoredFile) -> dict[str, Any]:
    """A row of the manifest."""
    return {"path": file.path, "bytes": file.bytes, "sha256": file.sha256}


def _file(row: Mapping[str, Any], where: Path) -> StoredFile:
    name = str(row["path"])
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise BadInput(f"{where}: file name {name!r} leaves the artifact; export it again")
    return StoredFile(name, int(row["bytes"]), str(row["sha256"]))


def _named(sampler: Mapping[str, Any]) -> list[str]:
    """Components that a sampler calls."""
    return [*sampler["encoders"], sampler["denoiser"], sampler["decoder"]]


def _one_of(row: Mapping[str, Any], key: str, known: tuple[str, ...], where: Path) -> str:
    value = str(row[key])
    if value not in known:
        raise BadInput(f"{where}: {key} {value!r} is unknown; known: {', '.join(known)}")
    return value


def read_artifact(directory: Path) -> Artifact:
    """Reads manifest.json, without the files that it names.

    Raises BadInput where it is missing, damaged, or of a newer schema version.
    """
    recover(directory.absolute())
    path = directory / MANIFEST
    if not path.is_file():
        what = "has no manifest.json" if directory.is_dir() else "does not exist"
        raise BadInput(f"{directory} {what}; name a folder that genedge export wrote")
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise BadInput(f"{path} can not be read ({problem.strerror})") from None
    try:
        row = json.loads(data)
        schema = row["schema"]
        if not isinstance(schema, int) or schema < 1:
            raise ValueError(f"schema {schema!r}")
        if schema > SCHEMA:
            raise BadInput(
                f"{path}: schema version {schema} is newer than this genedge reads ({SCHEMA}); "
                f"update genedge"
            )
        if not row["steps"] or any(s not in STEPS for s in row["steps"]):
            raise BadInput(f"{path}: steps {row['steps']} are unknown; known: {', '.join(STEPS)}")
        plan = dict(row.get("plan", {}))
        components = tuple(
            Component(
                str(c["name"]),
                tuple(c["inputs"]),
                tuple(c["outputs"]),
                tuple(_file(f, path) for f in c["files"]),
                {str(k): str(v) for k, v in c.get("file_names", {}).items()},
                plan.get(str(c["name"])) == "weights-int8",
            )
            for c in row["components"]
        )
        if not components or not all(c.files for c in components):
            raise ValueError("components without files")
        if "sampler" in row["steps"]:
            for name in _named(row["sampler"]):
                if name not in [c.name for c in components]:
                    raise BadInput(
                        f"{path}: the sampler names component {name!r}, which is not there"
                    )
        tokenizer, golden = row.get("tokenizer"), row.get("golden")
        sampled = "sampler" in row["steps"]
        signature = signature_from_json(row["signature"], str(path))
        if not sampled:
            _check_chain(components, signature)
        return Artifact(
            directory=directory,
            hash=hashlib.sha256(data).hexdigest(),
            name=str(row["name"]),
            target=_one_of(row, "target", TARGETS, path),
            precision=_one_of(row, "precision", PRECISIONS, path),
            cpu=_one_of(row, "cpu", CPUS, path),
            components=components,
            signature=signature,
            tokenizer=_file(tokenizer, path) if tokenizer else None,
            golden=_file(golden, path) if golden else None,
            golden_count=int(golden["count"]) if golden else 0,
            generator_hash=str(row["generator"]["sha256"]),
            about=row,
            sampler=sampler_from_json(row["sampler"], str(path)) if sampled else None,
            words={
                str(k): Words(_file(w, path), int(w["length"]), int(w["pad"]))
                for k, w in row.get("words", {}).items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise BadInput(f"{path} is damaged ({problem!r}); export it again") from None


def _check_chain(components: Sequence[Component], signature: Signature) -> None:
    """Raises ValueError where a component reads what nothing gives, or nothing gives the picture."""
    known = set(signature.inputs)
    for component in components:
        for name in component.inputs:
            if name not in known:
                raise ValueError(f"component {component.name} reads {name}, which nothing gives")
        known |= set(component.outputs)
    if signature.output_name not in known:
        raise ValueError(f"no component gives {signature.output_name}")


def check_files(artifact: Artifact, golden: bool = False) -> None:
    """Compares every file with its size and sha256. Raises BadInput naming the first that differs.

    The golden pictures are looked at where `golden` is true: an app may delete them.
    """
    files = [f for c in artifact.components for f in c.files]
    files += [artifact.tokenizer] if artifact.tokenizer else []
    files += [w.file for w in artifact.words.values()]
    files += [artifact.golden] if golden and artifact.golden else []
    for file in files:
        path = artifact.directory / file.path
        if not path.is_file():
            raise BadInput(f"{path} is missing; export it again")
        size = path.stat().st_size
        if size != file.bytes:
            raise BadInput(
                f"{path} has {size:,} bytes, manifest.json says {file.bytes:,}; export it again"
            )
        try:
            same = sha256_of(path) == file.sha256
        except OSError as problem:
            raise BadInput(f"{path} can not be read ({problem.strerror})") from None
        if not same:
            raise BadInput(
                f"{path}: sha256 does not match manifest.json (file changed after export); "
                f"export it again"
            )


def write_golden(path: Path, golden: Golden) -> None:
    """golden.npz: prompts, seeds, pictures, for int8 simulated, input hashes, images; no pickles."""
    arrays = {
        "prompts": np.array(golden.prompts, dtype=np.str_),
        "seeds": np.array(golden.seeds, dtype=np.int64),
        "pictures": golden.pictures,
    }
    if golden.simulated is not None:
        arrays["simulated"] = golden.simulated
    if golden.precise is not None:
        arrays["precise"] = golden.precise
    for name, hashes in (golden.inputs or {}).items():
        arrays[_INPUT + name] = np.array(hashes, dtype=np.str_)
    for name, pictures in golden.images.items():
        arrays[_IMAGE + name] = pictures
    np.savez_compressed(path, allow_pickle=False, **arrays)  # type: ignore[arg-type]


def read_golden(artifact: Artifact) -> Golden:
    """Raises BadInput where golden.npz is missing or damaged."""
    if artifact.golden is None:
        raise BadInput(f"{artifact.directory} has no golden pictures; export it again")
    path = artifact.directory / artifact.golden.path
    if not path.is_file():
        raise BadInput(
            f"{path} is missing; export it again, or judge on other prompts: --reference MODEL "
            f"--prompts-file FILE"
        )
    return read_golden_file(path)


def read_golden_file(path: Path) -> Golden:
    """What `write_golden` wrote. Raises BadInput where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            inputs = {
                k.removeprefix(_INPUT): tuple(str(h) for h in arrays[k])
                for k in arrays.files
                if k.startswith(_INPUT)
            }
            return Golden(
                prompts=tuple(str(p) for p in arrays["prompts"]),
                seeds=tuple(int(s) for s in arrays["seeds"]),
                pictures=arrays["pictures"],
                simulated=arrays.get("simulated"),
                inputs=inputs or None,
                precise=arrays.get("precise"),
                images={
                    k.removeprefix(_IMAGE): arrays[k] for k in arrays.files if k.startswith(_IMAGE)
                },
            )
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as problem:
        raise BadInput(f"{path} is damaged ({problem}); export it again") from None
