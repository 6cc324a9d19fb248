"""What an artifact stores and runs is read back, and the export's audit names what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from genedge.recipes import TARGETS
from genedge.runtime.artifact import read_artifact
from genedge.runtime.errors import BadInput, LimitMissed
from genedge.runtime.inspect import Operator, float_islands, inspect, to_json
from genedge.toolkit import export as exporting

PAIRS = [(t, p) for t in TARGETS for p in ("fp32", "int8")]


@pytest.mark.parametrize(("target", "precision"), PAIRS)
def test_weights_are_stored_as_the_precision_says(artifacts, target, precision):
    found = {i.component: i for i in inspect(read_artifact(artifacts[target, precision]))}
    wanted = {"int8": "int8", "fp32": "float32"}[precision]
    for name, count in (("text", 320 * 16), ("image", 64 * 16)):
        same = [t for t in found[name].stored if np.prod(t.shape) == count]
        assert [(t.dtype, t.bytes) for t in same] == [
            (wanted, count * (1 if wanted == "int8" else 4))
        ]


@pytest.mark.parametrize("target", TARGETS)
def test_the_decoder_runs_in_int8_without_islands(artifacts, target):
    image = inspect(read_artifact(artifacts[target, "int8"]))[1]
    assert image.islands == ()
    small = [o.kind for o in image.operators if o.computes == "int8"]
    assert sum("Conv" in kind for kind in small) == 3
    assert not [o for o in image.operators if o.computes == "float" and "Conv" in o.kind]
    assert image.partitions == 1


def operator(name, computes, reads, writes):
    return Operator(name, name, "CPU", computes, tuple(reads), tuple(writes))


def test_a_float_operator_between_int8_ones_is_an_island():
    chain = [
        operator("conv1", "int8", ["x"], ["a"]),
        operator("dequantize", "convert", ["a"], ["b"]),
        operator("mul", "float", ["b"], ["c"]),
        operator("reshape", "move", ["c"], ["d"]),
        operator("add", "float", ["d"], ["e"]),
        operator("quantize", "convert", ["e"], ["f"]),
        operator("conv2", "int8", ["f"], ["g"]),
        operator("dequantize2", "convert", ["g"], ["h"]),
        operator("clamp", "float", ["h"], ["y"]),
    ]
    assert float_islands(chain) == (("add", "mul"),)  # the clamp is the end, between nothing
    assert float_islands([o for o in chain if o.computes != "float"]) == ()


@pytest.mark.parametrize("target", TARGETS)
def test_an_export_that_stores_int8_as_float_is_refused_by_name(
    generator, loose, tmp_path, monkeypatch, target
):
    """A recipe that quietly writes the float program, small enough for the audit of sizes."""
    real = exporting._recipe(target)

    def careless(programs, folder, options):
        return real(
            exporting.float_programs(generator), folder, exporting.Options("fp32", options.names)
        )

    monkeypatch.setattr(exporting, "_recipe", lambda name: careless)
    with pytest.raises(
        LimitMissed, match=r"planned int8, stored as float: (text|image)\.\S+ \(float32"
    ):
        exporting.export(generator, [target], out=tmp_path, limits=loose)
    assert list(tmp_path.iterdir()) == []


def test_one_float_tensor_among_int8_ones_is_named(artifacts, tmp_path):
    import shutil

    from genedge.runtime.inspect import stored_as_float

    folder = tmp_path / "a"
    shutil.copytree(artifacts["onnx", "int8"], folder)
    before = inspect(read_artifact(folder))
    planned = {
        i.component: [t.shape for t in i.stored if t.dtype == "int8" and len(t.shape) > 1]
        for i in before
    }
    assert stored_as_float(before, planned) == []
    model = onnx.load(folder / "image.onnx")
    weight = next(t for t in model.graph.initializer if list(t.dims) == [64, 16, 1, 1])
    dequantize = next(n for n in model.graph.node if n.input[0] == weight.name)
    values = numpy_helper.to_array(weight).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(values, dequantize.output[0]))
    model.graph.node.remove(dequantize)
    onnx.save(model, folder / "image.onnx")
    (named,) = stored_as_float(inspect(read_artifact(folder)), planned)
    assert named.startswith("image.")
    assert named.endswith("(float32 [64, 16, 1, 1])")


def test_openvino_holds_each_small_constant_once(artifacts):
    import openvino

    model = openvino.Core().read_model(artifacts["openvino", "int8"] / "image.xml")
    constants = [n for n in model.get_ops() if n.get_type_name() == "Constant"]
    small = [
        (str(n.get_element_type()), tuple(n.get_output_shape(0)), n.data.tobytes())
        for n in constants
        if n.data.nbytes <= 16
    ]
    assert len(small) == len(set(small)) > 5
    subtracted = [n.input_value(1).get_node() for n in model.get_ops() if "Subtract" in str(n)]
    zeros = [n.input_value(0).get_node() for n in subtracted if n.get_type_name() == "Convert"]
    assert zeros
    assert all(n.data.any() for n in zeros)


@pytest.mark.parametrize("target", TARGETS)
def test_a_damaged_file_is_one_line(artifacts, tmp_path, target):
    import shutil

    folder = tmp_path / "a"
    shutil.copytree(artifacts[target, "int8"], folder)
    path = next(folder.glob("image.*"))
    path = (
        folder / {"openvino": "image.xml", "onnx": "image.onnx", "executorch": "image.pte"}[target]
    )
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadInput, match=r"image\.\w+ can not be read"):
        inspect(read_artifact(folder))


def test_json_holds_every_tensor(artifacts):
    artifact = read_artifact(artifacts["openvino", "int8"])
    found = inspect(artifact)
    row = json.loads(to_json(artifact, found))
    assert (row["schema"], row["target"]) == (1, "openvino")
    assert [c["component"] for c in row["components"]] == ["text", "image"]
    assert len(row["components"][0]["stored"]) == len(found[0].stored)


@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_inspect_runs_without_torch(artifacts, target):
    code = f"""
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchao", "executorch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoTorch())
sys.argv = ["genedge", "inspect", {str(artifacts[target, "int8"])!r}]
from genedge.toolkit.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "float islands between int8 operators" in done.stdout


def test_without_its_program_inspect_names_the_remedy(artifacts, tmp_path):
    (tmp_path / "onnx.py").write_text("raise ImportError('not here', name='onnx')\n")
    words = [sys.executable, "-m", "genedge.toolkit.cli", "inspect", artifacts["onnx", "int8"]]
    env = {"PYTHONPATH": str(tmp_path), "PATH": ""}
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, env=env)
    assert done.returncode == 3
    assert "needs onnx; run: pip install 'genedge[inspect]'" in done.stderr
    assert Path(artifacts["onnx", "int8"]).is_dir()
