"""How fast artifacts are: latency, cold start, peak memory, pictures per second, and ratios.

Each artifact runs in processes of its own, which take turns: a round gives every artifact the same
few runs, one after the other, so that what slows the machine slows all of them.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from . import host
from .artifact import Artifact, read_artifact
from .bootstrap import LEVEL, Interval, median_interval, ratio_interval
from .errors import BadInput, GenedgeError
from .worker import Worker

JSON_SCHEMA = 1
ROUNDS, RUNS, COLD_STARTS = 50, 4, 5
FEWEST_ROUNDS = 10  # made even where the time is up
SECONDS = 120.0

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Timing:
    """Times of one artifact at one number of threads, in ms.

    latency: (rounds, runs), from the inputs to the output tensor. picture: the same shape, from
    the prompt to the pixels. pinned: threads and precision as the runtime reports them.
    """

    threads: int
    latency: np.ndarray
    picture: np.ndarray
    pinned: dict[str, str]

    def percentile(self, q: float) -> float:
        """The q-th percentile of the latency over all runs, in ms."""
        return float(np.percentile(self.latency, q))

    @property
    def pictures_per_second(self) -> float:
        """Pictures drawn ÷ time spent on them, one after the other."""
        return float(1000 * self.picture.size / self.picture.sum())


@dataclass(frozen=True)
class Benched:
    """One artifact. cold_start: seconds from starting a process to its first picture, one per
    start. peak_memory: bytes, of the process that drew at the first number of threads."""

    name: str
    artifact: Artifact
    cold_start: np.ndarray
    peak_memory: int
    timings: tuple[Timing, ...]


@dataclass(frozen=True)
class Ratio:
    """Latency of an artifact ÷ latency of the baseline, and its confidence interval."""

    name: str
    baseline: str
    threads: int
    interval: Interval


@dataclass(frozen=True)
class Bench:
    """What one run of `bench` found. baseline: "" where none was named."""

    benched: tuple[Benched, ...]
    ratios: tuple[Ratio, ...]
    baseline: str

    def of(self, name: str) -> Benched:
        """The artifact of this name."""
        return next(b for b in self.benched if b.name == name)


def names_of(directories: Sequence[Path]) -> list[str]:
    """What reports call each artifact: its folder's name; where several share one, with as many of the
    folders above as tell them apart, wherever the command is run."""
    parts = [d.resolve().parts for d in directories]
    names = [p[-1] for p in parts]
    for count in range(2, max(map(len, parts), default=0) + 1):
        longer = [Path(*p[-count:]).as_posix() for p in parts]
        names = [m if names.count(n) > 1 else n for n, m in zip(names, longer, strict=True)]
    return names


def bench(
    directories: Sequence[Path],
    *,
    baseline: str = "",
    threads: Sequence[int] = (1,),
    rounds: int = ROUNDS,
    runs: int = RUNS,
    cold_starts: int = COLD_STARTS,
    seconds: float = SECONDS,
    report: Report = lambda what, done, total: None,
) -> Bench:
    """Times artifacts in turn.

    baseline: the name of one of them, which the others are divided by; "" for none. threads:
    numbers of threads, each timed apart. seconds: after this many of timed rounds no further one
    is begun, but FEWEST_ROUNDS are always made. Raises BadInput for an unknown baseline, the same
    folder twice, or a folder that is no artifact; and what loading an artifact raises, named.
    """
    artifacts = [read_artifact(d) for d in directories]
    names = names_of(directories)
    twice = [n for n in names if names.count(n) > 1]
    if twice:
        raise BadInput(f"{twice[0]} is named twice; name each artifact once")
    if baseline and baseline not in names:
        raise BadInput(f"baseline {baseline!r} is none of the artifacts; named: {', '.join(names)}")
    cold = _cold_starts(names, directories, cold_starts, threads[0], report)
    timings: dict[str, list[Timing]] = {n: [] for n in names}
    peaks: dict[str, int] = {}
    for count in threads:
        found = _rounds(names, directories, count, rounds, runs, seconds / len(threads), report)
        for name, (timing, peak) in found.items():
            timings[name].append(timing)
            peaks.setdefault(name, peak)
    benched = tuple(
        Benched(n, a, np.array(cold[n]), peaks[n], tuple(timings[n]))
        for n, a in zip(names, artifacts, strict=True)
    )
    return Bench(benched, ratios_to(benched, baseline), baseline)


def ratios_to(benched: Sequence[Benched], baseline: str) -> tuple[Ratio, ...]:
    """Each other artifact's latency ÷ the baseline's, at each number of threads."""
    base = next((b for b in benched if b.name == baseline), None)
    if base is None:
        return ()
    return tuple(
        Ratio(b.name, base.name, t.threads, ratio_interval(t.latency, u.latency))
        for b in benched
        if b is not base
        for t, u in zip(b.timings, base.timings, strict=True)
    )


@contextlib.contextmanager
def _naming(name: str) -> Any:
    """Puts the artifact's name in front of a failure that does not say it."""
    try:
        yield
    except GenedgeError as problem:
        if name not in str(problem):
            problem.args = (f"{name}: {problem}",)
        raise


