"""Known-bad artifacts fail, each for its reason, and a good one passes."""

import importlib
import json
import shutil

import numpy as np
import pytest

from genedge.recipes import TARGETS
from genedge.runtime.artifact import (
    file_json,
    read_artifact,
    read_golden,
    spread,
    stored,
    write_golden,
)
from genedge.runtime.bootstrap import mean_bounds, sample_bounds
from genedge.runtime.child import run_in_child
from genedge.runtime.errors import EnvironmentFailed, GenedgeError
from genedge.runtime.metrics import picture_psnr
from genedge.runtime.report import headline
from genedge.runtime.run import load
from genedge.runtime.verify import Limits, judge, verify

FREE = Limits(psnr=30, ssim=0.9, flat=0.8, signed=2, lead=-100)


def failed(report):
    return {r.metric for r in report.failed}


@pytest.fixture
def copy_of(artifacts, tmp_path):
    def copy(target, precision="fp32", name=None):
        return shutil.copytree(artifacts[target, precision], tmp_path / (name or target))

    return copy


def with_golden(folder, change):
    """The artifact with other golden pictures, its manifest in agreement."""
    golden = read_golden(read_artifact(folder))
    pictures = change(golden.pictures.copy())
    write_golden(
        folder / "golden.npz", golden.__class__(golden.prompts, golden.seeds, pictures, None)
    )
    path = folder / "manifest.json"
    row = json.loads(path.read_text())
    row["golden"].update(file_json(stored(folder / "golden.npz")))
    path.write_text(json.dumps(row))
    return folder


@pytest.mark.parametrize("target", TARGETS)
def test_a_good_artifact_passes_the_default_limits(artifacts, target):
    assert failed(verify([artifacts[target, "fp32"]])) == set()


@pytest.mark.parametrize(
    ("change", "metrics"),
    [
        (lambda p: p[..., [2, 1, 0, 3]], {"psnr_db"}),
        (lambda p: np.roll(p, 1, 2), {"psnr_db", "ssim"}),
        (lambda p: p[::-1], {"psnr_db", "ssim"}),
        (lambda p: np.where(p > 240, 250, p).astype(np.uint8), {"psnr_db"}),
    ],
    ids=["swapped channels", "shifted by one", "other prompts", "white of 250"],
)
def test_pictures_that_differ_fail(copy_of, change, metrics):
    assert metrics <= failed(verify([with_golden(copy_of("onnx"), change)]))


def test_a_planted_off_white_fails_flat_ground():
    from genedge.runtime.metrics import flat_kept

    white = np.full((8, 8, 4), 255, np.uint8)
    off = white.copy()
    off[..., :3] = 250
    kept, total = flat_kept(off, white)
    assert kept / total < 0.99


def test_a_picture_like_noise_fails_where_its_reference_is_none(copy_of, monkeypatch, artifacts):
    from genedge.runtime import measure as module

    monkeypatch.setattr(module, "suspicion", lambda pixels: "noise" if pixels.any() else "")
    folder = with_golden(copy_of("onnx"), np.zeros_like)
    found = module.measure(folder, None, 1)
    rows = judge(read_artifact(folder), found, FREE)
    assert "suspicious" in {r.metric for r in rows if not r.passed}


@pytest.mark.parametrize(
    "limit", [{"bytes": 1000}, {"latency": 1e-6}, {"psnr": 101}, {"ssim": 1.1}]
)
def test_each_limit_can_fail(artifacts, limit):
    names = {"bytes": "bytes", "latency": "latency_ms", "psnr": "psnr_db", "ssim": "ssim"}
    report = verify([artifacts["onnx", "fp32"]], limits=Limits(**limit))
    assert failed(report) == {names[k] for k in limit}


def test_one_broken_artifact_does_not_keep_the_others_from_their_verdict(artifacts, copy_of):
    broken = copy_of("onnx", name="broken")
    (broken / "image.onnx").write_bytes(b"x")
    report = verify([broken, artifacts["openvino", "fp32"]])
    assert failed(report) == {"runs"}
    assert {r.artifact for r in report.rows if r.metric == "psnr_db"} == {
        artifacts["openvino", "fp32"].name
    }


