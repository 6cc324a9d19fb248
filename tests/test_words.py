"""Token ids of a pipeline's prompts equal transformers' own at every position."""

import pytest

pytest.importorskip("transformers")
from pipelines import END, clip_tokenizer

from genedge.runtime.errors import BadInput
from genedge.runtime.words import plain_words, word_tokenizer

PROMPTS = {
    "nothing": "",
    "exclamation": "wow!!!",
    "73 words": "the " * 73,
    "75 words": "the " * 75,  # 77 ids with the marks
    "76 words": "the " * 76,
    "77 words": "the " * 77,
    "many words": "a red apple, " * 60,
    "apostrophes": "it's the cats' house, don't",
    "unknown letters": "çà și ğ İstanbul \u0301e 苹果 🍎",
    "lines": "two\r\nlines\tand  spaces ",
    "marks inside": f"a {END} b",
}


@pytest.fixture(scope="module", params=[END, "!"])
def both(request):
    theirs = clip_tokenizer(request.param)
    text = plain_words(theirs.backend_tokenizer.to_str())
    return theirs, word_tokenizer(text, theirs.model_max_length, theirs.pad_token_id, "here")


@pytest.mark.parametrize("name", PROMPTS)
def test_ids_equal_those_of_transformers(both, name):
    theirs, mine = both
    wanted = theirs(PROMPTS[name], padding="max_length", max_length=77, truncation=True).input_ids
    ids, _ = mine.encode(PROMPTS[name])
    assert ids.shape == (1, 77)
    assert ids[0].tolist() == wanted


@pytest.mark.parametrize("count", [75, 76, 77, 90])
def test_what_was_lost_is_quoted_and_the_end_stays_last(both, count):
    theirs, mine = both
    ids, lost = mine.encode("the " * count)
    assert lost == " ".join(["the"] * (count - 75))
    assert ids[0, 0] == theirs.bos_token_id
    assert ids[0, -1] == theirs.eos_token_id


def test_what_was_lost_is_quoted_as_it_was_written(both):
    _, lost = both[1].encode("the " * 75 + "Red  APPLE, it's")
    assert lost == "Red  APPLE, it's"


def test_a_damaged_file_is_named():
    with pytest.raises(BadInput, match=r"tokenizer_2.json: no tokenizer"):
        word_tokenizer("{", 77, 0, "tokenizer_2.json")
