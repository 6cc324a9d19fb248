"""The budget file: each wrong line is refused in one line, each limit can fail, runs are compared."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from test_bench import recorded
from test_cli import genedge, one_line

from genedge.runtime import host
from genedge.runtime.artifact import read_artifact
from genedge.runtime.baseline import (
    accepted_text,
    baseline_path,
    changes_between,
    compared,
    read_accepted,
)
from genedge.runtime.bench import Bench, Benched, Timing
from genedge.runtime.budget import Timed, Wanted, read_budget, score_rows
from genedge.runtime.errors import BadInput, LimitMissed
from genedge.runtime.timed import timed_rows
from genedge.runtime.verdict import Report, Row
from genedge.runtime.verify import verify

RATIO = 'max_latency_ratio = { to = "a", ratio = 0.5, cpu = "vnni" }'


def written(tmp_path, text):
    path = tmp_path / "genedge.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "sets no limit"),
        ("limits = 3", "limits must be a table, not 3"),
        ("[limits", "is no TOML"),
        ("schema = 2", "schema 2 is unknown"),
        ("[limit.emoji]", "'limit' is unknown; did you mean limits?"),
        ("[limits.emoji.onx.int8]\nmin_psnr = 3", "'onx' is unknown; did you mean onnx?"),
        ("[limits.emoji.onnx.int4]\nmin_psnr = 3", "'int4' is unknown; did you mean int8?"),
        ("[limits.emoji.onnx.int8]", "sets no limit"),
        ("[limits.emoji.onnx]\nint8 = 3", "limits.emoji.onnx.int8 must be a table"),
        ("[limits.emoji.onnx.int8]\nmin_pnsr = 3", "did you mean min_psnr?"),
        ("[limits.emoji.onnx.int8]\nmin_psnr = 101", "a number from 0 to 100, not 101"),
        ("[limits.emoji.onnx.int8]\nmin_psnr = nan", "a number from 0 to 100, not nan"),
        ("[limits.emoji.onnx.int8]\nmin_psnr = true", "a number from 0 to 100, not True"),
        ('[limits.emoji.onnx.int8]\nmin_ssim = "1"', "a number from 0 to 1, not '1'"),
        ("[limits.emoji.onnx.int8]\nmax_bytes = 1.5", "a whole number of bytes, not 1.5"),
        ("[limits.emoji.onnx.int8]\nmax_bytes = -1", "a whole number of bytes, not -1"),
        ("[limits.emoji.onnx.int8]\nmax_latency = 5", "must name ms and the CPU profile"),
        ("[limits.a.onnx.int8]\n" + RATIO.replace("vnni", "avx"), "cpu 'avx' is unknown"),
        ("[limits.a.onnx.int8]\n" + RATIO.replace('to = "a", ', ""), "must name the baseline"),
        ("[limits.a.onnx.int8]\n" + RATIO.replace("0.5", "0"), "a number of at least 1e-09"),
        ("[limits.a.onnx.int8]\n" + RATIO.replace("cpu", "threads = 0, cpu"), "from 1 to 256"),
        ("[limits.a.onnx.int8]\nno_loss = 3", "must be like"),
        (
            '[limits.a.onnx.int8]\nmax_cold_start = { seconds = 1, cpu = "vnni", threads = 2 }',
            "measured on one thread",
        ),
        ("[scores.emoji]\ntrain_psnr = [1, 2]", "file must name what genedge evaluate"),
        ('[scores.emoji]\nfile = "s.json"', "names no score"),
        ('[scores.emoji]\nfile = "s.json"\na = 3', "must be a band"),
        ('[scores.emoji]\nfile = "s.json"\na = [3, 2]', "lower end 3 is above 2"),
    ],
    ids=lambda v: str(v)[-40:],
)
def test_a_wrong_file_is_one_line(tmp_path, text, message):
    with pytest.raises(BadInput) as problem:
        read_budget(written(tmp_path, text))
    assert message in str(problem.value)
    assert "genedge.toml" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_the_more_specific_entry_wins_key_by_key(tmp_path):
    budget = read_budget(
        written(
            tmp_path,
            '[limits."*"."*".int8]\nmin_psnr = 30\nmin_ssim = 0.9\n'
            "[limits.emoji.onnx.int8]\nmin_psnr = 33\n",
        )
    )
    mine = SimpleNamespace(name="emoji", target="onnx", precision="int8")
    other = SimpleNamespace(name="emoji", target="openvino", precision="int8")
    assert budget.of(mine) == Wanted(min_psnr=33, min_ssim=0.9)
    assert budget.of(other) == Wanted(min_psnr=30, min_ssim=0.9)
    assert budget.of(SimpleNamespace(name="emoji", target="onnx", precision="fp32")) is None


BANDS = '[scores.emoji]\nfile = "scores.json"\ntrain_psnr = [22.5, 23.5]\n'


@pytest.mark.parametrize(
    ("value", "note"),
    [(22.4, "worse than the band"), (23.0, ""), (24.0, "better than the band allows")],
)
def test_worse_and_better_than_the_band_both_fail(tmp_path, value, note):
    budget = read_budget(written(tmp_path, BANDS))
    (tmp_path / "scores.json").write_text(json.dumps({"train_psnr": value}))
    (row,) = score_rows(budget)
    assert row.passed is (note == "")
    assert note in row.note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "scores.json can not be read"),
        ("[1]", "no JSON of scores"),
        ('{"train_psnr": NaN}', "not a finite number"),
        ('{"train_r1": 1}', "holds no score 'train_psnr'; it holds: train_r1"),
    ],
)
def test_scores_that_can_not_be_read_are_refused(tmp_path, text, message):
    budget = read_budget(written(tmp_path, BANDS))
    if text is not None:
        (tmp_path / "scores.json").write_text(text)
    with pytest.raises(BadInput, match=message):
        score_rows(budget)


def benched(ratio, peak=1):
    """Recorded timings: `mine` takes `ratio` of what `base` takes."""
    mine, base = recorded(ratio)
    return Bench(
        tuple(
            Benched(n, None, np.array([0.5, 0.6, 0.55]), peak, (Timing(1, t, t, {}),))
            for n, t in (("mine", mine), ("base", base))
        ),
        (),
        "",
    )


@pytest.mark.parametrize(
    ("ratio", "cpu", "state"),
    [
        (0.4, "vnni", "pass"),
        (0.5, "vnni", "inconclusive"),
        (0.75, "vnni", "fail"),
        (0.75, "arm", "reported"),
    ],
)
def test_half_as_slow_again_fails_on_the_profile_that_the_limit_names(ratio, cpu, state):
    wanted = {"mine": Wanted(max_latency_ratio=Timed(0.5, cpu, "base"))}
    (row,) = timed_rows(benched(ratio), wanted, {"base": "base"}, "vnni")
    assert row.state == state
    assert row.passed is (state != "fail")
    assert row.metric == "latency_ratio"
    assert abs(row.value - ratio) < 0.03
    assert ("reported alone" in row.note) is (state == "reported")


def test_a_baseline_that_could_not_be_run_fails_its_ratio_and_nothing_else():
    wanted = {"mine": Wanted(max_latency_ratio=Timed(0.5, "vnni", "base"), max_peak_memory=100)}
    bench = benched(0.4)
    alone = Bench(bench.benched[:1], (), "")
    rows = timed_rows(alone, wanted, {"base": "base"}, "vnni")
    assert {r.metric: r.passed for r in rows} == {"peak_memory": True, "latency_ratio": False}
    assert "base could not be run" in rows[1].note


@pytest.mark.parametrize(
    ("wanted", "metric"),
    [
        (Wanted(max_peak_memory=100), "peak_memory"),
        (Wanted(max_cold_start=Timed(0.4, "vnni")), "cold_start_s"),
        (Wanted(max_latency=Timed(1.0, "vnni")), "latency_p50_ms"),
    ],
)
def test_memory_and_absolute_times_can_fail(wanted, metric):
    (row,) = timed_rows(benched(0.5, peak=101), {"mine": wanted}, {}, "vnni")
    assert (row.metric, row.state) == (metric, "fail")
    assert ("absolute time" in row.note) is (metric != "peak_memory")


@pytest.mark.parametrize(
    ("before", "now", "bound", "kind", "red"),
    [
        ({"psnr_db": 34.0}, {"psnr_db": 33.9}, 32, "regress", False),
        ({"psnr_db": 34.0}, {"psnr_db": 33.7}, 32, "regress", True),
        ({"psnr_db": 34.0}, {"psnr_db": 33.7}, None, "regress", False),
        ({"psnr_db": 34.0}, {"psnr_db": 35.0}, 32, "progress", False),
        ({"bytes": 9.0e6}, {"bytes": 9.45e6}, 10e6, "regress", True),
        ({"bytes": 9.0e6}, {"bytes": 9.05e6}, 10e6, "regress", False),
        ({"prompts": 64}, {"prompts": 63}, None, "regress", True),
        ({"float_layers": 0}, {"float_layers": 1}, None, "regress", True),
        ({"peak_memory": 100}, {"peak_memory": 200}, 150, "regress", False),
        ({"ssim": 0.97}, {}, None, "missing", False),
        ({}, {"ssim": 0.97}, None, "new", False),
    ],
)
def test_runs_are_compared_cell_by_cell(before, now, bound, kind, red):
    """Red where more than a tenth of the slack to the limit is used up; 5 % larger is."""
    metric = next(iter(before | now))
    (change,) = changes_between({"a": before}, {"a": now}, {("a", metric): bound})
    assert (change.kind, change.red) == (kind, red)


def test_equal_runs_and_small_changes_of_measured_times_are_not_listed():
    before = {"a": {"psnr_db": 34.0, "latency_ratio": 0.40}}
    now = {"a": {"psnr_db": 34.0, "latency_ratio": 0.43}}
    assert changes_between(before, now, {}) == ()


def report(psnr, limit=32.0):
    row = Row("a", "psnr_db", psnr, f"≥ {limit:g} dB", psnr >= limit, bound=limit)
    return Report((row,), ({"name": "a", "prompts": 6},))


def test_an_accepted_verdict_turns_the_next_run_red_until_it_is_accepted_again(tmp_path):
    path = baseline_path(tmp_path / "genedge.toml")
    assert path.name == "genedge.baseline.json"
    assert compared(report(34), path) == report(34)
    path.write_text(accepted_text(report(34), path))
    assert compared(report(34), path).failed == ()
    worse = compared(report(33), path)
    assert [r.metric for r in worse.failed] == ["psnr_db"]
    assert "was 34 when accepted: 50% of its slack of 2" in worse.failed[0].note
    path.write_text(accepted_text(worse, path))
    assert compared(report(33), path).failed == ()
    assert [c.kind for c in compared(report(34), path).changes] == ["progress"]


def test_a_verdict_that_misses_a_limit_is_never_accepted(tmp_path):
    path = tmp_path / "genedge.baseline.json"
    path.write_text(accepted_text(report(34), path))
    for psnr in (31, float("nan")):
        with pytest.raises(LimitMissed, match="stays as it was"):
            accepted_text(compared(report(psnr), path), path)


def test_what_other_cpus_accepted_is_kept_and_not_compared_with(tmp_path):
    path = tmp_path / "genedge.baseline.json"
    other = "arm" if host.cpu_profile() != "arm" else "vnni"
    row = {"schema": 1, "profiles": {other: {"a": {"psnr_db": 90.0}}}}
    path.write_text(json.dumps(row))
    found = compared(report(34), path)
    assert found.changes == ()
    assert not found.failed
    (row,) = (r for r in found.rows if r.metric == "accepted")
    assert row.state == "reported"
    assert f"holds verdicts of {other} alone" in row.note
    path.write_text(accepted_text(report(34), path))
    assert set(read_accepted(path)) == {other, host.cpu_profile()}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 1, "profiles": {"a": 3}}'])
def test_a_damaged_baseline_is_refused(tmp_path, text):
    path = tmp_path / "genedge.baseline.json"
    path.write_text(text)
    with pytest.raises(BadInput, match="is damaged"):
        read_accepted(path)


def test_verify_holds_a_budget_and_accepts_a_verdict(artifacts, tmp_path):
    folder = artifacts["onnx", "fp32"]
    name = read_artifact(folder).name
    text = f'[limits.{name}."*".fp32]\nmin_psnr = 60\nmax_bytes = 100_000_000\n'
    path = written(tmp_path, text)
    words = ["verify", folder, "--budget", path]
    done = genedge(*words, "--update-baseline")
    assert done.returncode == 0, done.stdout + done.stderr
    accepted = baseline_path(path)
    row = json.loads(accepted.read_text())
    mine = row["profiles"][host.cpu_profile()][folder.name]
    mine["bytes"] *= 0.5
    accepted.write_text(json.dumps(row))
    small = written(tmp_path, text.replace("100_000_000", "100_000"))
    done = genedge("verify", folder, "--budget", small)
    assert done.returncode == 1
    assert "when accepted" in done.stdout
    assert json.loads(accepted.read_text()) == row


def test_a_budget_of_which_nothing_fits_is_refused(artifacts, tmp_path):
    """A name with a typing error would else switch every limit of the file off."""
    folder = artifacts["onnx", "fp32"]
    name = read_artifact(folder).name
    budget = read_budget(written(tmp_path, "[limits.emojis.onnx.fp32]\nmin_psnr = 99\n"))
    with pytest.raises(
        BadInput, match=f"no entry fits {name}.onnx.fp32; its entries are of emojis"
    ):
        verify([folder], budget=budget, prompts=2)
    both = [folder, artifacts["openvino", "fp32"]]
    budget = read_budget(written(tmp_path, f"[limits.{name}.onnx.fp32]\nmin_psnr = 1\n"))
    assert verify(both, budget=budget, prompts=2).rows


def test_an_artifact_without_a_limit_on_time_is_not_asked_for_one():
    wanted = {"mine": Wanted(max_peak_memory=10**9), "other": Wanted(min_psnr=30)}
    assert [r.artifact for r in timed_rows(benched(1.0), wanted, {})] == ["mine"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--update-baseline"], "name it with --budget"),
        (["--budget", "nothing.toml"], "nothing.toml can not be read"),
    ],
)
def test_verify_refuses(tmp_path, words, message):
    one_line(genedge("verify", "emoji", *words, cwd=tmp_path), 2, message)
