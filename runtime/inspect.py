"""What an artifact stores, and what its runtime makes of it: dtypes, bytes, operators, islands.

A float island is work that a runtime does in float between int8 neighbours: values are made float
for it and small again behind it, which is where int8 becomes slower than float.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from .artifact import Artifact
from .errors import BadInput, MissingProgram

# One line per target: the module that reads a component, and what it needs.
_READERS = {
    "openvino": ("inspect_openvino", "openvino", "pip install 'genedge[openvino]'"),
    "onnx": ("inspect_onnx", "onnx", "pip install 'genedge[inspect]'"),
    "executorch": ("inspect_executorch", "executorch", "pip install 'genedge[executorch]'"),
}
JSON_SCHEMA = 1


@dataclass(frozen=True)
class Stored:
    """One tensor in a component's files: its name there, dtype, shape and size in bytes.

    one_value: whether all of its numbers are equal; False where the reader does not look.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    one_value: bool = False


@dataclass(frozen=True)
class Operator:
    """One operator as the runtime runs it.

    place: who runs it ("XNNPACK", "portable", "CPU"). computes: "int8", "float", "convert"
    (quantizes or dequantizes) or "move" (copies values as they are). reads and writes: names of
    tensors, without constants.
    """

    name: str
    kind: str
    place: str
    computes: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Inspected:
    """One component. partitions: how many pieces a delegate takes; 1 where nobody delegates."""

    component: str
    stored: tuple[Stored, ...]
    operators: tuple[Operator, ...]
    partitions: int

    @property
    def islands(self) -> tuple[tuple[str, ...], ...]:
        return float_islands(self.operators)


def inspect(artifact: Artifact) -> list[Inspected]:
    """Reads each component. Raises MissingProgram, and BadInput for a file that can not be read."""
    return [
        read_file(artifact.target, artifact.directory / c.files[0].path, c.name)
        for c in artifact.components
    ]


def read_file(target: str, path: Path, component: str) -> Inspected:
    """Reads one file of this target; raises what `inspect` raises."""
    module, program, remedy = _READERS[target]
    try:
        reader = importlib.import_module(f".{module}", __package__)
        return reader.read(path, component)  # type: ignore[no-any-return]
    except ImportError as missing:
        raise MissingProgram(
            f"inspecting {target} needs {missing.name or program}; run: {remedy}"
        ) from missing
    except Exception as problem:
        line = str(problem).strip().splitlines()[-1:] or [type(problem).__name__]
        raise BadInput(f"{path} can not be read ({line[0][:200]}); export it again") from problem


def stored_in(target: str, path: Path) -> list[dict[str, Any]]:
    """One row per stored tensor of a file: name, dtype, shape, bytes."""
    return [{**vars(t), "shape": list(t.shape)} for t in read_file(target, path, "").stored]


def float_islands(operators: Sequence[Operator]) -> tuple[tuple[str, ...], ...]:
    """Names of float operators that hang together between int8 neighbours, one tuple per island.

    An island takes a value that int8 wrote or that was dequantized, and what it gives is quantized
    again or read by int8.
    """
    small = ("int8", "convert")
    writer = {name: o for o in operators for name in o.writes}
    readers: dict[str, list[Operator]] = {}
    for operator in operators:
        for name in operator.reads:
            readers.setdefault(name, []).append(operator)
    done: set[str] = set()
    found = []
    for start in operators:
        if start.computes != "float" or start.name in done:
            continue
        island, queue, from_small, to_small = [], [start], False, False
        done.add(start.name)
        while queue:
            here = queue.pop()
            island.append(here)
            before = [writer[n] for n in here.reads if n in writer]
            after = [o for n in here.writes for o in readers.get(n, [])]
            for side, neighbours in (("in", before), ("out", after)):
                for other in neighbours:
                    if other.computes in small:
                        from_small |= side == "in"
                        to_small |= side == "out"
                    elif other.name not in done:
                        done.add(other.name)
                        queue.append(other)
        if from_small and to_small:
            found.append(tuple(sorted(o.name for o in island if o.computes == "float")))
    return tuple(found)


def stored_as_float(
    inspected: Sequence[Inspected], planned: Mapping[str, Sequence[tuple[int, ...]]]
) -> list[str]:
    """Names of tensors that should be int8 and are stored in another type, by their shapes.

    planned: by component, shapes of the tensors that were planned int8. Shapes are compared as
    sorted lengths without ones: a target may move axes, or keep a table the other way round.
    """
    wrong = []
    for one in inspected:
        wanted = Counter(_plain(s) for s in planned.get(one.component, ()))
        small = Counter(_plain(t.shape) for t in one.stored if t.dtype in ("int8", "uint8"))
        for shape, count in (wanted - small).items():
            large = [t for t in one.stored if _plain(t.shape) == shape and "int" not in t.dtype]
            wrong += [
                f"{one.component}.{t.name} ({t.dtype} {list(t.shape)})" for t in large[:count]
            ]
    return wrong


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(n for n in shape if n != 1))


def to_json(artifact: Artifact, inspected: Sequence[Inspected]) -> str:
    """Stable: schema, target, precision, components. Documented in docs/quantization.md."""
    rows: list[dict[str, Any]] = [
        {
            "component": one.component,
            "partitions": one.partitions,
            "stored": [{**vars(t), "shape": list(t.shape)} for t in one.stored],
            "operators": [
                {"name": o.name, "kind": o.kind, "place": o.place, "computes": o.computes}
                for o in one.operators
            ],
            "float_islands": [list(names) for names in one.islands],
        }
        for one in inspected
    ]
    about = {"schema": JSON_SCHEMA, "target": artifact.target, "precision": artifact.precision}
    return json.dumps({**about, "components": rows}, indent=1, ensure_ascii=False)


def to_tables(inspected: Sequence[Inspected], tensors: int) -> list[Table]:
    """For the terminal: bytes by dtype, the largest `tensors` tensors, operators by place."""
    tables = []
    for one in inspected:
        table = Table(title=f"{one.component}: stored", header_style="bold", title_justify="left")
        for name in ("tensor", "dtype", "shape"):
            table.add_column(name)
        table.add_column("bytes", justify="right")
        for tensor in sorted(one.stored, key=lambda t: -t.bytes)[:tensors]:
            shape = "×".join(map(str, tensor.shape))
            table.add_row(tensor.name, tensor.dtype, shape, f"{tensor.bytes:,}")
        total: Counter[str] = Counter()
        for tensor in one.stored:
            total[tensor.dtype] += tensor.bytes
        for dtype, size in total.most_common():
            table.add_row("all", dtype, "", f"{size:,}", style="bold")
        tables.append(table)
        table = Table(title=f"{one.component}: run", header_style="bold", title_justify="left")
        for name in ("place", "computes", "operators"):
            table.add_column(name)
        groups: dict[tuple[str, str], Counter[str]] = {}
        for operator in one.operators:
            groups.setdefault((operator.place, operator.computes), Counter())[operator.kind] += 1
        for (place, computes), kinds in sorted(groups.items()):
            table.add_row(place, computes, ", ".join(f"{k} {n}" for k, n in kinds.most_common()))
        tables.append(table)
    return tables
