"""Writes prompts that calibration and golden prompts lack, one on each line, for `genedge verify`.

    python tests/benchmarks/unseen.py build/held_out.txt build/paraphrases.txt

200 names in styles that training never saw of them, and the paraphrases, which no caption contains.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

COUNT = 200
HELD_OUT = Path(__file__).parents[1] / "data" / "held_out.npz"


def main(held_out: Path, paraphrased: Path) -> None:
    from genedge.toolkit.models import resolve
    from genedge.toolkit.zoo.emoji.paraphrases import paraphrases

    emoji = resolve("emoji")
    known = {*emoji.golden, *emoji.calibration}
    with np.load(HELD_OUT) as held:
        prompts = [p for p in held["prompts"].tolist() if p not in known][:COUNT]
    held_out.parent.mkdir(parents=True, exist_ok=True)
    held_out.write_text("\n".join(prompts) + "\n")
    paraphrased.write_text("\n".join(p.prompt for p in paraphrases()) + "\n")
    print(f"{len(prompts)} held-out prompts, {len(paraphrases())} paraphrases")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
