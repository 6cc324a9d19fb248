"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[str, int, int], None]
_PLAIN_SECONDS = 10


@contextlib.contextmanager
def reporting(quiet: bool = False) -> Iterator[Report]:
    """Gives report(what, done, total); writes to stderr, and nothing where quiet."""
    console = Console(stderr=True)
    if quiet:
        yield lambda what, done, total: None
        return
    if not console.is_terminal:
        last, at = "", 0.0

        def plain(what: str, done: int, total: int) -> None:
            nonlocal last, at
            now = time.monotonic()
            if what and (what != last or done == total or now - at > _PLAIN_SECONDS):
                print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
                last, at = what, now

        yield plain
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = {}

        def draw(what: str, done: int, total: int) -> None:
            if not what:
                return
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield draw
