"""Prompt → token ids as CLIP's and T5's tokenizers give them, through the `tokenizers` library."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from .errors import BadInput


@dataclass(frozen=True)
class WordTokenizer:
    """A tokenizer.json with marks around each prompt.

    length: ids per prompt, the marks included. pad: the id that fills the rest. before, after: ids
    of the marks that the file's own post-processor sets at begin and end.
    """

    tokenizer: Tokenizer
    length: int
    pad: int
    before: tuple[int, ...]
    after: tuple[int, ...]

    def encode(self, prompt: str) -> tuple[np.ndarray, str]:
        """int64 (1, length), and the text that did not fit, as it was written ("" where all did).

        The marks always fit: a prompt that is too long loses its end, and the end mark stays last.
        """
        encoding = self.tokenizer.encode(prompt, add_special_tokens=False)
        room = self.length - len(self.before) - len(self.after)
        lost = ""
        if len(encoding.ids) > room:
            lost = prompt[encoding.offsets[room][0] :].strip()
        ids = [*self.before, *encoding.ids[:room], *self.after]
        padded = np.full((1, self.length), self.pad, np.int64)
        padded[0, : len(ids)] = ids
        return padded, lost


def word_tokenizer(text: str, length: int, pad: int, where: str) -> WordTokenizer:
    """Reads the text of a tokenizer.json. Raises BadInput naming `where`."""
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as problem:  # the library raises bare Exception
        raise BadInput(
            f"{where}: no tokenizer that the tokenizers library reads ({problem})"
        ) from problem
    tokenizer.no_truncation()
    tokenizer.no_padding()
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    marked = tokenizer.encode("a").ids
    at = next((i for i in range(len(marked)) if marked[i : i + len(plain)] == plain), None)
    if at is None:
        raise BadInput(f"{where}: its post-processor changes the words themselves; unknown here")
    before, after = tuple(marked[:at]), tuple(marked[at + len(plain) :])
    if length <= len(before) + len(after):
        raise BadInput(f"{where}: {length} ids leave no room for a word")
    return WordTokenizer(tokenizer, length, pad, before, after)


def plain_words(text: str) -> str:
    """A tokenizer.json without the truncation and padding that it was saved with."""
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer.to_str(pretty=False)
