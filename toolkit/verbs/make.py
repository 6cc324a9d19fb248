"""export, adopt."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from genedge.runtime.artifact import CPUS, PRECISIONS, TARGETS
from genedge.runtime.errors import BadInput

from .options import Debug, ExportModel, Quiet, need_torch


def export(
    model: ExportModel = "emoji",
    target: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(TARGETS)}, or all; may be repeated.", show_default=False),
    ] = None,
    precision: Annotated[str, typer.Option(help=", ".join(PRECISIONS))] = "int8",
    cpu: Annotated[str, typer.Option(help=f"For int8: {', '.join(CPUS)}.")] = "portable",
    min_psnr: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            help="dB; int8 keeps layers in float as needed; nothing is written below it.",
        ),
    ] = None,
    min_ssim: Annotated[
        float | None, typer.Option(min=0, max=1, help="Mean SSIM, like --min-psnr.")
    ] = None,
    float_layers: Annotated[
        str, typer.Option(help="component.module names that stay float, by commas.")
    ] = "",
    qat: Annotated[
        int,
        typer.Option(
            min=0, help="Steps of quantization-aware distillation under int8: minutes to hours."
        ),
    ] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of a pipeline; its class's if left out.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Of a pipeline; its class's if left out.")
    ] = None,
    negative: Annotated[
        str, typer.Option(help="Of a pipeline: what guidance leads away from.")
    ] = "",
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Of a pipeline: pixels of a side; its own if left out."),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(min=1, max=8, help="Of a pipeline: golden pictures; 4 if left out."),
    ] = None,
    plan: Annotated[
        str,
        typer.Option(
            help="Of a pipeline under int8: component=float|int8|weights-int8, by commas."
        ),
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder for artifacts.")] = Path("artifacts"),
    force: Annotated[bool, typer.Option("--force", help="Replace an artifact.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write verified artifacts of a generator."""
    chosen = [t for word in target or [""] for t in word.split(",")]
    for word in chosen:
        if word not in (*TARGETS, "all"):
            raise BadInput(f"target {word!r} is unknown; use --target {'|'.join(TARGETS)}|all")
    if precision not in PRECISIONS:
        known = "|".join(PRECISIONS)
        raise BadInput(f"precision {precision!r} is unknown; use --precision {known}")
    from genedge.runtime.artifact import read_artifact
    from genedge.runtime.verify import Limits

    from ..progress import reporting

    need_torch()
    from ..estimate import check_room, estimated, run_seconds
    from ..export import check_precision
    from ..export import export as run
    from ..models import resolve

    every = "all" in chosen
    targets = list(TARGETS) if every else list(dict.fromkeys(chosen))
    if every and precision == "fp16":
        targets.remove("executorch")
        print("genedge: executorch has no fp16 and is left out", file=sys.stderr)
    check_precision(targets, precision)
    walk: dict[str, Any] = {
        "steps": steps,
        "guidance": guidance,
        "negative": negative or None,
        "size": size,
    }
    generator = resolve(model, {**walk, "golden": prompts})
    planned = _pipeline_plan(generator, plan, precision, walk, quiet)
    guess = estimated(generator, targets, precision)
    check_room(guess, precision, targets, out)
    if guess.large and not quiet:
        print(guess.text(run_seconds(generator)), flush=True)
    with reporting(quiet) as progress:
        done = run(
            generator,
            targets,
            precision=precision,
            cpu=cpu,
            out=out,
            force=force,
            keep=[k.strip() for k in float_layers.split(",") if k.strip()],
            limits=Limits(psnr=min_psnr, ssim=min_ssim),
            fallback=min_psnr is not None or min_ssim is not None,
            plan=planned,
            qat=qat,
            progress=progress,
        )
    if not quiet:
        for one in done:
            if one.plan:
                print("as exported: " + ", ".join(f"{k}={v}" for k, v in one.plan.items()))
                break
        for one in done:
            megabytes = read_artifact(one.directory).bytes / 1e6
            print(
                f"{one.directory}  {megabytes:.2f} MB  PSNR {one.found['psnr']:.1f} dB "
                f"(worst {one.found['psnr_worst']:.1f})  SSIM {one.found['ssim']:.3f}"
            )
        if done and done[0].risky:
            names = ", ".join(done[0].risky[:5]) + (", …" if len(done[0].risky) > 5 else "")
            print(f"{len(done[0].risky)} layer(s) can overflow on x86 without VNNI: {names}")
        if done and done[0].kept and not float_layers:
            cost = done[0].kept_bytes
            print(
                f"kept {len(done[0].kept)} layer(s) in float, {cost:,} bytes of weights; again with:"
            )
            print(f"  --float-layers {','.join(done[0].kept)}")


