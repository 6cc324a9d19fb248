"""Random numbers from a seed, the same bits in any language.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the key is
the seed, the counter is (block, stream, 0, 0). Stream 0 gives noise, stream 1 choices.
"""

from __future__ import annotations

import secrets

import numpy as np

from .errors import BadInput

LARGEST_SEED = 2**63 - 1
NOISE_STREAM, CHOICE_STREAM = 0, 1
STYLE_CHOICE, MEANING_CHOICE = 0, 1

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def checked_seed(seed: int) -> int:
    """The seed, or BadInput where it is no whole number from 0 to 2⁶³−1."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise BadInput(f"seed {seed!r} is not a whole number; use one from 0 to {LARGEST_SEED}")
    if not 0 <= seed <= LARGEST_SEED:
        raise BadInput(f"seed {seed} is out of range; use a whole number from 0 to {LARGEST_SEED}")
    return int(seed)


def new_seed() -> int:
    """A seed from the system's randomness, short enough to be typed again (below 2³¹)."""
    return secrets.randbelow(2**31)


def philox_words(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox4x32-10 itself. counter: uint32 (N, 4). Returns uint32 (N, 4)."""
    c0, c1, c2, c3 = counter.astype(np.uint64).T
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], 1).astype(np.uint32)


def philox(seed: int, stream: int, blocks: int) -> np.ndarray:
    """uint32 (4 × blocks,): the words of counters (0, stream, 0, 0) … (blocks − 1, stream, 0, 0).

    Raises BadInput for a seed out of range.
    """
    seed = checked_seed(seed)
    counter = np.zeros((blocks, 4), np.uint32)
    counter[:, 0], counter[:, 1] = np.arange(blocks), stream
    return philox_words(counter, (seed & 0xFFFFFFFF, seed >> 32)).ravel()


def noise(seed: int, shape: tuple[int, ...], stream: int = NOISE_STREAM) -> np.ndarray:
    """float32 of `shape`: near-normal numbers of mean 0 and variance 1, between −6 and 6.

    Number i is (sum of the 12 uint16 in words 6 i … 6 i + 5 − 393210) / 65536: exact in float32.
    """
    count = int(np.prod(shape))
    words = philox(seed, stream, -(-6 * count // 4))[: 6 * count].reshape(count, 6)
    total = (words & np.uint32(0xFFFF)).sum(1, dtype=np.int64)
    total += (words >> np.uint32(16)).sum(1, dtype=np.int64)
    values = (total - 393210).astype(np.float32) / np.float32(65536)
    return np.reshape(values, shape)


def choice(seed: int, count: int, which: int = STYLE_CHOICE) -> int:
    """A whole number from 0 to count − 1: (word `which` of stream 1 × count) >> 32.

    which: STYLE_CHOICE or MEANING_CHOICE, so that the two do not follow each other.
    """
    return int(philox(seed, CHOICE_STREAM, 1)[which]) * count >> 32
