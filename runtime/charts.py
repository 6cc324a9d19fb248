"""Charts of a report as SVG text that takes the page's own colour of text: readable on any ground."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INK = "#010203"  # stands for the page's colour of text
_BLUE, _ORANGE = "#3b82c4", "#d9822b"  # both readable on white and on black
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def _svg(figure: Figure, salt: str) -> str:
    """The figure as an <svg> element without a ground, as wide as its place."""
    out = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": salt}):
        none = {"Date": None, "Creator": None, "Type": None, "Format": None}
        figure.savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata=none)
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    head, rest = text.split(">", 1)
    words = [w for w in head.split(" ") if not w.startswith(("width=", "height="))]
    return " ".join(words) + ' role="img" aria-label="' + salt + '">' + rest


def bars(
    title: str,
    unit: str,
    names: Sequence[str],
    values: Sequence[float],
    ends: Sequence[tuple[float, float]] | None = None,
) -> str:
    """Horizontal bars, the first name on top. ends: lower and upper end of each bar's whisker."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 0.7 + 0.32 * len(names)))
        axes: Axes = figure.subplots()
        at = np.arange(len(names))
        axes.barh(at, values, color=_BLUE, height=0.6)
        tops = list(values)
        if ends is not None:
            low, high = np.array(ends, float).T
            centre = np.array(values, float)
            spread = np.maximum([centre - low, high - centre], 0)
            axes.errorbar(values, at, xerr=spread, fmt="none", ecolor=_ORANGE, capsize=3)
            tops = list(np.maximum(values, high))
        for y, (value, top) in enumerate(zip(values, tops, strict=True)):
            axes.text(top, y, f" {value:.3g}", va="center", ha="left")
        axes.set_yticks(at, [_escaped(n) for n in names])
        axes.set_xlim(0, 1.15 * max([*tops, 1e-9]))
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.set_title(title, loc="left", fontsize=10)
    return _svg(figure, title)


def scatter(
    title: str,
    x: tuple[str, Sequence[float]],
    y: tuple[str, Sequence[float]],
    names: Sequence[str],
    low: Sequence[float],
) -> str:
    """Points with names; a line from each down to `low`."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 3.4))
        axes: Axes = figure.subplots()
        axes.vlines(x[1], low, y[1], color=_ORANGE, linewidth=1)
        axes.scatter(x[1], y[1], color=_BLUE, zorder=3)
        # Names go right of their points, lower ones further down where points lie together.
        order = sorted(range(len(names)), key=lambda i: (round(x[1][i], 1), -y[1][i]))
        taken: list[tuple[float, float]] = []
        tall = (max(y[1]) - min(low)) or 1.0
        wide = max(x[1]) or 1.0
        for i in order:
            place = y[1][i]
            while any(
                abs(place - p) < 0.07 * tall and abs(x[1][i] - q) < 0.4 * wide for q, p in taken
            ):
                place -= 0.02 * tall
            taken.append((x[1][i], place))
            axes.annotate(
                _escaped(names[i]),
                (x[1][i], place),
                (8, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_xlim(0, 1.45 * wide)
        axes.set_ylim(min([*low, *(p for _, p in taken)]) - 0.05 * tall, max(y[1]) + 0.05 * tall)
        axes.set_xlabel(x[0])
        axes.set_ylabel(y[0])
        axes.set_title(title, loc="left", fontsize=10)
    return _svg(figure, title)


def _escaped(name: str) -> str:
    """matplotlib reads $ as mathematics."""
    return name.replace("$", r"\$")


def heat(levels: np.ndarray, full: float) -> np.ndarray:
    """Grey levels (H, W) → uint8 (H, W, 3): 0 is black, `full` and above the lightest colour."""
    from matplotlib import colormaps

    scaled = np.clip(levels / full, 0, 1)
    return (colormaps["inferno"](scaled)[..., :3] * 255).round().astype(np.uint8)


def heat_gradient() -> str:
    """The colours of `heat` as a CSS gradient, from none to full."""
    stops = heat(np.linspace(0, 1, 9)[None], 1)[0]
    return "linear-gradient(90deg," + ",".join(f"rgb({r},{g},{b})" for r, g, b in stops) + ")"
