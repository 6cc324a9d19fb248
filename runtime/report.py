"""A Report, written for people (terminal, Markdown) and for programs (JSON, JUnit XML)."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from rich.table import Table

from . import host
from .baseline import Change
from .bench import to_rows
from .verdict import BETWEEN, Report, Row

JSON_SCHEMA = 1


def shown(row: Row) -> str:
    """The value as people read it."""
    return row.value if isinstance(row.value, str) else as_text(row.metric, row.value)


def as_text(metric: str, value: float) -> str:
    """A number of this metric, with its unit where the metric's name has none."""
    if metric in ("bytes", "peak_memory"):
        return f"{value / 1e6:.2f} MB"
    if metric in ("prompts", "float_layers", "max_error"):
        return f"{value:g}"
    return f"{value:.{4 if metric in ('ssim', 'flat_kept', 'feature_distance') else 3 if 'ratio' in metric else 2}f}"


_STYLES = {"fail": "bold red", "inconclusive": "yellow"}
_FAILED = "**FAIL**"
_WORDS = {"fail": "FAIL"}


def to_tables(report: Report) -> list[Table]:
    """For the terminal: a line per metric; artifacts against each other; what changed."""
    tables = [to_table(report)]
    if report.between:
        table = _table(*BETWEEN, right=(2, 3, 4))
        for pair in report.between:
            table.add_row(*pair.cells)
        tables.append(table)
    if report.changes:
        table = _table("artifact", "metric", "accepted", "now", "change", right=(2, 3))
        for change in report.changes:
            table.add_row(*cells_of(change), style="bold red" if change.red else "")
        tables.append(table)
    return tables


def headline(report: Report) -> str:
    """The verdict in a few words."""
    open_ones = sum(r.state == "inconclusive" for r in report.rows)
    if report.failed:
        return f"{len(report.failed)} limit(s) missed"
    return f"no limit missed, {open_ones} inconclusive" if open_ones else "all limits held"


def notes(report: Report) -> list[str]:
    """One line for each row that says more than its number, and for each that failed."""
    return [
        f"{_WORDS.get(r.state, r.state) or 'note'}: {r.artifact} {r.metric} {shown(r)}"
        + (f", limit {r.limit}" if r.limit else "")
        + (f": {r.note}" if r.note else "")
        for r in report.rows
        if r.note or not r.passed
    ]


def cells_of(change: Change) -> tuple[str, str, str, str, str]:
    """Artifact, metric, accepted value, value now, and the kind of change."""
    was, now = ("" if v is None else as_text(change.metric, v) for v in (change.before, change.now))
    return change.artifact, change.metric, was, now, change.kind + (", RED" if change.red else "")


def _table(*names: str, right: tuple[int, ...]) -> Table:
    table = Table(header_style="bold")
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i in right else "left", overflow="fold")
    return table


def to_table(report: Report) -> Table:
    """A line per metric."""
    table = _table("artifact", "metric", "value", "limit", "verdict", right=(2,))
    before = ""
    for row in report.rows:
        table.add_row(
            row.artifact if row.artifact != before else "",
            row.metric,
            shown(row),
            row.limit,
            _WORDS.get(row.state, row.state),
            style=_STYLES.get(row.state, ""),
        )
        before = row.artifact
    return table


def to_json(report: Report) -> str:
    """Stable; docs/verify.schema.json describes it."""
    return json.dumps(
        {
            "schema": JSON_SCHEMA,
            "passed": not report.failed,
            "machine": platform.machine(),
            "host": host.about(),
            "rows": [
                {**{k: _plain(v) for k, v in vars(r).items() if k != "verdict"}, "state": r.state}
                for r in report.rows
            ],
            "details": [{k: _plain(v) for k, v in d.items()} for d in report.details],
            "between": [vars(b) for b in report.between],
            "changes": [vars(c) for c in report.changes],
            "bench": to_rows(report.bench) if report.bench else None,
        },
        indent=1,
        ensure_ascii=False,
        allow_nan=False,
    )


def _plain(value: object) -> object:
    """JSON has no NaN and no infinity: they become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_junit(report: Report) -> str:
    """One test case per row that has a limit or failed; inconclusive and reported ones skipped."""
    cases = [r for r in report.rows if r.limit or not r.passed]
    open_ones = [r for r in cases if r.state in ("inconclusive", "reported")]
    suite = ElementTree.Element(
        "testsuite",
        name="genedge verify",
        tests=str(len(cases)),
        failures=str(len(report.failed)),
        errors="0",
        skipped=str(len(open_ones)),
    )
    for row in cases:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_xml(row.artifact), name=_xml(row.metric)
        )
        text = f"{row.metric} is {shown(row)}; limit {row.limit or 'none'}"
        text = _xml(text + (f"; {row.note}" if row.note else ""))
        if row in open_ones:
            ElementTree.SubElement(case, "skipped", message=f"{row.state}: {text}")
        elif not row.passed:
            ElementTree.SubElement(case, "failure", message=text)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    """The text without characters that XML 1.0 can not hold."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)


def to_markdown(report: Report) -> str:
    """For a CI job's summary: what failed first, then a line per artifact, all rows folded away."""
    names = list(dict.fromkeys(r.artifact for r in report.rows))
    lines = [f"### genedge verify: {headline(report)}", ""]
    lines += [f"- {_cell(n)}" for n in notes(report)]
    lines += [""] if notes(report) else []
    lines += _markdown(
        ("artifact", "verdict", "PSNR mean, p1, worst dB", "SSIM", "size", "latency ms"),
        [_summary(report, n) for n in names],
    )
    if report.changes:
        head = ("artifact", "metric", "accepted", "now", "change")
        lines += ["", *_markdown(head, [cells_of(c) for c in report.changes])]
    lines += ["", "<details><summary>Every metric</summary>", ""]
    head = ("artifact", "metric", "value", "limit", "verdict")
    rows = [
        (r.artifact, r.metric, shown(r), r.limit, _FAILED if r.state == "fail" else r.state)
        for r in report.rows
    ]
    lines += [*_markdown(head, rows), "", "</details>", ""]
    if report.between:
        lines += ["<details><summary>Artifacts against each other</summary>", ""]
        lines += _markdown(BETWEEN, [b.cells for b in report.between])
        lines += ["", "</details>", ""]
    about = host.about()
    lines.append(f"{about['cpu']}, profile {about['profile']}, {about['cores']} core(s)")
    return "\n".join(lines) + "\n"


def _summary(report: Report, name: str) -> tuple[str, ...]:
    rows = {r.metric: r for r in report.rows if r.artifact == name}
    bad = any(r.state == "fail" for r in report.rows if r.artifact == name)
    three = [shown(rows[m]) for m in ("psnr_db", "psnr_p1_db", "psnr_worst_db") if m in rows]
    rest = [shown(rows[m]) if m in rows else "" for m in ("ssim", "bytes", "latency_ms")]
    return (name, _FAILED if bad else "pass", ", ".join(three), *rest)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(_cell(c) for c in row) + " |" for row in rows]


def _cell(text: str) -> str:
    """A prompt can hold anything: nothing of it may become a table, a link or HTML."""
    if text == _FAILED:
        return text
    return re.sub(r"([\\|`*_<>\[\]#@])", r"\\\1", text.replace("\n", " "))
