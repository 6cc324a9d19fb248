"""From numbers to a PNG: levels, alpha, background, marks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image

from genedge.runtime.errors import BadInput, EnvironmentFailed
from genedge.runtime.picture import over, parse_background, save_png, suspicion, to_image, to_pixels
from genedge.runtime.signature import Signature, TensorSpec


def signature(channels: int, layout: str, low: float = 0, high: float = 1) -> Signature:
    return Signature({}, "x", TensorSpec("float32", (1, channels, 4, 4), low, high), layout)


RGBA = signature(4, "rgba-premultiplied")


@given(arrays(np.uint8, (1, 4, 4, 4)))
def test_every_grey_level_of_premultiplied_alpha_comes_back_over_black(levels):
    levels[:, :3] = np.minimum(levels[:, :3], levels[:, 3:])
    pixels = to_pixels(levels.astype(np.float32) / 255, RGBA)
    back = over(pixels, (0, 0, 0)).astype(int)
    assert np.abs(back - levels[0, :3].transpose(1, 2, 0)).max() <= 1
    assert np.array_equal(pixels[..., 3], levels[0, 3])


def test_colour_above_alpha_is_limited_to_it():
    values = np.ones((1, 4, 4, 4), np.float32)
    values[:, 3] = 0.5
    assert np.array_equal(to_pixels(values, RGBA)[0, 0], [255, 255, 255, 128])


def test_the_range_of_the_output_is_read_and_not_assumed():
    values = np.zeros((1, 3, 4, 4), np.float32)
    assert to_pixels(values, signature(3, "rgb", -1, 1))[0, 0].tolist() == [128, 128, 128, 255]
    assert to_pixels(values, signature(3, "rgb", 0, 1))[0, 0].tolist() == [0, 0, 0, 255]


def test_gray_becomes_three_equal_channels():
    values = np.full((1, 1, 4, 4), 0.2, np.float32)
    assert to_pixels(values, signature(1, "gray"))[0, 0].tolist() == [51, 51, 51, 255]


@pytest.mark.parametrize(
    ("text", "colour"),
    [("white", (255, 255, 255)), ("transparent", None), ("#0a1B2c", (10, 27, 44))],
)
def test_backgrounds(text, colour):
    assert parse_background(text) == colour


@pytest.mark.parametrize("text", ["", "blue", "#12345", "#gggggg", "#1234567"])
def test_an_unknown_background_is_refused(text):
    with pytest.raises(BadInput, match="use white, transparent or #rrggbb"):
        parse_background(text)


def test_constant_and_noisy_pictures_are_suspicious_and_a_disc_is_not():
    flat = np.full((64, 64, 4), 255, np.uint8)
    noisy = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    disc = flat.copy()
    y, x = np.mgrid[:64, :64]
    disc[(y - 32) ** 2 + (x - 32) ** 2 < 400] = [255, 0, 0, 255]
    assert "white" in suspicion(flat)
    assert "same colour" in suspicion(np.full((64, 64, 4), (200, 30, 30, 255), np.uint8))
    assert "empty" in suspicion(np.zeros((64, 64, 4), np.uint8))
    assert "noise" in suspicion(noisy)
    assert suspicion(disc) == ""


def test_a_saved_png_says_what_it_is(tmp_path):
    path = tmp_path / "a.png"
    image = to_image(np.full((8, 8, 4), 9, np.uint8), None)
    save_png(image, path, {"prompt": "a red apple — 苹果", "seed": "7"})
    with Image.open(path) as back:
        back.load()
        assert back.mode == "RGBA"
        assert back.text["prompt"] == "a red apple — 苹果"
        assert "trainedAlgorithmicMedia" in back.text["XML:com.adobe.xmp"]
        assert "DigitalSourceType" in back.text["XML:com.adobe.xmp"]


def test_a_png_that_can_not_be_written_leaves_nothing(tmp_path):
    image = to_image(np.zeros((8, 8, 4), np.uint8), None)
    with pytest.raises(BadInput, match="choose another place"):
        save_png(image, tmp_path / "no" / "a.png", {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(EnvironmentFailed, match="No space left"):
        save_png(to_image(np.zeros((8, 8, 4), np.uint8), None), tmp_path / "a.png", {})
