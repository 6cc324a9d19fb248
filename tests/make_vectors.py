"""Writes tests/vectors/: what another language's noise, choices and token ids must equal."""

import json
from pathlib import Path

import numpy as np

from genedge.runtime.noise import MEANING_CHOICE, choice, noise
from genedge.runtime.run import load
from genedge.toolkit.verbs.options import bundled

HERE = Path(__file__).parent / "vectors"
SEEDS = [0, 1, 2, 42, 1000, 2**31 - 1, 2**32, 2**32 + 1, 2**53 + 1, 2**63 - 1]
TEXTS = [
    "a red apple",
    "A RED APPLE",
    "grinning face with big eyes",
    "it's o'clock",
    "wow!!!",
    "two  spaces",
    " leading and trailing ",
    "line\r\nbreak\tand tab",
    "İstanbul ıI",
    "e\u0301 and é",
    "👩\u200d🚀",
    "שלום",
    "红苹果",
    "word " * 40,
]


def main() -> None:
    HERE.mkdir(exist_ok=True)
    rows = {
        "noise": [
            {"seed": str(s), "bits": noise(s, (16,)).view(np.uint32).tolist()} for s in SEEDS
        ],
        "choices": [
            {
                "seed": str(s),
                "style_of_seven": choice(s, 7),
                "meaning_of_sixteen": choice(s, 16, MEANING_CHOICE),
            }
            for s in SEEDS
        ],
    }
    (HERE / "noise.json").write_text(json.dumps(rows, indent=1) + "\n")
    tokenizer = load(bundled("emoji")).tokenizer
    tokens = [{"text": t, "ids": tokenizer.encode(t)[0][0].tolist()} for t in TEXTS]
    (HERE / "tokens.json").write_text(json.dumps(tokens, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