def _pipeline_plan(
    generator: Any, plan: str, precision: str, walk: dict[str, Any], quiet: bool
) -> dict[str, str]:
    """The words of --plan, after what a pipeline leaves out and its plan were said.

    Raises BadInput for a plan that can not be read, and for a pipeline's options elsewhere.
    """
    from ..pipeline import SampledGenerator
    from ..pipeline_precision import checked_plan

    if not isinstance(generator, SampledGenerator):
        named = [f"--{k}" for k, v in walk.items() if v is not None] + (["--plan"] if plan else [])
        if named:
            raise BadInput(f"{', '.join(named)}: {generator.name} is no pipeline of several steps")
        return {}
    words = {}
    for word in plan.split(",") if plan else []:
        name, equals, value = word.strip().partition("=")
        if not equals:
            raise BadInput(f"--plan {word}: write component=precision, for example vae=float")
        words[name] = value
    chosen = checked_plan(generator, words)
    spec = generator.sampler
    assert spec is not None
    if not quiet:
        if spec.left_out:
            print(f"left out of the artifact: {', '.join(spec.left_out)}")
        guided = f"guidance {spec.guidance:g}" if spec.guidance > 1 else "no guidance"
        print(f"{spec.pipeline}: {spec.config['_class_name']}, {spec.steps} steps, {guided}")
        if precision == "int8":
            print("plan: " + ", ".join(f"{k}={v}" for k, v in chosen.items()))
    return words


def adopt(
    files: Annotated[
        list[Path], typer.Argument(help=".onnx, .xml (with its .bin) or .pte; one, or a chain.")
    ],
    reference: Annotated[
        str, typer.Option(help="The float generator, as MODEL.", show_default=False)
    ] = "",
    precision: Annotated[
        str | None, typer.Option(help=f"{', '.join(PRECISIONS)}; as stored if left out.")
    ] = None,
    cpu: Annotated[str, typer.Option(help=f"For int8: {', '.join(CPUS)}.")] = "portable",
    rename: Annotated[
        list[str] | None,
        typer.Option(help="THEIRS=OURS: a name in the file, and in the reference."),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the artifact; the reference's if left out.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for artifacts.")] = Path("artifacts"),
    force: Annotated[bool, typer.Option("--force", help="Replace an artifact.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Wrap files that another tool exported, so that verify and inspect work on them."""
    if not reference:
        raise BadInput("name the float generator with --reference MODEL")
    names = {}
    for word in rename or []:
        theirs, equals, ours = word.partition("=")
        if not (theirs and equals and ours):
            raise BadInput(f"--rename {word}: write THEIRS=OURS, for example input.1=noise")
        names[theirs] = ours
    need_torch()
    from genedge.runtime.artifact import read_artifact
    from genedge.runtime.verdict import DEFAULTS, Limits, judge

    from ..adopt import adopt as run
    from ..models import resolve
    from ..progress import reporting

    with reporting(quiet) as progress:
        done = run(
            resolve(reference),
            files,
            reference=reference,
            precision=precision,
            cpu=cpu,
            name=name,
            rename=names,
            out=out,
            force=force,
            progress=progress,
        )
    artifact = read_artifact(done.directory)
    limits = DEFAULTS.get(done.precision, Limits())
    missed = [r.metric for r in judge(artifact, done.found, limits) if not r.passed]
    kept = ("prompts", "psnr", "psnr_worst", "ssim", "flat", "bytes")
    if json_out:
        about: dict[str, Any] = {
            "out": str(done.directory),
            "precision": done.precision,
            "missed": missed,
        }
        about |= {"producer": done.producer, "stored": done.stored, "file_names": done.paired}
        print(json.dumps(about | {"measured": {k: done.found[k] for k in kept}}, indent=1))
    elif not quiet:
        print(
            f"{done.directory}  {artifact.bytes / 1e6:.2f} MB  PSNR {done.found['psnr']:.1f} dB "
            f"(worst {done.found['psnr_worst']:.1f})  SSIM {done.found['ssim']:.3f}"
        )
        sizes = ", ".join(f"{k} {v:,}" for k, v in sorted(done.stored.items(), key=lambda s: -s[1]))
        print(f"made by: {done.producer}; bytes stored: {sizes or 'none'}")
        for ours, theirs in done.paired.items():
            print(f"{ours}: {theirs} in the file")
        if missed:
            print(f"verify's default limits of {done.precision} are missed: {', '.join(missed)}")
