"""Kills export, adopt, tune and verify at random moments, and looks at what is left.

    python tests/benchmarks/kills.py [KILLS] [SEED]

Each verb runs on the tiny generator in a process of its own, forked from this one so that most of
its life is work and not imports, and is killed with SIGKILL: half the time alone, half the time
with the process in which it runs an artifact. Then nothing may be half-written, what was whole
before must be whole, and the same command must succeed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from genedge.runtime.artifact import check_files, read_artifact
from genedge.runtime.errors import GenedgeError


@dataclass(frozen=True)
class Verb:
    """words: of the command line. look: raises where something is left half-written."""

    name: str
    words: list[str]
    look: Callable[[], None]


def started(words: list[str], log: Path) -> int:
    """The id of a process, leader of a group of its own, that runs this command line."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    from genedge.toolkit import cli

    sys.argv = ["genedge", *words]
    try:
        cli.main()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(int(end.code or 0))
    os._exit(70)


def finished(words: list[str], log: Path) -> float:
    """Seconds that it took. Raises AssertionError, with what it printed, unless it ended with 0."""
    began = time.monotonic()
    code = os.waitstatus_to_exitcode(os.waitpid(started(words, log), 0)[1])
    assert code == 0, f"{' '.join(words)} ended with {code}: {log.read_text()[-600:]}"
    return time.monotonic() - began


def killed(words: list[str], log: Path, after: float, group: bool) -> bool:
    """Whether the kill came before its end."""
    pid = started(words, log)
    time.sleep(after)
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code == -signal.SIGKILL


def whole(folder: Path) -> None:
    """Raises where an artifact was there before, and is not whole now."""
    check_files(read_artifact(folder), golden=True)


def clean(folder: Path) -> None:
    """Raises where a finished run leaves something beside its artifacts."""
    left = [p.name for p in folder.iterdir() if p.name.startswith(".")]
    assert not left, f"left behind in {folder}: {left}"


def verbs(place: Path) -> list[Verb]:
    """The four, each over an older result that must stay whole."""
    from made_elsewhere import plain_onnx
    from tiny import tiny

    file = plain_onnx(tiny(), place / "plain.onnx")
    out, work, report = place / "artifacts", place / "tune", place / "verify.json"
    exported, adopted = out / "tiny-openvino-fp32", out / "other-onnx-fp32"

    def look_at_report() -> None:
        whole(exported)
        if report.exists():
            json.loads(report.read_text())
        if (place / "genedge.baseline.json").exists():
            json.loads((place / "genedge.baseline.json").read_text())

    def look_at_study() -> None:
        from optuna import load_study

        from genedge.toolkit.saved import load_saved
        from genedge.toolkit.tune import points

        url = f"sqlite:///{work / 'study.db'}"
        for point in points(load_study(study_name="transposed-openvino", storage=url)):
            assert point.psnr > 0
        for folder in work.glob("pruned-*"):
            load_saved(folder, trusted="kinds:transposed")

    checks = ["verify", str(exported), "--prompts", "2", "--json", str(report)]
    if importlib.util.find_spec("genedge.runtime.baseline") is not None:
        (place / "genedge.toml").write_text('schema = 1\n[limits.tiny."*".fp32]\nmin_psnr = 60\n')
        checks += ["--budget", str(place / "genedge.toml"), "--update-baseline"]
    common = ["--out", str(out), "--force"]
    return [
        Verb("export", ["export", "tiny:tiny", "--target", "openvino", "--precision", "fp32", *common],
             lambda: whole(exported)),
        Verb("adopt", ["adopt", str(file), "--reference", "tiny:tiny", "--name", "other", *common],
             lambda: whole(adopted)),
        Verb("verify", checks, look_at_report),
        Verb("tune", ["tune", "kinds:transposed", "--target", "openvino", "--precisions", "fp16,fp32",
                      "--max-ratio", "0.3", "--work", str(work), "--trials"], look_at_study),
    ]  # fmt: skip


def trials_of(place: Path) -> int:
    from optuna import load_study

    from genedge.toolkit.tune import points

    url = f"sqlite:///{place / 'tune' / 'study.db'}"
    return len(points(load_study(study_name="transposed-openvino", storage=url)))


def run(kills: int, seed: int, place: Path, names: tuple[str, ...] = ()) -> list[str]:
    """One line per kill. Raises AssertionError or GenedgeError at the first thing that is broken."""
    import torch

    import genedge.toolkit.cli  # noqa: F401
    from genedge.toolkit.verbs.options import need_torch

    torch.set_num_threads(1)  # a pool of threads would not survive a fork
    need_torch()
    chance, log, lines = random.Random(seed), place / "log.txt", []
    chosen = [v for v in verbs(place) if not names or v.name in names]
    took = {}
    for verb in chosen:
        words = [*verb.words, "2"] if verb.name == "tune" else verb.words
        took[verb.name] = finished(words, log)
        verb.look()
    turn = 0
    while len(lines) < kills:
        verb = chosen[len(lines) % len(chosen)]
        words, before = verb.words, 0
        if verb.name == "tune":
            before = trials_of(place)
            words = [*verb.words, str(before + 1)]
        after, group = chance.uniform(0, took[verb.name]), chance.random() < 0.5
        hit = killed(words, log, after, group)
        verb.look()
        assert verb.name != "tune" or trials_of(place) >= before, "finished trials are gone"
        if verb.name == "tune":
            words = [*verb.words, str(trials_of(place) + 1)]
        took[verb.name] = finished(words, log)
        verb.look()
        if verb.name in ("export", "adopt"):
            clean(place / "artifacts")
        turn += 1
        assert turn < 4 * kills + 8, "most runs ended before they were killed"
        if hit:  # a kill that came too late shows nothing
            how = "with its child" if group else "alone"
            total = f"{after:5.1f} of {took[verb.name]:5.1f} s"
            lines.append(f"{verb.name:7} killed after {total}, {how}: whole")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    kills, seed = ([int(w) for w in sys.argv[1:]] + [20, 0][len(sys.argv) - 1 :])[:2]
    with tempfile.TemporaryDirectory(prefix="genedge-kills-") as place:
        try:
            lines = run(kills, seed, Path(place))
        except (AssertionError, GenedgeError) as problem:
            sys.exit(f"broken: {problem}")
    print(f"{len(lines)} kills, nothing half-written, every command succeeded again")


if __name__ == "__main__":
    main()
