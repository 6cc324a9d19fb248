"""action.yml and the snippets of docs/ci.md: well-formed, and their shell does what they say."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = ACTION["runs"]["steps"]
PAGE = (ROOT / "docs" / "ci.md").read_text()
SNIPPETS = [yaml.safe_load(b) for b in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]


def words_of(step):
    return json.dumps(step)


def script(identity):
    (step,) = [s for s in STEPS if s.get("id") == identity]
    return step["run"]


def bash_reads(text):
    return (
        subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).returncode == 0
    )


def test_the_action_is_a_composite_one_whose_parts_are_declared():
    assert ACTION["runs"]["using"] == "composite"
    assert {"name", "description", "inputs", "outputs", "runs"} == set(ACTION)
    used = set(re.findall(r"inputs\.([a-z-]+)", (ROOT / "action.yml").read_text()))
    assert used == set(ACTION["inputs"])
    for row in ACTION["inputs"].values():
        assert row["description"]
        assert isinstance(row["default"], str)
    known = {s["id"] for s in STEPS if "id" in s}
    assert set(re.findall(r"steps\.([a-z]+)\.", (ROOT / "action.yml").read_text())) <= known


@pytest.mark.parametrize("step", STEPS, ids=lambda s: s.get("id") or s.get("uses"))
def test_each_step_runs_bash_or_uses_a_pinned_action(step):
    if "uses" in step:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
        return
    assert step["shell"] == "bash"
    assert bash_reads(step["run"])
    assert not bash_reads(step["run"] + "\nif")
    assert "${{" not in step["run"]  # a value of another must not become shell
    given = set(step.get("env", {}))
    used = set(re.findall(r"\$\{?([A-Z_]{3,})", step["run"]))
    assert used - given <= {"GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"}


def test_the_page_names_inputs_that_there_are():
    named = set(re.findall(r"`([a-z-]+)`", PAGE.split("| input |")[1].split("\n\n")[0]))
    assert set(ACTION["inputs"]) <= named
    *actions, gitlab = SNIPPETS
    for snippet in actions:
        (job,) = snippet["jobs"].values()
        (step,) = [s for s in job["steps"] if "genedge@" in s["uses"]]
        assert set(step["with"]) <= set(ACTION["inputs"])
    (job,) = gitlab.values()
    assert all(bash_reads(line) for line in job["script"] + job["after_script"])


@pytest.fixture
def run_step(artifacts, tmp_path):
    """Runs a step's shell as the runner would, in a checkout with one artifact."""
    shutil.copytree(artifacts["onnx", "fp32"], tmp_path / "artifacts" / "tiny-onnx-fp32")
    (tmp_path / "bin").mkdir()
    word = tmp_path / "bin" / "genedge"
    word.write_text(f'#!/bin/sh\nexec {sys.executable} -m genedge.toolkit.cli "$@"\n')
    word.chmod(0o755)

    def run(identity, **env):
        env = {
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            **env,
        }
        done = subprocess.run(
            ["bash", "-c", script(identity)], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        return done, (tmp_path / "summary.md").read_text() if identity == "verify" else ""

    return run


def test_verify_posts_its_table_and_ends_well(run_step, tmp_path):
    done, summary = run_step(
        "verify", ARTIFACTS="artifacts/*", OPTIONS="--prompts 2", REPORTS="out"
    )
    assert done.returncode == 0, done.stderr
    assert "tiny-onnx-fp32" in summary
    assert "all limits held" in summary
    assert (tmp_path / "output").read_text() == "exit-code=0\n"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "verify.json",
        "verify.log",
        "verify.md",
        "verify.xml",
    ]


def test_a_missed_limit_fails_the_step_and_is_in_the_summary(run_step, tmp_path):
    options = "--prompts 2 --max-bytes 10"
    done, summary = run_step("verify", ARTIFACTS="artifacts/*", OPTIONS=options, REPORTS="out")
    assert done.returncode == 1
    assert "FAIL" in summary.upper()
    assert "all limits held" not in summary
    assert (tmp_path / "output").read_text() == "exit-code=1\n"


@pytest.mark.parametrize(
    ("artifacts_words", "line"),
    [("nothing/*", "no artifact matches nothing"), ("./nothing", "does not exist")],
)
def test_what_can_not_be_judged_is_said_in_the_summary(run_step, artifacts_words, line):
    done, summary = run_step("verify", ARTIFACTS=artifacts_words, OPTIONS="", REPORTS="out")
    assert done.returncode == 2
    assert line in summary


def test_make_runs_the_command_and_stops_at_its_first_failure(run_step, tmp_path):
    assert run_step("make", MAKE="echo one > made\necho two >> made")[0].returncode == 0
    assert (tmp_path / "made").read_text() == "one\ntwo\n"
    assert run_step("make", MAKE="false\ntouch never")[0].returncode != 0
    assert not (tmp_path / "never").exists()
