"""verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Debug, Quiet, Threads, artifact_path, write_text


def verify(
    artifacts: Annotated[list[str], typer.Argument(help="Folders, or bundled names.")],
    reference: Annotated[
        str | None, typer.Option(help="MODEL to recompute the golden pictures with.")
    ] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Golden prompts to use.")] = None,
    min_psnr: Annotated[
        float | None, typer.Option(min=0, max=100, help="dB, mean over prompts.")
    ] = None,
    min_ssim: Annotated[float | None, typer.Option(min=0, max=1, help="Mean over prompts.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Of the artifact.")] = None,
    max_latency: Annotated[float | None, typer.Option(help="ms, median, one picture.")] = None,
    threads: Threads = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="File for JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="File for Markdown.")] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare artifacts with the float generator's pictures, and hold them to limits."""
    from rich.console import Console

    from genedge.runtime import report
    from genedge.runtime.verify import Limits, Report
    from genedge.runtime.verify import verify as run

    from ..progress import reporting

    paths = [artifact_path(a) for a in artifacts]
    stale: list[Any] = []
    with reporting(quiet) as progress:
        if reference is not None:
            from ..reference import stale_rows

            stale = stale_rows(paths, reference, progress)
        limits = Limits(psnr=min_psnr, ssim=min_ssim, bytes=max_bytes, latency=max_latency)
        found = run(paths, prompts=prompts, threads=threads, limits=limits, report=progress)
    found = Report((*found.rows, *stale), found.details)
    for path, text in (
        (json_file, report.to_json),
        (junit, report.to_junit),
        (markdown, report.to_markdown),
    ):
        if path is not None:
            write_text(path, text(found))
    if not quiet:
        Console().print(report.to_table(found))
        count = found.details[0]["prompts"] if found.details else 0
        verdict = f"{len(found.failed)} limit(s) missed" if found.failed else "all limits held"
        print(f"{verdict}: {len(paths)} artifact(s), {count} prompts, {threads} thread(s)")
    if found.failed:
        raise typer.Exit(1)
