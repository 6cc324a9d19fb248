"""tune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genedge.runtime.artifact import CPUS, PRECISIONS, TARGETS
from genedge.runtime.errors import BadInput, MissingProgram

from .options import Debug, Model, Quiet, check_writable, need_torch


def tune(
    model: Model = "emoji",
    target: Annotated[str, typer.Option(help=", ".join(TARGETS), show_default=False)] = "",
    trials: Annotated[int, typer.Option(min=1, help="Finished trials to have in all.")] = 20,
    precisions: Annotated[
        str, typer.Option(help=f"To choose from, by commas: {', '.join(PRECISIONS)}.")
    ] = "int8,fp32",
    min_width: Annotated[
        float,
        typer.Option(min=0.125, max=1, help="Smallest width of a student; 1 for no students."),
    ] = 1.0,
    max_ratio: Annotated[
        float, typer.Option(min=0, max=0.9, help="Largest share of channels to prune; 0 for none.")
    ] = 0.5,
    recover: Annotated[int, typer.Option(min=0, help="Steps of distillation of each.")] = 0,
    layers: Annotated[int, typer.Option(min=0, max=32, help="Layers to try in float.")] = 4,
    cpu: Annotated[str, typer.Option(help=f"For int8: {', '.join(CPUS)}.")] = "portable",
    storage: Annotated[
        str, typer.Option(help="URL that many machines may share; WORK/study.db if left out.")
    ] = "",
    study: Annotated[str, typer.Option(help="Its name; MODEL-TARGET if left out.")] = "",
    work: Annotated[Path, typer.Option(help="Folder for the study and pruned generators.")] = Path(
        "tune"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of the sampler.")] = 0,
    chart: Annotated[Path | None, typer.Option(help="PNG file for the front.")] = None,
    point: Annotated[
        int | None, typer.Option("--export", min=0, help="Write this trial's artifact; no search.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for artifacts.")] = Path("artifacts"),
    force: Annotated[bool, typer.Option("--force", help="Replace an artifact.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print all trials as JSON.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search width, pruning, precision and float layers for accuracy, size, latency; resumes."""
    if target not in TARGETS:
        raise BadInput(f"target {target!r} is unknown; use --target {'|'.join(TARGETS)}")
    chosen = tuple(dict.fromkeys(w.strip() for w in precisions.split(",") if w.strip()))
    for word in chosen:
        if word not in PRECISIONS:
            raise BadInput(f"precision {word!r} is unknown; known: {', '.join(PRECISIONS)}")
    if not chosen:
        raise BadInput(f"--precisions is empty; known: {', '.join(PRECISIONS)}")
    if target == "executorch" and "fp16" in chosen:
        raise BadInput("executorch has no fp16; leave it out of --precisions")
    if cpu not in CPUS:
        raise BadInput(f"cpu profile {cpu!r} is unknown; known: {', '.join(CPUS)}")
    check_writable(chart)
    _need_optuna()
    need_torch()
    from .. import tune as tuning
    from ..models import resolve
    from ..progress import reporting

    generator = resolve(model)
    if not generator.golden:
        raise BadInput(f"{generator.name} lists no golden prompts; nothing could be compared")
    space = tuning.Space(target, cpu, chosen, max_ratio, recover, layers, min_width)
    if not storage:
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise BadInput(f"{work} can not be made ({problem.strerror}); use --work") from None
    url = storage or f"sqlite:///{(work / 'study.db').absolute()}"
    opened = tuning.open_study(generator, space, url, study or f"{generator.name}-{target}")
    with reporting(quiet) as progress:
        if point is not None:
            done = tuning.export_point(
                generator, opened, point, space, work, out=out, force=force, progress=progress
            )
            if not quiet:
                print(f"{done.directory}  PSNR to its own float {done.found['psnr']:.1f} dB")
            return
        found = tuning.search(generator, opened, space, trials, work, seed=seed, progress=progress)
    best = tuning.front(found)
    if chart is not None:
        try:
            tuning.draw_front(found, best, chart)
        except OSError as problem:
            raise BadInput(f"{chart} can not be written ({problem.strerror})") from None
    if json_out:
        numbers = [p.number for p in best]
        rows = [{**vars(p), "front": p.number in numbers} for p in found]
        print(json.dumps({"schema": 1, "storage": url, "study": opened.study_name, "trials": rows}))
    elif not quiet:
        _print_front(best, len(found), url)


def _print_front(best: list, total: int, url: str) -> None:  # type: ignore[type-arg]
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold")
    for name in ("trial", "PSNR, dB", "MB", "ms", "width", "pruned", "precision"):
        table.add_column(name, justify="right")
    table.add_column("float layers")
    for p in best:
        table.add_row(
            str(p.number), f"{p.psnr:.1f}", f"{p.bytes / 1e6:.2f}", f"{p.latency:.2f}",
            f"{p.width:g}", f"{p.ratio:g}", p.precision, ", ".join(p.floats),
        )  # fmt: skip
    Console().print(table)
    print(f"{len(best)} of {total} trials are on the front; --export TRIAL writes one ({url})")


def _need_optuna() -> None:
    import importlib.util

    missing = [m for m in ("optuna", "matplotlib") if importlib.util.find_spec(m) is None]
    if missing:
        raise MissingProgram(f"tune needs {', '.join(missing)}; run: pip install 'genedge[tune]'")
