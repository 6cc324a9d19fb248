"""A report as one HTML page that needs nothing else: pictures, charts and tables inside."""

from __future__ import annotations

import base64
import importlib.util
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import host
from .errors import MissingProgram
from .metrics import CAP
from .picture import over
from .report import cells_of, headline, notes, shown
from .verdict import Report, Shown

HEAT_FULL = 32  # grey levels that the heat map shows as its lightest colour
LARGEST_SIDE = 128  # pixels; larger pictures are made smaller for the page
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_HEADS = {"psnr_db": "PSNR dB", "psnr_p1_db": "p1", "psnr_worst_db": "worst", "ssim": "SSIM"}
_HEADS |= {"bytes": "size", "latency_ms": "ms"}


def needs_report() -> None:
    """Raises MissingProgram, with the remedy, where jinja2 or matplotlib is not installed."""
    for module in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(module) is None:
            raise MissingProgram(f"--html needs {module}; run: pip install 'genedge[report]'")


def to_html(report: Report) -> str:
    """The whole page. Raises MissingProgram where jinja2 or matplotlib is not installed."""
    needs_report()
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from . import charts

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    )
    names = list(dict.fromkeys(str(d["name"]) for d in report.details))
    about = host.about()
    text: str = template.render(
        failed=bool(report.failed),
        headline=headline(report),
        notes=[(n.split(":")[0], n.split(":", 1)[1]) for n in notes(report)],
        heads=list(_HEADS.values()),
        summary=[_summary(report, n) for n in dict.fromkeys(r.artifact for r in report.rows)],
        charts=[Markup(c) for c in _charts(report, names)],
        pictures=[
            (n, [_triple(s) for s in report.shown.get(n, ()) if s.psnr < CAP]) for n in names
        ],
        gradient=Markup(charts.heat_gradient()),
        heat_full=HEAT_FULL,
        changes=[cells_of(c) for c in report.changes],
        between=[b.cells for b in report.between],
        rows=[(r.artifact, r.metric, shown(r), r.limit, r.state, r.note) for r in report.rows],
        prompts=report.details[0]["prompts"] if report.details else 0,
        about=about,
    )
    return text


def _summary(report: Report, name: str) -> tuple[str, str, list[str]]:
    rows = {r.metric: r for r in report.rows if r.artifact == name}
    bad = any(r.state == "fail" for r in report.rows if r.artifact == name)
    cells = [shown(rows[m]) if m in rows else "" for m in _HEADS]
    return name, "fail" if bad else "pass", cells


def _charts(report: Report, names: Sequence[str]) -> list[str]:
    """Size, latency, and accuracy against size; none where no artifact ran."""
    from . import charts

    if not names:
        return []
    found = {str(d["name"]): d for d in report.details}
    sizes = [found[n]["bytes"] / 1e6 for n in names]
    short = _short(names)
    drawn = [charts.bars("Size", "MB", short, sizes)]
    benched = {b.name: b.timings[0] for b in report.bench.benched} if report.bench else {}
    if benched and all(n in benched for n in names):
        middle = [benched[n].percentile(50) for n in names]
        ends = [(benched[n].percentile(5), benched[n].percentile(95)) for n in names]
        title = "Latency on 1 thread, in turn: p50, p5 to p95"
        drawn.append(charts.bars(title, "ms", short, middle, ends))
    else:
        middle = [found[n]["latency_ms"] for n in names]
        drawn.append(charts.bars("Latency, each on its own: p50", "ms", short, middle))
    mean, worst = ([found[n][k] for n in names] for k in ("psnr", "psnr_worst"))
    if all(map(math.isfinite, [*mean, *worst])):
        axes = ("MB", sizes), ("PSNR to float, dB: mean, down to worst", mean)
        drawn.append(charts.scatter("Accuracy against size", *axes, short, worst))
    return drawn


def _short(names: Sequence[str]) -> list[str]:
    """Names without the words that all of them begin with."""
    words = [n.split("-") for n in names]
    same = 0
    while len(words) > 1 and all(len(w) > same + 1 and w[same] == words[0][same] for w in words):
        same += 1
    return ["-".join(w[same:]) for w in words]


def _triple(one: Shown) -> dict[str, Any]:
    """Float, artifact and heat map as data URIs, with what to say below them."""
    from . import charts

    apart = np.zeros(one.drawn.shape[:2])
    for ground in (_WHITE, _BLACK):
        mine, true = over(one.drawn, ground).astype(int), over(one.reference, ground)
        apart = np.maximum(apart, np.abs(mine - true).max(-1))
    return {
        "prompt": one.prompt,
        "seed": one.seed,
        "psnr": f"{one.psnr:.1f}",
        "largest": int(apart.max()),
        "images": [
            ("float", _uri(over(one.reference, _WHITE))),
            ("artifact", _uri(over(one.drawn, _WHITE))),
            ("difference", _uri(charts.heat(apart, HEAT_FULL))),
        ],
    }


def _uri(pixels: np.ndarray) -> str:
    """uint8 (H, W, 3) → a PNG as data URI, no side above LARGEST_SIDE."""
    image = Image.fromarray(pixels)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
