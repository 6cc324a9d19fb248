"""English beyond the captions: words and glosses of WordNet, each with the emoji that it suggests.

Nobody has drawn a picture for "motorcar". MiniLM says which captions a word is near to, and the
emoji of those become its meanings, as if it were a keyword that fits them: so the text side learns
MiniLM's sense of English at the size of a few megabytes less.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genedge.toolkit.train import Report, fast

from .captions import Captions, plain
from .data import WORDNET, fetch

ENTRY = ": "  # between the word and the gloss of a dictionary's entry
NEAR, BESIDE, MOST = 0.4, 0.05, 4  # cosine to the best emoji; below it by; emoji at most
LONGEST_WORD, LONGEST_GLOSS = 30, 80
# WordNet's files of nouns (lexnames(5WN)) that can be drawn: animals, artifacts, body, food, objects,
# people and plants. Of these rare words count too.
DRAWABLE = {"05", "06", "08", "13", "17", "18", "20"}


@dataclass(frozen=True)
class Synset:
    """Words of one meaning, lower case, and the first clause of its gloss ("" where too long).

    common: a word of it was met in WordNet's tagged texts.
    """

    words: tuple[str, ...]
    gloss: str
    common: bool = True


def synsets(folder: Path) -> list[Synset]:
    """WordNet's nouns, verbs and adjectives of which a word was met in its tagged texts, and nouns
    for what can be drawn.

    folder: the unpacked npm package. Names ("Robert Brown") and words above 30 letters are left
    out. The files' form: wndb(5WN) of WordNet 3.1.
    """
    found = []
    for kind in ("noun", "verb", "adj"):
        met = set()
        for line in (folder / "dict" / f"index.{kind}").read_text().splitlines():
            fields = line.split()
            if not line.startswith("  ") and int(fields[4 + int(fields[3]) + 1]) > 0:
                met.add(fields[0])
        for line in (folder / "dict" / f"data.{kind}").read_text().splitlines():
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition("|")
            fields = head.split()
            words = [w.partition("(")[0] for w in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
            common = any(w in met for w in words)
            if not common and (kind != "noun" or fields[1] not in DRAWABLE):
                continue
            kept = [w.replace("_", " ") for w in words if w[:1].islower()]
            clause = plain(gloss.split(";")[0])
            found.append(
                Synset(
                    tuple(w for w in kept if len(w) <= LONGEST_WORD),
                    clause if len(clause) <= LONGEST_GLOSS else "",
                    common,
                )
            )
    return found


def _near(said: Tensor, names: Tensor, tagged: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine to the nearest emoji (N,), and of each emoji (N, emoji)."""
    like = (said @ names.T + said @ tagged.T) / 2
    return like.amax(1), like


def wider_words(
    captions: Captions, cache: Path, work: Path, kept_out: frozenset[str], report: Report
) -> dict[str, tuple[int, ...]]:
    """Word, gloss, or entry ("word: gloss") → rows of the emoji that it suggests to MiniLM; only
    those that suggest one.

    kept_out: prompts that training must not see; their words may stand in an entry. Made once, then read from `work`. Raises
    MissingProgram, and what `fetch` raises.
    """
    path = work / "wider.json"
    if path.exists():
        return {w: tuple(rows) for w, rows in json.loads(path.read_text()).items()}
    from .text import teacher_embeddings

    report("wider", 0, 1, {})
    rows = [int(r) for r in captions.rows]
    names = [captions.names[r] for r in rows]
    tagged = [f"{captions.names[r]}: {', '.join(captions.tags[r])}" for r in rows]
    known = set(names) | set(captions.vague) | set(captions.phrases) | kept_out
    asked: dict[str, str] = {}  # prompt → what MiniLM is asked
    for synset in synsets(fetch(WORDNET, cache / "packages")):
        for word in synset.words:
            asked.setdefault(plain(word), word)
        if synset.gloss and synset.words and synset.common:
            asked.setdefault(synset.gloss, f"{synset.words[0]}: {synset.gloss}")
        for word in synset.words[:MOST] if synset.gloss else ():
            asked.setdefault(f"{word}{ENTRY}{synset.gloss}", f"{word}: {synset.gloss}")
    asked = {p: text for p, text in asked.items() if len(p) > 1 and p not in known}
    with fast():
        art = [teacher_embeddings(names).float(), teacher_embeddings(tagged).float()]
        said = teacher_embeddings(list(asked.values())).float()
    found: dict[str, tuple[int, ...]] = {}
    prompts = list(asked)
    for first in range(0, len(prompts), 4096):
        best, like = _near(said[first : first + 4096], *art)
        for i in torch.nonzero(best >= NEAR)[:, 0].tolist():
            order = like[i].topk(MOST).indices.tolist()
            close = [j for j in order if like[i, j] >= best[i] - BESIDE]
            found[prompts[first + i]] = tuple(rows[j] for j in close)
    work.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(found, ensure_ascii=False))
    partial.replace(path)
    report("wider", 1, 1, {})
    return found


def spoken(word: str, random: np.random.Generator) -> str:
    """A prompt of a further word: itself, or of an entry the word and some of its gloss."""
    head, entry, gloss = word.partition(ENTRY)
    if not entry:
        return word
    said = gloss.split()
    kept = random.random(len(said)) < random.random()
    kept[random.integers(len(said))] = True
    return " ".join([head, *(w for w, k in zip(said, kept, strict=True) if k)])
