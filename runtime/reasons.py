"""Why pictures differ: what would make them agree is tried, and named where it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations, product

import numpy as np

from .artifact import Golden
from .metrics import picture_psnr
from .run import Pipeline

_GAIN = 6.0  # dB by which an explanation must bring the pictures closer
_ENOUGH = 20.0  # dB that it must reach
_WORST = 8  # pictures that explanations are tried on
_SIDE = 128  # of larger pictures the middle is looked at
_LOW = 32.0  # dB of the mean, below which other seeds and other prompts are tried
_WHAT = {"prompt": "another tokenizer", "noise": "another seed or another noise generator"}
_WHAT |= {"image": "another picture or another range of its values"}
_WHAT |= {"meaning": "another seed: its choice of meaning", "style": "another seed: its style"}


def other_inputs(
    mine: Sequence[Mapping[str, str]], golden: Mapping[str, Sequence[str]] | None
) -> list[str]:
    """One sentence per input whose values are not those of the float generator, by their hashes.

    mine: per prompt, hash by input. golden: by input, one hash per prompt; None where the artifact
    stores none, as older ones do.
    """
    found = []
    for name, hashes in (golden or {}).items():
        # A name is "source:input" where source says what fills it.
        source, _, plain = name.partition(":")
        wrong = sum(m.get(plain) != h for m, h in zip(mine, hashes, strict=False))
        if wrong:
            what = _WHAT.get(source, "other values")
            found.append(f"input {plain} differs for {wrong} of {len(mine)} prompts: {what}")
    return found


def reasons(
    drawn: Sequence[np.ndarray],
    golden: Golden,
    psnrs: Sequence[float],
    pipeline: Pipeline | None,
) -> list[str]:
    """Explanations that bring the worst pictures at least 6 dB closer to the float generator's.

    pipeline: draws with other seeds; None where the inputs are known to be the right ones.
    """
    true = golden.pictures[: len(drawn)]
    order = np.argsort(psnrs)
    worst = order[:_WORST]
    here = [(_middle(drawn[i]), _middle(true[i])) for i in worst]
    best = float(np.mean([psnrs[i] for i in worst]))
    if best >= 60:
        return []
    found = []
    for name, explained in (_swaps(here), _shifts(here, max(d.std() for d, _ in here))):
        if explained >= max(best + _GAIN, _ENOUGH):
            found.append(f"{name}: undone, the worst pictures have {explained:.1f} dB")
    if not found and float(np.mean(psnrs)) < _LOW:
        tried = _other_prompts(drawn, true)
        if pipeline is not None:
            tried += _other_seed(pipeline, golden, worst, best)
        found += [max(tried)[1]] if tried else []
    return found


def _middle(pixels: np.ndarray) -> np.ndarray:
    top, left = (max(0, (n - _SIDE) // 2) for n in pixels.shape[:2])
    return pixels[top : top + _SIDE, left : left + _SIDE]


def _mean_psnr(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.mean([picture_psnr(np.ascontiguousarray(a), b) for a, b in pairs]))


def _swaps(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[str, float]:
    """The order of colour channels that agrees best, other than the present one."""
    orders = [o for o in permutations((0, 1, 2)) if o != (0, 1, 2)]
    scores = {o: _mean_psnr([(a[..., [*o, 3]], b) for a, b in pairs]) for o in orders}
    best = max(scores, key=lambda o: scores[o])
    return f"swapped channels ({''.join('RGB'[c] for c in best)} for RGB)", scores[best]


def _shifts(pairs: Sequence[tuple[np.ndarray, np.ndarray]], contrast: float) -> tuple[str, float]:
    """The shift by one pixel, of the whole or of half of the pixels, that agrees best."""
    if contrast < 1:  # a shift of one colour is the same colour
        return "", 0.0
    height, width = pairs[0][0].shape[:2]
    y, x = np.mgrid[:height, :width]
    halves = {
        "the picture": np.ones((height, width), bool),
        "the left half": x < width // 2,
        "the right half": x >= width // 2,
        "the upper half": y < height // 2,
        "the lower half": y >= height // 2,
        "every other pixel": (x + y) % 2 == 0,
        "every other pixel, from the second": (x + y) % 2 == 1,
        "every other row": y % 2 == 0,
        "every other row, from the second": y % 2 == 1,
        "every other column": x % 2 == 0,
        "every other column, from the second": x % 2 == 1,
    }
    scores = {}
    moves = {"down": (-1, 0), "up": (1, 0), "right": (0, -1), "left": (0, 1)}
    for (half, mask), (move, (dy, dx)) in product(halves.items(), moves.items()):
        back = [(np.where(mask[..., None], np.roll(a, (dy, dx), (0, 1)), a), b) for a, b in pairs]
        # What comes in from the other side at the edges is not looked at.
        scores[half, move] = _mean_psnr([(a[1:-1, 1:-1], b[1:-1, 1:-1]) for a, b in back])
    half, move = max(scores, key=lambda k: scores[k])
    return f"{half} is shifted {move} by one pixel", scores[half, move]


def _other_prompts(drawn: Sequence[np.ndarray], true: np.ndarray) -> list[tuple[float, str]]:
    """Whether most pictures are those of other prompts: (dB that these reach, what to say)."""
    n = min(len(drawn), 32)
    scores = np.array([[picture_psnr(a, b) for b in true[:n]] for a in drawn[:n]])
    moved = (scores.max(1) > np.diag(scores) + _GAIN) & (scores.max(1) >= _ENOUGH)
    count = int(moved.sum())
    if count * 2 <= n:
        return []
    text = f"{count} of {n} pictures are those of other prompts: the order differs"
    return [(float(scores.max(1)[moved].mean()), text)]


def _other_seed(
    pipeline: Pipeline, golden: Golden, worst: np.ndarray, best: float
) -> list[tuple[float, str]]:
    """Whether the golden pictures were drawn from seeds near those that are stored, likewise."""
    changes = {"one more": 1, "one less": -1}
    found = []
    for name, step in changes.items():
        pairs = []
        for i in worst[:4]:
            seed = max(0, golden.seeds[i] + step)
            feed = pipeline.prepare(golden.prompts[i], seed, images=golden.images_of(i))
            pixels = pipeline.to_pixels(pipeline.outputs(feed.inputs))
            pairs.append((pixels, golden.pictures[i]))
        if (explained := _mean_psnr(pairs)) >= max(best + _GAIN, _ENOUGH):
            text = f"another seed ({name}): with it, the worst pictures have {explained:.1f} dB"
            found.append((explained, text))
    return found
