"""The HTML report is one file: whole, escaped, small, and nothing in it asks for anything else."""

import re
from pathlib import Path

import numpy as np
import pytest
from browser import BROWSER, opened
from test_bench import recorded

from genedge.runtime.artifact import read_artifact
from genedge.runtime.baseline import Change
from genedge.runtime.bench import Bench, Benched, Timing
from genedge.runtime.errors import MissingProgram
from genedge.runtime.page import to_html
from genedge.runtime.verdict import Between, Report, Row, Shown

BUNDLED = Path(__file__).parent.parent / "runtime" / "artifacts" / "emoji-onnx-int8"
EVIL = '<script src="http://a.example/x"></script><img src=http://a.example/y>'


def report():
    """Two artifacts, one that fails, with pictures, a bench, changes and a hostile prompt."""
    random = np.random.default_rng(0)
    rows, details, shown, benched = [], [], {}, []
    mine, base = recorded(0.5)
    for name, psnr, times in (("emoji-onnx-fp32", 100.0, base), ("emoji-onnx-int8", 31.0, mine)):
        note = "" if psnr > 32 else "swapped channels"
        rows.append(Row(name, "psnr_db", psnr, "≥ 32 dB", psnr >= 32, note, bound=32))
        rows.append(Row(name, "bytes", 9_000_000, "", True))
        rows.append(Row(name, "latency_ratio", 0.5, "≤ 0.5", True, "", "inconclusive"))
        details.append(
            {"name": name, "bytes": 9e6, "latency_ms": 2.0, "psnr": psnr, "psnr_worst": psnr - 5}
            | {"prompts": 64}
        )
        true = np.full((64, 64, 4), 255, np.uint8)
        true[16:48, 16:48, :3] = (200, 40, 40)
        drawn = true.copy()
        if psnr < 100:
            drawn[..., :3] = np.clip(true[..., :3] - random.integers(0, 40, (64, 64, 3)), 0, 255)
        shown[name] = (Shown(EVIL, 7, psnr, true, drawn),) * 8
        timing = Timing(1, times, times + 0.1, {})
        benched.append(Benched(name, read_artifact(BUNDLED), np.array([0.5]), 10**8, (timing,)))
    changes = (Change("emoji-onnx-int8", "psnr_db", 33.0, 31.0, "regress", True),)
    between = (Between("emoji-onnx-fp32", "emoji-onnx-int8", 31.0, 26.0, 3, 64),)
    bench = Bench(tuple(benched), (), "")
    return Report(tuple(rows), tuple(details), between, changes, bench, shown)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(to_html(report()), encoding="utf-8")
    return path


def test_what_a_reader_looks_for_is_there(page):
    text = page.read_text(encoding="utf-8")
    for part in (
        "1 limit(s) missed", "swapped channels", "Accuracy against size", "Latency on 1 thread",
        "regress, RED", "Equal to float on every prompt", "inconclusive", "onnxruntime",
    ):  # fmt: skip
        assert part in text, part
    assert text.count("data:image/png;base64,") == 3 * 8
    assert len(text) < 1_000_000


def test_the_page_names_no_address_and_escapes_prompts(page):
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script" in text
    links = re.findall(
        r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", text.replace("&#34;", "")
    )
    own = ("data:", "#", "http://a.example")  # the last stands in the prompt, escaped
    assert [x for x in links if not x.startswith(own)] == []


def test_without_jinja2_the_remedy_is_named(monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "jinja2" else find(n))
    with pytest.raises(MissingProgram, match=r"pip install 'genedge\[report\]'"):
        to_html(report())


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_draws_it_and_no_request_leaves(page, tmp_path, width, dark):
    pixels, asked, over = opened(page, tmp_path / "profile", width, dark)
    assert asked == []
    assert over == 0
    assert pixels.shape[1] == width
    ground = np.median(pixels[:, 2].astype(int))
    assert ground < 60 if dark else ground > 200
    assert pixels.std() > 20


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_page_that_asks_for_something_is_seen(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://a.example/x.png"><pre style="width: 2000px">wide</pre>')
    _, asked, over = opened(bad, tmp_path / "profile", 390)
    assert asked == ["http://a.example/x.png"]
    assert over > 0
