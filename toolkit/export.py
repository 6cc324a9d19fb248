"""Generator → artifacts: programs, golden pictures, files, audit, verification, rename."""

from __future__ import annotations

import hashlib
import importlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.export import ExportedProgram

from genedge.recipes import Names, Options
from genedge.runtime import host
from genedge.runtime.artifact import (
    CPUS,
    PRECISIONS,
    SCHEMA,
    TARGETS,
    Artifact,
    Golden,
    check_out,
    file_json,
    read_artifact,
    stored,
    write_golden,
    write_manifest,
    writing,
)
from genedge.runtime.child import run_in_child
from genedge.runtime.errors import BadInput, GenedgeError, LimitMissed, MissingProgram
from genedge.runtime.inspect import Inspected, Stored, inspect, stored_as_float
from genedge.runtime.run import Feed
from genedge.runtime.signature import Signature
from genedge.runtime.silence import silenced
from genedge.runtime.verify import Limits, default_limits, judge

from .estimate import LARGE, check_room, estimated
from .fallback import keep_float
from .generator import Generator, golden_seed, still
from .lowering import can_not_lower
from .mapped import let_go
from .pipeline import SampledGenerator, manifest_rows
from .pipeline_precision import quantize_pipeline
from .programs import example_inputs, export_module
from .qat import trainer
from .quantize import Quantized, quantize, simulated
from .replace import float_programs
from .saturation import preflight
from .saved import TOKENIZER_FILE
from .taps import layer_names

Progress = Callable[[str, int, int], None]
AUDIT_SHARE, AUDIT_EXTRA = 0.26, 150_000
_TOOLS = ("torch", "torchao", "onnx", "onnxscript", "onnxruntime", "openvino", "executorch")


@dataclass(frozen=True)
class Exported:
    """One artifact that was written: where, and what verification measured.

    kept: layers in float. kept_bytes: of their weights, of those that a limit made float. risky:
    layers whose sums can overflow on x86 without VNNI. plan: of a pipeline, by component.
    """

    directory: Path
    found: dict[str, Any]
    kept: tuple[str, ...] = ()
    kept_bytes: int = 0
    risky: tuple[str, ...] = ()
    plan: Mapping[str, str] = field(default_factory=dict)


def directory_of(out: Path, model: str, target: str, precision: str, cpu: str) -> Path:
    """DIR/<model>-<target>-<precision>[-<cpu>]; no suffix for portable, nor where not int8."""
    suffix = f"-{cpu}" if precision == "int8" and cpu != "portable" else ""
    return out / f"{model}-{target}-{precision}{suffix}"


def golden_of(generator: Generator, simulation: Generator | None, progress: Progress) -> Golden:
    """Golden pictures of the generator's golden prompts, and of its simulation where given."""
    feeds = [generator.prepare(p, golden_seed(i)) for i, p in enumerate(generator.golden)]
    pictures, others = [], []
    for i, feed in enumerate(feeds):
        pictures.append(generator.pixels(feed))
        if simulation is not None:
            others.append(simulation.pixels(feed))
        progress("golden pictures", i + 1, len(feeds))
    return Golden(
        generator.golden,
        tuple(f.seed for f in feeds),
        np.stack(pictures),
        np.stack(others) if others else None,
        input_hashes(generator.signature, feeds),
        images={
            n: np.stack([generator.images_of(p)[n] for p in generator.golden])
            for n in generator.signature.images
        },
    )


def input_hashes(signature: Signature, feeds: Sequence[Feed]) -> dict[str, tuple[str, ...]]:
    """Hashes of what the generator was fed, by "source:name", one per feed."""
    return {
        f"{spec.source}:{name}": tuple(f.hashes[name] for f in feeds)
        for name, spec in signature.inputs.items()
    }


def versions() -> dict[str, str]:
    """Of Python and of each tool that is installed here, for the manifest."""
    return host.tools(_TOOLS)


def check_precision(targets: Sequence[str], precision: str) -> None:
    """Raises BadInput where a target has none of it."""
    if precision == "fp16" and "executorch" in targets:
        raise BadInput("executorch has no fp16 here; use --precision fp32 or int8")


def _recipe(target: str) -> Callable[..., dict[str, list[Path]]]:
    try:
        with silenced():
            module = importlib.import_module(f"genedge.recipes.{target}")
    except ImportError as missing:
        raise MissingProgram(
            f"exporting for {target} needs {missing.name}; "
            f"run: pip install 'genedge[toolkit,{target}]'"
        ) from missing
    return module.export  # type: ignore[no-any-return]


def audit_size(quantized: Quantized, files: Sequence[Path]) -> None:
    """The size audit: 0.26 × float32 bytes of what was planned int8 + planned float + 150 KB.

    Of a pipeline 150 KB for each component. OpenVINO's .xml is text and holds no tensor: it is left
    out. Raises LimitMissed with both figures.
    """
    extra = AUDIT_EXTRA * (len(quantized.programs) if quantized.plan else 1)
    allowed = AUDIT_SHARE * 4 * quantized.planned_int8 + quantized.planned_float + extra
    size = sum(f.stat().st_size for f in files if f.suffix != ".xml")
    if size > allowed:
        raise LimitMissed(
            f"size audit: the files have {size:,} bytes, int8 as planned would have at most "
            f"{allowed:,.0f}; some tensors are stored as float (it was not written)"
        )


