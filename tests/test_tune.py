"""tune: finds a front, goes on after a kill, exports its points."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from kinds import transposed
from PIL import Image
from tiny import tiny

pytest.importorskip("optuna")

from genedge.runtime.artifact import read_artifact
from genedge.runtime.errors import BadInput
from genedge.toolkit.cli import main
from genedge.toolkit.tune import (
    Point,
    Space,
    draw_front,
    export_point,
    front,
    open_study,
    points,
    search,
)

SPACE = Space("openvino", precisions=("fp32", "fp16"), max_ratio=0.3, layers=0, min_width=0.75)


@pytest.fixture(scope="module")
def made():
    return replace(transposed(), constructor="kinds:transposed")


@pytest.fixture(scope="module")
def found(made, tmp_path_factory):
    """A study of four trials, stopped after three and gone on with."""
    work = tmp_path_factory.mktemp("tune")
    url = f"sqlite:///{work / 'study.db'}"
    search(made, open_study(made, SPACE, url, "s"), SPACE, 3, work)
    study = open_study(made, SPACE, url, "s")
    before = points(study)
    search(made, study, SPACE, 4, work)
    return work, url, before, points(study)


def point(number, psnr, size, latency, **more):
    row = {"ratio": number / 100, "precision": "int8", "floats": (), **more}
    return Point(number, row["ratio"], row["precision"], row["floats"], psnr, size, latency)


def test_the_front_holds_what_no_other_beats():
    rows = [
        point(0, 40, 100, 5),
        point(1, 39, 100, 5),  # less accurate, nothing gained
        point(2, 30, 50, 5),
        point(3, 30, 60, 3),
        point(4, 40, 100, 5),  # equal to 0: neither beats the other
        point(5, 40, 100, 5, ratio=0.0),  # the same trial as 0, again
    ]
    assert [p.number for p in front(rows)] == [0, 4, 2, 3]
    assert front([]) == []


def test_a_study_goes_on_where_it_was(found):
    _, _, before, after = found
    assert [p.number for p in before] == [0, 1, 2]
    assert after[:3] == before
    assert len(after) == 4


def test_plain_precisions_come_first_and_figures_are_true(found):
    after = found[3]
    assert [(p.precision, p.ratio) for p in after[:2]] == [("fp32", 0.0), ("fp16", 0.0)]
    assert after[0].psnr > 80 > after[1].psnr > 50
    assert after[1].bytes < after[0].bytes
    assert all(p.latency > 0 for p in after)


def test_a_pruned_point_is_compared_with_the_whole_generator(made, tmp_path):
    from genedge.toolkit.tune import _psnr, _written

    where = {"width": 1.0, "ratio": 0.3, "precision": "fp32", "floats": []}
    done = _written(made, where, SPACE, tmp_path / "work", tmp_path / "out")
    assert done.found["psnr"] > 80  # to what pruning left
    assert _psnr(made, done.directory, tmp_path) < 60  # to what was tuned


def test_layers_that_cost_the_picture_most_may_stay_float(made, tmp_path):
    from genedge.toolkit.tune import _written, candidates

    space = Space("openvino", precisions=("int8",), layers=2)
    names = candidates(made, space, lambda what, done, total: None)
    assert len(names) == 2
    where = {"width": 1.0, "ratio": 0.0, "precision": "int8", "floats": names[:1]}
    done = _written(made, where, space, tmp_path, tmp_path / "out")
    assert read_artifact(done.directory).about["float_layers"] == names[:1]


def test_a_point_is_exported_and_a_missing_one_is_named(made, found, tmp_path):
    work, url, _, after = found
    study = open_study(made, SPACE, url, "s")
    done = export_point(made, study, 1, SPACE, work, out=tmp_path)
    assert read_artifact(done.directory).precision == "fp16"
    assert read_artifact(done.directory).bytes == pytest.approx(after[1].bytes, abs=200)
    with pytest.raises(BadInput, match="trial 99 is not among the finished ones: 0, 1"):
        export_point(made, study, 99, SPACE, work, out=tmp_path)


def test_a_generator_without_channels_to_prune_is_told(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = open_study(tiny(), SPACE, url, "s")
    with pytest.raises(
        BadInput, match=r"tiny has no channels that can go .*; use --min-width 1 --max-ratio 0"
    ):
        search(tiny(), study, SPACE, 2, tmp_path)


def test_a_study_of_something_else_is_refused(made, found):
    for other in (
        replace(SPACE, target="onnx"),
        replace(SPACE, precisions=("fp32", "int8")),
        replace(SPACE, layers=SPACE.layers + 1),
    ):
        with pytest.raises(BadInput, match="is of another generator, target"):
            open_study(made, other, found[1], "s")
    with pytest.raises(BadInput, match="can not be opened"):
        open_study(made, SPACE, "nonsense://x", "s")


def test_the_front_is_drawn(found, tmp_path):
    draw_front(found[3], front(found[3]), tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as image:
        assert image.size == (880, 550)
        assert len(image.convert("RGB").getcolors(2**20)) > 50


def words(work, *more):
    return [
        "tune", "kinds:transposed", "--target", "openvino", "--precisions", "fp16,fp32", "--max-ratio", "0.3",
        "--work", str(work), *more,
    ]  # fmt: skip


def test_killed_in_the_middle_it_goes_on(tmp_path, monkeypatch, capsys):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "genedge.toolkit.cli",
            *words(tmp_path, "--trials", "50", "--quiet"),
        ],
        env=env,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 240
        from optuna import load_study

        url, done = f"sqlite:///{tmp_path / 'study.db'}", 0
        while done < 1 and time.monotonic() < deadline:
            time.sleep(0.3)
            try:
                done = len(points(load_study(study_name="transposed-openvino", storage=url)))
            except Exception:  # no study yet
                continue
        os.killpg(process.pid, signal.SIGKILL)
    assert done >= 1
    chart = tmp_path / "front.png"
    again = words(tmp_path, "--trials", str(done + 1), "--json", "--chart", str(chart))
    monkeypatch.setattr(sys, "argv", ["genedge", *again])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    rows = json.loads(capsys.readouterr().out)["trials"]
    assert len(rows) >= done + 1
    assert any(r["front"] for r in rows)
    assert chart.is_file()
