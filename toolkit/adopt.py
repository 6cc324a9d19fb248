"""Files that any tool made → an artifact, with golden pictures of the float generator beside them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genedge.runtime.artifact import (
    CPUS,
    PRECISIONS,
    SCHEMA,
    file_json,
    stored,
    write_golden,
    write_manifest,
    writing,
)
from genedge.runtime.child import run_in_child
from genedge.runtime.errors import BadInput, LimitMissed
from genedge.runtime.interface import SUFFIXES, Interface, Port, read_interface

from .export import directory_of, golden_of, versions
from .generator import Generator, golden_seed
from .pairing import Spec, pair
from .progress import Report
from .saved import TOKENIZER_FILE

_KINDS = {
    "fp32": ("float32", "float64"),
    "fp16": ("float16", "bfloat16"),
    "int8": ("int8", "uint8", "int4", "uint4", "int2", "uint2"),
}
# Ranges that tools write pictures in; a file is recognised by them when its own is another.
_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.5, 0.5))
_SAMPLES = 4


@dataclass(frozen=True)
class Adopted:
    """directory: of the artifact; found: what verification measured; stored: bytes by dtype;
    paired: by "component.name" of the reference, what the file calls it, where it is another word."""

    directory: Path
    precision: str
    producer: str
    found: Mapping[str, Any]
    stored: Mapping[str, int]
    paired: Mapping[str, str]


@dataclass(frozen=True)
class _Part:
    """One file, as the component of the reference that it stands for."""

    name: str
    path: Path
    interface: Interface
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    file_names: Mapping[str, str]


def _mains(files: Sequence[Path]) -> list[Path]:
    """The files that are loaded; weights that were named beside them are found by themselves."""
    mains = [f for f in files if f.suffix.lower() in SUFFIXES]
    for file in files:
        if not file.is_file():
            raise BadInput(f"{file} does not exist")
        if file in mains:
            continue
        beside = [m for m in mains if m.parent == file.parent]
        if file.suffix.lower() == ".bin" and file.with_suffix(".xml") not in mains:
            raise BadInput(f"{file}: name its {file.with_suffix('.xml').name} too")
        if not beside:
            raise BadInput(f"{file} is none of {', '.join(SUFFIXES)}; name a file of such a format")
    targets = {SUFFIXES[f.suffix.lower()] for f in mains}
    if len(targets) > 1:
        raise BadInput(f"files of {' and '.join(sorted(targets))}; adopt one target at a time")
    return mains


def _assigned(generator: Generator, mains: Sequence[Path]) -> list[tuple[str, Path]]:
    """Which file stands for which component: by file name where all agree, else in order."""
    names = [c.name for c in generator.components]
    if len(mains) == 1 and len(names) > 1:
        return [("whole", mains[0])]
    if len(mains) != len(names):
        raise BadInput(
            f"{len(mains)} files, and {generator.name} has {len(names)} component(s) "
            f"({', '.join(names)}); name one file for the whole, or one for each component"
        )
    stems = {m.stem: m for m in mains}
    return [
        (n, stems[n] if set(stems) == set(names) else m) for n, m in zip(names, mains, strict=True)
    ]


def _specs(generator: Generator) -> dict[str, Spec]:
    """dtype and shape of every named tensor of one picture."""
    tensors = generator.tensors(generator.prepare(generator.golden[0], 0))
    return {n: (str(t.numpy().dtype), tuple(t.shape)) for n, t in tensors.items()}


def _parts(generator: Generator, mains: Sequence[Path], rename: Mapping[str, str]) -> list[_Part]:
    specs, parts = _specs(generator), []
    sides = {c.name: (c.inputs, c.outputs) for c in generator.components}
    sides["whole"] = (tuple(generator.signature.inputs), (generator.signature.output_name,))
    for name, path in _assigned(generator, mains):
        interface = read_interface(path)
        wanted = [{n: specs[n] for n in side} for side in sides[name]]
        inputs = pair(path.name, "input", interface.inputs, wanted[0], rename)
        outputs = pair(path.name, "output", interface.outputs, wanted[1], rename)
        file_names = {
            ours: port.name for ours, port in (*inputs, *outputs) if port.name and port.name != ours
        }
        read = tuple(ours for ours, _ in inputs)
        missing = [n for n in wanted[0] if n not in read]
        if missing and _needed(generator, name, missing[0]):
            takes = ", ".join(p.name or str(p) for p in interface.inputs) or "nothing"
            dtype, shape = specs[missing[0]]
            raise BadInput(
                f"{path.name}: the reference's input {missing[0]} ({dtype} {list(shape)}) is missing; "
                f"the file takes {takes}: export it with that input, or say --rename "
                f"THEIRS={missing[0]}"
            )
        written = tuple(ours for ours, _ in outputs)
        parts.append(_Part(name, path, interface, read, written, file_names))
    return parts


def _needed(generator: Generator, component: str, name: str) -> bool:
    """Whether the reference's outputs change with this input; exporters drop one that they do not."""
    prompts = (*generator.golden, *generator.calibration)
    tensors = [
        generator.tensors(generator.prepare(prompts[i % len(prompts)], seed=i)) for i in range(6)
    ]
    for part in generator.components:
        if component in ("whole", part.name) and name in part.inputs:
            for other in tensors[1:]:
                fed = [other[n] if n == name else tensors[0][n] for n in part.inputs]
                results = part.module(*fed)
                results = results if isinstance(results, tuple) else (results,)
                pairs = zip(results, (tensors[0][n] for n in part.outputs), strict=True)
                if any(not a.equal(b) for a, b in pairs):
                    return True
    return False