def audit_dtypes(quantized: Quantized, artifact: Artifact) -> None:
    """Raises LimitMissed with the names of tensors that were planned int8 and are stored as float."""
    wrong = stored_as_float(_stored(artifact), quantized.int8_shapes)
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise LimitMissed(
            f"{artifact.target}: planned int8, stored as float: {', '.join(wrong[:5])}{more} "
            f"(it was not written)"
        )


def _stored(artifact: Artifact) -> list[Inspected]:
    """What the files store; of large ones read in another process, which takes the copies of a
    runtime's own with it."""
    if artifact.bytes < LARGE:
        return inspect(artifact)
    found = []
    for component in artifact.components:
        path = artifact.directory / component.files[0].path
        rows: Any = run_in_child("stored", target=artifact.target, path=str(path))
        tensors = (Stored(**{**row, "shape": tuple(row["shape"])}) for row in rows)
        found.append(Inspected(component.name, tuple(tensors), (), 1))
    return found


def export(
    generator: Generator,
    targets: Sequence[str],
    *,
    precision: str = "int8",
    cpu: str = "portable",
    out: Path = Path("artifacts"),
    force: bool = False,
    keep: Sequence[str] = (),
    limits: Limits | None = None,
    fallback: bool = False,
    plan: Mapping[str, str] | None = None,
    qat: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> list[Exported]:
    """Writes one artifact per target, each loaded, run and judged before it gets its name.

    keep: modules, as "component.module", that stay float under int8. limits: override the
    precision's defaults where set. fallback: under int8, keeps as few layers float as the limits of
    PSNR and SSIM need, the same for all targets; not of a pipeline. plan: of a pipeline under int8,
    the precision of components (`pipeline_precision`), over the usual one. qat: under int8, steps of
    quantization-aware distillation of the last component (`qat`), not together with fallback and not
    of a pipeline; checkpoints lie beside the artifacts until they are written. Raises BadInput,
    MissingProgram, and LimitMissed where an artifact misses a limit or its audit, or no fallback
    holds the limit: then that artifact is not written; EnvironmentFailed where a large component
    would not fit in memory or on the disk.
    """
    for value, known, what in (
        (precision, PRECISIONS, "precision"),
        (cpu, CPUS, "cpu profile"),
        *((t, TARGETS, "target") for t in targets),
    ):
        if value not in known:
            raise BadInput(f"{what} {value!r} is unknown; known: {', '.join(known)}")
    check_precision(targets, precision)
    if not generator.golden:
        raise BadInput(f"{generator.name} lists no golden prompts; artifacts could not be verified")
    still(generator)
    _check_finite(generator)
    recipes = {t: _recipe(t) for t in targets}
    folders = {t: directory_of(out, generator.name, t, precision, cpu) for t in targets}
    for folder in folders.values():
        check_out(folder, force)
    _check_layers(generator, keep)
    if qat and (precision != "int8" or fallback or isinstance(generator, SampledGenerator)):
        raise BadInput(
            "--qat: quantization-aware distillation is for int8, without --min-psnr and --min-ssim, and not "
            "for pipelines of several steps"
        )
    check_room(estimated(generator, targets, precision), precision, targets, out)
    quantized = None
    simulation = None
    kept_bytes = 0
    if precision == "int8" and isinstance(generator, SampledGenerator):
        quantized = quantize_pipeline(generator, cpu=cpu, keep=keep, plan=plan, report=progress)
    elif precision == "int8" and fallback and limits is not None:
        choice = keep_float(
            generator, psnr=limits.psnr, ssim=limits.ssim, cpu=cpu, keep=keep, report=progress
        )
        keep, quantized, kept_bytes = choice.layers, choice.quantized, choice.bytes
    elif precision == "int8":
        work = out / f".qat-{generator.name}-{_short_hash(generator, keep)}-{cpu}-{qat}"
        train = trainer(generator, qat, work, progress)
        quantized = quantize(generator, cpu=cpu, keep=keep, report=progress, train=train)
    if quantized is not None:
        simulation = simulated(generator, quantized)
    programs = quantized.programs if quantized else float_programs(generator)
    golden = golden_of(generator, simulation, progress)
    done: list[Exported] = []
    for i, target in enumerate(targets):
        progress(f"export {target}", i, len(targets))
        try:
            one = _export_one(
                generator,
                target,
                precision,
                cpu,
                folders[target],
                force,
                tuple(keep),
                limits,
                recipes[target],
                programs,
                quantized,
                golden,
                qat,
            )
        except GenedgeError as problem:
            if done:  # those stay: say so
                names = ", ".join(d.directory.name for d in done)
                problem.args = (f"{problem} ({names}: written before)",)
            raise
        done.append(one)
    progress("export", len(targets), len(targets))
    if qat:
        shutil.rmtree(work, ignore_errors=True)
    risky = tuple(r.layer for r in preflight(quantized.graphs) if r.channels) if quantized else ()
    plan = quantized.plan if quantized else {}
    return [
        replace(d, kept=tuple(keep), kept_bytes=kept_bytes, risky=risky, plan=plan) for d in done
    ]


def _short_hash(generator: Generator, keep: Sequence[str]) -> str:
    return hashlib.sha256(" ".join([generator.hash(), *keep]).encode()).hexdigest()[:12]


def _check_finite(generator: Generator) -> None:
    """Raises BadInput naming the first weight that holds no numbers."""
    for c in generator.components:
        for name, tensor in c.module.named_parameters():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise BadInput(
                    f"{c.name}.{name} holds numbers that are not finite; nothing to export"
                )


def _check_layers(generator: Generator, keep: Sequence[str]) -> None:
    modules = {
        f"{c.name}.{n}": m for c in generator.components for n, m in c.module.named_modules()
    }
    known = set(modules)
    unknown = [k for k in keep if k not in known]
    if any(":" in k for k in unknown):
        known |= layer_names(generator)
        unknown = [k for k in unknown if k not in known]
    if unknown:
        layers = [n for n, m in modules.items() if hasattr(m, "weight")] or sorted(known)
        raise BadInput(
            f"layer {unknown[0]!r} is unknown; layers are named component.module, for example "
            f"{layers[len(layers) // 2]}"
        )


def _export_one(
    generator: Generator,
    target: str,
    precision: str,
    cpu: str,
    directory: Path,
    force: bool,
    keep: tuple[str, ...],
    limits: Limits | None,
    recipe: Callable[..., dict[str, list[Path]]],
    programs: dict[str, ExportedProgram],
    quantized: Quantized | None,
    golden: Golden,
    qat: int,
) -> Exported:
    names = {c.name: Names(c.inputs, c.outputs) for c in generator.components}
    with writing(directory, force) as folder:
        try:
            files = recipe(programs, folder, Options(precision, names))
        except (GenedgeError, OSError, MemoryError):
            raise
        except Exception as problem:
            tensors = generator.example()
            own = [
                export_module(c.module, example_inputs(generator, c, tensors))
                for c in generator.components
            ]
            raise can_not_lower(target, own, problem) from problem
        if quantized is not None:
            audit_size(quantized, [f for group in files.values() for f in group])
        write_golden(folder / "golden.npz", golden)
        row: dict[str, Any] = {
            "schema": SCHEMA,
            "name": generator.name,
            "target": target,
            "precision": precision,
            "cpu": cpu,
            "steps": ["feed_forward"],
            "generator": {"name": generator.name, "sha256": generator.hash()},
            "signature": generator.signature.to_json(),
            "components": [
                {
                    "name": c.name,
                    "inputs": list(c.inputs),
                    "outputs": list(c.outputs),
                    "files": [file_json(stored(f)) for f in files[c.name]],
                }
                for c in generator.components
            ],
            "noise": {"generator": "philox4x32-10", "stream": 0},
            "float_layers": list(keep),
            "ranges": dict(quantized.ranges) if quantized else {},
            **({"qat": qat} if qat else {}),
            "golden": {**file_json(stored(folder / "golden.npz")), "count": len(golden.prompts)},
            "tools": versions(),
        }
        if isinstance(generator, SampledGenerator):
            row |= manifest_rows(generator, folder)
            row["plan"] = quantized.plan if quantized else {}
        if generator.tokenizer is not None:
            (folder / TOKENIZER_FILE).write_text(generator.tokenizer_json, encoding="utf-8")
            row["tokenizer"] = file_json(stored(folder / TOKENIZER_FILE))
        write_manifest(folder, row)
        if read_artifact(folder).bytes >= LARGE:  # another process needs the memory now
            let_go(t for c in generator.components for t in c.module.state_dict().values())
        if quantized is not None:
            audit_dtypes(quantized, read_artifact(folder))
        found = run_in_child("measure", directory=str(folder), prompts=None, threads=1)
        chosen = default_limits(read_artifact(folder))
        if limits is not None:
            chosen = replace(chosen, **{k: v for k, v in vars(limits).items() if v is not None})
        for missed in judge(read_artifact(folder), found, chosen):
            if not missed.passed and missed.metric != "cpu_profile":
                value = missed.value if isinstance(missed.value, str) else f"{missed.value:.4g}"
                raise LimitMissed(
                    f"{directory.name}: {missed.metric} is {value}, limit {missed.limit}; "
                    f"it was not written"
                )
        kept = ("prompts", "psnr", "psnr_worst", "ssim", "flat", "lead")
        row["measured"] = {k: found[k] for k in kept if k in found}
        write_manifest(folder, row)
    return Exported(directory, found)