def _cold_starts(
    names: Sequence[str],
    directories: Sequence[Path],
    count: int,
    threads: int,
    report: Report,
) -> dict[str, list[float]]:
    """Seconds of `count` cold starts each, in turn."""
    found: dict[str, list[float]] = {n: [] for n in names}
    for i in range(count):
        for name, directory in zip(names, directories, strict=True):
            with _naming(name), Worker(directory, threads) as worker:
                found[name].append(worker.cold_start_s)
        report("cold starts", i + 1, count)
    return found


def _rounds(
    names: Sequence[str],
    directories: Sequence[Path],
    threads: int,
    rounds: int,
    runs: int,
    seconds: float,
    report: Report,
) -> dict[str, tuple[Timing, int]]:
    """Timings and peak memory of each artifact; who begins a round moves on by one each time."""
    with contextlib.ExitStack() as stack:
        workers = {}
        for name, directory in zip(names, directories, strict=True):
            with _naming(name):
                workers[name] = stack.enter_context(Worker(directory, threads))
        for name, worker in workers.items():
            with _naming(name):
                worker.ask(round=0, runs=runs)
        latency: dict[str, list[list[float]]] = {n: [] for n in names}
        picture: dict[str, list[list[float]]] = {n: [] for n in names}
        peaks: dict[str, int] = {}
        began = time.perf_counter()
        what = f"rounds on {threads} thread{'s' if threads > 1 else ''}"
        for i in range(rounds):
            first = i % len(names)
            for name in (*names[first:], *names[:first]):
                with _naming(name):
                    row = workers[name].ask(round=i, runs=runs)
                latency[name].append(row["latency_ms"])
                picture[name].append(row["picture_ms"])
                peaks[name] = row["peak_memory"]
            report(what, i + 1, rounds)
            if time.perf_counter() - began > seconds and i + 1 >= FEWEST_ROUNDS:
                report(what, rounds, rounds)
                break
        return {
            n: (
                Timing(threads, np.array(latency[n]), np.array(picture[n]), w.about["pinned"]),
                peaks[n],
            )
            for n, w in workers.items()
        }


def to_tables(found: Bench) -> list[Table]:
    """For the terminal: latency and throughput, then process and file, then ratios."""
    speed = _table("artifact", "threads", "p50 ms", "p95", "p99", "pictures/s")
    whole = _table("artifact", "cold start s", "peak MB", "file MB", "stored", "computes")
    for one in found.benched:
        for i, t in enumerate(one.timings):
            speed.add_row(
                "" if i else one.name,
                t.pinned.get("threads", str(t.threads)),
                *(f"{t.percentile(q):.2f}" for q in (50, 95, 99)),
                f"{t.pictures_per_second:.1f}",
            )
        whole.add_row(
            one.name,
            f"{np.median(one.cold_start):.2f}" if len(one.cold_start) else "",
            f"{one.peak_memory / 1e6:.0f}",
            f"{one.artifact.bytes / 1e6:.2f}",
            one.artifact.precision,
            one.timings[0].pinned.get("precision", "not said"),
        )
    if not found.ratios:
        return [speed, whole]
    ratios = _table("artifact", "threads", "ratio", f"{LEVEL:.0%} interval")
    ratios.title = f"latency ÷ {found.baseline}"
    for r in found.ratios:
        at = r.interval
        bounds = f"{at.low:.3f} … {at.high:.3f}"
        ratios.add_row(r.name, str(r.threads), f"{at.value:.3f}", bounds)
    return [speed, whole, ratios]


def _table(*names: str) -> Table:
    table = Table(header_style="bold", title_justify="left")
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    return table


def to_rows(found: Bench) -> dict[str, Any]:
    """What `--json` writes; docs/bench.schema.json describes it."""
    return {
        "schema": JSON_SCHEMA,
        "host": host.about(),
        "baseline": found.baseline or None,
        "level": LEVEL,
        "artifacts": [
            {
                "artifact": b.name,
                "hash": b.artifact.hash,
                "target": b.artifact.target,
                "precision": b.artifact.precision,
                "cpu": b.artifact.cpu,
                "bytes": b.artifact.bytes,
                "peak_memory_bytes": b.peak_memory,
                "cold_start_s": _interval(median_interval(b.cold_start))
                if len(b.cold_start)
                else None,
                "timings": [
                    {
                        "threads": t.threads,
                        "pinned": t.pinned,
                        "runs": t.latency.size,
                        **{f"p{q}_ms": t.percentile(q) for q in (50, 95, 99)},
                        "pictures_per_second": t.pictures_per_second,
                        "latency_ms": np.round(t.latency, 4).tolist(),
                    }
                    for t in b.timings
                ],
            }
            for b in found.benched
        ],
        "ratios": [
            {
                "artifact": r.name,
                "baseline": r.baseline,
                "threads": r.threads,
                **_interval(r.interval),
            }
            for r in found.ratios
        ],
    }


def _interval(at: Interval) -> dict[str, float]:
    return {"value": at.value, "low": at.low, "high": at.high}


def to_json(found: Bench) -> str:
    """Stable; see docs/bench.schema.json."""
    return json.dumps(to_rows(found), indent=1, ensure_ascii=False)
