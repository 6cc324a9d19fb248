"""One generator, three targets, every precision: the same picture comes out."""

import errno
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from tiny import tiny

from genedge.recipes import TARGETS
from genedge.runtime.artifact import read_artifact, read_golden
from genedge.runtime.errors import BadInput, EnvironmentFailed, LimitMissed
from genedge.runtime.metrics import picture_psnr
from genedge.runtime.run import load
from genedge.runtime.verify import Limits
from genedge.toolkit import export as exporting
from genedge.toolkit.export import audit_size, export
from genedge.toolkit.quantize import Quantized

PAIRS = [
    (t, p) for t in TARGETS for p in ("fp32", "fp16", "int8") if (t, p) != ("executorch", "fp16")
]


@pytest.mark.parametrize(("target", "precision"), PAIRS)
def test_an_artifact_draws_what_the_generator_draws(artifacts, generator, target, precision):
    pipeline = load(artifacts[target, precision])
    feed = pipeline.prepare("blue round", 11)
    least = {"fp32": 80, "fp16": 50, "int8": 30}[precision]
    assert picture_psnr(pipeline.pixels(feed), generator.pixels(feed)) >= least


@pytest.mark.parametrize("target", TARGETS)
def test_int8_is_as_near_to_its_simulation_as_to_nothing_else(artifacts, target):
    artifact = read_artifact(artifacts[target, "int8"])
    golden = read_golden(artifact)
    pipeline = load(artifact.directory)
    drawn = [
        pipeline.pixels(pipeline.prepare(p, s))
        for p, s in zip(golden.prompts, golden.seeds, strict=True)
    ]
    near = np.mean([picture_psnr(a, b) for a, b in zip(drawn, golden.simulated, strict=True)])
    far = np.mean([picture_psnr(a, b) for a, b in zip(drawn, golden.pictures, strict=True)])
    assert near > far


@pytest.mark.parametrize(("target", "precision"), PAIRS)
def test_the_manifest_holds_no_path_of_this_machine(artifacts, target, precision):
    folder = artifacts[target, precision]
    here = str(folder.parent).encode()
    for file in folder.iterdir():
        data = file.read_bytes()
        assert here not in data, file.name
        assert b"site-packages" not in data, file.name


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_that_are_not_contiguous_give_the_same_picture(artifacts, target):
    pipeline = load(artifacts[target, "fp32"])
    inputs = pipeline.prepare("red apple", 3).inputs
    strided = {}
    for name, value in inputs.items():
        wide = np.zeros((*value.shape, 2), value.dtype)
        wide[..., 0] = value
        strided[name] = wide[..., 0]
        assert not strided[name].flags.c_contiguous or strided[name].size == 1
    assert np.array_equal(pipeline.values(strided), pipeline.values(inputs))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("wrong", ["shape", "dtype", "missing"])
def test_wrong_inputs_are_refused_by_name_before_native_code(artifacts, target, wrong):
    pipeline = load(artifacts[target, "fp32"])
    inputs = dict(pipeline.prepare("red apple", 3).inputs)
    if wrong == "shape":
        inputs["noise"] = inputs["noise"].T
    elif wrong == "dtype":
        inputs["noise"] = inputs["noise"].astype(np.float64)
    else:
        del inputs["noise"]
    with pytest.raises(BadInput, match="noise"):
        pipeline.values(inputs)


def test_an_export_that_misses_a_limit_writes_nothing(generator, tmp_path):
    with pytest.raises(LimitMissed, match=r"psnr_db is .* limit ≥ 99"):
        export(generator, ["onnx"], out=tmp_path, limits=Limits(psnr=99))
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_fails_names_those_that_were_written_before(
    generator, loose, tmp_path, monkeypatch
):
    one = exporting._export_one

    def fails_second(generator, target, *more):
        if target == "openvino":
            raise LimitMissed("ssim is 0.1, limit ≥ 0.9; it was not written")
        return one(generator, target, *more)

    monkeypatch.setattr(exporting, "_export_one", fails_second)
    with pytest.raises(LimitMissed) as caught:
        export(generator, ["onnx", "openvino"], precision="fp32", out=tmp_path, limits=loose)
    (left,) = tmp_path.iterdir()
    assert str(caught.value).endswith(f"it was not written ({left.name}: written before)")
    assert read_artifact(left).target == "onnx"


def test_the_size_audit_fails_where_int8_is_stored_as_float(tmp_path):
    plan = Quantized({}, {}, {}, planned_int8=1_000_000, planned_float=1000)
    file = tmp_path / "x.onnx"
    file.write_bytes(bytes(1_100_000))
    audit_size(plan, [file])
    file.write_bytes(bytes(4_000_000))
    with pytest.raises(LimitMissed, match="stored as float"):
        audit_size(plan, [file])


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        (["coreml"], {}, "target 'coreml' is unknown"),
        (["onnx"], {"precision": "int4"}, "precision 'int4' is unknown"),
        (["onnx"], {"cpu": "riscv"}, "cpu profile 'riscv' is unknown"),
        (["executorch"], {"precision": "fp16"}, "no fp16"),
        (["onnx"], {"keep": ["image.nothing"]}, "layer 'image.nothing' is unknown"),
    ],
)
def test_unknown_words_are_refused(generator, tmp_path, targets, options, message):
    with pytest.raises(BadInput, match=message):
        export(generator, targets, out=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_layers_named_float_stay_float_and_are_in_the_manifest(generator, loose, tmp_path):
    (plain,) = export(generator, ["onnx"], out=tmp_path / "a", limits=loose)
    (kept,) = export(
        generator, ["onnx"], out=tmp_path / "b", keep=["image.exit", "image.up"], limits=loose
    )
    manifest = json.loads((kept.directory / "manifest.json").read_text())
    assert manifest["float_layers"] == ["image.exit", "image.up"]
    shape = [64, 16, 1, 1]  # of image.up's weight
    types = [
        {
            t.data_type
            for t in onnx.load(d.directory / "image.onnx").graph.initializer
            if t.dims == shape
        }
        for d in (plain, kept)
    ]
    assert types == [{onnx.TensorProto.INT8}, {onnx.TensorProto.FLOAT}]


def test_a_module_that_draws_random_numbers_is_refused():
    import torch

    from genedge.toolkit.programs import export_module

    class Frozen(torch.nn.Module):
        def forward(self, x):
            return x + torch.randn(3)

    with pytest.raises(BadInput, match="make noise an input"):
        export_module(Frozen(), (torch.zeros(3),))


def test_a_full_disk_is_no_fault_of_the_model(tmp_path, monkeypatch):
    def full(programs, folder, options):
        (folder / "text.onnx").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporting, "_recipe", lambda target: full)
    with pytest.raises(EnvironmentFailed, match="the disk is full"):
        export(tiny(), ["onnx"], precision="fp32", out=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_generate_and_verify_run_without_torch(artifacts, target, tmp_path):
    """A finder that refuses torch stands for an environment without it."""
    code = f"""
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchao", "safetensors", "executorch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoTorch())
import os
from genedge.runtime.measure import measure
from pathlib import Path
print(measure(Path({str(artifacts[target, "int8"])!r}), None, 1)["psnr"])
sys.argv = ["genedge", "generate", "red apple", "--artifact", {str(artifacts[target, "int8"])!r},
            "--seed", "1", "--out", {str(tmp_path / "a.png")!r}]
from genedge.toolkit.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").is_file()
