"""A Report, written for people (terminal, Markdown) and for programs (JSON, JUnit XML)."""

from __future__ import annotations

import json
import platform
from xml.etree import ElementTree

from rich.table import Table

from .verify import Report, Row

JSON_SCHEMA = 1


def shown(row: Row) -> str:
    """The value as people read it."""
    if isinstance(row.value, str):
        return row.value
    if row.metric == "bytes":
        return f"{row.value / 1e6:.2f} MB"
    digits = 4 if row.metric in ("ssim", "flat_kept") else 2
    return f"{row.value:.{digits}f}"


def to_table(report: Report) -> Table:
    """A table for the terminal, one line per metric."""
    table = Table(title=None, header_style="bold")
    for name in ("artifact", "metric", "value", "limit", "verdict"):
        table.add_column(name, justify="right" if name == "value" else "left")
    before = ""
    for row in report.rows:
        verdict = "" if row.passed and not row.limit else ("pass" if row.passed else "FAIL")
        table.add_row(
            row.artifact if row.artifact != before else "",
            row.metric,
            shown(row),
            row.limit,
            verdict,
            style="" if row.passed else "bold red",
        )
        before = row.artifact
    return table


def to_json(report: Report) -> str:
    """Stable: schema, passed, cpu, rows, details. Documented in docs/verify.md."""
    return json.dumps(
        {
            "schema": JSON_SCHEMA,
            "passed": not report.failed,
            "machine": platform.machine(),
            "rows": [vars(r) for r in report.rows],
            "details": [dict(d) for d in report.details],
        },
        indent=1,
        ensure_ascii=False,
    )


def to_junit(report: Report) -> str:
    """One test case per row that has a limit or failed."""
    cases = [r for r in report.rows if r.limit or not r.passed]
    suite = ElementTree.Element(
        "testsuite", name="genedge verify", tests=str(len(cases)), failures=str(len(report.failed))
    )
    for row in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=row.artifact, name=row.metric)
        if not row.passed:
            text = f"{row.metric} is {shown(row)}; limit {row.limit or 'none'}"
            ElementTree.SubElement(case, "failure", message=text)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def to_markdown(report: Report) -> str:
    """A table for a CI job's summary."""
    lines = ["| artifact | metric | value | limit | verdict |", "|---|---|---:|---|---|"]
    for row in report.rows:
        verdict = ("pass" if row.limit else "") if row.passed else "**FAIL**"
        cells = (row.artifact, row.metric, shown(row), row.limit, verdict)
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"
