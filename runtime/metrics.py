"""How far two pictures, or two tensors, are apart."""

from __future__ import annotations

import numpy as np

from .picture import over

CAP = 100.0  # dB; equal pictures count as this in means
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; inf where the two are equal.

    Both are uint8, shape (H, W, 3): composited pictures. Raises ValueError where shapes differ.
    """
    if image.shape != reference.shape:
        raise ValueError(f"shapes differ: {image.shape} and {reference.shape}")
    error = np.mean((image.astype(np.float64) - reference) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def picture_psnr(pixels: np.ndarray, reference: np.ndarray) -> float:
    """PSNR in dB over white and over black, the lower of the two, at most 100.

    Both are uint8, shape (H, W, 4), straight alpha: what is saved.
    """
    return min(CAP, *(psnr(over(pixels, g), over(reference, g)) for g in (_WHITE, _BLACK)))


_TAPS = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
_TAPS /= _TAPS.sum()


def _blurred(x: np.ndarray) -> np.ndarray:
    """(H, W, C) → (H − 10, W − 10, C): Gaussian window, where it fits whole."""
    for axis in (0, 1):
        x = np.lib.stride_tricks.sliding_window_view(x, 11, axis) @ _TAPS
    return x


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity, −1 … 1: mean over channels and over where the window fits whole.

    Both are uint8, shape (H, W, 3), H and W at least 11. Gaussian window of 11 taps, σ = 1.5,
    range 255, K₁ = 0.01, K₂ = 0.03 (Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004).
    """
    if image.shape != reference.shape or min(image.shape[:2]) < 11:
        raise ValueError(f"can not compare {image.shape} with {reference.shape}")
    x, y = image.astype(np.float64), reference.astype(np.float64)
    mx, my = _blurred(x), _blurred(y)
    vx, vy = _blurred(x * x) - mx * mx, _blurred(y * y) - my * my
    both = _blurred(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = (2 * mx * my + c1) * (2 * both + c2)
    return float((index / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())


def picture_ssim(pixels: np.ndarray, reference: np.ndarray) -> float:
    """SSIM over white and over black, the lower; both uint8 (H, W, 4), straight alpha."""
    return min(ssim(over(pixels, g), over(reference, g)) for g in (_WHITE, _BLACK))


def max_error(pixels: np.ndarray, reference: np.ndarray) -> int:
    """Largest difference in grey levels, over white and over black."""
    return max(
        int(np.abs(over(pixels, g).astype(np.int32) - over(reference, g)).max())
        for g in (_WHITE, _BLACK)
    )


def signed_error(pixels: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(4,): mean of picture minus reference in grey levels: red, green, blue over white, alpha."""
    white = over(pixels, _WHITE).astype(np.float64) - over(reference, _WHITE)
    alpha = pixels[..., 3].astype(np.float64) - reference[..., 3]
    return np.append(white.reshape(-1, 3).mean(0), alpha.mean())


def flat_kept(pixels: np.ndarray, reference: np.ndarray) -> tuple[int, int]:
    """(kept, all): pixels that are 0 or 255 in the reference, and those that come back within 2.

    Counted over alpha and over colour on white; uint8, shape (…, 4), straight alpha.
    """
    kept = total = 0
    for mine, true in (
        (pixels[..., 3], reference[..., 3]),
        (over(pixels, _WHITE), over(reference, _WHITE)),
    ):
        flat = (true == 0) | (true == 255)
        near = np.abs(mine.astype(np.int32) - true) <= 2
        kept, total = kept + int((flat & near).sum()), total + int(flat.sum())
    return kept, total


def sqnr(values: np.ndarray, reference: np.ndarray) -> float:
    """Signal-to-quantization-noise ratio of tensors, in dB; inf where they are equal."""
    reference = reference.astype(np.float64)
    noise = np.sum((values - reference) ** 2)
    return float("inf") if noise == 0 else float(10 * np.log10(np.sum(reference**2) / noise))
