"""Writes a page: int8 of this project beside that of the runtimes' own quantizers, in one run.

    PYTHONPATH=tests python tests/benchmarks/quantizers.py docs/quantizers.md [MODEL…]

Each generator's components are quantized with the same calibration prompts by ONNX Runtime's
`quantize_static`, NNCF's `quantize` and the stock XNNPACK quantizer, adopted as they come out, and
measured like our own artifacts. Timings: one thread, ratios of neighbouring runs, their medians.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

CALIBRATION, GOLDEN, ROUNDS, LOADS = 128, 16, 20, 7
# Two trained ones, then untrained ones of other kinds (tests/architectures.py).
MODELS = ["upscale", "emoji"] + [f"architectures:{n}" for n in ("unet", "stylegan2", "dcgan")]
# Ours are judged by this page alone: an export that misses a limit would write nothing.
LOOSE = {"psnr": 0.0, "psnr_p1": 0.0, "ssim": 0.0, "flat": 0.0, "signed": 255.0, "lead": -1000.0}


def fed(generator: Any) -> list[dict[str, torch.Tensor]]:
    """Every named tensor of the calibration prompts, in float."""
    prompts = generator.calibration[:CALIBRATION] or ("",)
    return [generator.tensors(generator.prepare(p, seed=i)) for i, p in enumerate(prompts)]


def onnx_files(generator: Any, folder: Path) -> dict[str, Path]:
    """The float components, by our recipe: the file that a quantizer of others starts from."""
    from genedge.recipes import Names, Options
    from genedge.recipes.onnx import export
    from genedge.toolkit.replace import float_programs

    names = {c.name: Names(c.inputs, c.outputs) for c in generator.components}
    folder.mkdir()
    files = export(float_programs(generator), folder, Options("fp32", names))
    return {name: paths[0] for name, paths in files.items()}


def onnxruntime_ways(
    generator: Any, rows: list[Any], work: Path
) -> Iterator[tuple[str, list[Path]]]:
    """quantize_static: two kinds of weights, per channel, min-max and percentile ranges."""
    import onnxruntime
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, component: Any, known: set[str]) -> None:
            names = [n for n in component.inputs if n in known]
            self.rows = iter({n: r[n].numpy() for n in names} for r in rows)

        def get_next(self) -> Any:
            return next(self.rows, None)

    floats = onnx_files(generator, work / "float")
    kinds = {
        "U8S8, 7 bits": (QuantType.QUInt8, True, CalibrationMethod.MinMax),
        "U8S8": (QuantType.QUInt8, False, CalibrationMethod.MinMax),
        "S8S8": (QuantType.QInt8, False, CalibrationMethod.MinMax),
        "U8S8, 7 bits, percentile": (QuantType.QUInt8, True, CalibrationMethod.Percentile),
    }
    for kind, (activation, reduced, method) in kinds.items():
        folder = work / kind.replace(" ", "").replace(",", "-")
        folder.mkdir()
        files = []
        for component in generator.components:
            source, path = floats[component.name], folder / f"{component.name}.onnx"
            ready = folder / f"{component.name}.ready"
            quant_pre_process(source, ready, skip_symbolic_shape=True)
            session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
            quantize_static(
                ready,
                path,
                Reader(component, {i.name for i in session.get_inputs()}),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=reduced,
                weight_type=QuantType.QInt8,
                activation_type=activation,
                calibrate_method=method,
            )
            files.append(path)
        yield f"ORT quantize_static {kind}", files


def openvino_ways(generator: Any, rows: list[Any], work: Path) -> Iterator[tuple[str, list[Path]]]:
    """NNCF's quantize, its default preset and the mixed one."""
    import nncf
    import openvino

    from genedge.toolkit.replace import float_programs

    programs = float_programs(generator)
    for kind, preset in (
        ("default", nncf.QuantizationPreset.PERFORMANCE),
        ("mixed", nncf.QuantizationPreset.MIXED),
    ):
        folder = work / f"nncf-{kind}"
        folder.mkdir()
        files = []
        for component in generator.components:
            model = openvino.convert_model(programs[component.name])
            for port, text in zip(model.inputs, component.inputs, strict=True):
                port.get_tensor().set_names({text})
            for port, text in zip(model.outputs, component.outputs, strict=True):
                port.get_tensor().set_names({text})
            known = [n for p in model.inputs for n in p.get_names()]
            data = nncf.Dataset([{n: r[n].numpy() for n in known} for r in rows])
            small = nncf.quantize(model, data, preset=preset, subset_size=len(rows))
            path = folder / f"{component.name}.xml"
            openvino.save_model(small, path, compress_to_fp16=False)
            files.append(path)
        yield f"NNCF quantize {kind}", files


