"""Known-bad artifacts fail, each for its reason, and a good one passes."""

import json
import shutil

import numpy as np
import pytest

from genedge.recipes import TARGETS
from genedge.runtime.artifact import file_json, read_artifact, read_golden, stored, write_golden
from genedge.runtime.errors import EnvironmentFailed, GenedgeError
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


def test_stale_golden_pictures_are_found(artifacts, tmp_path, monkeypatch):
    from tiny import other, tiny

    from genedge.toolkit import reference

    quiet = lambda what, done, total: None  # noqa: E731
    for made, passed in ((tiny, True), (other, False)):
        monkeypatch.setattr(reference, "resolve", lambda model, walk, made=made: made())
        rows, _ = reference.recomputed([artifacts["onnx", "fp32"]], "m:f", tmp_path, quiet)
        (row,) = rows
        assert row.passed is passed