def test_a_broken_artifact_alone_is_an_error(copy_of):
    folder = copy_of("onnx")
    (folder / "image.onnx").write_bytes(b"x")
    with pytest.raises(GenedgeError, match=r"manifest\.json says"):
        verify([folder])


def test_a_runtime_that_dies_is_one_line(artifacts, monkeypatch, tmp_path):
    """The child is killed by a signal, as native code that crashes would be."""
    (tmp_path / "onnxruntime.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EnvironmentFailed, match="SIGSEGV"):
        verify([artifacts["onnx", "fp32"]])


def test_a_file_that_the_runtime_refuses_is_named(copy_of):
    folder = copy_of("onnx")
    (folder / "image.onnx").write_bytes(b"not a graph at all")
    path = folder / "manifest.json"
    row = json.loads(path.read_text())
    row["components"][1]["files"] = [file_json(stored(folder / "image.onnx"))]
    path.write_text(json.dumps(row))
    with pytest.raises(GenedgeError, match=r"image.onnx: onnxruntime can not load it"):
        verify([folder])


def test_numbers_that_are_not_finite_are_never_a_picture(artifacts):
    pipeline = load(artifacts["onnx", "fp32"])
    run = pipeline.runs[-1]
    pipeline.runs[-1] = lambda inputs: {k: v * np.nan for k, v in run(inputs).items()}
    with pytest.raises(EnvironmentFailed, match="not finite"):
        pipeline.generate("red apple", seed=1)


def test_golden_pictures_that_an_app_deleted_are_asked_for(copy_of):
    folder = copy_of("onnx")
    (folder / "golden.npz").unlink()
    with pytest.raises(GenedgeError, match=r"golden\.npz is missing"):
        verify([folder])


def test_stale_golden_pictures_are_found_and_float64_judges_its_own_generator_alone(
    artifacts, tmp_path, monkeypatch
):
    from tiny import other, tiny

    from genedge.toolkit import reference

    folder = artifacts["onnx", "fp32"]
    quiet = lambda what, done, total: None  # noqa: E731
    for made, reason in ((tiny, ""), (other, "m:f is another generator than this artifact")):
        monkeypatch.setattr(reference, "resolve", lambda model, walk, made=made: made())
        (row,), files = reference.recomputed([folder], "m:f", tmp_path, quiet)
        assert row.passed is (reason == "")
        assert reason in row.note
        found = {r.metric: r for r in verify([folder], golden=files).rows}
        assert ("reference_to_fp64_db" in found) is row.passed
        assert found["psnr_db"].passed


def test_changed_golden_pictures_of_the_same_generator_are_named(copy_of, tmp_path, monkeypatch):
    from tiny import tiny

    from genedge.toolkit import reference

    monkeypatch.setattr(reference, "resolve", lambda model, walk: tiny())
    folder = with_golden(copy_of("onnx"), lambda p: p[..., [2, 1, 0, 3]])
    (row,), _ = reference.recomputed([folder], "m:f", tmp_path, lambda what, done, total: None)
    assert "the golden pictures were changed" in row.note


def test_some_prompts_are_taken_evenly(artifacts):
    golden = read_golden(read_artifact(artifacts["onnx", "int8"]))
    some = spread(golden, 3)
    at = [golden.prompts.index(p) for p in some.prompts]
    assert at == [0, 2, 4]
    assert some.seeds == tuple(golden.seeds[i] for i in at)
    assert np.array_equal(some.simulated, golden.simulated[at])
    assert some.inputs is not None
    assert all(v == tuple(golden.inputs[k][i] for i in at) for k, v in some.inputs.items())
    assert spread(golden, None) is spread(golden, 99) is golden


def test_some_prompts_decide_only_what_their_spread_allows(artifacts, copy_of):
    """A mean that a sample can not tell is inconclusive; a wrong artifact still fails."""
    folder = artifacts["onnx", "int8"]
    whole = {r.metric: r.value for r in verify([folder]).rows}
    near = verify([folder], prompts=4, limits=Limits(psnr=whole["psnr_db"], lead=-100))
    (row,) = (r for r in near.rows if r.metric == "psnr_db")
    assert (row.state, row.passed) == ("inconclusive", True)
    assert "over 4 of 6 prompts" in row.note
    assert headline(near).startswith("no limit missed") == (not near.failed)
    low = verify([folder], prompts=4, limits=Limits(psnr=10))
    assert next(r.state for r in low.rows if r.metric == "psnr_db") == "pass"
    swapped = with_golden(copy_of("onnx"), lambda p: p[..., [2, 1, 0, 3]])
    assert "psnr_db" in failed(verify([swapped], prompts=2))


def test_other_prompts_are_drawn_by_each_artifacts_own_walk(artifacts, tmp_path, monkeypatch):
    reference = importlib.import_module("genedge.toolkit.reference")
    folders = [artifacts["onnx", p] for p in ("fp32", "int8", "fp16")]
    walks = dict(zip(folders, ({"steps": 4}, {"steps": 8}, {"steps": 4}), strict=True))
    monkeypatch.setattr(reference, "options_of", lambda a: walks[a.directory])
    monkeypatch.setattr(reference, "resolve", lambda model, walk: walk)
    monkeypatch.setattr(reference, "golden_of_prompts", lambda walk, *more: walk)
    monkeypatch.setattr(reference, "write_golden", lambda path, walk: path.write_text(str(walk)))
    files = reference.of_prompts("tiny", ["a"], tmp_path, lambda *row: None, folders)
    assert {f: file.read_text() for f, file in files.items()} == {
        f: str(w) for f, w in walks.items()
    }
    assert len(set(files.values())) == 2


def test_the_interval_of_a_sample_holds_what_all_of_them_give():
    values = np.random.default_rng(0).normal(35, 3, 64)
    for count in (2, 4, 8, 16, 32):
        low, high = sample_bounds(values[:count], lambda v: v.mean(1))
        assert low <= values.mean() <= high
        assert low < values[:count].mean() < high
    assert sample_bounds(values[:32], lambda v: v.mean(1))[0] > values.min()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 16])
