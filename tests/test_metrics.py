"""The metrics mean what their names say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from genedge.runtime.metrics import (
    flat_kept,
    max_error,
    picture_psnr,
    psnr,
    signed_error,
    sqnr,
    ssim,
)

PICTURES = arrays(np.uint8, (13, 17, 3))
PIXELS = arrays(np.uint8, (12, 12, 4))


@given(PICTURES, PICTURES)
def test_psnr_equals_scikit_image(a, b):
    if not np.array_equal(a, b):
        assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255))


@given(PICTURES, PICTURES)
def test_ssim_equals_scikit_image(a, b):
    expected = structural_similarity(
        a,
        b,
        channel_axis=-1,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-9)


def test_equal_pictures_have_infinite_psnr_and_count_as_100():
    a = np.full((12, 12, 4), 7, np.uint8)
    assert psnr(a[..., :3], a[..., :3]) == float("inf")
    assert picture_psnr(a, a) == 100


@given(PIXELS)
def test_colour_under_transparent_pixels_does_not_count(pixels):
    pixels[..., 3] = 0
    other = pixels.copy()
    other[..., :3] = 255 - other[..., :3]
    assert picture_psnr(pixels, other) == 100


def test_a_lost_alpha_shows_over_black_though_not_over_white():
    white = np.full((12, 12, 4), 255, np.uint8)
    gone = white.copy()
    gone[..., 3] = 0
    assert picture_psnr(gone, white) == pytest.approx(0)


def test_a_shift_of_three_levels_is_seen_by_sign_and_flatness():
    true = np.full((12, 12, 4), 255, np.uint8)
    drawn = true.copy()
    drawn[..., :3] -= 3
    assert signed_error(drawn, true) == pytest.approx([-3, -3, -3, 0])
    kept, total = flat_kept(drawn, true)
    assert (kept, total) == (144, 144 * 4)
    assert max_error(drawn, true) == 3


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_sqnr_of_a_known_error_is_known(seed, scale):
    signal = np.random.default_rng(seed).normal(size=1000) * scale
    assert sqnr(signal * 1.01, signal) == pytest.approx(40, abs=1e-6)


def test_pictures_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        psnr(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8))
