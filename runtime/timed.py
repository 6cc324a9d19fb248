"""Limits on time and memory, judged on what a bench found."""

from __future__ import annotations

from collections.abc import Mapping

from . import host
from .bench import Bench
from .bootstrap import Interval, median_interval, ratio_interval
from .budget import Timed, Wanted
from .verdict import Row

ABSOLUTE = "absolute time: it depends on the machine; a ratio to a baseline holds longer"


def timed_rows(
    bench: Bench, wanted: Mapping[str, Wanted], names: Mapping[str, str], profile: str = ""
) -> list[Row]:
    """One row per limit. wanted: by artifact. names: what each baseline `to` is called in `bench`.

    profile: the CPU profile that the bench was made on; "" for this machine's.
    """
    profile = profile or host.cpu_profile()
    rows = []
    for name, limits in wanted.items():
        if not limits.timed:  # nor was it benched
            continue
        mine = bench.of(name)
        if limits.max_peak_memory is not None:
            peak, most = mine.peak_memory, limits.max_peak_memory
            limit = f"≤ {most / 1e6:g} MB"
            rows.append(Row(name, "peak_memory", peak, limit, peak <= most, bound=most))
        if (want := limits.max_latency_ratio) is not None:
            base = names[want.to]
            if base not in [b.name for b in bench.benched]:
                note, limit = f"{base} could not be run", f"≤ {want.limit:g} of {base}"
                rows.append(Row(name, "latency_ratio", "not comparable", limit, False, note))
            else:
                mine_ms, base_ms = (
                    next(t.latency for t in bench.of(n).timings if t.threads == want.threads)
                    for n in (name, base)
                )
                at = ratio_interval(mine_ms, base_ms)
                rows.append(_row(name, "latency_ratio", at, want, f" of {base}", profile))
        if (want := limits.max_latency) is not None:
            mine_ms = next(t.latency for t in mine.timings if t.threads == want.threads)
            at = median_interval(mine_ms.reshape(-1))
            rows.append(_row(name, "latency_p50_ms", at, want, " ms", profile, ABSOLUTE))
        if (want := limits.max_cold_start) is not None and len(mine.cold_start):
            at = median_interval(mine.cold_start)
            rows.append(_row(name, "cold_start_s", at, want, " s", profile, ABSOLUTE))
    return rows


def _row(
    name: str, metric: str, at: Interval, want: Timed, unit: str, profile: str, warning: str = ""
) -> Row:
    limit = f"≤ {want.limit:g}{unit} on {want.cpu}"
    note = f"{at.low:.3g} … {at.high:.3g}" + (f"; {warning}" if warning else "")
    if want.cpu != profile:
        note += f"; this CPU is {profile}: reported alone"
        return Row(name, metric, at.value, limit, True, note, "reported", want.limit)
    verdict = at.at_most(want.limit)
    if verdict == "inconclusive":
        return Row(name, metric, at.value, limit, True, note, verdict, want.limit)
    return Row(name, metric, at.value, limit, verdict == "pass", note, bound=want.limit)