def test_where_values_cancel_a_small_sample_seldom_misses_the_mean(count):
    """99 % intervals: of 500 samples some five miss it; below 8 the lowest and highest value missed
    it for half of the samples of two."""
    values = np.random.default_rng(1).normal(0.1, 0.3, (500, count))
    bounds = np.array([mean_bounds(v) for v in values])
    missed = ((bounds[:, 0] > 0.1) | (bounds[:, 1] < 0.1)).sum()
    assert (missed <= (12 if count < 8 else 30)) == (count > 1)  # one value has no spread


def test_pictures_that_are_none_make_one_row_with_examples(copy_of):
    rows = judged_with(
        copy_of("onnx"), {f"'p{i}'": "it is grey" for i in range(5)} | {"'q'": "NaN"}
    )
    (row,) = (r for r in rows if r.metric == "suspicious")
    assert row.value == "6 of 6 pictures"
    assert row.note == "it is grey ('p0' and 4 more); NaN ('q')"


def judged_with(folder, odd):
    found = run_in_child("measure", directory=str(folder), prompts=None, threads=1)
    return judge(read_artifact(folder), found | {"suspicious": odd}, FREE)


def test_int8_artifacts_draw_the_same_pixels(artifacts, generator):
    """ONNX Runtime and ExecuTorch bit for bit, whatever the prompt; OpenVINO but for a rare step."""
    pipelines = {target: load(artifacts[target, "int8"], threads=1) for target in TARGETS}
    prompts = [*generator.golden, *generator.calibration[:24]]
    near = []
    for seed, prompt in enumerate(prompts):
        drawn = {t: p.pixels(p.prepare(prompt, seed)) for t, p in pipelines.items()}
        assert np.array_equal(drawn["onnx"], drawn["executorch"]), prompt
        near.append(picture_psnr(drawn["onnx"], drawn["openvino"]))
    assert np.median(near) == 100
    assert min(near) > 40
