"""Large components: weights beside the message, and a word before the work starts."""

import importlib
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest

from genedge.recipes import Names, Options
from genedge.recipes import onnx as recipe
from genedge.runtime import inspect_onnx
from genedge.runtime.artifact import Component, StoredFile
from genedge.runtime.errors import BadInput, EnvironmentFailed
from genedge.runtime.run_onnx import load
from genedge.toolkit import estimate
from genedge.toolkit.export import export


@pytest.fixture
def outside(monkeypatch):
    """Every component counts as large, and its weights too."""
    monkeypatch.setattr(recipe, "EXTERNAL_ABOVE", 1000)
    monkeypatch.setattr(recipe, "_INLINE", 1024)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_weights_in_a_file_of_their_own_draw_the_same(
    generator, loose, outside, artifacts, tmp_path, target, precision
):
    (done,) = export(generator, [target], precision=precision, out=tmp_path, limits=loose)
    sizes = {p.name: p.stat().st_size for p in done.directory.iterdir()}
    whole = artifacts[target, precision]
    if target == "openvino":  # its files are the same, whichever way they came
        weights = [p for p in whole.iterdir() if p.suffix == ".bin"]
        assert weights
        assert all(p.read_bytes() == (done.directory / p.name).read_bytes() for p in weights)
        assert set(sizes) == {p.name for p in whole.iterdir()}
        return
    beside = [n for n in sizes if n.endswith(".onnx.data")]
    assert beside
    for name in beside:
        model = name.removesuffix(recipe.DATA)
        assert sizes[name] > 0
        assert sizes[model] < (whole / model).stat().st_size
    manifest = (done.directory / "manifest.json").read_text()
    assert all(f'"{n}"' in manifest for n in beside)
    assert done.found["psnr"] == pytest.approx(_psnr(generator, whole, loose), abs=1e-6)


def _psnr(generator, folder, loose):
    from genedge.runtime.measure import measure

    return measure(folder, None, 1)["psnr"]


def test_a_file_of_weights_that_is_gone_or_changed_is_named(generator, outside, loose, tmp_path):
    from genedge.runtime.artifact import check_files, read_artifact

    (done,) = export(generator, ["onnx"], precision="fp32", out=tmp_path)
    data = next(done.directory.glob("*.onnx.data"))
    kept = data.read_bytes()
    data.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(BadInput, match=f"{data.name}: sha256"):
        check_files(read_artifact(done.directory))
    data.unlink()
    with pytest.raises(BadInput, match=data.name):
        check_files(read_artifact(done.directory))


def test_inspect_reads_weights_that_lie_outside(generator, outside, loose, tmp_path, artifacts):
    (done,) = export(generator, ["onnx"], precision="fp16", out=tmp_path, limits=loose)
    for data in done.directory.glob("*.onnx.data"):
        name = data.name.removesuffix(recipe.DATA)
        one = inspect_onnx.read(done.directory / name, "x")
        other = inspect_onnx.read(artifacts["onnx", "fp16"] / name, "x")
        assert one.stored == other.stored
        assert [o.kind for o in one.operators] == [o.kind for o in other.operators]


def test_a_number_that_half_precision_does_not_hold_keeps_float32(tmp_path):
    import torch

    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.full((16, 16), torch.finfo(torch.float32).min))
            self.weight = torch.nn.Parameter(torch.ones(16, 16))

        def forward(self, x):
            return torch.maximum(x, self.mask) @ self.weight

    program = torch.export.export(Masked(), (torch.zeros(16, 16),))
    options = Options("fp16", {"a": Names(("x",), ("y",))})
    files = recipe.export({"a": program}, tmp_path, options)["a"]
    kinds = {t.name: t.data_type for t in onnx.load(files[0]).graph.initializer}
    assert sorted(kinds.values()) == [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16]
    component = Component("a", ("x",), ("y",), (StoredFile("a.onnx", 0, ""),))
    drawn = load(tmp_path, component, 1)({"x": np.ones((16, 16), np.float32)})["y"]
    assert np.array_equal(drawn, np.full((16, 16), 16, np.float32))


def test_what_an_export_takes_is_said_and_what_does_not_fit_is_refused(
    generator, monkeypatch, tmp_path
):
    monkeypatch.setattr(estimate, "LARGE", 1000)
    monkeypatch.setattr(estimate, "available_memory", lambda: 10**12)
    guess = estimate.estimated(generator, ["onnx"], "fp32")
    assert guess.large
    assert "GB of memory of 1000.0 GB available" in guess.text(0.5)
    longer = estimate.estimated(generator, ["onnx", "openvino"], "int8")
    assert longer.runs > guess.runs
    assert longer.lowering > guess.lowering
    estimate.check_room(guess, "fp32", ["onnx"], tmp_path / "not" / "yet")
    monkeypatch.setattr(estimate, "available_memory", lambda: 10**8)
    with pytest.raises(EnvironmentFailed, match=r"needs about .* GB of memory, 0\.1 GB are avail"):
        export(generator, ["onnx"], precision="fp32", out=tmp_path / "out")
    monkeypatch.setattr(estimate, "available_memory", lambda: None)
    disk = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: disk)
    with pytest.raises(EnvironmentFailed, match=r"0\.0 GB are free; name another --out"):
        export(generator, ["onnx"], precision="fp32", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    small = replace(guess, parameters=10)
    estimate.check_room(small, "fp32", ["onnx"], tmp_path)


@pytest.mark.parametrize("target", ["onnx", "openvino", "executorch"])
def test_the_audit_reads_large_files_in_another_process(artifacts, monkeypatch, target):
    from genedge.runtime.artifact import read_artifact

    module = importlib.import_module("genedge.toolkit.export")
    artifact = read_artifact(artifacts[target, "int8"])
    near = module._stored(artifact)
    monkeypatch.setattr(module, "LARGE", 1)
    far = module._stored(artifact)
    assert [(one.component, one.stored) for one in far] == [(o.component, o.stored) for o in near]
    assert any(t.dtype in ("int8", "uint8") for one in far for t in one.stored)
