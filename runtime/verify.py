"""Does an artifact draw what the float generator draws, small and fast enough? One verdict each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .artifact import Artifact, Golden, read_artifact, read_golden, read_golden_file, spread
from .bench import FEWEST_ROUNDS, Bench, bench, names_of
from .bootstrap import mean_difference, sample_bounds
from .child import run_in_child
from .errors import BadInput, GenedgeError
from .measure import trusted
from .measure import wanted as counted
from .metrics import picture_psnr
from .verdict import DEFAULTS, Between, Limits, Report, Row, Shown, default_limits, judge

if TYPE_CHECKING:
    from .budget import Budget, Wanted

__all__ = [
    "DEFAULTS",
    "Between",
    "Limits",
    "Report",
    "Row",
    "Shown",
    "default_limits",
    "judge",
    "verify",
]

FEWEST_FOR_NO_LOSS = 200  # distinct prompts that a claim of no loss rests on
SHOWN = 8  # pictures of each artifact that reports show: those furthest from float
QUICK_ROUNDS, QUICK_COLD_STARTS = 30, 3

Progress = Callable[[str, int, int], None]
# Of pictures drawn and pictures of the float generator: one distance each.
Distance = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], list[float]]


def verify(
    directories: Sequence[Path],
    *,
    prompts: int | None = None,
    threads: int = 1,
    limits: Limits | None = None,
    budget: Budget | None = None,
    golden: Mapping[Path, Path] | None = None,
    timed: bool = False,
    distance: Distance | None = None,
    report: Progress = lambda what, done, total: None,
) -> Report:
    """Each artifact in a process of its own.

    prompts: how many of each artifact's golden prompts, see `spread`; None for all. limits: win over
    the budget's, those over the precision's defaults, each where set. golden: by folder, a file of
    golden pictures to use instead of the artifact's own. timed: runs the bench even where no limit
    asks for it. distance: how different pictures look, for a budget that limits it. An artifact that
    can not be judged gives one row, "runs", with the reason; the others go on. Raises BadInput where
    a directory is no artifact at all, a baseline or a file of scores that the budget names is none, it
    limits the distance of features and `distance` is None, or one of several prompts is to decide.
    """
    names = names_of(directories)
    artifacts = dict(zip(names, (read_artifact(d) for d in directories), strict=True))
    if len(artifacts) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise BadInput(f"{twice} is named twice; name each artifact once")
    wanted = {n: w for n, a in artifacts.items() if budget and (w := budget.of(a))}
    if budget is not None and budget.entries and not wanted:
        raise BadInput(_fits_none(budget, list(artifacts.values())))
    looks = {n for n, w in wanted.items() if w.max_feature_distance is not None}
    if budget is not None and looks and distance is None:
        raise BadInput(
            f"{budget.path}: max_feature_distance is judged by the command genedge verify alone"
        )
    for name, artifact in artifacts.items():
        if prompts == 1 and artifact.golden_count > 1 and artifact.directory not in (golden or {}):
            raise BadInput(f"{name}: one prompt says nothing of the mean over all; use 2 or more")
    scores: list[Row] = []
    if budget is not None:
        from .budget import score_rows

        scores = score_rows(budget)  # what is missing is said before the work
    baselines, others = _baselines(wanted, artifacts, budget)
    rows: list[Row] = []
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="genedge-") as work:
        for i, (name, artifact) in enumerate((artifacts | others).items()):
            report(f"verify {name}", i, len(artifacts) + len(others))
            drawn = Path(work) / f"{i}.npy"
            other = (golden or {}).get(artifact.directory)
            try:
                found[name] = run_in_child(
                    "measure",
                    directory=str(artifact.directory),
                    prompts=prompts,
                    threads=threads,
                    golden=str(other) if other else None,
                    drawn=str(drawn),
                ) | {"drawn": drawn}
            except GenedgeError as problem:
                if len(directories) == 1 or name in others:
                    raise
                rows.append(Row(name, "runs", str(problem), "", False))
        ran = {n: a for n, a in artifacts.items() if n in found}
        true = {n: _golden(a, golden or {}, prompts) for n, a in (ran | others).items()}
        for name, artifact in ran.items():
            if distance is not None and name in looks:
                found[name] |= _distances(distance, found[name], true[name])
            chosen = default_limits(artifact)
            chosen = wanted[name].limits.over(chosen) if name in wanted else chosen
            rows += judge(artifact, found[name], limits.over(chosen) if limits else chosen, name)
        between = _between(ran, found, true)
        shown = {n: _shown(found[n], true[n]) for n in ran}
    rows += _no_loss_rows({n: w for n, w in wanted.items() if n in ran}, baselines, found, true)
    times = None
    try:
        times = _timed(ran | others, wanted, baselines, timed, report)
    except GenedgeError as problem:  # what was found of the pictures stays
        slow = [n for n in ran if timed or (n in wanted and wanted[n].timed)]
        rows += [Row(n, "runs", f"could not be timed: {problem}", "", False) for n in slow]
    if times is not None:
        from .timed import timed_rows

        rows += timed_rows(times, {n: w for n, w in wanted.items() if n in ran}, baselines)
    rows += scores
    details = [
        {
            "artifact": str(a.directory),
            "name": n,
            "hash": a.hash,
            "generator": a.generator_hash,
            **{k: v for k, v in found[n].items() if k != "drawn"},
        }
        for n, a in ran.items()
    ]
    order = {n: i for i, n in enumerate(names)}
    rows.sort(key=lambda r: order.get(r.artifact, len(order)))
    return Report(tuple(rows), tuple(details), between, (), times, shown)


def _fits_none(budget: Budget, artifacts: Sequence[Artifact]) -> str:
    """What to say where no entry of the budget is of any of the artifacts."""
    named = sorted({model for model, _, _ in budget.entries})
    mine = sorted({f"{a.name}.{a.target}.{a.precision}" for a in artifacts})
    return (
        f"{budget.path}: no entry fits {', '.join(mine)}; its entries are of {', '.join(named)}: rename "
        f"one, or leave --budget out"
    )


def _golden(artifact: Artifact, golden: Mapping[Path, Path], prompts: int | None) -> Golden:
    other = golden.get(artifact.directory)
    whole = read_golden(artifact) if other is None else read_golden_file(other)
    return spread(whole, counted(artifact, prompts))


def _baselines(
    wanted: Mapping[str, Wanted], artifacts: Mapping[str, Artifact], budget: Budget | None
) -> tuple[dict[str, str], dict[str, Artifact]]:
    """What each baseline of the budget is called here, and those that were not named as artifacts.

    Raises BadInput where one is neither an artifact that was named nor a folder beside the budget.
    """
    called: dict[str, str] = {}
    others: dict[str, Artifact] = {}
    for name, limits in wanted.items():
        for want in (limits.max_latency_ratio, limits.no_loss):
            if want is None or want.to in called:
                continue
            if want.to in artifacts:
                called[want.to] = want.to
                continue
            assert budget is not None
            folder = budget.path.parent / want.to
            if not folder.is_dir():
                raise BadInput(
                    f"{budget.path}: {name} is compared with {want.to!r}, which is none of the "
                    f"artifacts and no folder beside the budget file; name it too"
                )
            same = [n for n, a in artifacts.items() if a.directory.resolve() == folder.resolve()]
            called[want.to] = same[0] if same else want.to
            if not same:
                others[want.to] = read_artifact(folder)
    return called, others


def _between(
    ran: Mapping[str, Artifact], found: Mapping[str, Any], true: Mapping[str, Golden]
) -> tuple[Between, ...]:
    """Every two artifacts that drew the same prompts from the same seeds."""
    rows, names = [], list(ran)
    pictures = {n: np.load(found[n]["drawn"], mmap_mode="r") for n in names}
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            one, two = true[first], true[second]
            if (one.prompts, one.seeds) != (two.prompts, two.seeds):
                continue
            if pictures[first].shape[1:] != pictures[second].shape[1:]:
                continue
            pairs = list(zip(pictures[first], pictures[second], strict=True))
            scores = [picture_psnr(a, b) for a, b in pairs]
            alike = sum(np.array_equal(a, b) for a, b in pairs)
            mean, worst = float(np.mean(scores)), float(np.min(scores))
            rows.append(Between(first, second, mean, worst, alike, len(pairs)))
    return tuple(rows)


def _distances(distance: Distance, found: Mapping[str, Any], golden: Golden) -> dict[str, Any]:
    """What `found` gains: the mean distance, each, and its interval where prompts are a sample."""
    each = distance(list(np.load(found["drawn"])), list(trusted(golden)[0].pictures))
    intervals = dict(found["intervals"])
    if found["prompts"] < found["golden"]:
        bounds = sample_bounds(np.array(each), lambda v: v.mean(1))
        intervals["feature_distance"] = bounds
    return {
        "feature_distance": float(np.mean(each)),
        "feature_distances": each,
        "intervals": intervals,
    }


def _shown(found: Mapping[str, Any], golden: Golden) -> tuple[Shown, ...]:
    """The SHOWN pictures that are furthest from float, the furthest first."""
    drawn = np.load(found["drawn"])
    return tuple(
        Shown(golden.prompts[i], golden.seeds[i], found["psnrs"][i], golden.pictures[i], drawn[i])
        for i in np.argsort(found["psnrs"], kind="stable")[:SHOWN]
    )


def _no_loss_rows(
    wanted: Mapping[str, Wanted],
    baselines: Mapping[str, str],
    found: Mapping[str, Any],
    true: Mapping[str, Golden],
) -> list[Row]:
    """Claims of no loss: the mean difference of PSNR, paired by prompt, and its interval."""
    rows = []
    for name, limits in wanted.items():
        want = limits.no_loss
        if want is None or baselines[want.to] not in found:
            continue
        base = baselines[want.to]
        limit = f"≥ {-want.margin:g} dB against {base}"
        one, two = true[name], true[base]
        if (one.prompts, one.seeds) != (two.prompts, two.seeds):
            note = "the two were verified with other prompts; use --prompts-file for both"
            rows.append(Row(name, "no_loss_db", "not comparable", limit, False, note))
            continue
        mine, others = (np.array(found[n]["psnrs"]) for n in (name, base))
        at = mean_difference(mine, others)
        different = len(set(one.prompts))
        verdict = at.at_least(-want.margin)
        note = f"{at.low:.3g} … {at.high:.3g} dB over {different} prompts"
        if different < FEWEST_FOR_NO_LOSS and verdict == "pass":
            verdict = "inconclusive"
            note += f"; a claim needs {FEWEST_FOR_NO_LOSS}: --prompts-file FILE --reference MODEL"
        passed = verdict != "fail"
        shown = verdict if verdict == "inconclusive" else ""
        rows.append(Row(name, "no_loss_db", at.value, limit, passed, note, shown, -want.margin))
    return rows


def _timed(
    artifacts: Mapping[str, Artifact],
    wanted: Mapping[str, Wanted],
    baselines: Mapping[str, str],
    every: bool,
    report: Progress,
) -> Bench | None:
    """One bench of all artifacts that a limit on time or memory concerns, or of every one."""
    asked = {n for n, w in wanted.items() if w.timed and n in artifacts}
    ratios = [w.max_latency_ratio for n, w in wanted.items() if n in asked and w.max_latency_ratio]
    names = set(artifacts) if every else asked | {baselines[r.to] for r in ratios}
    if not names:
        return None
    times = [t for n in asked for t in (wanted[n].max_latency, *ratios) if t is not None]
    chosen = [n for n in artifacts if n in names]
    found = bench(
        [artifacts[n].directory for n in chosen],
        threads=tuple(sorted({1, *(t.threads for t in times)})),
        rounds=QUICK_ROUNDS if asked else FEWEST_ROUNDS,
        cold_starts=QUICK_COLD_STARTS if any(wanted[n].max_cold_start for n in asked) else 0,
        report=report,
    )
    benched = (replace(b, name=n) for b, n in zip(found.benched, chosen, strict=True))
    return replace(found, benched=tuple(benched))
