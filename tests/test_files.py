"""A file is written whole or not at all, and what is no plain file stays what it is."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from genedge.runtime.errors import BadInput
from genedge.runtime.files import alive, replacing
from genedge.toolkit.verbs.options import check_writable


def half_written(path):
    with replacing(path) as partial:
        partial.write_text("half")
        raise OSError("full")


def test_a_body_that_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(OSError, match="full"):
        half_written(path)
    assert path.read_text() == "old"
    with replacing(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "run-1.json").write_text("old")
    link = tmp_path / "latest.json"
    link.symlink_to("run-1.json")
    with replacing(link) as partial:
        partial.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "run-1.json").read_text() == "new"


def test_a_pipe_is_written_to(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with replacing(pipe) as place:
        place.write_text("report")
    reader.join(10)
    assert read == ["report"]
    assert pipe.is_fifo()


def test_a_device_is_written_to():
    with replacing(Path(os.devnull)) as place:
        assert place == Path(os.devnull)


def test_a_device_is_written_where_its_folder_can_not_be(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == Path(os.devnull))
    check_writable(Path(os.devnull))
    with pytest.raises(BadInput, match="no right to write"):
        check_writable(tmp_path / "report.json")


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.json"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            assert second != first
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path):
    path = tmp_path / "a.json"
    script = (
        "import os, pathlib; from genedge.runtime.files import replacing\n"
        f"with replacing(pathlib.Path({str(path)!r})) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    (left,) = tmp_path.iterdir()
    assert not alive(left)
    assert alive(tmp_path / f".a.json.0.partial-{os.getpid()}")
    assert not alive(tmp_path / ".a.json.partial")
    with replacing(path) as partial:
        partial.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
