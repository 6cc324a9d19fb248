"""The fixture `genedge_artifact`, as another project's tests use it."""

import shutil
import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def app(pytester, artifacts):
    """A project with an artifact in it."""
    shutil.copytree(artifacts["onnx", "fp32"], pytester.path / "assets" / "model")
    return pytester


def test_an_artifact_that_holds_its_limits_is_handed_to_the_test(app):
    app.makepyfile(
        """
        def test_it(genedge_artifact):
            held = genedge_artifact("assets/model", min_psnr=60, max_bytes=1_000_000)
            assert held.figures["psnr_db"] > 60
            assert held.model.generate("red apple", seed=1).size == (16, 16)
            assert genedge_artifact("assets/model", min_psnr=60, max_bytes=1_000_000) is held
        """
    )
    app.runpytest("-q").assert_outcomes(passed=1)


def test_a_missed_limit_fails_the_test_and_says_by_how_much(app):
    app.makepyfile(
        """
        def test_size(genedge_artifact):
            genedge_artifact("assets/model", max_bytes=1000, min_psnr=10)
        """
    )
    result = app.runpytest("-q")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["assets/model misses its limits", "bytes is *; limit ≤ 1000"])
    result.stdout.no_fnmatch_line("*psnr_db is*")


def test_a_budget_file_is_held_to_and_words_win_over_it(app):
    (app.path / "genedge.toml").write_text(
        'schema = 1\n[limits.tiny."*"."*"]\nmax_bytes = 1000\nmin_psnr = 99.5\n'
    )
    app.makepyfile(
        """
        def test_budget(genedge_artifact):
            genedge_artifact("assets/model", budget="genedge.toml", min_psnr=10)
        """
    )
    result = app.runpytest("-q")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["bytes is *; limit ≤ 1000"])
    result.stdout.no_fnmatch_line("*psnr_db is*")


@pytest.mark.parametrize(
    ("path", "line"),
    [("assets/none", "*does not exist*"), ("nothing", "*neither a folder nor bundled*")],
)
def test_an_artifact_that_is_not_there_fails_in_one_line(app, path, line):
    app.makepyfile(f"def test_it(genedge_artifact):\n    genedge_artifact({path!r})\n")
    result = app.runpytest("-q")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([line])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_damaged_artifact_fails(app):
    (app.path / "assets" / "model" / "image.onnx").write_bytes(b"")
    app.makepyfile('def test_it(genedge_artifact):\n    genedge_artifact("assets/model")\n')
    result = app.runpytest("-q")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*image.onnx has 0 bytes*"])


def test_the_plugin_costs_a_test_run_nothing(tmp_path):
    """pytest loads it by its entry point; nothing that takes time comes with it."""
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.hasplugin('genedge')\n"
        "    heavy = {'numpy', 'PIL', 'torch', 'onnxruntime', 'openvino', 'tokenizers', 'rich'}\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:hypothesispytest", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
