"""Files of other tools become artifacts, and what does not fit the reference is one clear line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from jsonschema import Draft202012Validator
from made_elsewhere import (
    Whole,
    component_onnx,
    feeds,
    independent,
    plain_onnx,
    quantized_onnx,
    small,
)
from tiny import tiny

from genedge.runtime import load
from genedge.runtime.artifact import read_artifact
from genedge.runtime.errors import BadInput, LimitMissed
from genedge.runtime.inspect import inspect
from genedge.runtime.interface import Port
from genedge.runtime.verify import verify
from genedge.toolkit.adopt import adopt, check_range, checked_precision
from genedge.toolkit.pairing import pair

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs" / "manifest.schema.json").read_text())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """An RGB generator of one component, and its file by torch.onnx.export."""
    generator = small()
    return generator, plain_onnx(generator, tmp_path_factory.mktemp("plain") / "plain.onnx")


def taken(generator, *files, **options):
    return adopt(generator, list(files), reference="tests:function", **options)


def figures(folder):
    report = verify([folder])
    return {r.metric: r.value for r in report.rows}, {r.metric for r in report.failed}


def edited(source, place, change):
    """The file with another graph; its weights inside."""
    model = onnx.load(source)
    change(model.graph)
    onnx.save(model, place)
    return place


def test_a_file_of_torch_alone_is_judged_as_an_independent_script_judges_it(plain, tmp_path):
    generator, file = plain
    done = taken(generator, file, out=tmp_path)
    found, failed = figures(done.directory)
    assert failed == set()
    assert (found["psnr_db"], found["ssim"]) == pytest.approx(independent(generator, file))
    row = json.loads((done.directory / "manifest.json").read_text())
    Draft202012Validator(SCHEMA).validate(row)
    assert row["adopted"]["producer"].startswith("pytorch 2.")
    assert row["adopted"]["files"] == ["plain.onnx"]
    weights = sum(p.numel() for p in generator.components[0].module.parameters())
    assert row["adopted"]["stored"]["float32"] == pytest.approx(4 * weights, rel=0.02)


def test_a_file_that_onnxruntime_quantized_is_judged_alike(plain, tmp_path):
    generator, file = plain
    small = quantized_onnx(generator, file, tmp_path / "small.onnx")
    done = taken(generator, small, out=tmp_path)
    assert done.directory.name == "small-onnx-int8"
    found, failed = figures(done.directory)
    assert failed == set()
    assert (found["psnr_db"], found["ssim"]) == pytest.approx(independent(generator, small))
    assert 40 < found["psnr_db"] < 60
    assert "onnx.quantize" in done.producer
    (one,) = inspect(read_artifact(done.directory))
    sizes = {d: sum(t.bytes for t in one.stored if t.dtype == d) for d in done.stored}
    assert sizes == done.stored
    assert sizes["int8"] > 10 * sizes["float32"]


def test_int8_that_is_stored_as_float_is_not_believed(plain, tmp_path):
    with pytest.raises(LimitMissed, match=r"declared int8, but 100% .*float32"):
        taken(plain[0], plain[1], precision="int8", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_shares_of_weights_decide_without_a_word():
    rows = [
        {"name": "a", "dtype": "int8", "shape": [40, 10], "bytes": 400},
        {"name": "b", "dtype": "float32", "shape": [20, 10], "bytes": 800},
        {"name": "bias", "dtype": "float32", "shape": [5000], "bytes": 20000},
    ]
    assert checked_precision(rows, None) == "int8"
    with pytest.raises(LimitMissed, match=r"67% .* a \(int8"):
        checked_precision(rows, "fp32")


def test_a_chain_of_two_files_with_names_of_their_own(tmp_path):
    generator = tiny()
    text = component_onnx(generator, 0, tmp_path / "text.onnx", output_names=["out"])
    image = component_onnx(generator, 1, tmp_path / "image.onnx", input_names=["x", "s"])
    done = taken(generator, image, text, out=tmp_path / "out")
    assert done.paired == {"text.code": "out", "image.code": "x", "image.style": "s"}
    fed = generator.prepare("red apple", 1)
    with load(done.directory) as model:
        np.testing.assert_allclose(
            model.values(fed.inputs), generator.tensors(fed)["picture"].numpy(), atol=1e-4
        )
    with pytest.raises(BadInput, match=r"2 components|has 2 component\(s\) \(text, image\)"):
        taken(generator, text, image, tmp_path / "text.onnx", out=tmp_path / "more")


def test_an_openvino_ir_is_adopted(plain, tmp_path):
    openvino = pytest.importorskip("openvino")
    file = tmp_path / "model.xml"
    openvino.save_model(openvino.convert_model(plain[1]), file, compress_to_fp16=True)
    done = taken(plain[0], file, tmp_path / "model.bin", out=tmp_path / "out")
    assert done.precision == "fp16"
    assert "2026" in done.producer
    assert figures(done.directory)[1] == set()
    (tmp_path / "model.bin").unlink()
    with pytest.raises(BadInput, match=r"weights model\.bin are missing"):
        taken(plain[0], file, out=tmp_path / "out", force=True)
    assert figures(done.directory)[1] == set()


def test_a_pte_is_adopted_by_position(plain, tmp_path):
    exir = pytest.importorskip("executorch.exir")
    example = tuple(torch.from_numpy(v) for v in feeds(plain[0], 1)[0].values())
    program = torch.export.export(Whole(plain[0]).eval(), example)
    file = tmp_path / "model.pte"
    file.write_bytes(exir.to_edge(program).to_executorch().buffer)
    done = taken(plain[0], file, out=tmp_path)
    assert (done.precision, done.producer) == ("fp32", "not named")
    assert figures(done.directory)[1] == set()


def ports(*rows):
    return [Port(name, dtype, shape) for name, dtype, shape in rows]


WANTED = {"a": ("float32", (1, 4)), "b": ("float32", (1, 4)), "c": ("int64", (1, 8))}
F, I = ("float32", (1, 4)), ("int64", (1, 8))  # noqa: E741


@pytest.mark.parametrize(
    ("given", "names", "rename"),
    [
        (ports(("b", *F), ("c", *I), ("a", *F)), "bca", {}),
        (ports(("", *F), ("", *F), ("", *I)), "abc", {}),  # no names: in order
        (ports(("a", *F), ("b", *F), ("ids", *I)), "abc", {}),  # one way is left
        (ports(("x", *F), ("c", *I), ("y", *F)), "bca", {"x": "b", "y": "a"}),
        (ports(("x", *F), ("c", *I), ("y", *F)), "bca", {"x": "b"}),
    ],
)
def test_ports_pair_by_name_by_order_or_where_one_way_is_left(given, names, rename):
    assert "".join(n for n, _ in pair("f", "input", given, WANTED, rename)) == names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ports(("x", *F), ("y", *F), ("c", *I)),
            r"input x .* may be any of .*: a .*, b .*--rename",
        ),
        (ports(("", *F), ("", *I), ("", *F)), r"input 1 .* may be any of .*: a .*, b "),
    ],
)
def test_ports_that_could_be_either_are_asked_for(given, message):
    with pytest.raises(BadInput, match=message):
        pair("f", "input", given, WANTED, {})


def rename(graph, old, new):
    for node in graph.node:
        node.input[:] = [new if n == old else n for n in node.input]
        node.output[:] = [new if n == old else n for n in node.output]
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name


def retype(name, kind):
    def change(graph):
        value = next(v for v in (*graph.input, *graph.output) if v.name == name)
        value.type.tensor_type.elem_type = kind

    return change


def reshape(name, dims):
    def change(graph):
        value = next(v for v in (*graph.input, *graph.output) if v.name == name)
        value.CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims))

    return change


def drop_style(graph):
    """The style becomes a constant, as where an exporter was given it as a number."""
    graph.input.remove(next(i for i in graph.input if i.name == "style"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.eye(2, dtype=np.float32)[:1], "style"))


def add_mask(graph):
    graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1, 8]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_style, r"reference's input style \(float32 \[1, 2\]\) is missing; the file takes noise"),
        (add_mask, r"input mask \(float32 \[1, 8\]\) is none of the reference's: noise .*--rename"),
        (retype("noise", onnx.TensorProto.FLOAT16), "input noise is float16, the reference's is float32"),
        (reshape("noise", [1, 5, 8, 8]), r"input noise is float32 \[1, 5, 8, 8\], the reference's is .*\[1, 4, 8, 8\]"),
        (reshape("picture", [1, 32, 32, 3]), "output picture has its channels last"),
        (reshape("picture", [1, 3, 16, 64]), r"output picture is float32 \[1, 3, 16, 64\]"),
        (lambda g: rename(g, "noise", "z"), None),
        (reshape("noise", ["batch", 4, 8, 8]), None),
    ],
    ids=["no style", "mask", "dtype", "shape", "channels last", "height and width", "name", "batch"],
)  # fmt: skip
def test_an_interface_that_differs_is_one_line(plain, tmp_path, change, message):
    file = edited(plain[1], tmp_path / "other.onnx", change)
    if message is None:
        assert taken(plain[0], file, out=tmp_path / "out").found["psnr"] > 60
        return
    with pytest.raises(BadInput, match=message) as problem:
        taken(plain[0], file, out=tmp_path / "out")
    assert "\n" not in str(problem.value)
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_picture_in_another_range_is_named(plain, tmp_path):
    signed = plain_onnx(plain[0], tmp_path / "signed.onnx", lambda picture: picture * 2 - 1)
    with pytest.raises(BadInput, match=r"in the range -1 … 1, the reference's is 0 … 1"):
        taken(plain[0], signed, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    true = np.random.default_rng(0).random((1, 3, 8, 8))
    with pytest.raises(BadInput, match="0 … 255"):
        check_range("f", true * 255, true, 0, 1)
    check_range("f", true, true, 0, 1)
    check_range("f", 1 - true, true, 0, 1)  # a wrong picture is verify's


def test_files_that_can_not_be_adopted(plain, tmp_path):
    generator, file = plain
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07not a model")
    (tmp_path / "broken.pte").write_bytes(file.read_bytes()[:200])
    (tmp_path / "weights.safetensors").write_bytes(b"")
    lonely = shutil.copy(file, tmp_path / "plain.onnx")
    for files, message in [
        ([tmp_path / "none.onnx"], "does not exist"),
        ([tmp_path / "broken.onnx"], "broken.onnx"),
        ([tmp_path / "broken.pte"], r"broken\.pte can not be read"),
        ([tmp_path / "weights.safetensors"], "is none of .onnx, .xml, .pte"),
        ([file, tmp_path / "broken.pte"], "one target at a time"),
        ([lonely], r"data file plain\.onnx\.data is missing"),
    ]:
        with pytest.raises(BadInput, match=message):
            taken(generator, *files, out=tmp_path / "out")
    with pytest.raises(BadInput, match="no input 'z' to rename"):
        taken(generator, file, rename={"z": "noise"}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_verb_adopts_with_the_page_s_reference(tmp_path):
    """docs/adopt.md's mymodel.py, found in the working folder."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "adopt.md").read_text(), re.S)
    assert code is not None
    (tmp_path / "mymodel.py").write_text(code[1])
    names: dict = {}
    exec(code[1], names)
    other = names["Decoder"]().eval()  # not the reference's weights
    torch.onnx.export(other, (torch.zeros(1, 4, 8, 8),), tmp_path / "bad.onnx", verbose=False)
    words = ["adopt", "bad.onnx", "--reference", "mymodel:reference", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "genedge.toolkit.cli", *words],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["out"] == "artifacts/mymodel-onnx-fp32"
    assert "psnr_db" in row["missed"]  # other weights than the reference's: adopted, and judged
    assert figures(tmp_path / row["out"])[1] >= {"psnr_db", "ssim"}
