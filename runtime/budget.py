"""The budget file, `genedge.toml`: what each artifact may cost and lose. See docs/budget.md."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .artifact import CPUS, PRECISIONS, TARGETS, Artifact
from .errors import BadInput
from .verdict import Limits, Row

ANY = "*"
SCHEMA = 1


@dataclass(frozen=True)
class Timed:
    """A limit on a time, judged on CPUs of profile `cpu` alone and reported on others.

    limit: seconds, ms, or a ratio. to: the baseline of a ratio, by name or as a folder beside the
    budget file; "" for the others. threads: what it is measured on.
    """

    limit: float
    cpu: str
    to: str = ""
    threads: int = 1


@dataclass(frozen=True)
class NoLoss:
    """A claim: the mean PSNR to float is at most `margin` dB below that of the artifact `to`."""

    to: str
    margin: float


@dataclass(frozen=True)
class Wanted:
    """Limits of one model, target and precision; None where the file sets none.

    PSNR in dB (mean, p1), SSIM 0 … 1, feature distance 0 … 4 (toolkit/perceptual.py), sizes in bytes.
    """

    min_psnr: float | None = None
    min_psnr_p1: float | None = None
    min_ssim: float | None = None
    max_feature_distance: float | None = None
    max_bytes: int | None = None
    max_peak_memory: int | None = None
    max_cold_start: Timed | None = None
    max_latency: Timed | None = None
    max_latency_ratio: Timed | None = None
    no_loss: NoLoss | None = None

    @property
    def limits(self) -> Limits:
        """Those that `judge` holds an artifact's pictures and size to."""
        return Limits(
            psnr=self.min_psnr,
            psnr_p1=self.min_psnr_p1,
            ssim=self.min_ssim,
            feature_distance=self.max_feature_distance,
            bytes=self.max_bytes,
        )

    @property
    def timed(self) -> bool:
        """Whether the artifact has to be timed, or its memory measured."""
        return any((self.max_latency_ratio, self.max_latency, self.max_cold_start)) or (
            self.max_peak_memory is not None
        )


@dataclass(frozen=True)
class Scores:
    """Two-sided bands on evaluation scores: `file`, written by `genedge evaluate --json`."""

    model: str
    file: Path
    bands: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Budget:
    """What a budget file says. entries: by (model, target, precision), each a name or ANY."""

    path: Path
    entries: Mapping[tuple[str, str, str], Wanted]
    scores: tuple[Scores, ...]

    def of(self, artifact: Artifact) -> Wanted | None:
        """The entries that fit, the more specific ones winning key by key; None where none fits."""
        mine = (artifact.name, artifact.target, artifact.precision)
        fitting = [
            key
            for key in self.entries
            if all(k in (ANY, m) for k, m in zip(key, mine, strict=True))
        ]
        if not fitting:
            return None
        found = Wanted()
        for key in sorted(fitting, key=lambda key: (-key.count(ANY), [k != ANY for k in key])):
            given = {f.name: getattr(self.entries[key], f.name) for f in fields(Wanted)}
            found = replace(found, **{k: v for k, v in given.items() if v is not None})
        return found


def read_budget(path: Path) -> Budget:
    """Raises BadInput, one line that names the file, the key and what it should be."""
    try:
        data = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as problem:
        raise BadInput(f"{path} can not be read ({problem.strerror})") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise BadInput(f"{path} is no TOML: {problem}") from None
    _known(data, ("schema", "limits", "scores"), f"{path}")
    if data.get("schema", SCHEMA) != SCHEMA:
        raise BadInput(f"{path}: schema {data['schema']!r} is unknown; this genedge reads {SCHEMA}")
    entries = {}
    for model, targets in _table(data.get("limits", {}), f"{path}: limits").items():
        where = f"{path}: limits.{model}"
        for target, precisions in _table(targets, where).items():
            _known({target: 0}, (*TARGETS, ANY), where)
            for precision, row in _table(precisions, f"{where}.{target}").items():
                _known({precision: 0}, (*PRECISIONS, ANY), f"{where}.{target}")
                at = f"{where}.{target}.{precision}"
                entries[model, target, precision] = _wanted(_table(row, at), at)
    scores = tuple(
        _scores(model, _table(row, f"{path}: scores.{model}"), path)
        for model, row in _table(data.get("scores", {}), f"{path}: scores").items()
    )
    if not entries and not scores:
        raise BadInput(f"{path} sets no limit; add for example [limits.emoji.onnx.int8]")
    return Budget(path, entries, scores)


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{where} must be a table, not {value!r}")
    return value


