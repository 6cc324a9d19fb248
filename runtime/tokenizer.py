"""Prompt → token ids, through the `tokenizers` library and three written-down steps around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from .errors import BadInput

LONGEST_PROMPT = 2000
_ASCII_LOWER = {c: c + 32 for c in range(ord("A"), ord("Z") + 1)}


def checked_prompt(prompt: str) -> str:
    """The prompt, or BadInput where it is empty, holds NUL, or is longer than 2,000 characters."""
    if "\0" in prompt:
        raise BadInput("the prompt holds a NUL character; remove it")
    if len(prompt) > LONGEST_PROMPT:
        raise BadInput(
            f"the prompt has {len(prompt):,} characters; use at most {LONGEST_PROMPT:,}, "
            f"for example: 'a red apple, {'3d'} style'"
        )
    if any(0xD800 <= ord(c) <= 0xDFFF for c in prompt):
        raise BadInput("the prompt is not valid UTF-8; save it as UTF-8 text")
    if not prompt.strip():
        raise BadInput("the prompt is empty; say what to draw, for example: 'a red apple'")
    return prompt


@dataclass(frozen=True)
class PromptTokenizer:
    """A byte-level BPE: lower-cases A–Z alone, puts a space in front, pads and truncates.

    length: ids per prompt. pad: the id that fills the rest.
    """

    tokenizer: Tokenizer
    length: int
    pad: int

    def encode(self, prompt: str) -> tuple[np.ndarray, str]:
        """int64 (1, length), and the text that did not fit ("" where all did)."""
        text = " " + " ".join(prompt.translate(_ASCII_LOWER).split(" ")).strip(" ")
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        ids = encoding.ids[: self.length]
        lost = ""
        if len(encoding.ids) > self.length:
            lost = self.tokenizer.decode(encoding.ids[self.length :]).strip()
        padded = np.full((1, self.length), self.pad, np.int64)
        padded[0, : len(ids)] = ids
        return padded, lost


def load_tokenizer(path: Path, spec: dict[str, Any]) -> PromptTokenizer:
    """Reads tokenizer.json; `spec` is the manifest's: length and pad. Raises BadInput."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as problem:  # the library raises bare Exception
        raise BadInput(
            f"{path.name}: no tokenizer that the tokenizers library reads ({problem})"
        ) from problem
    return PromptTokenizer(tokenizer, int(spec["length"]), int(spec["pad"]))
