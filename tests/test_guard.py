"""The guard: local where that is well, global where local statistics make false colours."""

from pathlib import Path

import jax
import numpy as np
import pytest

import tlc_jax as tlc
from tlc_jax.files.pictures import read_picture
from tlc_jax.inference import guard, programs
from tlc_jax.ops.pixels import to_float

NOISY = read_picture(Path(__file__).parent.parent / "tlc_jax/examples/noisy.png").pixels
MODEL, PARAMS = tlc.load("denoise")
LOCAL = MODEL.clone(local_mode=True)


@pytest.fixture(scope="module")
def failing():
    """A network whose channel attention answers far too strongly, and a picture that it meets ill.

    Half of that is gray and half a pattern that no training showed: the whole has statistics in
    between, each window in the pattern has its own.
    """

    def stronger(path, x):
        return x * 5 if "sca" in jax.tree_util.keystr(path) and x.ndim == 4 else x

    rows, columns = np.mgrid[:320, :480]
    pattern = np.where(columns < 240, (rows + columns) % 2 * 255, 128)
    image = np.repeat(pattern[..., None], 3, axis=-1).astype(np.uint8)
    return jax.tree_util.tree_map_with_path(stronger, PARAMS), image


def test_false_colours_are_not_written(failing):
    params, image = failing
    restored, mode = guard.restore_guarded(MODEL, params, image)
    assert mode == "global"
    assert np.array_equal(restored, tlc.restore(MODEL, params, image))
    locally = tlc.restore(LOCAL, params, image)
    assert guard.stray(to_float(locally), to_float(image)) > guard.LIMIT


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_is_well_is_local_and_costs_nothing(monkeypatch, local, dtype):
    image = NOISY if dtype is np.uint8 else to_float(NOISY)
    ran = []

    def forward(model, *arguments, **options):
        ran.append(model)
        return programs.forward(model, *arguments, **options)

    monkeypatch.setattr(guard, "forward", forward)
    restored, mode = guard.restore_guarded(MODEL.clone(local_mode=local), PARAMS, image)
    assert (mode, ran) == ("local", [LOCAL])
    assert restored.dtype == dtype
    assert np.array_equal(restored, tlc.restore(LOCAL, PARAMS, image))


def test_the_command_says_what_it_did(failing, terminal, tmp_path):
    too_strong, image = failing
    tlc.save(tmp_path / "failing", MODEL, too_strong)
    tlc.write_image(tmp_path / "x.png", image)
    arguments = ("restore", "x.png", "--mode", "auto", "--overwrite")
    for name, options, model, params, said in (
        ("failing", ("--checkpoint", "failing"), MODEL, too_strong, True),
        ("denoise", (), LOCAL, PARAMS, False),
    ):
        code, out, err = terminal(tmp_path, *arguments, *options)
        assert (code, err) == (0, "") and out.startswith(f"{name}: NAFNet auto")
        assert ("false colours" in out) == said
        written = read_picture(tmp_path / f"restored/x.{name}-auto.png").pixels
        assert np.array_equal(written, tlc.restore(model, params, image))


def test_in_a_bucket(failing):
    params, image = failing
    restored, mode = guard.restore_guarded(MODEL, params, image, bucket=(320, 512))
    assert mode == "global"
    assert np.array_equal(restored, tlc.restore(MODEL, params, image, bucket=(320, 512)))


def test_nothing_finite(failing):
    """No mode mends NaN; what is restored shows it, and nothing hides it."""
    _, image = failing
    params = jax.tree.map(lambda x: np.full_like(x, np.nan), PARAMS)
    restored, mode = guard.restore_guarded(MODEL, params, to_float(image))
    assert np.isnan(restored).all() and mode == "local"


def test_false_colours_of_both_modes_are_local():
    """Where global is no better, it is no remedy."""
    image = to_float(NOISY) * 3 - 1
    assert guard.suspicious(image, tlc.restore(LOCAL, PARAMS, image))
    assert guard.restore_guarded(MODEL, PARAMS, image).mode == "local"


def halves(left, right, size=(32, 64)):
    """A picture of two colours."""
    return np.repeat(np.repeat([[left, right]], size[1] // 2, 1), size[0], 0)[..., None] * np.ones(
        3, np.float32
    )


@pytest.mark.parametrize(
    ("locally", "globally", "fails"),
    [
        (halves(0.5, 0), halves(0.3, 0), True),
        (halves(0.5, 0), halves(0.45, 0), False),  # the same in both modes
        (halves(0.5, 0), halves(0.45, 0.3), False),  # so, too; only the global one fails right
        (halves(0.5, 0), halves(0.3, 0.6), False),  # the global one is worse
        (halves(np.nan, 0), halves(0.3, 0), True),
        (halves(0.5, 0), halves(np.nan, 0), False),
        (halves(np.nan, 0), halves(np.nan, 0), False),
        (halves(0.5, 0, (64, 128)), halves(0.3, 0, (64, 128)), True),  # of a network that enlarges
        (halves(0.5, 0, (64, 128)), halves(0.45, 0, (64, 128)), False),
    ],
)
def test_what_fails(locally, globally, fails):
    """Of a picture of zeros."""
    image = halves(0, 0)
    assert guard.suspicious(image, locally)
    assert guard.fails(image, locally, globally) == fails


@pytest.mark.parametrize("size", [(7, 5), (16, 40), (33, 47)])
def test_stray_is_of_the_mean_of_a_block(size):
    rng = np.random.default_rng(0)
    image, other = rng.random((2, *size, 3))
    if max(size) < 16:
        expected = np.abs((image - other).mean((0, 1))).max()
        assert guard.stray(image, other) == pytest.approx(expected)
    checker = np.indices(size).sum(0)[..., None] % 2 * np.ones(3)
    assert guard.stray(checker, np.full_like(checker, 0.5)) < 0.05
    image = np.zeros((*size, 3))
    image[..., 1] = 0.25
    assert guard.stray(image, 0 * image) == pytest.approx(0.25)
