"""Token ids, and what a prompt may be."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genedge.runtime.bundled import bundled
from genedge.runtime.errors import BadInput
from genedge.runtime.run import load, split_style
from genedge.runtime.tokenizer import checked_prompt

VECTORS = json.loads((Path(__file__).parent / "vectors" / "tokens.json").read_text())


@pytest.fixture(scope="module")
def tokenizer():
    return load(bundled("emoji")).tokenizer


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: row["text"][:20])
def test_ids_of_the_bundled_model_equal_the_shared_vectors(tokenizer, row):
    assert tokenizer.encode(row["text"])[0][0].tolist() == row["ids"]


@given(text=st.text(max_size=200))
def test_any_text_gives_ids_of_the_fixed_length(tokenizer, text):
    ids, _ = tokenizer.encode(text)
    assert ids.shape == (1, tokenizer.length)
    assert ((ids >= 0) & (ids < 4096)).all()


@given(text=st.text(max_size=60))
def test_only_ascii_letters_are_lower_cased(tokenizer, text):
    lower = "".join(c.lower() if c.isascii() else c for c in text)
    assert (tokenizer.encode(text)[0] == tokenizer.encode(lower)[0]).all()


@pytest.mark.parametrize("prompt", ["", " ", "\n\t", "a\0b", "x" * 2001, "\ud800"])
def test_prompts_that_can_not_be_used_are_refused(prompt):
    with pytest.raises(BadInput, match="prompt"):
        checked_prompt(prompt)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red apple, noto style", ("a red apple", "noto")),
        ("a red apple in 3D style.", ("a red apple", "3d")),
        ("a red apple", ("a red apple", "")),
        ("style", ("style", "")),
        ("a red apple, cubist style", ("a red apple, cubist style", "")),
        ("notos style", ("notos style", "")),
    ],
)
def test_a_style_at_the_end_of_the_prompt_is_read(prompt, expected):
    assert split_style(prompt, ("noto", "3d")) == expected
