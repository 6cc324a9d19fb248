"""The same seed gives the same bits, here and in any other language."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genedge.runtime.errors import BadInput
from genedge.runtime.noise import (
    LARGEST_SEED,
    MEANING_CHOICE,
    checked_seed,
    choice,
    noise,
    philox_words,
)
from genedge.runtime.run import prepare
from genedge.runtime.signature import Signature, TensorSpec

VECTORS = json.loads((Path(__file__).parent / "vectors" / "noise.json").read_text())
SEEDS = st.integers(0, LARGEST_SEED)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            "00000000 00000000 00000000 00000000",
            "00000000 00000000",
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(counter, key, expected):
    words = np.array([[int(w, 16) for w in counter.split()]], np.uint32)
    k0, k1 = (int(w, 16) for w in key.split())
    assert philox_words(words, (k0, k1))[0].tolist() == [int(w, 16) for w in expected.split()]


@pytest.mark.parametrize("row", VECTORS["noise"], ids=lambda row: row["seed"])
def test_noise_equals_the_shared_vectors(row):
    assert noise(int(row["seed"]), (16,)).view(np.uint32).tolist() == row["bits"]


@pytest.mark.parametrize("row", VECTORS["choices"], ids=lambda row: row["seed"])
def test_choices_equal_the_shared_vectors(row):
    seed = int(row["seed"])
    assert choice(seed, 7) == row["style_of_seven"]
    assert choice(seed, 16, MEANING_CHOICE) == row["meaning_of_sixteen"]


@given(SEEDS, st.integers(1, 40), st.integers(1, 40))
def test_a_longer_draw_starts_with_the_shorter(seed, short, more):
    assert np.array_equal(noise(seed, (short,)), noise(seed, (short + more,))[:short])


@given(SEEDS, st.integers(1, 1000))
def test_a_choice_lies_in_its_range(seed, count):
    assert 0 <= choice(seed, count) < count


def test_noise_has_mean_0_and_variance_1():
    values = noise(5, (200_000,)).astype(np.float64)
    assert abs(values.mean()) < 0.01
    assert abs(values.var() - 1) < 0.01


@pytest.mark.parametrize("seed", [-1, 2**63, 2**80, 1.5, "3", True, None])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(BadInput, match="seed"):
        checked_seed(seed)


def test_a_meaning_input_is_one_hot_at_the_choice_of_the_seed():
    spec = TensorSpec("float32", (1, 16), 0, 1, "meaning")
    signature = Signature({"meaning": spec}, "picture", TensorSpec("float32", (1,), 0, 1), "gray")
    for seed in (1, 2, 2**40):
        value = prepare(signature, None, "", seed).inputs["meaning"]
        assert value.sum() == 1
        assert value[0, choice(seed, 16, MEANING_CHOICE)] == 1
