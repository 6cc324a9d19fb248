"""Prompts in other words than any caption's, written down before training and kept from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).with_name("paraphrases.json")


@dataclass(frozen=True)
class Paraphrase:
    """A prompt, its language ("en" or "zh"), whether it is a lemma of WordNet or was written for
    this list, and the codes of the emoji that fit it."""

    prompt: str
    language: str
    source: str
    emoji: tuple[str, ...]


def paraphrases() -> tuple[Paraphrase, ...]:
    """All of them, from paraphrases.json."""
    rows = json.loads(PATH.read_text(encoding="utf-8"))
    return tuple(Paraphrase(**{**row, "emoji": tuple(row["emoji"])}) for row in rows)


def kept_out() -> frozenset[str]:
    """The prompts alone."""
    return frozenset(p.prompt for p in paraphrases())
