"""What a file of any producer takes and gives: names, dtypes, shapes, who wrote it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from .errors import BadInput, MissingProgram
from .silence import silenced

SUFFIXES = {".onnx": "onnx", ".xml": "openvino", ".pte": "executorch"}
UNNAMED = "not named"


@dataclass(frozen=True)
class Port:
    """One input or output of a file. name: "" where the format has none. A size is None where the
    file leaves it open."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        shape = ", ".join("?" if n is None else str(n) for n in self.shape)
        return f"{self.dtype} [{shape}]"

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape may go through."""
        pairs = zip(self.shape, shape, strict=False)
        return len(self.shape) == len(shape) and all(a in (None, b) for a, b in pairs)


@dataclass(frozen=True)
class Interface:
    """inputs and outputs in the file's order; producer as the file names it; beside: the files that
    it can not be loaded without."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    producer: str
    beside: tuple[Path, ...] = ()


def read_interface(path: Path) -> Interface:
    """Of an ONNX file, an OpenVINO IR's .xml or a .pte, without running it.

    Raises BadInput where it can not be read or has parts that no artifact can have, MissingProgram
    where the library that reads it is not installed.
    """
    reader = {".onnx": _onnx, ".xml": _openvino, ".pte": _executorch}.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"{path} is none of {', '.join(SUFFIXES)}; name a file of such a format")
    if not path.is_file():
        raise BadInput(f"{path} does not exist")
    try:
        return reader(path)
    except BadInput:
        raise
    except ImportError as missing:
        target = SUFFIXES[path.suffix.lower()]
        raise MissingProgram(
            f"reading {path.name} needs {missing.name}; run: pip install 'genedge[{target},toolkit]'"
        ) from missing
    except Exception as problem:
        line = str(problem).strip().splitlines()[-1:] or [type(problem).__name__]
        raise BadInput(f"{path} can not be read ({line[0][:200]}); write it again") from problem


def _onnx(path: Path) -> Interface:
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    if not graph.output:
        raise BadInput(f"{path} holds no graph with an output; write it again")
    stored = {t.name for t in graph.initializer}

    def port(value: Any) -> Port:
        kind = value.type.tensor_type
        if not kind.elem_type:
            raise BadInput(f"{path}: {value.name} is no tensor; write the file without it")
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        dims = (d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
        return Port(value.name, dtype, tuple(dims))

    names = {ExternalDataInfo(t).location for t in graph.initializer if uses_external_data(t)}
    beside = []
    for name in sorted(names):
        if Path(name).name != name:
            raise BadInput(
                f"{path}: its data file {name!r} lies in another folder; save the model with its "
                f"data in one file beside it"
            )
        if not (path.parent / name).is_file():
            raise BadInput(f"{path}: its data file {name} is missing; put it beside {path.name}")
        beside.append(path.parent / name)
    producer = f"{model.producer_name} {model.producer_version}".strip() or UNNAMED
    inputs = tuple(port(v) for v in graph.input if v.name not in stored)
    return Interface(inputs, tuple(port(v) for v in graph.output), producer, tuple(beside))


def _openvino(path: Path) -> Interface:
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise BadInput(f"{path}: its weights {weights.name} are missing; put them beside it")
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    import openvino

    model = openvino.Core().read_model(path)

    def port(found: Any) -> Port:
        names = sorted(found.get_names())
        dims = (d.get_length() if d.is_static else None for d in found.get_partial_shape())
        dtype = str(np.dtype(found.get_element_type().to_dtype()))
        return Port(names[0] if names else "", dtype, tuple(dims))

    inputs, outputs = tuple(port(i) for i in model.inputs), tuple(port(o) for o in model.outputs)
    return Interface(inputs, outputs, _openvino_producer(path), (weights,))


def _openvino_producer(path: Path) -> str:
    """The version of OpenVINO and of each tool that the file's rt_info names."""
    info = ElementTree.parse(path).getroot().find("rt_info")
    found = []
    for row in info if info is not None else ():
        name = (row.get("name") or row.tag).replace("_", " ")
        if row.get("value") and ("runtime" in name.lower() or "version" in name.lower()):
            found.append(f"{name} {row.get('value')}")
        for inner in row.iter():
            label = inner.get("name") or inner.tag
            if inner is not row and label.endswith("version") and inner.get("value"):
                found.append(f"{label.removesuffix('_version')} {inner.get('value')}")
    return ", ".join(found) or UNNAMED


def _executorch(path: Path) -> Interface:
    with silenced():
        from executorch.exir._serialize._program import deserialize_pte_binary
        from executorch.exir.schema import Tensor, TensorShapeDynamism

        program = deserialize_pte_binary(path.read_bytes()).program
    plans = {p.name: p for p in program.execution_plan}
    if "forward" not in plans:
        raise BadInput(f"{path} has no method forward, only {', '.join(plans) or 'none'}")
    plan = plans["forward"]
    dtypes = {0: "uint8", 1: "int8", 3: "int32", 4: "int64", 5: "float16", 6: "float32"}
    dtypes |= {7: "float64", 11: "bool"}

    def port(index: int, what: str) -> Port:
        value = plan.values[index].val
        if not isinstance(value, Tensor):
            raise BadInput(f"{path}: an {what} is no tensor; export it with tensors alone")
        if list(value.dim_order) != sorted(value.dim_order):
            raise BadInput(
                f"{path}: an {what} has its channels last in memory; export it with contiguous "
                f"example inputs"
            )
        dtype = dtypes.get(int(value.scalar_type), str(value.scalar_type))
        fixed = value.shape_dynamism == TensorShapeDynamism.STATIC
        return Port("", dtype, tuple(n if fixed else None for n in value.sizes))

    inputs = tuple(port(i, "input") for i in plan.inputs)
    return Interface(inputs, tuple(port(i, "output") for i in plan.outputs), UNNAMED)


def sample(directory: Path, count: int, out: Path) -> dict[str, Any]:
    """Runs the first `count` golden prompts; writes the outputs, (count, …), to `out` (.npy).

    Returns shape and dtype of one output. Raises what loading and running an artifact raise.
    """
    from .artifact import read_artifact, read_golden
    from .run import load

    golden = read_golden(read_artifact(directory))
    with load(directory, check=False) as pipeline:
        drawn = []
        for i in range(min(count, len(golden.prompts))):
            images = golden.images_of(i)
            feed = pipeline.prepare(golden.prompts[i], golden.seeds[i], images=images)
            drawn.append(pipeline.values(feed.inputs))
    np.save(out, np.stack(drawn))
    return {"shape": list(drawn[0].shape), "dtype": str(drawn[0].dtype)}
