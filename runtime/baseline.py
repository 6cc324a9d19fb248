"""Run against run: this verdict beside the last one that was accepted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import host
from .errors import BadInput, LimitMissed
from .verdict import Report, Row

SCHEMA = 1
SHARE = 0.1  # of the slack between the accepted value and its limit that one run may use up
NOISE = 0.1  # share by which a measured time or memory must change before it is listed

# +1 where more is better. The same files on the same CPU give the same value.
DETERMINISTIC = {
    "psnr_db": 1,
    "psnr_p1_db": 1,
    "psnr_worst_db": 1,
    "ssim": 1,
    "max_error": -1,
    "flat_kept": 1,
    "signed_error": -1,
    "lead_db": 1,
    "feature_distance": -1,
    "bytes": -1,
}
MEASURED = {"latency_ratio": -1, "cold_start_s": -1, "peak_memory": -1}
COUNTS = {"prompts": 1, "float_layers": -1}  # any step back has to be accepted


@dataclass(frozen=True)
class Change:
    """A cell that differs from the accepted verdict. kind: progress, regress, missing or new.

    red: whether it fails the build, for the reason in `note`.
    """

    artifact: str
    metric: str
    before: float | None
    now: float | None
    kind: str
    red: bool = False
    note: str = ""


def baseline_path(budget: Path) -> Path:
    """genedge.toml → genedge.baseline.json, beside it."""
    return budget.with_name(f"{budget.stem}.baseline.json")


def cells(report: Report) -> dict[str, dict[str, float]]:
    """By artifact and metric: the numbers of a report that later runs are compared with."""
    found: dict[str, dict[str, float]] = {}
    kept = (*DETERMINISTIC, *MEASURED)
    for row in report.rows:
        if row.metric in kept and not isinstance(row.value, str) and math.isfinite(row.value):
            found.setdefault(row.artifact, {})[row.metric] = float(row.value)
    for detail in report.details:
        mine = found.setdefault(str(detail["name"]), {})
        mine |= {k: float(detail[k]) for k in COUNTS if k in detail}
    return found


def read_accepted(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """By CPU profile, artifact and metric; empty where there is no file yet. Raises BadInput."""
    if not path.exists():
        return {}
    try:
        row = json.loads(path.read_bytes())
        if row["schema"] != SCHEMA:
            raise BadInput(
                f"{path}: schema {row['schema']!r} is unknown; this genedge reads {SCHEMA}"
            )
        return {
            str(profile): {
                str(name): {str(k): float(v) for k, v in metrics.items()}
                for name, metrics in artifacts.items()
            }
            for profile, artifacts in row["profiles"].items()
        }
    except OSError as problem:
        raise BadInput(f"{path} can not be read ({problem.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise BadInput(
            f"{path} is damaged ({problem!r}); restore it, or delete it and --update-baseline"
        ) from None


def compared(report: Report, path: Path) -> Report:
    """The report with its changes since the accepted verdict, and rows that a red one fails."""
    profiles, here = read_accepted(path), host.cpu_profile()
    before = profiles.get(here, {})
    if not profiles:
        return report
    if not before:
        note = f"{path.name} holds verdicts of {', '.join(sorted(profiles))} alone: accept one here too"
        row = Row(
            path.name, "accepted", f"none of a CPU of profile {here}", "", True, note, "reported"
        )
        return replace(report, rows=(*report.rows, row))
    now = cells(report)
    bounds = {(r.artifact, r.metric): r.bound for r in report.rows}
    changes = changes_between(before, now, bounds)
    red = {(c.artifact, c.metric): c for c in changes if c.red}
    rows = []
    for row in report.rows:
        change = red.pop((row.artifact, row.metric), None)
        rows.append(row if change is None else _failed(row, change.note))
    for (name, metric), change in red.items():  # counts have no row of their own
        sign = "≥" if COUNTS[metric] > 0 else "≤"
        limit = f"{sign} {change.before:g} as accepted"
        rows.append(Row(name, metric, change.now or 0.0, limit, False, change.note))
    return replace(report, rows=tuple(rows), changes=changes)


def _failed(row: Row, note: str) -> Row:
    both = f"{row.note}; {note}" if row.note else note
    return replace(row, passed=False, verdict="", note=both)


def changes_between(
    before: Mapping[str, Mapping[str, float]],
    now: Mapping[str, Mapping[str, float]],
    bounds: Mapping[tuple[str, str], float | None],
) -> tuple[Change, ...]:
    """Every cell that differs. bounds: the present limits by artifact and metric.

    A deterministic metric is red where it uses up more than SHARE of its slack, a count where it
    steps back at all.
    """
    found = []
    names: Sequence[str] = [*before, *(n for n in now if n not in before)]
    for name in names:
        old, new = before.get(name, {}), now.get(name, {})
        for metric in [*old, *(m for m in new if m not in old)]:
            was, value = old.get(metric), new.get(metric)
            if was is None or value is None:
                kind = "new" if was is None else "missing"
                found.append(Change(name, metric, was, value, kind))
                continue
            found += _change(name, metric, was, value, bounds.get((name, metric)))
    return tuple(found)


def _change(name: str, metric: str, was: float, value: float, bound: float | None) -> list[Change]:
    if metric in MEASURED and abs(value - was) <= NOISE * abs(was):
        return []
    better = (DETERMINISTIC | MEASURED | COUNTS).get(metric)
    if better is None or math.isclose(was, value, rel_tol=1e-9, abs_tol=1e-9):
        return []
    loss = (was - value) * better
    if loss < 0:
        return [Change(name, metric, was, value, "progress")]
    red, note = False, ""
    if metric in COUNTS:
        red, note = True, f"was {was:g} when accepted; --update-baseline accepts {value:g}"
    elif metric in DETERMINISTIC and bound is not None:
        slack = max(0.0, (was - bound) * better)
        if loss > SHARE * slack:
            red = True
            share = (
                f"{loss / slack:.0%} of its slack of {slack:.4g}" if slack else "no slack is left"
            )
            note = f"was {was:.6g} when accepted: {share}, {SHARE:.0%} is allowed in one run"
    return [Change(name, metric, was, value, "regress", red, note)]


def accepted_text(report: Report, path: Path) -> str:
    """What to write to `path`: this verdict accepted, those of other CPU profiles and artifacts kept.

    Raises LimitMissed where a limit itself is missed: only a step back within limits is accepted.
    """
    stepped = {(c.artifact, c.metric) for c in report.changes if c.red}
    for row in report.failed:
        within = row.bound is None or _holds(row)
        if (row.artifact, row.metric) in stepped and within:
            continue
        raise LimitMissed(
            f"{row.artifact}: {row.metric} misses its limit, so the verdict is not accepted; "
            f"{path.name} stays as it was"
        )
    profiles: dict[str, Any] = read_accepted(path)
    mine = dict(profiles.get(host.cpu_profile(), {}))
    profiles[host.cpu_profile()] = mine | cells(report)
    text = {"schema": SCHEMA, "profiles": profiles}
    return json.dumps(text, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _holds(row: Row) -> bool:
    assert row.bound is not None
    value = float(row.value)
    return value >= row.bound if row.limit.startswith("≥") else value <= row.bound
