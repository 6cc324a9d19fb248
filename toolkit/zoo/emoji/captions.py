"""Prompts for training: names, names with keywords, and keywords that fit several emoji.

A keyword that fits several emoji, or a phrase of two keywords ("happy face"), means one of them, picked by a choice from 0 to 15. So that the
text side can learn what a choice stands for, each emoji belongs to one of 16 classes, by a hash,
and choice c means the fitting emoji of class c, or of the next class that has one.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from genedge.runtime.files import replacing
from genedge.runtime.tokenizer import PromptTokenizer

from .data import Art, hashed
from .model import MEANINGS, TOKENS, VOCABULARY

PAD = 0
_OPENINGS = ("a ", "an ", "the ", "a picture of ", "a drawing of ", "an emoji of ", "draw ", "one ")
_ZH_OPENINGS = ("一个", "一只", "一张", "画一个", "画", "小", "大", "这个", "可爱的")


@dataclass(frozen=True)
class Grammar:
    """What prompts are put together with.

    openings: stand before a name now and then. space: between two words. joints: between a name
    and keywords. shortest: letters that a keyword has at least.
    """

    openings: tuple[str, ...]
    space: str
    joints: tuple[str, ...]
    shortest: int


ENGLISH = Grammar(_OPENINGS, " ", (", ", " "), 2)
CHINESE = Grammar(_ZH_OPENINGS, "", ("，", " ", "的"), 1)


def plain(name: str) -> str:
    """A name as people type it: lower case, without brackets, colons and commas."""
    return " ".join(re.sub(r"[():,!?（）：，、！？“”]+", " ", name.lower()).split())


@dataclass(frozen=True)
class Captions:
    """What can be said of each emoji that training may see.

    names: row → its name. tags: row → keywords. vague: keyword that is no name → rows that fit it.
    phrases: two keywords, the more general one last → rows that fit both, two at least; unseen:
    the same, kept from training. turned: phrase → the same with the general one first. exact:
    row → phrases that no other emoji fits. meanings: keyword or phrase → the row that each choice
    means. keywords: row → keywords and phrases that mean it, each with the choices by which it
    does. rows: those of known emoji.
    """

    names: dict[int, str]
    tags: dict[int, tuple[str, ...]]
    symbols: dict[int, str]
    vague: dict[str, tuple[int, ...]]
    phrases: dict[str, tuple[int, ...]]
    unseen: dict[str, tuple[int, ...]]
    turned: dict[str, str]
    exact: dict[int, tuple[str, ...]]
    meanings: dict[str, tuple[int, ...]]
    keywords: dict[int, tuple[tuple[str, tuple[int, ...]], ...]]
    rows: np.ndarray
    grammar: Grammar = ENGLISH


def captions_of(
    art: Art,
    translated: Mapping[str, tuple[str, tuple[str, ...]]] | None = None,
    grammar: Grammar = ENGLISH,
) -> Captions:
    """Names and keywords of the emoji that are not held out.

    translated: code → name and keywords in another language, whose `grammar` is given; emoji that
    it lacks are left out.
    """
    known = [i for i, e in enumerate(art.emoji) if not e.held_out]
    said = {i: (art.emoji[i].name, art.emoji[i].tags) for i in known}
    if translated is not None:
        known = [i for i in known if art.emoji[i].code in translated]
        said = {i: translated[art.emoji[i].code] for i in known}
    names = {i: plain(said[i][0]) for i in known}
    tags = {i: tuple(plain(t) for t in said[i][1] if plain(t)) for i in known}
    by_name = Counter(names.values())
    fitting: dict[str, list[int]] = {}
    for i in known:
        words = set(tags[i]) | set(names[i].split())
        if translated is None:
            words.add(plain(art.emoji[i].group.replace("&", " ")))
        for word in words:
            if word not in by_name and len(word) >= grammar.shortest:
                fitting.setdefault(word, []).append(i)
    dull = {"with", "and", "of", "on", "in", "the", "to", "at", "for", "or", "no", "not", "off"}
    vague = {w: tuple(rows) for w, rows in sorted(fitting.items()) if w not in dull}
    symbols = {i: "".join(chr(int(c, 16)) for c in art.emoji[i].code.split("-")) for i in known}
    groups = {plain(art.emoji[i].group.replace("&", " ")) for i in known}
    specific = {w: rows for w, rows in vague.items() if w not in groups}
    phrases, turned, exact = _phrases(specific, names, grammar.space)
    unseen = {p: rows for p, rows in phrases.items() if hashed(p) % 20 == 0}
    phrases = {p: rows for p, rows in phrases.items() if p not in unseen}
    meanings = {w: meanings_of(w, rows, art) for w, rows in (vague | phrases).items()}
    keywords: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
    for word, meant in meanings.items():
        for row in sorted(set(meant)):
            choices = tuple(c for c in range(MEANINGS) if meant[c] == row)
            keywords.setdefault(row, []).append((word, choices))
    by_row = {row: tuple(pairs) for row, pairs in keywords.items()}
    return Captions(
        names=names,
        tags=tags,
        symbols=symbols,
        vague=vague,
        phrases=phrases,
        unseen=unseen,
        turned=turned,
        exact=exact,
        meanings=meanings,
        keywords=by_row,
        rows=np.array(known),
        grammar=grammar,
    )


def _phrases(
    vague: dict[str, tuple[int, ...]], names: dict[int, str], space: str
) -> tuple[dict[str, tuple[int, ...]], dict[str, str], dict[int, tuple[str, ...]]]:
    """Pairs of keywords that fit several emoji; each turned round; those that fit one alone."""
    known, phrases, turned = set(names.values()), {}, {}
    exact: dict[int, list[str]] = {}
    of_row: dict[int, list[str]] = {}
    for word, rows in vague.items():
        for row in rows:
            of_row.setdefault(row, []).append(word)
    fits = {word: set(rows) for word, rows in vague.items()}
    pairs = {p for words in of_row.values() for p in itertools.combinations(sorted(words), 2)}
    for pair in sorted(pairs):
        narrow, wide = sorted(pair, key=lambda w: (len(fits[w]), w))
        both = tuple(sorted(fits[narrow] & fits[wide]))
        phrase = f"{narrow}{space}{wide}"
        twice = set(narrow.split()) & set(wide.split()) if space else set(narrow) & set(wide)
        if twice or phrase in known or phrase in vague:
            continue  # says a word twice, or is a prompt in its own right
        turned[phrase] = f"{wide}{space}{narrow}"
        if len(both) > 1:
            phrases[phrase] = both
        else:
            exact.setdefault(both[0], []).append(phrase)
    return phrases, turned, {row: tuple(said) for row, said in exact.items()}


def meanings_of(word: str, rows: tuple[int, ...], art: Art) -> tuple[int, ...]:
    """The row that each of the 16 choices means, of those that fit the keyword."""

    def distance(row: int, choice: int) -> tuple[int, int]:
        code = art.emoji[row].code
        return (hashed(code) - choice) % MEANINGS, hashed(f"{word} {code}")

    return tuple(min(rows, key=lambda r: distance(r, c)) for c in range(MEANINGS))


def name_prompt(captions: Captions, row: int, random: np.random.Generator) -> str:
    """A prompt that means this emoji: its name, varied, now and then with keywords behind."""
    name = captions.names[row]
    dice = random.random()
    if dice < 0.04:
        return captions.symbols[row]
    if dice < 0.12 and row in captions.exact:
        said = captions.exact[row]
        return keyword_prompt(said[random.integers(len(said))], captions, random)
    if dice < 0.22:
        words = name.split()
        random.shuffle(words)
        name = " ".join(words)
    openings = captions.grammar.openings
    if random.random() < 0.3:
        name = openings[random.integers(len(openings))] + name
    tags = captions.tags[row]
    if tags and random.random() < 0.25:
        count = int(random.integers(1, min(3, len(tags)) + 1))
        chosen = [tags[i] for i in random.choice(len(tags), count, replace=False)]
        joint = captions.grammar.joints[random.integers(len(captions.grammar.joints))]
        pieces = [name, *chosen] if random.random() < 0.7 else [*chosen, name]
        name = joint.join(pieces)
    return name


def keyword_prompt(word: str, captions: Captions, random: np.random.Generator) -> str:
    """A keyword or phrase, now and then with an opening, phrases now and then turned round."""
    if word in captions.turned and random.random() < 0.25:
        word = captions.turned[word]
    openings = captions.grammar.openings
    return openings[random.integers(len(openings))] + word if random.random() < 0.3 else word


def train_tokenizer(languages: Iterable[Captions], wider: Iterable[str], path: Path) -> None:
    """Byte-level BPE of 4,096 tokens, without normaliser and character classes, saved as JSON.

    wider: prompts of other words, each counted once.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(" ", "merged_with_next"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [" " + word for word in wider]
    for captions in languages:
        lines += [" " + name for name in captions.names.values() for _ in range(4)]
        lines += [" " + word for word in captions.vague for _ in range(2)]
        lines += [" " + opening.strip() for opening in captions.grammar.openings for _ in range(9)]
    tokenizer.train_from_iterator(lines, trainer)
    with replacing(path) as partial:
        tokenizer.save(str(partial), pretty=False)


def load_trained(path: Path) -> PromptTokenizer:
    """The tokenizer that `train_tokenizer` wrote."""
    return PromptTokenizer(Tokenizer.from_file(str(path)), TOKENS, PAD)
