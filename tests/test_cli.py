"""Each wrong thing typed at the command line gives one clear line and its exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image


def genedge(*words, cwd=None, **options):
    return subprocess.run(
        [sys.executable, "-m", "genedge.toolkit.cli", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        **options,
    )


def one_line(done, code, *parts):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("genedge: ")
    for part in parts:
        assert part in lines[0]


@pytest.fixture(scope="module")
def artifact(artifacts):
    return artifacts["onnx", "int8"]


WRONG = [
    ([""], "the prompt is empty"),
    (["   "], "the prompt is empty"),
    (["x" * 100_000], "100,000 characters; use at most 2,000"),
    (["apple", "--seed", "-1"], "seed -1 is out of range"),
    (["apple", "--seed", str(2**63)], "is out of range"),
    (["apple", "--seed", "9" * 400], "out of range"),
    (["apple", "--seed", "1.5"], "--seed"),
    (["apple", "--seed", "seven"], "--seed"),
    (["apple", "--seed", str(2**63 - 1), "--count", "2"], "leaves the range"),
    (["apple", "--count", "0"], "--count"),
    (["apple", "--style", "cubist"], "style 'cubist' is unknown; this generator has: flat, soft"),
    (["apple", "--background", "blue"], "use white, transparent or #rrggbb"),
    (["apple", "--out", "no/such/folder/a.png"], "can not be written"),
    (["apple", "--out", "a.jpg"], "must end in .png"),
    (["apple", "--file", "x"], "one prompt, or a file"),
    (["--file", "missing.txt"], "missing.txt can not be read"),
    ([], "one prompt, or a file"),
    ([", flat style"], "the prompt is empty"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda v: str(v)[:40])
def test_generate_refuses(artifact, tmp_path, words, message):
    one_line(genedge("generate", *words, "--artifact", artifact, cwd=tmp_path), 2, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no prompt"),
        (b"apple\xff\n", "not UTF-8"),
        (b"red\0apple\n", "NUL"),
    ],
)
def test_a_bad_file_of_prompts_is_refused(artifact, tmp_path, data, message):
    file = tmp_path / "prompts.txt"
    file.write_bytes(data)
    one_line(genedge("generate", "--file", file, "--artifact", artifact, cwd=tmp_path), 2, message)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["generate", "apple", "--artifact", "nothing"], 2, "neither a folder nor bundled"),
        (["generate", "apple", "--artifact", "./nothing"], 2, "does not exist"),
        (["verify", "./nothing"], 2, "does not exist"),
        (["verify"], 2, "Missing argument"),
        (["export", "--target", "coreml"], 2, "use --target openvino|onnx|executorch|all"),
        (["export"], 2, "use --target openvino|onnx|executorch|all"),
        (
            ["export", "--target", "onnx", "--precision", "int9"],
            2,
            "use --precision fp32|fp16|int8",
        ),
        (["export", "--target", "executorch", "--precision", "fp16"], 2, "executorch has no fp16"),
        (["export", "--target", "onnx", "--float-layers", "x"], 2, "for example image.blocks."),
        (["export", "nothing", "--target", "onnx"], 2, "model 'nothing' is unknown"),
        (["export", "--target", "onnx", "--min-ssim", "2"], 2, "--min-ssim"),
        (["export", "--target", "onnx", "--min-psnr", "101"], 2, "--min-psnr"),
        (["verify", "emoji", "--min-ssim", "-1"], 2, "--min-ssim"),
        (["inspect", "./nothing"], 2, "does not exist"),
        (["blame", "./nothing"], 2, "does not exist"),
        (["export", "os.path:nothing", "--target", "onnx"], 2, "no such function"),
        (["train", "cats"], 2, "'cats' is not trained from data; emoji-teacher and"),
        (["train", "emoji", "--start", "upscale"], 2, "upscale does not draw emoji"),
        (["train", "emoji", "--start", "emoji-teacher"], 2, "emoji-teacher is not pruned"),
        (["evaluate", "upscale"], 2, "upscale does not draw emoji"),
        (["evaluate", "--beside", "emoji"], 2, "name a folder with --sheets"),
        (["evaluate", "--artifact", "no-folder", "--cache", "/dev/null/x"], 2, "no-folder"),
        (["adopt", "x.onnx"], 2, "name the float generator with --reference MODEL"),
        (["adopt", "x.onnx", "--reference", "emoji", "--rename", "a"], 2, "write THEIRS=OURS"),
        (["tune"], 2, "use --target openvino|onnx|executorch"),
        (["tune", "--target", "onnx", "--precisions", "int3"], 2, "precision 'int3' is unknown"),
        (["tune", "--target", "executorch", "--precisions", "fp16"], 2, "executorch has no fp16"),
        (["tune", "--target", "onnx", "--max-ratio", "2"], 2, "--max-ratio"),
        (["generte"], 2, "No such command"),
        (["generate", "apple", "--fast"], 2, "No such option"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_other_verbs_refuse(tmp_path, words, code, message):
    one_line(genedge(*words, cwd=tmp_path), code, message)


def test_debug_shows_the_traceback(tmp_path):
    done = genedge("verify", "./nothing", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_missing_runtime_names_its_remedy(artifact, tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not here')\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = genedge("generate", "apple", "--artifact", artifact, "--out", "a.png", env=env)
    one_line(done, 3, "pip install 'genedge[onnx]'")


def test_generate_draws_the_same_file_for_the_same_seed(artifact, tmp_path):
    for name in ("a", "b"):
        done = genedge(
            "generate", "red apple, soft style", "--artifact", artifact, "--seed", 7,
            "--out", tmp_path / f"{name}.png",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "seed 7" in done.stdout
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.text["prompt"] == "red apple, soft style"
        assert (image.text["seed"], image.text["style"]) == ("7", "soft")
        assert len(image.text["artifact"]) == 64


def test_count_uses_the_seeds_that_follow_and_writes_a_sheet(artifact, tmp_path):
    done = genedge(
        "generate", "apple", "--artifact", artifact, "--seed", 5, "--count", 3, "--json",
        "--out", tmp_path / "a.png", "--sheet", tmp_path / "sheet.png", "--background", "white",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["pictures"]
    assert [r["seed"] for r in rows] == ["5", "6", "7"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a-1.png",
        "a-2.png",
        "a-3.png",
        "sheet.png",
    ]
    with Image.open(tmp_path / "a-1.png") as image:
        assert image.mode == "RGB"


def test_a_prompt_that_is_too_long_says_what_was_lost(artifact, tmp_path):
    done = genedge(
        "generate",
        "red apple " * 8,
        "--artifact",
        artifact,
        "--seed",
        1,
        "--out",
        tmp_path / "a.png",
    )
    assert done.returncode == 0
    assert "too long; not drawn: 'red apple" in done.stderr


@pytest.mark.parametrize("prompt", ["שלום עולם", "مرحبا", "🦑🦑"])
def test_scripts_that_the_model_never_saw_draw_with_a_warning(artifact, tmp_path, prompt):
    done = genedge(
        "generate", prompt, "--artifact", artifact, "--seed", 1, "--out", tmp_path / "a.png"
    )
    assert done.returncode == 0
    assert len(done.stderr.strip().splitlines()) == 1
    assert "warning" in done.stderr
    assert (tmp_path / "a.png").is_file()


def test_what_windows_puts_before_a_file_is_no_part_of_the_first_prompt(artifact, tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffred apple\r\nblue\u2028face\n".encode())
    done = genedge("generate", "--file", "p.txt", "--artifact", artifact, "--seed", 1, "--json",
                   "--out", "a.png", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    drawn = [row["prompt"] for row in json.loads(done.stdout)["pictures"]]
    assert drawn == ["red apple", "blue\u2028face"]


def test_pictures_that_differ_have_names_that_differ(artifact, tmp_path):
    asked = (["苹果"], ["狗"], ["rocket"], ["rocket", "--style", "flat"])
    for words in asked:
        done = genedge("generate", *words, "--artifact", artifact, "--seed", 1, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    names = {"苹果-1.png", "狗-1.png", "rocket-1.png", "rocket-flat-1.png"}
    assert {p.name for p in tmp_path.glob("*.png")} == names


def test_the_largest_seed_draws(artifact, tmp_path):
    done = genedge("generate", "apple", "--artifact", artifact, "--seed", 2**63 - 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("sheet", "message"),
    [("no/such/a.png", "can not be written"), ("a-2.png", "a picture and the contact sheet")],
)
def test_a_sheet_that_can_not_be_is_said_before_the_first_picture(
    artifact, tmp_path, sheet, message
):
    done = genedge("generate", "apple", "--artifact", artifact, "--count", 3, "--out", "a.png",
                   "--sheet", sheet, cwd=tmp_path)  # fmt: skip
    one_line(done, 2, message)
    assert list(tmp_path.iterdir()) == []


def test_what_lies_in_the_working_folder_changes_nothing(tmp_path):
    (tmp_path / "emoji").mkdir()
    (tmp_path / "secrets.py").write_text("raise SystemExit('of a stranger')")
    command = Path(sys.executable).with_name("genedge")  # `python -m` itself looks there
    done = subprocess.run(
        [command, "verify", "emoji", "--prompts", "8", "--quiet"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_one_prompt_of_many_decides_nothing(artifact):
    one_line(genedge("verify", artifact, "--prompts", 1), 2, "use 2 or more")


def test_a_reader_that_leaves_early_got_no_verdict(artifact):
    code = f"{sys.executable} -m genedge.toolkit.cli inspect {artifact} --json"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {code} | true"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_leaves_nothing_half_written(artifact, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "genedge.toolkit.cli", "generate", "apple", "--artifact", str(artifact),
         "--count", "10000", "--out", str(tmp_path / "a.png")],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        # a shell's background jobs ignore it, and their children with them
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while not (tmp_path / "a-3.png").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert error.strip().splitlines()[-1].startswith("genedge: interrupted")
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]


def test_verify_passes_on_a_good_artifact_and_fails_on_a_limit(artifact, tmp_path):
    loose = ["--min-psnr", "20", "--min-ssim", "0.5"]
    files = {k: tmp_path / k for k in ("json", "junit", "markdown")}
    words = [w for k, f in files.items() for w in (f"--{k}", f)]
    done = genedge("verify", artifact, *loose, *words)
    report = json.loads(files["json"].read_text())
    assert done.returncode == (0 if report["passed"] else 1)
    assert {r["metric"] for r in report["rows"]} >= {
        "psnr_db",
        "ssim",
        "flat_kept",
        "bytes",
        "lead_db",
    }
    assert files["junit"].read_text().startswith("<?xml")
    assert files["markdown"].read_text().startswith("### genedge verify: ")
    strict = genedge("verify", artifact, "--min-psnr", "99", "--quiet")
    assert (strict.returncode, strict.stdout, strict.stderr) == (1, "", "")


@pytest.mark.parametrize("verb", ["verify", "bench"])
def test_a_place_that_can_not_be_written_is_said_before_the_work(verb, tmp_path):
    for place in (tmp_path, tmp_path / "missing" / "a.json"):
        one_line(genedge(verb, "emoji", "--json", place), 2, "can not be written")
