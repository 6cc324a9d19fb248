"""The Kotlin core equals Python: tokens, noise, choices, pixels, metrics, PNG, verdicts."""

import json
import random
import shutil
import subprocess

import numpy as np
import pytest
from kotlin import BUNDLED, ROOT, TOOLS, absent
from PIL import Image

from genedge.runtime import metrics
from genedge.runtime.artifact import read_artifact
from genedge.runtime.errors import BadInput
from genedge.runtime.measure import measure
from genedge.runtime.noise import LARGEST_SEED
from genedge.runtime.picture import over
from genedge.runtime.run import load, prepare
from genedge.runtime.signature import signature_from_json
from genedge.runtime.tokenizer import load_tokenizer
from genedge.runtime.verdict import DEFAULTS, judge

PROMPTS = 12_000


@pytest.fixture(scope="session")
def node():
    """The command that runs a component in ONNX Runtime for Node."""
    if shutil.which("node") is None or not (TOOLS / "node_modules" / "onnxruntime-node").is_dir():
        absent("android: no node or no onnxruntime-node; install node and run make android-tools")
    return ["node", str(TOOLS / "run_onnx.js")]


def two_sides(core, *arguments):
    done = subprocess.run(
        [*core, "genedge.core.TwoSidesKt", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_junit(core):
    tests = ROOT / "android_demo" / "core" / "src" / "test" / "kotlin"
    suites = sorted(
        ".".join(p.relative_to(tests).with_suffix("").parts) for p in tests.rglob("*Test.kt")
    )
    assert len(suites) >= 8
    done = subprocess.run(
        [*core, "org.junit.runner.JUnitCore", *suites], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "\nOK (" in done.stdout


# --- prompts and seeds -------------------------------------------------------------------------

WORDS = ["red", "apple", "dog's", "face", "wow!!!", "o'clock", "IN", "NOTO", "style", "3d"]
WORDS += ["İstanbul", "ﬁre", "straße", "e\u0301", "ſtyle"]
CHINESE = list("红苹果猫笑脸的書龍雨一鬱")
EMOJI = ["🍎", "👩\u200d🚀", "👍🏽", "🏳️\u200d🌈", "🇫🇷", "❤️", "👨\u200d👩\u200d👧\u200d👦", "⌚"]
ODD = [*"\t\n\r\v\f\x1c\x85\xa0\u2003\u3000\ufeff\u200b\u00ad\u0130\u0131\u212a\ufffd\uffff", "  "]
BREAKING = ["\ud800", "\udc00", "\udfff\ud83d", "\0"]
ENDS = [
    ", noto style",
    " in 3D style.",
    " , FLAT  style ! ",
    ",twemoji\u2003style",
    " in blob\nstyle",
]


def random_prompt(rng):
    """A text of one of several kinds; about one in thirty can not be used."""
    kind = rng.randrange(6)
    if kind == 0:
        parts = [rng.choice(WORDS) for _ in range(rng.randrange(1, 8))]
    elif kind == 1:
        parts = [rng.choice(CHINESE) for _ in range(rng.randrange(1, 12))]
    elif kind == 2:
        parts = [rng.choice(EMOJI + WORDS[:3]) for _ in range(rng.randrange(1, 5))]
    elif kind == 3:
        parts = [rng.choice(ODD + WORDS) for _ in range(rng.randrange(0, 7))]
    elif kind == 4:  # any character of Unicode
        ranges = [(1, 0x250), (0x250, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
        parts = [chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(1, 30))]
    else:
        parts = [rng.choice(WORDS + CHINESE + EMOJI + ODD) for _ in range(rng.randrange(20, 80))]
    if rng.random() < 0.03:
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(BREAKING))
    if rng.random() < 0.005:
        parts.append("x" * rng.randrange(1900, 2100))
    text = rng.choice(["", " ", " ", ", "]).join(parts)
    if rng.random() < 0.2:
        text += rng.choice(ENDS)
    return "".join(c.swapcase() for c in text) if rng.random() < 0.2 else text


def random_seed(rng):
    return min(LARGEST_SEED, rng.choice([rng.randrange(100), rng.getrandbits(63), 2**32 - 1]))


@pytest.fixture(scope="session")
def noisy(tmp_path_factory):
    """The bundled artifact's tokenizer and signature, with a noise input beside them."""
    folder = tmp_path_factory.mktemp("noisy")
    row = json.loads((BUNDLED / "manifest.json").read_text())
    row["signature"]["inputs"]["noise"] = {
        "dtype": "float32",
        "shape": [1, 23],
        "range": [-6, 6],
        "source": "noise",
    }
    (folder / "manifest.json").write_text(json.dumps(row))
    shutil.copy(BUNDLED / "tokenizer.json", folder)
    return folder


def ours(folder, rows):
    """What Python answers: as TwoSides.kt does for `feeds`."""
    row = json.loads((folder / "manifest.json").read_text())
    signature = signature_from_json(row["signature"], "manifest.json")
    tokenizer = load_tokenizer(folder / "tokenizer.json", row["signature"]["tokenizer"])
    for one in rows:
        try:
            feed = prepare(signature, tokenizer, one["prompt"], int(one["seed"]), one["style"])
        except BadInput as problem:
            yield {"error": str(problem)}
            continue
        bits = {
            k: (v.view(np.uint32) if v.dtype == np.float32 else v).ravel().tolist()
            for k, v in feed.inputs.items()
        }
        yield {"style": feed.style, "warnings": list(feed.warnings), "inputs": bits}


def theirs(core, folder, rows, tmp_path):
    request, answer = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    request.write_text("".join(json.dumps(r) + "\n" for r in rows))
    two_sides(core, "feeds", folder, request, answer)
    return [json.loads(line) for line in answer.read_text(encoding="utf-8").split("\n") if line]


def test_noise_choices_and_tokens_are_the_same_bits(core, noisy, tmp_path):
    rng = random.Random(20)
    styles = ["", "", "", "flat", "3d", "unknown"]
    rows = [
        {"prompt": random_prompt(rng), "seed": str(random_seed(rng)), "style": rng.choice(styles)}
        for _ in range(PROMPTS)
    ]
    found = theirs(core, noisy, rows, tmp_path)
    assert len(found) == PROMPTS
    used = kinds = 0
    for row, mine, other in zip(rows, ours(noisy, rows), found, strict=True):
        assert ("error" in mine) == ("error" in other), (row, mine, other)
        if "error" in mine:
            kinds += 1
            continue
        used += 1
        assert mine["style"] == other["style"], row
        assert mine["inputs"] == other["inputs"], row
        assert [w[:20] for w in mine["warnings"]] == [w[:20] for w in other["warnings"]], row
    assert used >= 9_000
    assert kinds >= 500


def test_another_tokenizer_is_noticed(core, noisy, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(noisy, other)
    row = json.loads((noisy / "tokenizer.json").read_text())
    row["model"]["merges"] = row["model"]["merges"][1:]
    (other / "tokenizer.json").write_text(json.dumps(row))
    rows = [{"prompt": f"the red apple {w}", "seed": "1", "style": ""} for w in WORDS]
    found = theirs(core, other, rows, tmp_path)
    assert any(a != b for a, b in zip(ours(noisy, rows), found, strict=True))


# --- pictures ----------------------------------------------------------------------------------


def random_pairs(rng):
    """Pairs of uint8 (S, S, 4): noise, near copies, clear and flat ground."""
    for side in (11, 16, 40):
        for change in (0, 1, 4, 255):
            one = rng.integers(0, 256, (side, side, 4), np.uint8)
            one[: side // 2, :, 3] = rng.choice([0, 255])
            one[:, : side // 3] = 255
            step = rng.integers(-change, change + 1, one.shape)
            yield np.clip(one + step, 0, 255).astype(np.uint8), one


def test_metrics_are_the_same(core, tmp_path):
    pairs = list(random_pairs(np.random.default_rng(3)))
    raw = b"".join(len(a).to_bytes(4, "big") + a.tobytes() + b.tobytes() for a, b in pairs)
    (tmp_path / "pairs").write_bytes(raw)
    two_sides(core, "metrics", tmp_path / "pairs", tmp_path / "rows")
    rows = [[float(v) for v in r.split()] for r in (tmp_path / "rows").read_text().splitlines()]
    assert len(rows) == len(pairs)
    for (a, b), row in zip(pairs, rows, strict=True):
        expected = [
            metrics.picture_psnr(a, b),
            metrics.picture_ssim(a, b),
            metrics.max_error(a, b),
            *metrics.signed_error(a, b),
            *metrics.flat_kept(a, b),
        ]
        assert row == pytest.approx(expected, abs=1e-9)


def test_a_saved_png_is_read_back_with_its_prompt_and_mark(core, noisy, tmp_path):
    rows = [
        {
            "side": 5,
            "prompt": "红苹果 👩\u200d🚀, noto style",
            "seed": LARGEST_SEED,
            "style": "noto",
        },
        {"side": 64, "prompt": 'a <b> & "c"', "seed": 0, "style": "3d"},
    ]
    (tmp_path / "in").write_text("".join(json.dumps(r) + "\n" for r in rows))
    two_sides(core, "png", noisy, tmp_path / "in", tmp_path)
    for i, row in enumerate(rows):
        count = 4 * row["side"] ** 2
        pixels = ((np.arange(count) * 7 + i) % 256).astype(np.uint8)
        pixels = pixels.reshape(row["side"], row["side"], 4)
        with Image.open(tmp_path / f"{i}-clear.png") as clear:
            assert clear.mode == "RGBA"
            assert np.array_equal(np.asarray(clear), pixels)
            assert clear.text["prompt"] == row["prompt"]
            assert clear.text["seed"] == str(row["seed"])
            assert clear.text["style"] == row["style"]
            assert clear.text["Software"] == "genedge"
            assert "trainedAlgorithmicMedia" in clear.text["XML:com.adobe.xmp"]
        with Image.open(tmp_path / f"{i}-colour.png") as colour:
            assert colour.mode == "RGB"
            assert np.array_equal(np.asarray(colour), over(pixels, (0x33, 0x66, 0x99)))


# --- a whole artifact, in another language's official runtime ------------------------------------


def verdict(core, node, folder, tmp_path):
    two_sides(core, "verify", folder, tmp_path / "verdict.json", *node)
    return {r["metric"]: r for r in json.loads((tmp_path / "verdict.json").read_text())}


def same_limits(rows, folder, found):
    """Both languages hold the same metrics to the same limits; a phone does not look into files."""
    artifact = read_artifact(folder)
    expected = judge(artifact, found, DEFAULTS[artifact.precision])
    assert {m: r["limit"] for m, r in rows.items()} == {
        r.metric: r.limit for r in expected if r.metric != "stored_int8"
    }


@pytest.fixture(scope="session")
def float_artifact(generator, loose, tmp_path_factory):
    from genedge.toolkit.export import export

    out = tmp_path_factory.mktemp("android")
    return export(generator, ["onnx"], precision="fp32", out=out, limits=loose)[0].directory


def test_fp32_gives_the_golden_pictures_outside_python(core, node, float_artifact, tmp_path):
    rows = verdict(core, node, float_artifact, tmp_path)
    same_limits(rows, float_artifact, measure(float_artifact, None, 1))
    assert rows["psnr_db"]["limit"] == "≥ 60 dB"
    assert rows["psnr_worst_db"]["value"] >= 60
    assert all(r["passed"] for r in rows.values()), rows


def test_the_bundled_artifact_gets_the_same_verdict_outside_python(core, node, tmp_path):
    rows = verdict(core, node, BUNDLED, tmp_path)
    found = measure(BUNDLED, None, 1)
    same_limits(rows, BUNDLED, found)
    assert rows["psnr_db"]["value"] == pytest.approx(found["psnr"], abs=0.3)
    assert rows["ssim"]["value"] == pytest.approx(found["ssim"], abs=0.005)
    assert rows["flat_kept"]["value"] == pytest.approx(found["flat"], abs=0.003)
    assert rows["bytes"]["value"] == found["bytes"]
    assert all(r["passed"] for r in rows.values()), rows


def test_other_golden_pictures_fail(core, node, float_artifact, tmp_path):
    import hashlib

    other = tmp_path / "other"
    shutil.copytree(float_artifact, other)
    with np.load(other / "golden.npz") as arrays:
        kept = dict(arrays)
    kept["pictures"] = kept["pictures"][::-1]
    kept["input:noise:noise"] = kept["input:noise:noise"][::-1]
    np.savez_compressed(other / "golden.npz", **kept)
    row = json.loads((other / "manifest.json").read_text())
    data = (other / "golden.npz").read_bytes()
    row["golden"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (other / "manifest.json").write_text(json.dumps(row))
    rows = verdict(core, node, other, tmp_path)
    assert not rows["psnr_db"]["passed"]
    assert rows["psnr_db"]["value"] < 40
    assert not rows["inputs"]["passed"]
    assert rows["inputs"]["value"] == row["golden"]["count"]
    assert load(other).artifact.golden_count == row["golden"]["count"]
