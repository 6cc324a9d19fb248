"""The runtime as a library: what docs/library.md promises."""

import os
import re
import subprocess
import sys
import threading
import typing
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genedge.recipes import TARGETS
from genedge.runtime import GenedgeError, PictureWarning, Pipeline, load
from genedge.runtime.silence import silenced

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", params=TARGETS)
def model(request, artifacts):
    with load(artifacts[request.param, "fp32"]) as pipeline:
        yield pipeline


def test_every_block_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.S)
    assert len(blocks) >= 8
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/library.md", "exec"), names)
    printed = capsys.readouterr().out
    for part in ("6 of 6: umbrella, seed 6", "is closed", "'cubist' is unknown", "too long"):
        assert part in printed
    with Image.open("apple.png") as image:
        assert image.mode == "RGBA"


def test_several_threads_draw_the_same_bits(model):
    def draw(seed):
        return model.generate("red apple", seed=seed).tobytes()

    alone = [draw(seed) for seed in range(24)]
    assert len(set(alone)) > 12
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(draw, range(24))) == alone


def test_two_threads_inside_one_picture_draw_it_too(artifacts):
    folder = artifacts["onnx", "fp32"]
    with load(folder, threads=2) as two, load(folder) as one:
        pictures = [m.generate("red apple", seed=1, background="white") for m in (one, two)]
    levels = [max(abs(a - b) for a, b in zip(*(p.tobytes() for p in pictures), strict=True))]
    assert max(levels) <= 1


def test_many_pictures_come_as_they_are_drawn(model):
    made = model.generate_many(["red apple", "blue face"], count=2, seed=5, style="soft")
    infos = [i.info for i in made]
    assert [(i["prompt"], i["seed"]) for i in infos] == [
        ("red apple", "5"),
        ("red apple", "6"),
        ("blue face", "5"),
        ("blue face", "6"),
    ]
    assert {i["artifact"] for i in infos} == {model.artifact.hash}
    one = next(model.generate_many("blue face", seed=6, style="soft"))
    assert one.tobytes() == model.generate("blue face", seed=6, style="soft").tobytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"prompts": ["red", ""]}, "prompt is empty"),
        ({"prompts": "red", "count": 0}, "count 0 is too small"),
        ({"prompts": "red", "seed": -1}, "out of range"),
        ({"prompts": "red", "seed": 2**63 - 1, "count": 2}, "leaves the range"),
        ({"prompts": "red", "style": "cubist"}, "'cubist' is unknown"),
        ({"prompts": "red", "background": "blue"}, "white, transparent or #rrggbb"),
    ],
)
def test_a_batch_is_refused_before_its_first_picture(model, words, message):
    with pytest.raises(GenedgeError, match=message):
        model.generate_many(**words)


def test_a_closed_model_says_so(artifacts):
    with load(artifacts["onnx", "fp32"]) as model:
        pass
    model.close()
    with pytest.raises(GenedgeError, match="is closed; load it again"):
        model.generate("red apple", seed=1)


def test_lost_words_and_empty_pictures_are_warned_of(artifacts):
    with load(artifacts["onnx", "fp32"]) as model:
        with pytest.warns(PictureWarning, match="too long; not drawn"):
            model.generate("red apple " * 8, seed=1)
        run = model.runs[-1]
        model.runs[-1] = lambda inputs: {k: v * 0 for k, v in run(inputs).items()}
        with pytest.warns(PictureWarning, match="the picture is empty"):
            model.generate("red apple", seed=1)


def test_bad_arguments_of_load_are_named(artifacts):
    with pytest.raises(GenedgeError, match="threads 0 is too small"):
        load(artifacts["onnx", "fp32"], threads=0)
    with pytest.raises(GenedgeError, match="neither a folder nor bundled"):
        load("emojy")


def test_it_is_typed():
    assert typing.get_type_hints(Pipeline.generate)["return"] is Image.Image
    assert (ROOT / "runtime" / "py.typed").is_file()


def test_importing_it_loads_nothing_heavy():
    code = (
        "import sys, genedge.runtime as r; heavy = {'numpy', 'PIL', 'torch', 'tokenizers', 'rich'};"
        "assert not heavy & set(sys.modules); assert 'load' in dir(r);"
        "from genedge.runtime import load; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_warning_comes_each_time_and_is_kept_nowhere(artifacts):
    with load(artifacts["onnx", "fp32"]) as model:
        for _ in range(2):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("default")
                model.generate("red apple " * 8, seed=1)
                model.generate("red apple " * 8, seed=1)
            assert len([w for w in said if w.category is PictureWarning]) == 2
    kept = (vars(m).get("__warningregistry__", {}) for m in list(sys.modules.values()) if m)
    assert not any("too long" in str(key) for registry in kept for key in registry)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"prompts": None}, "a prompt is a text, not NoneType"),
        ({"prompts": ["fox", 3]}, "a prompt is a text, not int"),
        ({"images": Image.new("RGB", (4, 4))}, "images takes PIL images by input"),
        ({"images": {"small": "in.png"}}, "'small' is str, not a PIL image"),
        ({"images": {"small": np.zeros((4, 4, 3))}}, "'small' is ndarray, not a PIL image"),
    ],
)
def test_arguments_of_another_kind_are_said_as_such(model, words, message):
    with pytest.raises(GenedgeError, match=message):
        model.generate_many(**{"prompts": "fox"} | words)
    with pytest.raises(GenedgeError, match="3 names no artifact"):
        load(3)


def test_an_unknown_picture_is_refused(model):
    with pytest.raises(GenedgeError, match="'image': this generator has no such image input"):
        model.generate("red apple", images={"image": Image.new("RGB", (8, 8))})


@pytest.mark.parametrize(
    ("problem", "message"),
    [(MemoryError(), "memory ran out"), (RuntimeError("bad\nallocation"), "onnx stopped while")],
)
def test_a_runtime_that_stops_is_named(artifacts, problem, message):
    def stop(inputs):
        raise problem

    with load(artifacts["onnx", "fp32"]) as model:
        model.runs[-1] = stop
        with pytest.raises(GenedgeError, match=message):
            model.generate("red apple", seed=1)


def test_executorch_s_pool_is_not_changed_under_what_draws_on_it(artifacts):
    code = f"""
import gc
from genedge.runtime import GenedgeError, load
folder = {str(artifacts["executorch", "fp32"])!r}
one, again = load(folder), load(folder)
assert again.generate("red apple", seed=1) == one.generate("red apple", seed=1)
try:
    load(folder, threads=2)
except GenedgeError as problem:
    print(problem)
one.close()
again.close()
gc.collect()
load(folder, threads=2).generate("red apple", seed=1)
print("drawn on two")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"draws on 1 thread.* loaded on 2.*\ndrawn on two", done.stdout)


def test_stderr_comes_back_after_two_loads_at_a_time(capfd):
    started, go = threading.Barrier(2), threading.Event()

    def quiet():
        started.wait()
        with silenced():
            go.wait(0.2)

    both = [threading.Thread(target=quiet) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
