"""An artifact is whole or absent, and anything wrong with it is one clear line."""

import json
import os
import shutil
from pathlib import Path

import pytest

from genedge.recipes import TARGETS
from genedge.runtime.artifact import (
    check_files,
    check_out,
    read_artifact,
    read_golden,
    recover,
    writing,
)
from genedge.runtime.errors import BadInput
from genedge.runtime.run import load

MAIN = {"openvino": "image.xml", "onnx": "image.onnx", "executorch": "image.pte"}
FILES = [(t, f) for t in TARGETS for f in (MAIN[t], "tokenizer.json")] + [("openvino", "image.bin")]


@pytest.fixture
def copy_of(artifacts, tmp_path):
    def copy(target, precision="fp32"):
        return shutil.copytree(artifacts[target, precision], tmp_path / target)

    return copy


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0x10
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "flipped"])
@pytest.mark.parametrize(("target", "file"), FILES)
def test_a_damaged_file_is_named_before_the_runtime_sees_it(copy_of, target, file, how):
    folder = copy_of(target)
    damage(folder / file, how)
    with pytest.raises(BadInput, match=f"{file}.*export it again"):
        load(folder)


@pytest.mark.parametrize("target", TARGETS)
def test_files_swapped_between_components_are_found(copy_of, target):
    folder = copy_of(target)
    end = MAIN[target].split(".")[1]
    (folder / f"image.{end}").rename(folder / "x")
    (folder / f"text.{end}").rename(folder / f"image.{end}")
    (folder / "x").rename(folder / f"text.{end}")
    with pytest.raises(BadInput, match="export it again"):
        load(folder)


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "flipped"])
def test_damaged_golden_pictures_are_named(copy_of, how):
    folder = copy_of("onnx")
    damage(folder / "golden.npz", how)
    with pytest.raises(BadInput, match=r"golden\.npz is (missing|damaged).*export it again"):
        read_golden(read_artifact(folder))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer", {"length": 8}),
        ("tokenizer", {"length": 0, "pad": 0}),
        ("styles", []),
        ("styles", ["flat"]),
        ("output", {"name": "other"}),
        ("output", {"range": [0, 0]}),
        ("output", {"range": ["a", "b"]}),
        ("output", {"range": [0, float("nan")]}),
        ("inputs", {}),
    ],
)
def test_a_signature_that_nothing_can_be_drawn_by_is_refused(copy_of, key, value):
    folder = copy_of("onnx")
    row = json.loads((folder / "manifest.json").read_text())["signature"]
    row[key] = row[key] | value if key == "output" else value
    with pytest.raises(BadInput, match=r"signature|damaged"):
        read_artifact(edited(folder, signature=row))


def edited(folder, **changes):
    path = folder / "manifest.json"
    row = json.loads(path.read_text())
    row.update(changes)
    path.write_text(json.dumps(row))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 99}, "newer than this genedge"),
        ({"schema": "1"}, "damaged"),
        ({"target": "coreml"}, "target 'coreml' is unknown"),
        ({"precision": "int3"}, "precision 'int3' is unknown"),
        ({"steps": ["dance"]}, "steps .* unknown"),
        ({"components": []}, "damaged"),
        ({"components": 3}, "damaged"),
        ({"signature": {}}, "signature"),
        (
            {"tokenizer": {"path": "../../etc/passwd", "bytes": 1, "sha256": ""}},
            "leaves the artifact",
        ),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(copy_of, changes, message):
    with pytest.raises(BadInput, match=message):
        load(edited(copy_of("onnx"), **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_a_manifest_that_is_no_json_object_is_refused(copy_of, text):
    folder = copy_of("onnx")
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BadInput, match="damaged"):
        load(folder)


def test_a_folder_that_is_no_artifact_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"has no manifest\.json"):
        load(tmp_path)
    with pytest.raises(BadInput, match="does not exist"):
        load(tmp_path / "nothing")


def _fill_and_fail(folder):
    (folder / "manifest.json").write_text("{}")
    raise RuntimeError


def test_a_body_that_raises_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), writing(tmp_path / "a") as folder:
        _fill_and_fail(folder)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_artifact_is_replaced_only_with_force(tmp_path):
    with writing(tmp_path / "a") as folder:
        (folder / "manifest.json").write_text("old")
    with pytest.raises(BadInput, match="--force"), writing(tmp_path / "a") as folder:
        pass
    assert (tmp_path / "a" / "manifest.json").read_text() == "old"
    with writing(tmp_path / "a", force=True) as folder:
        (folder / "manifest.json").write_text("new")
    assert (tmp_path / "a" / "manifest.json").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_force_does_not_replace_a_folder_that_is_not_ours(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match="not written by genedge"), writing(tmp_path / "a", True):
        pass
    assert (tmp_path / "a" / "thesis.txt").exists()


def test_a_crash_between_the_two_renames_is_recovered(tmp_path):
    (tmp_path / ".a.old").mkdir()
    (tmp_path / ".a.old" / "manifest.json").write_text("old")
    (tmp_path / ".a.partial-999999999").mkdir()
    check_out(tmp_path / "a", force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "manifest.json").read_text() == "old"


def test_a_reader_leaves_folders_alone_that_another_process_is_writing(tmp_path):
    for name in (".a.old", f".a.partial-{os.getppid()}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(name)
    recover(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_what_another_process_wrote_meanwhile_is_not_replaced_without_force(tmp_path):
    def write():
        with writing(tmp_path / "a") as folder:
            (folder / "manifest.json").write_text("mine")
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "manifest.json").write_text("theirs")

    with pytest.raises(BadInput, match="written by another process meanwhile"):
        write()
    assert (tmp_path / "a" / "manifest.json").read_text() == "theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_that_can_not_be_read_is_one_line(copy_of, monkeypatch):
    folder = copy_of("onnx")

    def fails(self, *words):
        raise PermissionError(13, "Permission denied")

    artifact = read_artifact(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fails)
        with pytest.raises(BadInput, match=r"can not be read \(Permission denied\)"):
            check_files(artifact)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        with pytest.raises(BadInput, match=r"manifest\.json can not be read"):
            read_artifact(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_can_not_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="can not be written"), writing(tmp_path / "a"):
        pass


def test_a_parent_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="can not be written"), writing(tmp_path / "file" / "a"):
        pass