def _weights(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Tensors with more than one long side: not biases, scales or shapes."""
    kinds = [d for names in _KINDS.values() for d in names]
    return [r for r in rows if r["dtype"] in kinds and sum(n > 1 for n in r["shape"]) > 1]


def _share(rows: Sequence[Mapping[str, Any]], precision: str) -> float:
    """Share of the weights' elements that are stored as this precision says; 1 without weights."""
    sizes = {
        k: sum(int(np.prod(r["shape"])) for r in rows if r["dtype"] in d) for k, d in _KINDS.items()
    }
    return sizes[precision] / sum(sizes.values()) if any(sizes.values()) else 1.0


def checked_precision(rows: Sequence[Mapping[str, Any]], declared: str | None) -> str:
    """The declared precision, or that which most weights are stored in.

    rows: name, dtype and shape of stored tensors. Raises LimitMissed where less than half of the
    weights is stored as declared: the message names the largest others.
    """
    weights = _weights(rows)
    if declared is None:
        return max(PRECISIONS, key=lambda p: _share(weights, p)) if weights else "fp32"
    share = _share(weights, declared)
    if share < 0.5:
        wrong = [r for r in weights if r["dtype"] not in _KINDS[declared]]
        wrong.sort(key=lambda r: -r["bytes"])
        names = ", ".join(f"{r['name']} ({r['dtype']} {r['shape']})" for r in wrong[:3])
        raise LimitMissed(
            f"declared {declared}, but {1 - share:.0%} of the weights is stored otherwise: {names}; "
            f"declare what is stored with --precision (nothing was written)"
        )
    return declared


def check_range(
    file: str, values: np.ndarray, reference: np.ndarray, low: float, high: float
) -> None:
    """Raises BadInput where `values` fit the reference well in another known range than its own.

    Both are of one shape; low and high: the reference's range.
    """

    def error(a: float, b: float) -> float:
        return float(np.abs((values - a) / (b - a) - (reference - low) / (high - low)).mean())

    own = error(low, high)
    best = min((r for r in _RANGES if r != (low, high)), key=lambda r: error(*r))
    if error(*best) < min(0.05, own / 4):
        raise BadInput(
            f"{file}: the picture comes in the range {best[0]:g} … {best[1]:g}, the reference's is "
            f"{low:g} … {high:g}; scale it inside the graph"
        )


def _check_output(part: _Part, generator: Generator, folder: Path) -> None:
    """Runs the first golden prompts, in a process of its own, and looks at shape, dtype and range."""
    spec = generator.signature.output
    with tempfile.TemporaryDirectory(prefix="genedge-") as place:
        out = Path(place) / "values.npy"
        got = run_in_child("sample", directory=str(folder), count=_SAMPLES, out=str(out))
        values = np.load(out, allow_pickle=False).astype(np.float64)
    port = Port(generator.signature.output_name, got["dtype"], tuple(got["shape"]))
    pair(part.path.name, "output", (port,), {port.name: (spec.dtype, spec.shape)}, {})
    feeds = [generator.prepare(p, s) for p, s in _golden_pairs(generator)[: len(values)]]
    name = generator.signature.output_name
    true = np.stack([generator.tensors(f)[name].numpy() for f in feeds]).astype(np.float64)
    check_range(part.path.name, values, true, spec.low, spec.high)


def _golden_pairs(generator: Generator) -> list[tuple[str, int]]:
    return [(p, golden_seed(i)) for i, p in enumerate(generator.golden)]


def _copied(part: _Part, folder: Path) -> list[Path]:
    """The part's files under the component's name; ONNX data files keep theirs, by which the model
    finds them."""
    suffix = part.path.suffix.lower()
    placed = [(part.path, folder / f"{part.name}{suffix}")]
    for file in part.interface.beside:
        name = f"{part.name}.bin" if suffix == ".xml" else file.name
        placed.append((file, folder / name))
    for source, place in placed:
        if place.exists():
            raise BadInput(f"two files named {place.name}; save one of them under another name")
        shutil.copyfile(source, place)
    return [place for _, place in placed]


def adopt(
    generator: Generator,
    files: Sequence[Path],
    *,
    reference: str,
    precision: str | None = None,
    cpu: str = "portable",
    name: str = "",
    rename: Mapping[str, str] | None = None,
    out: Path = Path("artifacts"),
    force: bool = False,
    progress: Report = lambda what, done, total: None,
) -> Adopted:
    """Writes DIR/<name>-<target>-<precision>[-<cpu>] with copies of the files.

    generator: the float reference; reference: its name, for the manifest. files: one .onnx, .xml or
    .pte for the whole generator, or one for each component. precision: as declared, or else what
    most weights are stored in. name: of the artifact; the generator's where "". rename: {the file's
    name: the reference's}. Raises BadInput where names, dtypes, shapes or the range of the picture
    are not the reference's, LimitMissed where weights are not stored as declared, and what loading
    and running raise. Limits of PSNR are for `verify`: a bad picture is adopted, and fails there.
    """
    for value, known, what in ((precision, PRECISIONS, "precision"), (cpu, CPUS, "cpu profile")):
        if value is not None and value not in known:
            raise BadInput(f"{what} {value!r} is unknown; known: {', '.join(known)}")
    if "/" in name or name.startswith("."):
        raise BadInput(f"name {name!r} can not be a folder's; use letters, digits and hyphens")
    if not generator.golden:
        raise BadInput(f"{generator.name} lists no golden prompts; nothing could be compared")
    mains = _mains(files)
    if not mains:
        raise BadInput(f"no file of {', '.join(SUFFIXES)} was named")
    target = SUFFIXES[mains[0].suffix.lower()]
    parts = _parts(generator, mains, rename or {})
    rows: list[Any] = []
    for i, part in enumerate(parts):
        progress("stored tensors", i, len(parts))
        rows += run_in_child("stored", target=target, path=str(part.path))
    progress("stored tensors", len(parts), len(parts))
    precision = checked_precision(rows, precision)
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row["dtype"]] = sizes.get(row["dtype"], 0) + row["bytes"]
    producers = list(dict.fromkeys(p.interface.producer for p in parts))
    directory = directory_of(out, name or generator.name, target, precision, cpu)
    with writing(directory, force) as folder:
        copies = {p.name: _copied(p, folder) for p in parts}
        golden = golden_of(generator, None, progress)
        write_golden(folder / "golden.npz", golden)
        row = {
            "schema": SCHEMA,
            "name": name or generator.name,
            "target": target,
            "precision": precision,
            "cpu": cpu,
            "steps": ["feed_forward"],
            "generator": {"name": generator.name, "sha256": generator.hash()},
            "adopted": {
                "producer": "; ".join(producers),
                "files": [p.path.name for p in parts],
                "reference": reference,
                "stored": sizes,
            },
            "signature": generator.signature.to_json(),
            "components": [
                {
                    "name": p.name,
                    "inputs": list(p.inputs),
                    "outputs": list(p.outputs),
                    "files": [file_json(stored(f)) for f in copies[p.name]],
                }
                | ({"file_names": dict(p.file_names)} if p.file_names else {})
                for p in parts
            ],
            "noise": {"generator": "philox4x32-10", "stream": 0},
            "float_layers": [],
            "golden": {**file_json(stored(folder / "golden.npz")), "count": len(golden.prompts)},
            "tools": versions(),
            "measured": {},
        }
        if generator.tokenizer is not None:
            (folder / TOKENIZER_FILE).write_text(generator.tokenizer_json, encoding="utf-8")
            row["tokenizer"] = file_json(stored(folder / TOKENIZER_FILE))
        write_manifest(folder, row)
        _check_output(parts[-1], generator, folder)
        progress("compare", 0, 1)
        found = run_in_child("measure", directory=str(folder), prompts=None, threads=1)
        progress("compare", 1, 1)
        kept = ("prompts", "psnr", "psnr_worst", "ssim", "flat")
        row["measured"] = {k: found[k] for k in kept if k in found}
        write_manifest(folder, row)
    paired = {f"{p.name}.{k}": v for p in parts for k, v in p.file_names.items()}
    return Adopted(directory, precision, "; ".join(producers), found, sizes, paired)
