"""A search for the front of accuracy, size and latency: how wide a student, how much to prune, which
precision, which layers in float. The study lives in a storage that optuna opens by URL, so it goes
on after a kill, and many machines can share one."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from genedge.runtime.artifact import read_artifact
from genedge.runtime.child import run_in_child
from genedge.runtime.errors import BadInput, EnvironmentFailed, GenedgeError
from genedge.runtime.files import replacing
from genedge.runtime.metrics import picture_psnr
from genedge.runtime.picture import to_pixels
from genedge.runtime.verdict import Limits

from .blame import SIMULATION, feeds_of, measure_losses
from .distill import distill
from .export import Exported, export
from .generator import Generator, golden_seed
from .progress import Report
from .prune import prune
from .quantize import quantize
from .saved import load_saved, save
from .taps import graphs_of

# A point of the search is measured, not judged: any picture may be one.
_ANY = Limits(psnr=0, ssim=-1, flat=0, signed=255, lead=-1000)
_STEP = 0.05  # of the pruning ratio
_WIDTH_STEP = 0.125  # of a student's width
_ALIVE = (
    20  # seconds between signs of life of a trial; one that is silent for thrice that is redone
)
DIRECTIONS = ("maximize", "minimize", "minimize")


@dataclass(frozen=True)
class Space:
    """What is searched. target and cpu: as for export. precisions: to choose from. min_width: the
    smallest share of its channels that every layer of a student keeps, 1 for no students. max_ratio:
    the largest share of channels to prune, wherever they matter least, 0 for none. recover: steps of
    distillation after each of the two. layers: how many of the layers that cost the picture most may
    be tried in float."""

    target: str
    cpu: str = "portable"
    precisions: tuple[str, ...] = ("int8", "fp32")
    max_ratio: float = 0.5
    recover: int = 0
    layers: int = 4
    min_width: float = 1.0


@dataclass(frozen=True)
class Point:
    """One finished trial. psnr: dB, mean over golden prompts, to the generator that was tuned (not
    to what pruning left of it); bytes: of the artifact; latency: ms, median, one thread."""

    number: int
    ratio: float
    precision: str
    floats: tuple[str, ...]
    psnr: float
    bytes: int
    latency: float
    width: float = 1.0


def _point(trial: FrozenTrial) -> Point:
    about = trial.user_attrs["point"]
    psnr, size, latency = trial.values
    return Point(
        trial.number, about["ratio"], about["precision"], tuple(about["floats"]),
        psnr, int(size), latency, about.get("width", 1.0),
    )  # fmt: skip


def open_study(generator: Generator, space: Space, storage: str, name: str) -> optuna.Study:
    """The study of this name, made where there is none.

    Raises BadInput where the storage can not be opened, or the study is of another generator,
    target, profile, choice of precisions, recovery or number of layers, or judged by other prompts.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    about: dict[str, Any] = {
        "generator": generator.hash(),
        "target": space.target,
        "cpu": space.cpu,
    }
    # Optuna refuses other choices of one parameter halfway through a study.
    about |= {"recover": space.recover, "precisions": list(space.precisions)}
    about |= {"layers": space.layers, "judged by": _digest(generator)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # optuna calls its heartbeat experimental
            backend = optuna.storages.RDBStorage(
                storage,
                heartbeat_interval=_ALIVE,
                grace_period=3 * _ALIVE,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(3),
            )
        study = optuna.create_study(
            storage=backend, study_name=name, directions=DIRECTIONS, load_if_exists=True
        )
        known = study.user_attrs.get("about")
        if known is None:
            study.set_user_attr("about", about)
    except Exception as problem:  # of optuna, of SQLAlchemy, and of the database's driver
        line = str(problem).strip().splitlines()[:1] or [type(problem).__name__]
        raise BadInput(f"--storage {storage} can not be opened ({line[0][:160]})") from None
    if len(study.directions) != len(DIRECTIONS) or (known or about) != about:
        raise BadInput(
            f"study {name} in {storage} is of another generator, target, cpu, --precisions, --recover or --layers, "
            f"or was judged by other prompts; use another --study"
        )
    return study


def _digest(generator: Generator) -> str:
    """sha256 of what pictures are drawn and judged by, beside the weights."""
    lists = [list(generator.calibration), list(generator.golden), generator.signature.to_json()]
    found = hashlib.sha256(json.dumps(lists).encode())
    for pictures in generator.pictures.values():
        for picture in pictures.values():
            found.update(picture.tobytes())
    return found.hexdigest()


def points(study: optuna.Study) -> list[Point]:
    """Finished trials, in their order."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [_point(t) for t in done if "point" in t.user_attrs]


def front(found: Sequence[Point]) -> list[Point]:
    """Those that no other beats in PSNR, bytes and latency at once, the largest PSNR first."""

    def beaten(p: Point) -> bool:
        mine = (-p.psnr, p.bytes, p.latency)
        others = ((-q.psnr, q.bytes, q.latency) for q in found)
        return any(o != mine and all(a <= b for a, b in zip(o, mine, strict=True)) for o in others)

    unique = {(p.width, p.ratio, p.precision, p.floats): p for p in reversed(found)}
    best = (p for p in unique.values() if not beaten(p))
    return sorted(best, key=lambda p: (-p.psnr, p.number))


def candidates(generator: Generator, space: Space, progress: Report) -> list[str]:
    """The layers whose quantization alone costs the picture most, worst first."""
    if "int8" not in space.precisions or not space.layers:
        return []
    graphs = graphs_of(generator, quantize(generator, cpu=space.cpu, report=progress))
    losses = measure_losses(graphs, feeds_of(generator, 2), SIMULATION, progress).losses
    return [x.layer for x in sorted(losses, key=lambda x: x.picture_alone)[: space.layers]]


def _need_channels(generator: Generator, space: Space) -> None:
    searched = (("--min-width 1", space.min_width < 1), ("--max-ratio 0", space.max_ratio > 0))
    without = " ".join(word for word, on in searched if on)
    try:
        if without:
            prune(generator, ratio=_STEP)
    except BadInput as problem:
        raise BadInput(f"{problem}; use {without}") from None


def _suggested(trial: optuna.Trial, space: Space, layers: Sequence[str]) -> dict[str, Any]:
    narrower = ratio = 0.0
    if space.min_width < 1:
        most = (1 - space.min_width) // _WIDTH_STEP * _WIDTH_STEP
        narrower = trial.suggest_float("narrower", 0, most, step=_WIDTH_STEP)
    if space.max_ratio:
        ratio = trial.suggest_float("ratio", 0, space.max_ratio, step=_STEP)
    precision = trial.suggest_categorical("precision", list(space.precisions))
    floats = []
    if precision == "int8":
        floats = [x for x in layers if trial.suggest_categorical(f"float {x}", [False, True])]
    return {
        "width": 1 - narrower,
        "ratio": round(ratio, 4),
        "precision": precision,
        "floats": floats,
    }


def shrunk(generator: Generator, width: float, ratio: float, space: Space, work: Path) -> Generator:
    """The generator's student of this width, then without this share of its channels.

    A student starts from its teacher's most important channels, the same share in every layer. Both
    learn from the generator for `recover` steps, and are kept in `work` for later.
    """
    made = generator
    for name, share, scope in (("student", 1 - width, "layer"), ("pruned", ratio, "global")):
        if share <= 0:
            continue
        folder = work / f"{name}-{share:g}-{space.recover}-{made.hash()[:12]}"
        if folder.is_dir():
            made = load_saved(folder, trusted=generator.constructor)
            continue
        made = prune(made, ratio=share, scope=scope)
        if space.recover:
            steps = folder.with_name(folder.name + ".steps")
            made = distill(generator, made, work=steps, steps=space.recover, rate=2e-4)
            shutil.rmtree(steps)
        save(made, folder, force=True)
    return made


def _written(
    generator: Generator, point: Mapping[str, Any], space: Space, work: Path, out: Path, **more: Any
) -> Exported:
    made = shrunk(generator, point["width"], point["ratio"], space, work)
    (done,) = export(
        made, [space.target], precision=point["precision"], cpu=space.cpu, out=out,
        keep=point["floats"], limits=_ANY, **more,
    )  # fmt: skip
    return done


def _psnr(generator: Generator, folder: Path, place: Path) -> float:
    """Mean PSNR of an artifact's pictures of the golden prompts to the generator's own."""
    out = place / "values.npy"
    run_in_child("sample", directory=str(folder), count=len(generator.golden), out=str(out))
    found = []
    for i, (prompt, values) in enumerate(zip(generator.golden, np.load(out), strict=True)):
        true = generator.pixels(generator.prepare(prompt, golden_seed(i)))
        found.append(picture_psnr(to_pixels(values, generator.signature), true))
    return float(np.mean(found))


def search(
    generator: Generator,
    study: optuna.Study,
    space: Space,
    trials: int,
    work: Path,
    *,
    seed: int = 0,
    progress: Report = lambda what, done, total: None,
) -> list[Point]:
    """Runs trials until the study has `trials` finished ones, on whatever machines; all of them.

    work: folder for students and pruned generators. Each precision of the whole comes first. A trial that
    fails its audit counts for nothing and is not tried again. Raises BadInput where
    channels should go and none can, EnvironmentFailed where five trials in a row fail.
    """
    work.mkdir(parents=True, exist_ok=True)
    layers = study.user_attrs.get("layers")
    if layers is None:
        _need_channels(generator, space)
        layers = candidates(generator, space, progress)
        study.set_user_attr("layers", layers)
    for precision in space.precisions:
        plain: dict[str, Any] = {"precision": precision}
        plain |= {"ratio": 0.0} if space.max_ratio else {}
        plain |= {"narrower": 0.0} if space.min_width < 1 else {}
        if precision == "int8":
            plain |= {f"float {x}": False for x in layers}
        study.enqueue_trial(plain, skip_if_exists=True)

    def measure(trial: optuna.Trial) -> tuple[float, float, float]:
        point = _suggested(trial, space, layers)
        trial.set_user_attr("point", point)
        for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if {"width": 1.0} | other.user_attrs.get("point", {}) == point:
                return tuple(other.values)  # type: ignore[return-value]
        with tempfile.TemporaryDirectory(prefix="genedge-") as place:
            try:
                done = _written(generator, point, space, work, Path(place))
                size = read_artifact(done.directory).bytes
                psnr = _psnr(generator, done.directory, Path(place))
            except GenedgeError as problem:
                trial.set_user_attr("failed", str(problem))
                raise
        return psnr, size, done.found["latency_ms"]

    failures = 0
    while (count := len(points(study))) < trials:
        progress("trials", count, trials)
        begun = len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.TPESampler(seed=seed + begun, n_startup_trials=8)
        study.optimize(measure, n_trials=1, catch=(GenedgeError,))
        last = study.get_trials(deepcopy=False)[-1]
        failures = failures + 1 if last.state == TrialState.FAIL else 0
        if failures == 5:
            why = last.user_attrs.get("failed", "no reason is known")
            raise EnvironmentFailed(f"five trials in a row failed, the last one: {why}")
    progress("trials", trials, trials)
    return points(study)


def export_point(
    generator: Generator,
    study: optuna.Study,
    number: int,
    space: Space,
    work: Path,
    *,
    out: Path,
    force: bool = False,
    progress: Report = lambda what, done, total: None,
) -> Exported:
    """Writes the artifact of a finished trial. Raises BadInput where there is no such trial."""
    found = {p.number: p for p in points(study)}
    if number not in found:
        known = ", ".join(str(n) for n in sorted(found)) or "none"
        raise BadInput(f"trial {number} is not among the finished ones: {known}")
    p = found[number]
    point = {"width": p.width, "ratio": p.ratio, "precision": p.precision, "floats": list(p.floats)}
    work.mkdir(parents=True, exist_ok=True)
    return _written(generator, point, space, work, out, force=force, progress=progress)


def draw_front(found: Sequence[Point], best: Sequence[Point], path: Path) -> None:
    """A PNG: PSNR against megabytes, colour for latency, the front's points ringed and numbered."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    sizes = [p.bytes / 1e6 for p in found]
    dots = axes.scatter(sizes, [p.psnr for p in found], c=[p.latency for p in found], s=40)
    figure.colorbar(dots, label="latency, ms (median, one thread)")
    axes.scatter(
        [p.bytes / 1e6 for p in best], [p.psnr for p in best], s=140, facecolors="none",
        edgecolors="black", label="on the front",
    )  # fmt: skip
    for p in best:
        at = (p.bytes / 1e6, p.psnr)
        axes.annotate(str(p.number), at, xytext=(7, 6), textcoords="offset points")
    axes.set(xlabel="artifact, MB", ylabel="PSNR to the float generator, dB")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with replacing(path) as partial:
        FigureCanvasAgg(figure).print_png(str(partial))
