"""Writes a page: which target stores weights as int8 or int4 and computes in float.

    python tests/benchmarks/weight_only.py docs/weight-only.md

Two linear layers of 1024 × 1024 with a GELU between, one row at a time, as text encoders and
transformers run them. int8: this project's own `weights-int8`. int4: what each runtime's own tool
makes. Errors are of the largest number of the float answer.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

WIDE, ROUNDS, GROUP = 1024, 200, 32
Run = Callable[[np.ndarray], np.ndarray]


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDE, WIDE), nn.GELU(), nn.Linear(WIDE, WIDE)).eval()


def lowered(target: str, program: Any, folder: Path, precision: str = "fp32") -> Path:
    """One program by our recipe; the file that holds the weights."""
    import importlib

    from genedge.recipes import Names, Options

    recipe = importlib.import_module(f"genedge.recipes.{target}").export
    folder.mkdir(parents=True)
    files = recipe({"part": program}, folder, Options(precision, {"part": Names(("x",), ("y",))}))
    found: Path = files["part"][0]
    return found


def size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.parent.iterdir() if f.suffix != ".xml")


def onnx_run(path: Path, exact: bool = False) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if exact:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(None, {"x": x})[0])


def openvino_run(path: Path, exact: bool = False) -> Run:
    import openvino

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    if exact:
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda x: np.asarray(compiled([x])[0])


def executorch_run(path: Path, exact: bool = False) -> Run:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    return lambda x: method.execute([torch.from_numpy(x)])[0].numpy()


RUNS = {"onnx": onnx_run, "openvino": openvino_run, "executorch": executorch_run}


def int4_onnx(float_file: Path, folder: Path) -> Path:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    folder.mkdir()
    model = onnx.load(float_file)
    made = MatMulNBitsQuantizer(model, bits=4, block_size=GROUP, is_symmetric=True)
    made.process()
    if not any(n.op_type == "MatMulNBits" for n in made.model.model.graph.node):
        raise RuntimeError("no layer was taken: it looks for MatMul, the file has Gemm")
    onnx.save(made.model.model, folder / "part.onnx")
    return folder / "part.onnx"


def int4_openvino(float_file: Path, folder: Path) -> Path:
    import nncf
    import openvino

    folder.mkdir()
    model = openvino.Core().read_model(float_file)
    mode = nncf.CompressWeightsMode.INT4_SYM
    small = nncf.compress_weights(model, mode=mode, group_size=GROUP, all_layers=True)
    openvino.save_model(small, folder / "part.xml", compress_to_fp16=False)
    return folder / "part.xml"


def int4_executorch(_: Path, folder: Path) -> Path:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.granularity import PerGroup
    from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig, quantize_

    made = module()
    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4, weight_granularity=PerGroup(GROUP)
    )
    quantize_(made, config)
    program = torch.export.export(made, (torch.randn(1, 1, WIDE),))
    done = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    folder.mkdir()
    (folder / "part.pte").write_bytes(done.buffer)
    return folder / "part.pte"


INT4 = {"onnx": int4_onnx, "openvino": int4_openvino, "executorch": int4_executorch}
TOOLS = {
    "onnx": "MatMulNBitsQuantizer",
    "openvino": "NNCF compress_weights",
    "executorch": "torchao, activations int8 by the row",
}


def int8_program() -> Any:
    """Two layers with int8 weights and float arithmetic, as a pipeline's text encoder gets them."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from genedge.toolkit.pipeline_precision import WeightQuantizer
    from genedge.toolkit.programs import export_module

    example = (torch.randn(1, 1, WIDE),)
    graph = prepare_pt2e(export_module(module(), example).module(), WeightQuantizer(False))
    graph(*example)
    return export_module(convert_pt2e(graph), example)


def median(run: Run, x: np.ndarray) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - began)
    return statistics.median(times[10:])


def main(page: Path) -> None:
    from genedge.runtime.host import cpu_name
    from genedge.toolkit.programs import export_module

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    x = np.random.default_rng(0).normal(size=(1, 1, WIDE)).astype(np.float32)
    true = module()(torch.from_numpy(x)).detach().numpy()
    rows = [
        "# Weights alone as int8 or int4",
        "",
        "<!-- Written by make bench-weights; do not edit. -->",
        "",
        f"Two linear layers of {WIDE} × {WIDE}, one row at a time, one thread of {cpu_name()}; time is the "
        "median of 190 runs, of the float file's.",
        "",
        "| target | weights | by | bytes ÷ float | time ÷ float | largest error |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        for target, load in RUNS.items():
            program = export_module(module(), (torch.randn(1, 1, WIDE),))
            plain = lowered(target, program, root / target / "float")
            base = median(load(plain), x)
            small = root / target / "int8" / "part"
            made: list[tuple[str, str, bool, Callable[[], Path]]] = [
                (
                    "int8, arithmetic in float",
                    "genedge",
                    True,
                    lambda t=target: lowered(t, int8_program(), root / t / "int8", "int8"),
                ),
                (
                    f"int4, groups of {GROUP}",
                    TOOLS[target],
                    False,
                    lambda t=target, p=plain: INT4[t](p, root / t / "int4"),
                ),
            ]
            if target != "executorch":
                same = small.with_suffix(plain.suffix)
                made.insert(
                    1, ("the same file as the runtime likes it", "genedge", False, lambda f=same: f)
                )
            for kind, tool, exact, make in made:
                try:
                    path = make()
                    run = load(path, exact)
                    error = float(np.abs(run(x) - true).max() / np.abs(true).max())
                    took = median(run, x)
                except Exception as problem:  # that a target does not take it is a result
                    line = " ".join(str(problem).split())[:160]
                    rows.append(f"| {target} | {kind} | {tool} | none: {line} | | |")
                else:
                    rows.append(
                        f"| {target} | {kind} | {tool} | {size(path) / size(plain):.2f} "
                        f"| {took / base:.2f} | {error:.4f} |"
                    )
                print(rows[-1], flush=True)
    rows += [
        "",
        "Both runtimes round the inputs of int8 weights to int8 unless told not to: faster, and another picture. Artifacts of",
        "genedge are run with float inputs (`runtime/run_onnx.py`, `run_openvino.py`), equal to the simulation at 100 dB and more.",
        "ONNX Runtime then widens the weights once, at load; ExecuTorch has no kernel for such layers and widens them at every run.",
        "int4 is not exported by genedge: the figures are what each runtime's own tool would give.",
    ]
    page.write_text("\n".join([*rows, ""]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
