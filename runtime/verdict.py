"""What a verdict is made of: limits, rows, the report; and how an artifact is held to limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .artifact import Artifact
from .bootstrap import Interval
from .host import cpu_has_vnni

if TYPE_CHECKING:
    from .baseline import Change
    from .bench import Bench

EXAMPLES = 3  # reasons that one row on suspicious pictures names


@dataclass(frozen=True)
class Limits:
    """What a verdict is held to; None where a metric is only reported.

    psnr (dB, mean over prompts), psnr_p1 (dB, 1st percentile), ssim (mean), flat (share of 0 and
    255 that comes back within 2), signed (grey levels, largest of four channels), lead (dB by which
    the artifact is closer to the simulation of its int8 graph than the simulation is to float),
    feature_distance (mean), bytes, latency (ms, median).
    """

    psnr: float | None = None
    psnr_p1: float | None = None
    ssim: float | None = None
    flat: float | None = None
    signed: float | None = None
    lead: float | None = None
    feature_distance: float | None = None
    bytes: int | None = None
    latency: float | None = None

    def over(self, other: Limits) -> Limits:
        """These limits, and the other's where this one sets none."""
        return replace(other, **{k: v for k, v in vars(self).items() if v is not None})


DEFAULTS = {
    "fp32": Limits(psnr=60, ssim=0.999, flat=0.999, signed=0.05),
    "fp16": Limits(psnr=50, ssim=0.999, flat=0.99, signed=0.1),
    "int8": Limits(psnr=32, ssim=0.95, flat=0.99, signed=0.3, lead=3),
}


def default_limits(artifact: Artifact) -> Limits:
    """Of the artifact's precision.

    A pipeline as int8 is held to PSNR and SSIM; its flat ground, signed error and lead are reported
    alone. Every step of its walk adds to what rounding made of the step before, so that two int8
    walks part as float and int8 do.
    """
    limits = DEFAULTS[artifact.precision]
    if artifact.sampler is None or artifact.precision != "int8":
        return limits
    return replace(limits, flat=None, signed=None, lead=None)


@dataclass(frozen=True)
class Row:
    """One metric of one artifact.

    limit: as people read it, "" where there is none; bound: the same as a number. verdict: "" for
    what `passed` says, else "inconclusive" or "reported". note: the reason, or what else to know.
    """

    artifact: str
    metric: str
    value: float | str
    limit: str
    passed: bool
    note: str = ""
    verdict: str = ""
    bound: float | None = None

    @property
    def state(self) -> str:
        """`pass`, `fail`, `inconclusive`, `reported`, or "" where nothing was judged."""
        if self.verdict:
            return self.verdict
        return "fail" if not self.passed else "pass" if self.limit else ""


@dataclass(frozen=True)
class Between:
    """How far the pictures of two artifacts are from one another: PSNR in dB, mean and lowest, and how
    many of `prompts` pictures are the same in every pixel."""

    first: str
    second: str
    mean: float
    worst: float
    alike: int
    prompts: int

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """As tables show it."""
        count = f"{self.alike} of {self.prompts}"
        return self.first, self.second, f"{self.mean:.1f}", f"{self.worst:.1f}", count


BETWEEN = ("pictures of", "and of", "mean dB", "worst dB", "same pixels")


@dataclass(frozen=True)
class Shown:
    """One picture for people to look at: both uint8 (H, W, 4), straight alpha; psnr in dB."""

    prompt: str
    seed: int
    psnr: float
    reference: np.ndarray
    drawn: np.ndarray


@dataclass(frozen=True)
class Report:
    """What verify found. `failed`: rows that missed limits.

    details: one per artifact that ran. between: every two of them. changes: since the accepted
    verdict. shown: by artifact, the pictures furthest from float.
    """

    rows: tuple[Row, ...]
    details: tuple[Mapping[str, Any], ...]
    between: tuple[Between, ...] = ()
    changes: tuple[Change, ...] = ()
    bench: Bench | None = None
    shown: Mapping[str, tuple[Shown, ...]] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[Row, ...]:
        return tuple(r for r in self.rows if not r.passed)


