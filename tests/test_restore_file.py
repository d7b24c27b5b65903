"""`tlc.restore_file`, and the numbers that `tlc.restore` refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tlc_jax as tlc

EXAMPLE = Path(tlc.__file__).parent / "examples/noisy.jpg"


@pytest.fixture(scope="module")
def model_and_params():
    return tlc.load("denoise")


def test_a_path_and_a_task(tmp_path, monkeypatch, model_and_params):
    monkeypatch.chdir(tmp_path)
    Image.open(EXAMPLE).crop((0, 0, 64, 48)).save("photo.png")
    written = tlc.restore_file("photo.png")
    assert written == Path("restored/photo.denoise.png")
    model, params = model_and_params
    expected = tlc.restore(model.clone(local_mode=True), params, tlc.read_image("photo.png"))
    assert np.abs(tlc.read_image(written) - expected.clip(0, 1)).max() <= 0.51 / 255
    both = tlc.restore_file("photo.png", output="both.jpg", task="denoise,deblur", quality="fast")
    assert both == Path("both.jpg") and both.is_file()
    half = tlc.restore_file("photo.png", output="half.png", strength=0.5, mode="global")
    expected = tlc.restore(model, params, tlc.read_image("photo.png"))
    mixed = (tlc.read_image("photo.png") + expected) / 2
    assert np.abs(tlc.read_image(half) - mixed.clip(0, 1)).max() <= 0.51 / 255


def test_what_cannot_be(tmp_path):
    with pytest.raises(tlc.ImageError, match="cannot read"):
        (tmp_path / "a.png").write_text("none")
        tlc.restore_file(tmp_path / "a.png", output=tmp_path / "b.png")
    with pytest.raises(ValueError, match="no such file"):
        tlc.restore_file(tmp_path / "nowhere.png")
    with pytest.raises(tlc.CheckpointError, match="tasks are denoise, deblur"):
        tlc.restore_file(EXAMPLE, output=tmp_path, task="sharpen")
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((8, 8, 3), 128.0), "got 128 to 128; divide those in 0 ... 255 by 255"),
        (np.full((8, 8, 3), np.nan), "NaN"),
        (np.full((8, 8, 3), np.inf), "infinite"),
        (np.linspace(-4, 1, 192).reshape(8, 8, 3), "got -4 to 1"),
    ],
)
def test_numbers_that_are_no_picture(model_and_params, image, words):
    with pytest.raises(ValueError, match=r"floats of a picture are in|NaN or infinite") as caught:
        tlc.restore(*model_and_params, image.astype(np.float32))
    assert words in str(caught.value)


def test_a_little_beyond_is_a_picture(model_and_params):
    """As another network leaves it."""
    image = np.linspace(-0.1, 1.1, 192, dtype=np.float32).reshape(8, 8, 3)
    assert np.isfinite(tlc.restore(*model_and_params, image)).all()


@pytest.mark.parametrize(
    ("name", "meant"), [("denoising", "denoise"), ("maxim-gpro", "maxim-gopro")]
)
def test_a_name_that_is_nearly_right(name, meant):
    with pytest.raises(tlc.CheckpointError, match=f"is '{meant}' meant"):
        tlc.load(name)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mode": "x"}, "mode is local, global or auto, got 'x'"),
        ({"quality": "good"}, "quality is fast or best, got 'good'"),
        ({"strength": 2}, "strength is 0 to 1, got 2"),
        ({"strength": float("nan")}, "strength is 0 to 1"),
        ({"task": None}, "task is a text"),
        ({"task": "denoise,auto"}, "auto chooses by itself"),
        ({"task": "sharpen"}, "task 'sharpen': tasks are denoise, .*dehaze and auto"),
    ],
)
def test_choices_that_there_are_not(tmp_path, options, sentence):
    tlc.write_image(tmp_path / "a.png", np.zeros((8, 8, 3)))
    with pytest.raises((ValueError, TypeError), match=sentence):
        tlc.restore_file(tmp_path / "a.png", output=tmp_path / "b.png", **options)
    assert not (tmp_path / "b.png").exists()
