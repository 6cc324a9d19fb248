"""Prompts that a student learns from: `python -m genedge.toolkit.zoo.emoji.prompts > prompts.txt`.

Every known name in every style, and every keyword, phrase and Chinese name, whose style the seed
picks. None is kept for judging. The pictures are not needed for it, their captions are.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .captions import CHINESE, captions_of
from .data import STYLES, Art, translations
from .paraphrases import kept_out
from .train import load_data


def prompts_of(art: Art, cache: Path) -> list[str]:
    """All of them, each once."""
    english = captions_of(art)
    chinese = captions_of(art, translations(cache, "zh"), CHINESE)
    said = [f"{name}, {style} style" for name in english.names.values() for style in STYLES]
    said += [*english.vague, *english.phrases, *chinese.names.values(), *chinese.vague]
    kept = kept_out()
    return [p for p in dict.fromkeys(said) if p not in kept]


if __name__ == "__main__":
    cache = Path(sys.argv[1] if len(sys.argv) > 1 else ".cache")
    print("\n".join(prompts_of(load_data(cache, lambda *row: None), cache)))
