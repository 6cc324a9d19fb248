"""Keywords and phrases of two keywords mean emoji that fit them, and some phrases stay unseen."""

import numpy as np
import pytest

from genedge.toolkit.zoo.emoji.captions import captions_of, keyword_prompt, name_prompt
from genedge.toolkit.zoo.emoji.data import Art, Emoji
from genedge.toolkit.zoo.emoji.model import MEANINGS


def emoji(code, name, group, *tags, held_out=False):
    return Emoji(code, name, group, tags, code, held_out)


@pytest.fixture(scope="module")
def captions():
    few = (
        emoji("1f600", "grinning face", "Smileys & Emotion", "happy", "smile"),
        emoji("1f603", "beaming face", "Smileys & Emotion", "happy", "joy"),
        emoji("1f622", "crying face", "Smileys & Emotion", "sad", "tear"),
        emoji("1f63a", "grinning cat", "Smileys & Emotion", "happy", "smile"),
        emoji("1f431", "cat face", "Animals & Nature", "pet"),
        emoji("1f636", "blank face", "Smileys & Emotion", "happy", held_out=True),
    )
    none = np.zeros(0, np.int64)
    return captions_of(Art(np.zeros((0, 64, 64, 4), np.uint8), few, none, none, none.astype(bool)))


def test_a_phrase_means_what_fits_both_words(captions):
    known = captions.phrases | captions.unseen
    assert known["happy face"] == (0, 1)
    assert known["smile happy"] == (0, 3)  # the more general word comes last
    for phrase, rows in captions.phrases.items():
        assert set(captions.meanings[phrase]) == set(rows)
        assert len(captions.meanings[phrase]) == MEANINGS


def test_a_phrase_that_fits_one_alone_means_it_whatever_the_seed(captions):
    assert "joy face" in captions.exact[1]
    assert all(
        phrase not in captions.phrases for said in captions.exact.values() for phrase in said
    )


def test_what_is_kept_from_training_is_in_no_prompt(captions):
    said = {word for pairs in captions.keywords.values() for word, _ in pairs}
    assert not said & set(captions.unseen)
    random = np.random.default_rng(0)
    prompts = {name_prompt(captions, row, random) for row in captions.rows for _ in range(300)}
    assert not prompts & set(captions.unseen)


def test_held_out_emoji_are_meant_by_nothing(captions):
    assert 5 not in captions.rows
    assert all(5 not in rows for rows in captions.meanings.values())
    assert 5 not in captions.exact


def test_groups_and_repeated_words_make_no_phrase(captions):
    for phrase in captions.turned:
        words = phrase.split()
        assert len(words) == len(set(words))
        assert not {"emotion", "nature"} & set(words)


def test_phrases_are_turned_round_now_and_then(captions):
    random = np.random.default_rng(0)
    said = {keyword_prompt("happy face", captions, random) for _ in range(200)}
    assert {"happy face", "face happy"} <= said
