"""Artifacts that are wrong in one known way: each fails, and the verdict says what is wrong."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from tiny import tokenizer_json

from genedge.recipes import TARGETS
from genedge.runtime.artifact import file_json, read_artifact, read_golden, stored, write_golden
from genedge.runtime.budget import NoLoss, Wanted
from genedge.runtime.errors import EnvironmentFailed
from genedge.runtime.measure import measure
from genedge.runtime.run import load
from genedge.runtime.verdict import DEFAULTS, Limits, judge
from genedge.runtime.verify import _no_loss_rows, verify

FREE = Limits(psnr=30, ssim=0.9, flat=0.8, signed=2, lead=-100)


@pytest.fixture
def copy_of(artifacts, tmp_path):
    def copy(target, precision="fp32"):
        return shutil.copytree(artifacts[target, precision], tmp_path / f"{target}-{precision}")

    return copy


def rewrite(folder, change):
    """The manifest after `change`, with sizes and hashes of the files as they are now."""
    path = folder / "manifest.json"
    row = json.loads(path.read_text())
    change(row)
    rows = [f for c in row["components"] for f in c["files"]] + [row["golden"], row["tokenizer"]]
    for file in rows:
        file.update(file_json(stored(folder / file["path"])))
    path.write_text(json.dumps(row))
    return folder


def with_golden(folder, **fields):
    golden = replace(read_golden(read_artifact(folder)), simulated=None, **fields)
    write_golden(folder / "golden.npz", golden)
    return rewrite(folder, lambda row: None)


def hashed(folder):
    """The folder with hashes of the inputs in its golden pictures, as export writes them."""
    artifact = read_artifact(folder)
    golden, pipeline = read_golden(artifact), load(folder)
    feeds = [
        pipeline.prepare(p, s).hashes for p, s in zip(golden.prompts, golden.seeds, strict=True)
    ]
    sources = {n: s.source for n, s in artifact.signature.inputs.items()}
    return {f"{sources[n]}:{n}": tuple(f[n] for f in feeds) for n in sources}


def judged(folder, limits=DEFAULTS["fp32"]):
    """Rows that failed, by metric, as one text each."""
    rows = judge(read_artifact(folder), measure(folder, None, 1), limits)
    failed = {}
    for row in rows:
        if not row.passed:
            failed[row.metric] = f"{failed.get(row.metric, '')} {row.value} {row.note}"
    return failed


def right_half_down(pictures):
    half = pictures.shape[2] // 2
    pictures[:, :, half:] = np.roll(pictures, 1, 1)[:, :, half:]
    return pictures


def every_other_pixel_right(pictures):
    y, x = np.mgrid[: pictures.shape[1], : pictures.shape[2]]
    return np.where(((x + y) % 2 == 0)[..., None], np.roll(pictures, 1, 2), pictures)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p[..., [2, 1, 0, 3]], "swapped channels (BGR for RGB)"),
        (lambda p: np.roll(p, 1, 1), "the picture is shifted up by one pixel"),
        (right_half_down, "the right half is shifted up by one pixel"),
        (every_other_pixel_right, "every other pixel is shifted left by one pixel"),
        (lambda p: np.roll(p, 1, 0), "are those of other prompts"),
    ],
    ids=["swapped channels", "shifted", "half of it shifted", "half the pixels", "other order"],
)
def test_pictures_that_moved_are_named(copy_of, target, change, reason):
    folder = copy_of(target)
    pictures = read_golden(read_artifact(folder)).pictures.copy()
    assert reason in judged(with_golden(folder, pictures=change(pictures)))["psnr_db"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_good_artifact_has_no_reason_to_fail(copy_of, target):
    folder = copy_of(target)
    found = measure(with_golden(folder, inputs=hashed(folder)), None, 1)
    assert found["reasons"] == found["inputs"] == []
    assert judged(folder) == {}


def test_another_seed_is_named_by_the_hashes_of_the_inputs(copy_of):
    folder = copy_of("onnx")
    seeds = tuple(s + 1 for s in read_golden(read_artifact(folder)).seeds)
    failed = judged(with_golden(folder, inputs=hashed(folder), seeds=seeds))
    assert "another seed or another noise generator" in failed["inputs"]


def test_another_seed_is_found_where_an_older_artifact_has_no_hashes(copy_of):
    folder = copy_of("onnx")
    golden = read_golden(read_artifact(folder))
    seeds = tuple(s + 1 for s in golden.seeds)
    found = judged(with_golden(folder, inputs=None, seeds=seeds))
    assert "inputs" not in found
    assert "another seed (one less)" in found["psnr_db"]


def test_another_tokenizer_is_named(copy_of):
    folder = copy_of("onnx")
    with_golden(folder, inputs=hashed(folder))
    tokenizer = json.loads(tokenizer_json())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-6]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    failed = judged(rewrite(folder, lambda row: None))
    assert "another tokenizer" in failed["inputs"]


def changed_weight(folder, value):
    """image.onnx with its largest weight set to one value."""
    import onnx

    path = folder / "image.onnx"
    model = onnx.load(path)
    tensor = max(model.graph.initializer, key=lambda t: np.prod(t.dims))
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, value), tensor.name))
    onnx.save(model, path)
    return rewrite(folder, lambda row: None), tensor.name


def test_a_layer_of_zeros_is_named(copy_of):
    folder, name = changed_weight(copy_of("onnx"), 0)
    assert f"{name} (float32" in judged(folder)["psnr_db"]
    assert "is stored as one value throughout" in judged(folder)["psnr_db"]


def test_numbers_that_are_not_finite_are_named(copy_of):
    folder, _ = changed_weight(copy_of("onnx"), np.nan)
    assert "numbers are not finite" in judged(folder)["suspicious"]


def test_what_draws_no_numbers_is_timed_and_judged_with_the_others(copy_of, monkeypatch):
    folder, _ = changed_weight(copy_of("onnx"), np.nan)
    found = verify([folder], prompts=2, timed=True)
    assert found.bench is not None
    assert "suspicious" in {r.metric for r in found.failed}
    module = sys.modules["genedge.runtime.verify"]

    def fails(*words, **options):
        raise EnvironmentFailed("the process that ran it was killed by SIGKILL")

    monkeypatch.setattr(module, "bench", fails)
    found = verify([folder], prompts=2, timed=True)
    (row,) = (r for r in found.failed if r.metric == "runs")
    assert row.value == "could not be timed: the process that ran it was killed by SIGKILL"
    assert "suspicious" in {r.metric for r in found.failed}


@pytest.mark.parametrize("more", [0, 0.05])
def test_five_per_cent_larger_misses_a_limit_on_bytes(copy_of, more):
    import onnx

    folder = copy_of("onnx")
    limit = Limits(bytes=round(read_artifact(folder).bytes * 1.02))
    path = folder / "image.onnx"
    model = onnx.load(path)
    filler = model.metadata_props.add()
    filler.key, filler.value = "filler", "x" * round(more * read_artifact(folder).bytes)
    onnx.save(model, path)
    assert set(judged(rewrite(folder, lambda row: None), limit)) == ({"bytes"} if more else set())


@pytest.mark.parametrize("target", TARGETS)
def test_int8_that_stores_floats_is_named(copy_of, target):
    folder = rewrite(copy_of(target), lambda row: row.update(precision="int8"))
    assert "int8 is claimed, but the files store floats" in judged(folder, FREE)["stored_int8"]
    assert judged(copy_of(target, "int8"), FREE) == {}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ((0, 0, 0, 255), "the picture is black"),
        ((127, 128, 127, 255), "the picture is grey"),
        ((255, 255, 255, 255), "the picture is white"),
        ((9, 9, 9, 0), "the picture is empty"),
        ((200, 30, 30, 255), "the same colour (200, 30, 30)"),
        (None, "looks like noise"),
    ],
)
def test_pictures_that_are_none_are_named(value, name):
    from genedge.runtime.picture import suspicion

    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    pixels[..., 3] = 255
    if value is not None:
        pixels[:] = value
    assert name in suspicion(pixels)


def test_float64_decides_where_float32_is_noise_itself(copy_of):
    folder = copy_of("onnx")
    true = read_golden(read_artifact(folder)).pictures
    noise = np.random.default_rng(0).integers(-20, 20, true.shape)
    noisy = np.clip(true.astype(int) + noise, 0, 255).astype(np.uint8)
    assert "psnr_db" in judged(with_golden(folder, pictures=noisy))
    assert judged(with_golden(folder, pictures=noisy, precise=true)) == {}
    assert "psnr_db" in judged(with_golden(folder, pictures=true, precise=noisy))
    assert judged(with_golden(folder, pictures=true, precise=true)) == {}


@pytest.mark.parametrize(
    ("prompts", "loss", "state"),
    [
        (250, 0.0, "pass"),
        (250, 0.1, "inconclusive"),
        (250, 0.3, "fail"),
        (64, 0.0, "inconclusive"),
        (64, 1.0, "fail"),
    ],
)
def test_a_claim_of_no_loss_needs_prompts_and_an_interval(prompts, loss, state):
    random = np.random.default_rng(1)
    base = 35 + 3 * random.normal(size=prompts)
    mine = base - loss + 0.3 * random.normal(size=prompts)
    mine += base.mean() - loss - mine.mean()
    golden = type("G", (), {"prompts": tuple(map(str, range(prompts))), "seeds": (1,) * prompts})
    found = {n: {"prompts": prompts, "psnrs": list(v)} for n, v in (("a", mine), ("b", base))}
    wanted = {"a": Wanted(no_loss=NoLoss("b", 0.1))}
    (row,) = _no_loss_rows(wanted, {"b": "b"}, found, {"a": golden, "b": golden})
    assert row.state == state
    assert f"over {prompts} prompts" in row.note