def _known(row: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in row:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise BadInput(f"{where}: {key!r} is unknown; {hint}")


def _number(value: Any, where: str, low: float, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        span = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
        raise BadInput(f"{where} must be a number {span}, not {value!r}")
    return float(value)


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(f"{where} must be a whole number of bytes, not {value!r}")
    return value


def _timed(value: Any, where: str, unit: str) -> Timed:
    keys = (unit, "cpu", "threads", *(("to",) if unit == "ratio" else ()))
    if not isinstance(value, dict) or unit not in value or "cpu" not in value:
        to = 'to = "emoji-onnx-fp32", ' if unit == "ratio" else ""
        raise BadInput(
            f"{where} must name {unit} and the CPU profile it is judged on, "
            f'for example {{ {to}{unit} = 0.6, cpu = "vnni" }}'
        )
    if unit == "seconds" and "threads" in value:
        raise BadInput(f"{where}: a cold start is measured on one thread; leave threads out")
    _known(value, keys, where)
    if unit == "ratio" and (not isinstance(value.get("to"), str) or not value["to"]):
        raise BadInput(f'{where}.to must name the baseline, for example "emoji-onnx-fp32"')
    if value["cpu"] not in CPUS:
        raise BadInput(f"{where}.cpu {value['cpu']!r} is unknown; known: {', '.join(CPUS)}")
    threads = value.get("threads", 1)
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 256:
        raise BadInput(f"{where}.threads must be a whole number from 1 to 256, not {threads!r}")
    limit = _number(value[unit], f"{where}.{unit}", 1e-9)
    return Timed(limit, value["cpu"], value.get("to", ""), threads)


def _no_loss(value: Any, where: str) -> NoLoss:
    if not isinstance(value, dict) or not isinstance(value.get("to"), str) or not value["to"]:
        raise BadInput(f'{where} must be like {{ to = "emoji-onnx-fp32", margin = 0.1 }}')
    _known(value, ("to", "margin"), where)
    return NoLoss(value["to"], _number(value.get("margin", 0.1), f"{where}.margin", 0, 100))


def _wanted(row: Mapping[str, Any], where: str) -> Wanted:
    _known(row, tuple(f.name for f in fields(Wanted)), where)
    if not row:
        raise BadInput(f"{where} sets no limit; add for example min_psnr = 32")
    found: dict[str, Any] = {}
    for key, value in row.items():
        at = f"{where}.{key}"
        if key in ("min_psnr", "min_psnr_p1"):
            found[key] = _number(value, at, 0, 100)
        elif key == "min_ssim":
            found[key] = _number(value, at, 0, 1)
        elif key == "max_feature_distance":
            found[key] = _number(value, at, 0, 4)
        elif key in ("max_bytes", "max_peak_memory"):
            found[key] = _whole(value, at)
        elif key == "no_loss":
            found[key] = _no_loss(value, at)
        else:
            units = {"max_cold_start": "seconds", "max_latency": "ms", "max_latency_ratio": "ratio"}
            found[key] = _timed(value, at, units[key])
    return Wanted(**found)


def _scores(model: str, row: Mapping[str, Any], path: Path) -> Scores:
    where = f"{path}: scores.{model}"
    file = row.get("file")
    if not isinstance(file, str) or not file:
        raise BadInput(f"{where}.file must name what genedge evaluate --json wrote")
    bands = {}
    for key, value in row.items():
        if key == "file":
            continue
        if not isinstance(value, list) or len(value) != 2:
            raise BadInput(f"{where}.{key} must be a band like [22.5, 24.0], not {value!r}")
        low, high = (_number(v, f"{where}.{key}", -math.inf) for v in value)
        if low > high:
            raise BadInput(f"{where}.{key}: the band's lower end {low:g} is above {high:g}")
        bands[key] = (low, high)
    if not bands:
        raise BadInput(f"{where} names no score; add for example train_psnr = [22.5, 24.0]")
    return Scores(model, path.parent / file, bands)


def score_rows(budget: Budget) -> list[Row]:
    """One row per score with a band; worse than the band and better than it both fail.

    Raises BadInput where the file of scores is missing or damaged, or lacks a score.
    """
    rows = []
    for scores in budget.scores:
        found = _read_scores(scores.file)
        for name, (low, high) in scores.bands.items():
            if name not in found:
                known = ", ".join(sorted(found)) or "none"
                raise BadInput(f"{scores.file} holds no score {name!r}; it holds: {known}")
            value = found[name]
            note = ""
            if value < low:
                note = "worse than the band allows"
            elif not value <= high:
                note = "better than the band allows: look for a leak or another metric"
            limit = f"{low:g} … {high:g}"
            rows.append(Row(scores.model, f"score:{name}", value, limit, not note, note))
    return rows


def _read_scores(file: Path) -> dict[str, float]:
    try:
        row = json.loads(file.read_bytes())
        row = row["scores"] if isinstance(row.get("scores"), dict) else row
        found = {k: float(v) for k, v in row.items() if isinstance(v, (int, float))}
    except OSError as problem:
        raise BadInput(f"{file} can not be read ({problem.strerror})") from None
    except (ValueError, AttributeError, TypeError) as problem:
        raise BadInput(f"{file} is no JSON of scores ({problem})") from None
    for name, value in found.items():
        if not math.isfinite(value):
            raise BadInput(f"{file}: score {name} is {value}, not a finite number")
    return found
