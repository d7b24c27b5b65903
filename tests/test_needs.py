"""`--task auto`: noise and blur are found where they are, and only there."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tlc_jax as tlc
from tlc_jax.files.pictures import read_picture
from tlc_jax.jobs.needs import needs_of

EXAMPLES = Path(tlc.__file__).parent / "examples"
CLEAN = np.asarray(Image.open(EXAMPLES / "kodim.png").convert("RGB"))


def jpeg(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def noisy(pixels, sigma):
    noise = sigma * np.random.default_rng(0).standard_normal(pixels.shape)
    return np.uint8(np.clip(pixels + noise, 0, 255) + 0.5)


SHAKEN = np.asarray(Image.open(EXAMPLES / "shaken.jpg"))
CASES = {
    "clean": (CLEAN, (False, False)),
    "clean JPEG": (jpeg(CLEAN, 85), (False, False)),
    "noise": (noisy(CLEAN, 8), (True, False)),
    "noise in a JPEG": (np.asarray(Image.open(EXAMPLES / "noisy.jpg")), (True, False)),
    "shake": (SHAKEN, (False, True)),
    "both": (noisy(SHAKEN, 12), (True, True)),
    "a small part": (noisy(CLEAN, 12)[:40, :600], (True, False)),
    "one colour": (np.full((30, 40, 3), 90, np.uint8), (False, False)),
    "one line": (np.full((1, 300, 3), 90, np.uint8), (False, False)),
}


@pytest.mark.parametrize(("pixels", "tasks"), CASES.values(), ids=CASES)
def test_what_a_picture_needs(pixels, tasks):
    needs = needs_of(np.float32(pixels) / 255)
    assert needs.tasks == tasks, needs


def test_auto(terminal, tmp_path):
    """Each picture gets what it needs, and that is said."""
    Image.fromarray(noisy(CLEAN, 12)[:160, :256]).save(tmp_path / "noisy.png")
    Image.fromarray(CLEAN[:160, :256]).save(tmp_path / "clean.png")
    pictures = ("noisy.png", "clean.png")
    code, out, err = terminal(tmp_path, "restore", *pictures, "--task", "auto", "-o", ".")
    assert (code, err) == (0, "")
    assert "noise found (noise" in out and "neither noise nor blur found" in out
    written = {
        name: read_picture(tmp_path / f"{name}.auto.png").pixels for name in ("noisy", "clean")
    }
    np.testing.assert_array_equal(written["clean"], CLEAN[:160, :256])
    model, params = tlc.load("denoise")
    expected = tlc.restore(
        model.clone(local_mode=True), params, read_picture(tmp_path / "noisy.png").pixels
    )
    np.testing.assert_array_equal(written["noisy"], expected)


def test_what_needs_nothing_is_copied(terminal, tmp_path):
    """Byte for byte, unless another format or quality is asked for."""
    source = tmp_path / "clean.jpg"
    Image.fromarray(CLEAN[:160, :256]).save(source, quality=90)
    for options, is_copied in (
        (("--task", "auto", "-o", "a.jpg"), True),
        (("--strength", "0", "-o", "b.jpg"), True),
        (("--task", "auto", "-o", "c.jpg", "--quality-jpeg", "90"), False),
        (("--task", "auto", "-o", "d.png"), False),
    ):
        code, out, err = terminal(tmp_path, "restore", "clean.jpg", *options)
        assert (code, err) == (0, "")
        written = (tmp_path / options[options.index("-o") + 1]).read_bytes()
        assert (written == source.read_bytes()) == is_copied == ("copied as it is" in out)
