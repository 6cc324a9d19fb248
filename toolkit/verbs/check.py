"""verify."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from genedge.runtime.errors import BadInput

from .draw import read_prompts
from .options import (
    Debug,
    Quiet,
    Threads,
    artifact_path,
    check_writable,
    need_torch,
    write_text,
)


def verify(
    artifacts: Annotated[list[str], typer.Argument(help="Folders, or bundled names.")],
    reference: Annotated[
        str | None, typer.Option(help="MODEL to recompute the golden pictures with.")
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="Of the golden prompts, evenly taken.")
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(help="Other prompts, one on each line; --reference draws them as float."),
    ] = None,
    min_psnr: Annotated[
        float | None, typer.Option(min=0, max=100, help="dB, mean over prompts.")
    ] = None,
    min_ssim: Annotated[float | None, typer.Option(min=0, max=1, help="Mean over prompts.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Of the artifact.")] = None,
    max_latency: Annotated[float | None, typer.Option(help="ms, median, one picture.")] = None,
    budget: Annotated[
        Path | None, typer.Option(help="TOML file of limits; see docs/budget.md.")
    ] = None,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="Accept this verdict, beside --budget.")
    ] = False,
    threads: Threads = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="File for JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="File for Markdown.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="File for one HTML page; also runs the bench.")
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare artifacts with the float generator's pictures, and hold them to limits."""
    from rich.console import Console

    from genedge.runtime import report
    from genedge.runtime.baseline import accepted_text, baseline_path, compared, read_accepted
    from genedge.runtime.budget import read_budget
    from genedge.runtime.page import needs_report, to_html
    from genedge.runtime.verdict import Limits
    from genedge.runtime.verify import verify as run

    from ..progress import reporting

    if update_baseline and budget is None:
        raise BadInput("--update-baseline writes beside the budget file; name it with --budget")
    accepted = baseline_path(budget) if budget is not None else None
    check_writable(html, json_file, junit, markdown, accepted if update_baseline else None)
    if html is not None:
        needs_report()
    wanted = read_budget(budget) if budget is not None else None
    if accepted is not None:
        read_accepted(accepted)  # damaged: said before the work
    if prompts_file is not None and reference is None:
        raise BadInput("--prompts-file needs --reference MODEL, which draws the prompts as float")
    others = read_prompts(prompts_file) if prompts_file is not None else []
    distance = None
    if wanted is not None and any(
        w.max_feature_distance is not None for w in wanted.entries.values()
    ):
        need_torch()
        from ..perceptual import check_installed, distances

        check_installed()
        distance = distances
    paths = [artifact_path(a) for a in artifacts]
    stale: list[Any] = []
    limits = Limits(psnr=min_psnr, ssim=min_ssim, bytes=max_bytes, latency=max_latency)
    with reporting(quiet) as progress, tempfile.TemporaryDirectory(prefix="genedge-") as work:
        golden: dict[Path, Path] = {}
        if reference is not None:
            need_torch()
            from ..reference import of_prompts, recomputed

            if others:
                golden = of_prompts(reference, others[:prompts], Path(work), progress, paths)
            else:
                stale, golden = recomputed(paths, reference, Path(work), progress)
        found = run(
            paths,
            prompts=prompts,
            threads=threads,
            limits=limits,
            budget=wanted,
            golden=golden,
            timed=html is not None,
            distance=distance,
            report=progress,
        )
    found = replace(found, rows=(*found.rows, *stale))
    if accepted is not None:
        found = compared(found, accepted)
    if html is not None:
        write_text(html, to_html(found))
    for path, text in (
        (json_file, report.to_json),
        (junit, report.to_junit),
        (markdown, report.to_markdown),
    ):
        if path is not None:
            write_text(path, text(found))
    if update_baseline and accepted is not None:
        write_text(accepted, accepted_text(found, accepted))
    if not quiet:
        console = Console()
        for table in report.to_tables(found):
            console.print(table)
        print("\n".join(report.notes(found)), end="\n" if report.notes(found) else "")
        one = found.details[0] if found.details else {"prompts": 0, "golden": 0}
        count = f"{one['prompts']}" + (
            f" of {one['golden']}" if one["prompts"] < one["golden"] else ""
        )
        print(
            f"{report.headline(found)}: {len(paths)} artifact(s), {count} prompts, {threads} thread(s)"
        )
    if update_baseline:
        if not quiet:
            print(f"{accepted}: this verdict is accepted")
        return
    if found.failed:
        raise typer.Exit(1)
