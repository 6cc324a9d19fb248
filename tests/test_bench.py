"""Timings are taken in turn, in processes of their own, with what is pinned read back."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import genedge, one_line

from genedge.recipes import TARGETS
from genedge.runtime import bench as module
from genedge.runtime import host
from genedge.runtime.bootstrap import mean_difference, median_interval, ratio_interval
from genedge.runtime.errors import BadInput, EnvironmentFailed, GenedgeError
from genedge.runtime.worker import Worker

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def found(artifacts):
    folders = [artifacts[t, "fp32"] for t in TARGETS]
    return module.bench(
        folders, baseline=folders[0].name, threads=(1, 2), rounds=4, runs=2, cold_starts=1
    )


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_runs_on_the_threads_asked_for(found, artifacts, target):
    one = found.of(artifacts[target, "fp32"].name)
    two = (
        "1" if target == "openvino" and host.cores() < 2 else "2"
    )  # it takes no more than there are
    assert [t.pinned["threads"] for t in one.timings] == ["1", two]
    if target == "openvino":
        assert one.timings[0].pinned["precision"] == "f32"
    for timing in one.timings:
        assert timing.latency.shape == timing.picture.shape == (4, 2)
        assert (timing.picture > timing.latency).all()
        assert timing.percentile(50) <= timing.percentile(95) <= timing.percentile(99)
    assert 5e6 < one.peak_memory < 4e9
    assert one.cold_start.shape == (1,)


def test_ratios_are_to_the_baseline_and_never_of_it(found):
    assert {r.baseline for r in found.ratios} == {found.baseline}
    assert found.baseline not in {r.name for r in found.ratios}
    assert len(found.ratios) == 2 * (len(TARGETS) - 1)


def test_json_follows_its_schema(found):
    import jsonschema

    from genedge.runtime.bench import to_json

    schema = json.loads((DOCS / "bench.schema.json").read_text())
    jsonschema.validate(json.loads(to_json(found)), schema)


def recorded(ratio, rounds=30, noise=0.1, seed=0):
    """Timings as a shared machine gives them: drift that both sides feel, and single outliers."""
    random = np.random.default_rng(seed)
    drift = np.repeat(1 + 0.5 * np.sin(np.arange(rounds) / 5)[:, None], 4, 1)
    base = 10 * drift * (1 + noise * np.abs(random.normal(size=(rounds, 4))))
    mine = 10 * ratio * drift * (1 + noise * np.abs(random.normal(size=(rounds, 4))))
    mine[3] *= 6
    return mine, base


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.4, "pass"), (0.5, "inconclusive"), (0.75, "fail")]
)
def test_a_ratio_is_judged_by_its_interval(ratio, verdict):
    """0.75 is 50 % slower than the limit of 0.5."""
    for seed in range(20):
        at = ratio_interval(*recorded(ratio, seed=seed))
        assert at.low <= at.value <= at.high
        assert abs(at.value - ratio) < 0.05 * ratio
        assert at.at_most(0.5) == verdict or (
            verdict == "inconclusive" and abs(at.low - 0.5) < 0.02
        )


def test_intervals_of_equal_values_have_no_width():
    assert median_interval(np.full(5, 2.0)).low == 2
    assert mean_difference(np.ones(9), np.ones(9)).high == 0
    with pytest.raises(ValueError, match="can not pair"):
        ratio_interval(np.ones((3, 2)), np.ones((4, 2)))


def test_a_worker_that_dies_is_one_line(artifacts, monkeypatch, tmp_path):
    (tmp_path / "onnxruntime.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EnvironmentFailed, match="SIGSEGV"):
        Worker(artifacts["onnx", "fp32"], 1)


def test_a_failure_names_the_artifact(artifacts, tmp_path):
    import shutil

    broken = shutil.copytree(artifacts["onnx", "fp32"], tmp_path / "broken")
    (broken / "image.onnx").write_bytes(b"x")
    with pytest.raises(GenedgeError, match=r"broken.*manifest\.json says"):
        module.bench([broken], rounds=2)


def test_artifacts_of_one_name_are_told_apart_by_the_folders_above(tmp_path, monkeypatch):
    folders = [tmp_path / a / b / "emoji" for a in "xy" for b in "vw"]
    for folder in folders:
        folder.mkdir(parents=True)
    wanted = ["x/v/emoji", "x/w/emoji", "y/v/emoji", "y/w/emoji"]
    assert module.names_of(folders) == wanted
    assert module.names_of(folders[1:3]) == ["w/emoji", "v/emoji"]
    assert module.names_of([folders[0], folders[0].parent]) == ["emoji", "v"]
    monkeypatch.chdir(tmp_path / "x")  # wherever the command is run
    assert module.names_of([Path("v/emoji"), Path("w/emoji")]) == ["v/emoji", "w/emoji"]


def test_names_and_baselines_that_do_not_fit_are_refused(artifacts):
    folder = artifacts["onnx", "fp32"]
    with pytest.raises(BadInput, match="named twice"):
        module.bench([folder, folder])
    with pytest.raises(BadInput, match="baseline 'x' is none of the artifacts"):
        module.bench([folder], baseline="x")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench"], "Missing argument"),
        (["bench", "./nothing"], "does not exist"),
        (["bench", "emoji", "--threads", "0"], "whole numbers from 1 to 256"),
        (["bench", "emoji", "--threads", "two"], "whole numbers from 1 to 256"),
        (["bench", "emoji", "--rounds", "1"], "--rounds"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_bench_refuses(tmp_path, words, message):
    one_line(genedge(*words, cwd=tmp_path), 2, message)


def test_the_verb_prints_and_writes(artifacts, tmp_path):
    words = ["--rounds", "2", "--runs", "1", "--cold-starts", "0", "--threads", "1"]
    done = genedge("bench", artifacts["onnx", "int8"], *words, "--json", tmp_path / "b.json")
    assert done.returncode == 0, done.stderr
    assert "pictures/s" in done.stdout
    row = json.loads((tmp_path / "b.json").read_text())["artifacts"][0]
    assert row["precision"] == "int8"
    assert row["timings"][0]["runs"] == 2