def judge(
    artifact: Artifact, found: Mapping[str, Any], limits: Limits, name: str = ""
) -> list[Row]:
    """Rows of one artifact, called `name`, from what `measure` found.

    A picture that looks like no drawing fails, whatever its PSNR. Where the pictures miss a limit
    and the reason is known, the row's note says it. Where only some of the golden prompts were
    drawn, a mean over them is judged by its interval: "inconclusive" where that straddles the limit.
    """
    name = name or artifact.directory.name or str(artifact.directory)
    rows = []
    why = "; ".join(found.get("reasons", ()))

    def add(
        metric: str, value: float, limit: float | None, low: bool, unit: str = "", note: str = ""
    ) -> None:
        text = ""
        if limit is not None:
            number = f"{limit:.15g}" if metric == "bytes" else f"{limit:g}"
            text = f"{'≥' if low else '≤'} {number}{unit}"
        passed, verdict = True, ""
        if limit is not None:  # a value that is no number holds no limit
            passed = bool(value >= limit if low else value <= limit)
        bounds = found.get("intervals", {}).get(metric)
        if limit is not None and bounds is not None and np.isfinite(value):
            at = Interval(value, *bounds)
            verdict = at.at_least(limit) if low else at.at_most(limit)
            passed = verdict != "fail"
            if verdict == "inconclusive":
                some = f"{found['prompts']} of {found['golden']} prompts"
                note = f"{at.low:.4g} … {at.high:.4g} over {some}: all of them decide"
        shown = verdict if verdict == "inconclusive" else ""
        note = note if shown or not passed else ""
        rows.append(Row(name, metric, value, text, passed, note, shown, limit))

    add("psnr_db", found["psnr"], limits.psnr, True, " dB", why)
    add("psnr_p1_db", found["psnr_p1"], limits.psnr_p1, True, " dB", why)
    add("psnr_worst_db", found["psnr_worst"], None, True)
    add("ssim", found["ssim"], limits.ssim, True, "", why)
    add("max_error", found["max_error"], None, False)
    add("flat_kept", found["flat"], limits.flat, True)
    add("signed_error", max(abs(v) for v in found["signed"]), limits.signed, False)
    if "lead" in found:
        add("to_simulation_db", found["to_simulation"], None, True)
        add("simulation_to_float_db", found["simulation_to_float"], None, True)
        add("lead_db", found["lead"], limits.lead, True, " dB")
    if "feature_distance" in found:
        value = found["feature_distance"]
        add("feature_distance", value, limits.feature_distance, False, "", why)
    add("bytes", found["bytes"], limits.bytes, False)
    note = "absolute milliseconds depend on the machine; a ratio to a baseline holds longer"
    add("latency_ms", found["latency_ms"], limits.latency, False, " ms", note)
    if "reference_to_fp64" in found:
        lowest, floor = found["reference_to_fp64"], found["reference_noisy_below"]
        noisy = f"below {floor:g} dB float32 is noise itself: the pictures are judged by float64"
        note = noisy if lowest < floor else ""
        rows.append(Row(name, "reference_to_fp64_db", lowest, "", True, note))
    if artifact.sampler is not None:
        count = f"{found['prompts']} of {found['golden']} golden prompts"
        note = f"a pipeline's usual number; --prompts {found['golden']} for all"
        note = note if found["prompts"] < found["golden"] else ""
        rows.append(Row(name, "prompts", count, "", True, note))
    if odd := found["suspicious"]:
        count = f"{len(odd)} of {found['prompts']} pictures"
        rows.append(Row(name, "suspicious", count, "none", False, _examples(odd)))
    for reason in found.get("inputs", ()):
        rows.append(Row(name, "inputs", reason, "equal to the float generator's", False))
    if "stored_int8" in found:
        floor = found["stored_int8_floor"]
        note = "int8 is claimed, but the files store floats"
        add("stored_int8", found["stored_int8"], floor, True, "", note)
    elif artifact.precision == "int8" and found.get("unread"):
        rows.append(
            Row(name, "stored_int8", "not looked at", "", True, found["unread"], "reported")
        )
    if artifact.precision == "int8" and artifact.cpu != "portable" and not cpu_has_vnni():
        reason = f"exported for {artifact.cpu}; this CPU has no VNNI, 8-bit weights saturate"
        rows.append(Row(name, "cpu_profile", reason, "portable", False))
    return rows


def _examples(odd: Mapping[str, str]) -> str:
    """What is wrong with pictures, each reason once with the first prompt that it holds for."""
    by_reason: dict[str, list[str]] = {}
    for prompt, reason in odd.items():
        by_reason.setdefault(reason, []).append(prompt)
    parts = [
        f"{reason} ({prompts[0]}" + (f" and {len(prompts) - 1} more)" if prompts[1:] else ")")
        for reason, prompts in by_reason.items()
    ]
    more = len(parts) - EXAMPLES
    return "; ".join(parts[:EXAMPLES]) + (f"; {more} more reason(s)" if more > 0 else "")
