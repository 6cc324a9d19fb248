"""English beyond the captions: words and glosses of WordNet, and words that people look emoji up by,
each with the emoji that it suggests.

Nobody has drawn a picture for "motorcar". MiniLM says which captions a word is near to, WordNet which
words mean the same and what it is a kind of, and the emoji of those become its meanings, as if it
were a keyword that fits them: so the text side learns MiniLM's sense of English at the size of a few
megabytes less. What an emoji is looked up by, emojilib's list, needs no guess: it means that emoji.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from genedge.toolkit.train import Report, fast

from .captions import Captions, plain
from .data import WORDNET, fetch, searched_by

ENTRY = ": "  # between the word and the gloss of a dictionary's entry
NEAR, BESIDE, MOST = 0.4, 0.05, 4  # cosine to the best emoji; below it by; emoji at most
LONGEST_WORD, LONGEST_GLOSS = 30, 80
# What WordNet adds to MiniLM's cosine: a word of the meaning is the emoji's name, or a tag of
# SHARED emoji at most, or the name of what it is a kind of, and of what that is.
NAME, TAG, KINDS, SHARED = 0.25, 0.12, (0.12, 0.06), 3
SAID = 0.5  # what it adds that people look the emoji up so
# WordNet's files of nouns (lexnames(5WN)) that can be drawn: animals, artifacts, body, food, objects,
# people and plants. Of these rare words count too.
DRAWABLE = {"05", "06", "08", "13", "17", "18", "20"}


@dataclass(frozen=True)
class Synset:
    """Words of one meaning, lower case, and the first clause of its gloss, LONGEST_GLOSS letters at
    most.

    common: a word of it was met in WordNet's tagged texts. kinds: words of what it is a kind of, and
    of what those are kinds of.
    """

    words: tuple[str, ...]
    gloss: str
    common: bool = True
    kinds: tuple[frozenset[str], ...] = ()


def _cut(clause: str) -> str:
    """At most LONGEST_GLOSS letters of it, to the end of a word."""
    if len(clause) <= LONGEST_GLOSS:
        return clause
    return clause[: LONGEST_GLOSS + 1].rpartition(" ")[0]


def synsets(folder: Path) -> list[Synset]:
    """WordNet's nouns, verbs and adjectives of which a word was met in its tagged texts, and nouns
    for what can be drawn.

    folder: the unpacked npm package. Names ("Robert Brown") and words above 30 letters are left
    out. The files' form: wndb(5WN) of WordNet 3.1.
    """
    found = []
    for kind in ("noun", "verb", "adj"):
        met = set()
        for line in (folder / "dict" / f"index.{kind}").read_text(encoding="utf-8").splitlines():
            fields = line.split()
            if not line.startswith("  ") and int(fields[4 + int(fields[3]) + 1]) > 0:
                met.add(fields[0])
        words: dict[str, list[str]] = {}  # by the place in the file
        above: dict[str, list[str]] = {}
        kept: list[tuple[str, str, bool]] = []
        for line in (folder / "dict" / f"data.{kind}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition("|")
            fields = head.split()
            place, after = fields[0], 4 + 2 * int(fields[3], 16)
            said = [w.partition("(")[0] for w in fields[4:after:2]]
            pointers = fields[after + 1 : after + 1 + 4 * int(fields[after])]
            above[place] = [
                pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] == "@"
            ]
            words[place] = [w.replace("_", " ") for w in said if w[:1].islower()]
            common = any(w in met for w in said)
            if common or (kind == "noun" and fields[1] in DRAWABLE):
                kept.append((place, _cut(plain(gloss.split(";")[0])), common))
        for place, gloss, common in kept:
            mine = tuple(w for w in words[place] if len(w) <= LONGEST_WORD)
            over, kinds = [place], []
            for _ in KINDS:
                over = [higher for p in over for higher in above.get(p, ())]
                kinds.append(frozenset(w for p in over for w in words.get(p, ())))
            found.append(Synset(mine, gloss, common, tuple(kinds)))
    return found


class _Known:
    """Places of emoji among those of the captions, by name and by tag, those of `more` among them."""

    def __init__(self, captions: Captions, more: Mapping[int, tuple[str, ...]]) -> None:
        self.names: dict[str, set[int]] = {}
        self.tags: dict[str, set[int]] = {}
        for place, row in enumerate(int(r) for r in captions.rows):
            self.names.setdefault(captions.names[row], set()).add(place)
            for tag in (*captions.tags[row], *more.get(row, ())):
                self.tags.setdefault(tag, set()).add(place)

    def helped(self, synset: Synset) -> dict[int, float]:
        """Place of an emoji → what WordNet adds to its cosine."""
        added: dict[int, float] = {}

        def add(places: set[int], much: float) -> None:
            for place in places:
                added[place] = max(added.get(place, 0.0), much)

        for word in map(plain, synset.words):
            add(self.names.get(word, set()), NAME)
            if len(self.tags.get(word, ())) <= SHARED:
                add(self.tags.get(word, set()), TAG)
        for words, much in zip(synset.kinds, KINDS, strict=False):
            for word in map(plain, words):
                add(self.names.get(word, set()), much)
        return added


def asked_of(
    found: list[Synset],
    captions: Captions,
    kept_out: frozenset[str],
    more: Mapping[int, tuple[str, ...]] | None = None,
) -> dict[str, tuple[str, dict[int, float]]]:
    """Prompt → what MiniLM is asked, and what WordNet adds (`_Known.helped`), or people.

    more: further words of each row, `looked_up`'s: each is a prompt, and an entry with all other words
    of the emoji for its gloss.
    """
    more = more or {}
    captioned = set(captions.names.values()) | set(captions.vague) | set(captions.phrases)
    known, asked = _Known(captions, more), dict[str, tuple[str, dict[int, float]]]()

    def ask(prompt: str, text: str, helped: dict[int, float]) -> None:
        if len(prompt) > 1 and prompt not in captioned and prompt not in kept_out:
            text, before = asked.get(prompt, (text, {}))
            merged = {p: max(before.get(p, 0.0), helped.get(p, 0.0)) for p in before | helped}
            asked[prompt] = text, merged

    for synset in found:
        helped = known.helped(synset)
        for word in synset.words:
            ask(plain(word), word, helped)
        if not synset.gloss or not synset.words:
            continue
        if synset.common:
            ask(synset.gloss, f"{synset.words[0]}: {synset.gloss}", helped)
        for word in synset.words:
            ask(f"{word}{ENTRY}{synset.gloss}", f"{word}: {synset.gloss}", helped)
    for place, row in enumerate(int(r) for r in captions.rows):
        means = {place: SAID}
        for word in more.get(row, ()):
            ask(word, word, means)
        words = dict.fromkeys((*captions.tags[row], *more.get(row, ())))
        for word in words:
            if others := " ".join(w for w in words if w != word):
                ask(f"{word}{ENTRY}{others}", f"{word}: {others}", means)
    return asked


def looked_up(
    captions: Captions, said: Mapping[str, tuple[str, ...]], kept_out: frozenset[str]
) -> dict[int, tuple[str, ...]]:
    """Row → words that people look it up by and no caption of it has; `data.searched_by` says them.

    Words of `kept_out` are left out.
    """
    found = {}
    for row, symbol in captions.symbols.items():
        words = dict.fromkeys(plain(w) for w in said.get(symbol, ()))
        known = {*captions.tags[row], captions.names[row], ""} | kept_out
        found[row] = tuple(w for w in words if w not in known)
    return found


def wider_words(
    captions: Captions, cache: Path, work: Path, kept_out: frozenset[str], report: Report
) -> dict[str, tuple[int, ...]]:
    """Word, gloss, or entry ("word: gloss") → rows of the emoji that it suggests to
    MiniLM, to WordNet itself and to people; only those that suggest one.

    kept_out: prompts that training must not see; their words may stand in an entry. Made once, then
    read from `work`. Raises MissingProgram, and what `fetch` raises.
    """
    path = work / "wider.json"
    if path.exists():
        return {w: tuple(rows) for w, rows in json.loads(path.read_text(encoding="utf-8")).items()}
    from .text import teacher_embeddings

    report("wider", 0, 1, {})
    rows = [int(r) for r in captions.rows]
    names = [captions.names[r] for r in rows]
    more = looked_up(captions, searched_by(cache), kept_out)
    tags = [captions.tags[r] for r in rows]
    described = [
        [f"{name}: {', '.join(words)}" for name, words in zip(names, some, strict=True)]
        for some in (tags, [(*t, *more[r]) for t, r in zip(tags, rows, strict=True)])
    ]
    asked = asked_of(synsets(fetch(WORDNET, cache / "packages")), captions, kept_out, more)
    texts = list(dict.fromkeys(text for text, _ in asked.values()))
    place = {text: i for i, text in enumerate(texts)}
    with fast():
        art = torch.stack([teacher_embeddings(t).float() for t in (names, *described)]).mean(0)
        said = teacher_embeddings(texts).float()
    found: dict[str, tuple[int, ...]] = {}
    for prompt, (text, helped) in asked.items():
        like = art @ said[place[text]]
        like[list(helped)] += torch.tensor(list(helped.values()))
        best, order = like.topk(min(MOST, len(like)))
        if best[0] >= NEAR:
            close = order[best >= best[0] - BESIDE].tolist()
            found[prompt] = tuple(rows[j] for j in close)
    work.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)
    report("wider", 1, 1, {})
    return found


def spoken(word: str, random: np.random.Generator) -> str:
    """A prompt of a further word: itself, or of an entry the word and some of its gloss."""
    head, entry, gloss = word.partition(ENTRY)
    if not entry:
        return word
    said = gloss.split()
    kept = random.random(len(said)) < random.random() ** 3  # few: the word itself should tell
    kept[random.integers(len(said))] = True
    return " ".join([head, *(w for w, k in zip(said, kept, strict=True) if k)])