def executorch_ways(
    generator: Any, rows: list[Any], work: Path
) -> Iterator[tuple[str, list[Path]]]:
    """The stock XNNPACK quantizer of ExecuTorch, per channel."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from genedge.recipes import Names, Options
    from genedge.recipes.executorch import export
    from genedge.toolkit.programs import example_inputs, export_module

    programs = {}
    for component in generator.components:
        example = example_inputs(generator, component)
        graph = export_module(component.module, example).module()
        config = get_symmetric_quantization_config(is_per_channel=True)
        prepared = prepare_pt2e(graph, XNNPACKQuantizer().set_global(config))
        with torch.no_grad():
            for row in rows:
                prepared(*(row[n] for n in component.inputs))
        programs[component.name] = export_module(convert_pt2e(prepared), example)
    folder = work / "xnnpack"
    folder.mkdir()
    names = {c.name: Names(c.inputs, c.outputs) for c in generator.components}
    files = export(programs, folder, Options("int8", names))
    yield "XNNPACKQuantizer", [files[c.name][0] for c in generator.components]


WAYS: dict[str, Callable[..., Iterator[tuple[str, list[Path]]]]] = {
    "onnx": onnxruntime_ways,
    "openvino": openvino_ways,
    "executorch": executorch_ways,
}


TOOLS = {
    "onnx": "ORT quantize_static",
    "openvino": "NNCF quantize",
    "executorch": "XNNPACKQuantizer",
}


def latencies(folders: dict[str, Path], owner: dict[str, str], generator: Any) -> dict[str, float]:
    """Time of each artifact ÷ that of ours on the same target, one thread: the median of ratios of
    neighbouring runs, each artifact loaded anew LOADS times in an order drawn by chance.

    One load beside another differs by up to 8 % with the place of its buffers, and the machine's pace by
    more from one second to the next; both are the same for all, or gone in the median.
    """
    from genedge.runtime.errors import EnvironmentFailed
    from genedge.runtime.run import load

    feed = generator.prepare(generator.golden[0], 1)
    ratios: dict[str, list[float]] = {name: [] for name in folders}
    order = np.random.default_rng(0)
    for _ in range(LOADS):
        shuffled = [list(folders)[i] for i in order.permutation(len(folders))]
        pipelines = {name: load(folders[name], 1, check=False) for name in shuffled}
        for name, pipeline in list(pipelines.items()):
            try:
                for _ in range(5):
                    pipeline.values(feed.inputs)
            except EnvironmentFailed:  # not finite this time, as it may be measured
                del pipelines[name]
        for _ in range(ROUNDS):
            times = {}
            for name, pipeline in pipelines.items():
                pipeline.values(feed.inputs)  # the caches are this one's again
                began = time.perf_counter()
                pipeline.values(feed.inputs)
                times[name] = time.perf_counter() - began
            for name, found in times.items():
                ratios[name].append(found / times[f"{owner[name]} genedge"])
    return {name: statistics.median(found) for name, found in ratios.items() if found}


def table(model: str, work: Path) -> list[str]:
    """Rows of one generator: ours and theirs on each target."""
    from genedge.runtime.artifact import TARGETS, read_artifact
    from genedge.runtime.measure import measure
    from genedge.runtime.verify import Limits
    from genedge.toolkit.adopt import adopt
    from genedge.toolkit.export import export
    from genedge.toolkit.models import resolve

    generator = resolve(model)
    if len(generator.golden) < GOLDEN and not generator.signature.images:  # few tell little apart
        generator = replace(generator, golden=tuple(f"golden {i}" for i in range(GOLDEN)))
    rows = fed(generator)
    folders, owner = {}, {}
    for cpu, label in (("portable", "genedge"), ("vnni", "genedge --cpu vnni")):
        out = work / f"ours-{cpu}"
        for one in export(generator, TARGETS, cpu=cpu, out=out, limits=Limits(**LOOSE)):
            target = read_artifact(one.directory).target
            folders[f"{target} {label}"], owner[f"{target} {label}"] = one.directory, target
    failed = []
    for target, ways in WAYS.items():
        place = work / target
        place.mkdir()
        for kind, files in _until_it_fails(ways(generator, rows, place)):
            print(f"{model}: {target} {kind}", flush=True)
            if isinstance(files, Exception):  # a tool that takes no such model: that is a result
                failed.append(_failure(target, TOOLS[target], files))
                continue
            label = kind.lower().replace(" ", "-").replace(",", "")
            try:
                done = adopt(
                    generator,
                    files,
                    reference=model,
                    precision="int8",
                    name=label,
                    out=work / "theirs",
                )
            except Exception as problem:  # nor does its file have to run
                failed.append(_failure(target, kind, problem))
                continue
            folders[f"{target} {kind}"], owner[f"{target} {kind}"] = done.directory, target
    measured = {}
    for name, folder in list(folders.items()):
        try:
            measured[name] = measure(folder, None, 1)
        except Exception as problem:  # numbers that are not finite, say
            failed.append(_failure(owner[name], name.removeprefix(f"{owner[name]} "), problem))
            del folders[name]
    times = latencies(folders, owner, generator)
    lines = [
        f"## {generator.name}",
        "",
        "| target | quantizer | PSNR mean, worst (dB) | SSIM | flat | signed | time ÷ ours | bytes ÷ ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, folder in folders.items():
        target = owner[name]
        found, ours = measured[name], f"{target} genedge"
        size = [
            sum(f.bytes for c in read_artifact(p).components for f in c.files)
            for p in (folder, folders[ours])
        ]
        lines.append(
            f"| {target} | {name.removeprefix(target + ' ')} | {found['psnr']:.1f}, {found['psnr_worst']:.1f} "
            f"| {found['ssim']:.4f} | {found['flat']:.4f} | {max(found['signed'], key=abs):+.2f} "
            f"| {f'{times[name]:.2f}' if name in times else 'none'} | {size[0] / size[1]:.2f} |"
        )
        print(lines[-1], flush=True)
    return [*lines, *failed, ""]


def _until_it_fails(ways: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """What a tool makes, one after another; the exception that ends it as the last one."""
    try:
        yield from ways
    except Exception as problem:
        yield "failed", problem


def _failure(target: str, kind: str, problem: Exception) -> str:
    line = " ".join(str(problem).split()).partition(";")[0] or type(problem).__name__
    row = f"| {target} | {kind} | none: {line[:120]} | | | | | |"
    print(row, flush=True)
    return row


def main(page: Path, models: list[str]) -> None:
    from genedge.runtime.host import cpu_has_vnni, cpu_name

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    lines = [
        "# int8 beside the runtimes' own quantizers",
        "",
        "Written by `make bench-quantize`, one run for each generator.",
        "",
        f"The same calibration prompts ({CALIBRATION} at most), all golden prompts, PSNR and SSIM to the float generator. Time: one thread, "
        f"the median of ratios of neighbouring runs, each artifact loaded {LOADS} times; files of the same operators differ by up to 8 %.",
        f"CPU: {cpu_name()}, VNNI {'yes' if cpu_has_vnni() else 'no'}. genedge: the default profile, portable, "
        "whose weights have 7 bits where 8 could overflow; with --cpu vnni they have 8, as theirs do but for "
        "ORT's rows of 7 bits; no layer in float. signed: mean signed error in grey levels.",
        "",
    ]
    for model in models:
        with tempfile.TemporaryDirectory() as work:
            lines += table(model, Path(work))
        page.write_text("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or MODELS)
