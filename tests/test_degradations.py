"""Degradations: their statistics, and their physics against plain loops in float64."""

import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tlc_jax.evaluation.metrics import psnr
from tlc_jax.training import degradations as d

KEY = jax.random.key(0)


def photograph(h: int, w: int) -> np.ndarray:
    """Smooth colours with edges, float32 in [0, 1]."""
    rows, columns = np.mgrid[:h, :w]
    waves = [np.sin(rows / 17 + i) * np.cos(columns / 11 + i) for i in range(3)]
    edges = 0.3 * ((rows // 23 + columns // 31) % 2)
    return np.clip(0.4 + 0.25 * np.stack(waves, -1) + edges[..., None], 0, 1).astype(np.float32)


EVERY = {
    "gaussian": d.GaussianNoise((5, 50)),
    "poisson": d.PoissonNoise((50, 5000)),
    "camera": d.CameraNoise(),
    "less light": d.LessLight((0, 5)),
    "motion": d.MotionBlur((2, 9)),
    "shake": d.CameraShake((2, 9), (1, 6)),
    "hand-held": d.HandHeld((2, 9), (1, 6), moving=0.5),
    "defocus": d.Defocus((1, 4)),
    "jpeg": d.Jpeg((20, 95)),
    "jpeg, full chroma": d.Jpeg((20, 95), full_chroma=0.5),
    "8 bits": d.EightBits(),
    "in turn": d.InTurn((d.MotionBlur((2, 9)), d.GaussianNoise((1, 5)), d.EightBits())),
    "sometimes": d.Sometimes(0.5, d.Defocus((1, 4))),
}


@pytest.mark.parametrize("degradation", EVERY.values(), ids=EVERY.keys())
def test_same_key_same_result_alone_and_in_a_batch(degradation):
    image = jnp.asarray(photograph(45, 52))
    keys = jax.random.split(KEY, 4)
    degrade = jax.jit(degradation)
    alone = [degrade(key, image) for key in keys]
    batch = jax.jit(jax.vmap(degradation, (0, None)))(keys, image)
    assert batch.shape == (4, 45, 52, 3) and batch.dtype == jnp.float32
    # A rounding of the blur can tip one that follows it: by one level of 8 bits, or of JPEG.
    different = jnp.abs(batch - jnp.stack(alone)) > 1e-5
    assert different.mean() < 1e-3
    assert hash(degradation) is not None  # configurations are arguments of compiled functions
    if not isinstance(degradation, d.EightBits | d.Sometimes):
        assert all((one != two).any() for one, two in itertools.pairwise(alone))


@pytest.mark.parametrize("degradation", EVERY.values(), ids=EVERY.keys())
def test_float32_whatever_the_default(degradation):
    image = jax.ShapeDtypeStruct((32, 48, 3), jnp.float32)
    with jax.enable_x64(True):
        assert jax.eval_shape(degradation, KEY, image).dtype == jnp.float32


def test_gaussian_noise_has_its_sigma():
    image = jnp.full((256, 256, 3), 0.5)
    noise = d.GaussianNoise((25, 25))(KEY, image) - image
    assert float(noise.std()) == pytest.approx(25 / 255, rel=0.01)
    assert abs(float(noise.mean())) < 1e-3
    sigmas = [float((d.GaussianNoise((10, 40))(jax.random.key(i), image) - image).std() * 255)
              for i in range(20)]  # fmt: skip
    assert 9.5 < min(sigmas) < 18 and 32 < max(sigmas) < 40.5


def test_poisson_noise_grows_with_light():
    noise = jax.jit(d.PoissonNoise((100, 100)))
    noisy = {level: noise(KEY, jnp.full((256, 256, 3), level))
             for level in (0.0, 0.2, 0.8)}  # fmt: skip
    for level, image in noisy.items():
        assert float(image.mean()) == pytest.approx(level, abs=2e-3)
        assert float(image.var()) == pytest.approx(level / 100, rel=0.03)


def test_noise_of_a_camera_grows_with_light_and_is_shared_by_neighbours():
    """In linear light, where a sensor counts; far from black and white, which clip it."""

    camera = jax.jit(d.CameraNoise((1e-3, 1e-3)))

    def noise(level: float, seed: int) -> np.ndarray:
        light = jnp.full((96, 96, 3), level)
        return np.asarray(d.to_linear(camera(jax.random.key(seed), d.to_srgb(light))) - light)

    dim, bright = (np.stack([noise(level, seed) for seed in range(24)]) for level in (0.2, 0.6))
    assert abs(bright.mean()) < 1e-3
    # The same draws: what light adds is thrice as much, and less than thrice in sum with reading's.
    ratios = bright.var((1, 2)) / dim.var((1, 2))
    assert ratios.min() > 2 and ratios.max() < 3.05
    red, green, blue = bright.var((1, 2)).mean(0)
    assert red > 1.2 * green < blue  # as a white balance amplifies
    centred = bright - bright.mean((1, 2), keepdims=True)
    beside = (centred[:, 1:] * centred[:, :-1]).mean((1, 2, 3)) / centred.var((1, 2, 3))
    assert beside.min() < 0.3 and beside.max() > 0.5  # as it comes, and demosaiced and smoothed
    gray = jax.jit(d.CameraNoise())(KEY, jnp.full((32, 32, 1), 0.5))
    assert gray.shape == (32, 32, 1) and float(gray.std()) > 0


def test_a_mosaic_is_filled_in():
    """Planes come back as they were; of a point, no other colour than the mosaic's remains."""
    rows, columns = np.mgrid[:10, :14]
    plane = np.stack([0.1 + 0.03 * rows, 0.2 + 0.02 * columns, 0.5 - 0.01 * rows], -1)
    point = np.zeros((8, 8, 3), np.float32)
    point[4, 4] = 1
    for odd_row, odd_column in itertools.product((False, True), repeat=2):
        filled = d.demosaiced(jnp.asarray(plane, jnp.float32), odd_row, odd_column)
        np.testing.assert_allclose(filled[1:-1, 1:-1], plane[1:-1, 1:-1], atol=1e-6)
        there = d.demosaiced(jnp.asarray(point), odd_row, odd_column)[4, 4]
        colour = 0 if (odd_row, odd_column) == (False, False) else 2 - (odd_row ^ odd_column)
        np.testing.assert_array_equal(there, np.eye(3)[colour])


def test_less_light_is_less_of_all_colours_alike():
    image = jnp.asarray(photograph(20, 30))
    dark = d.LessLight((2, 2))(KEY, image)
    np.testing.assert_allclose(d.to_linear(dark), d.to_linear(image) / 4, atol=1e-6)


@pytest.mark.parametrize("length", [0.0, 4.0, 12.0])
def test_paths_of_a_camera(length):
    paths = [d.trajectory(jax.random.key(i), length) for i in range(30)]
    kernels = np.float64([d.path_kernel(path, 12) for path in paths])
    assert kernels.shape == (30, 25, 25) and kernels.min() >= 0
    np.testing.assert_allclose(kernels.sum((1, 2)), 1, rtol=1e-5)
    pixels = np.arange(-12, 13)
    for axis in (1, 2):  # the picture stays where it was
        np.testing.assert_allclose(kernels.sum(3 - axis) @ pixels, 0, atol=1e-4)
    spread = np.sqrt(np.einsum("nij,ij->n", kernels, pixels[:, None] ** 2 + pixels**2))
    # A straight path at a constant speed has length / sqrt(12), and none has more than half of it;
    # the four pixels of each instant add up to a quarter of a pixel squared on each axis.
    assert spread.max() <= np.hypot(length / 2, np.sqrt(0.5)) + 1e-4
    assert np.median(spread) >= 0.5 * length / np.sqrt(12)
    if length == 0:
        np.testing.assert_allclose(kernels[:, 12, 12], 1, atol=1e-6)


def test_discs():
    disc = np.asarray(d.disc_kernel(5.0, 7))
    assert disc.shape == (15, 15) and disc.sum() == pytest.approx(1, rel=1e-6)
    assert 1 / disc.max() == pytest.approx(np.pi * 25, rel=0.02)  # its area
    assert disc[7, 7 + 4] == disc.max() and disc[7, 7 + 6] == 0
    np.testing.assert_allclose(d.disc_kernel(0.0, 2)[2, 2], 1)


def linear(x):
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("size", [(33, 40), (20, 61)])
def test_blur_is_a_convolution_of_light(size):
    image = photograph(*size)
    kernel = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    kernel /= kernel.sum()
    light = np.pad(linear(np.float64(image)), ((3, 3), (3, 3), (0, 0)), mode="reflect")
    h, w = size
    exact = sum(
        kernel[3 + i, 3 + j] * light[3 - i : 3 - i + h, 3 - j : 3 - j + w]
        for i in range(-3, 4)
        for j in range(-3, 4)
    )
    np.testing.assert_allclose(linear(np.float64(d.blur(image, kernel))), exact, atol=2e-6)


def test_half_the_light_is_no_half_of_the_samples():
    edge = jnp.tile(jnp.asarray([0.0, 0, 0, 1, 1, 1])[None, :, None], (6, 1, 3))
    kernel = jnp.zeros((3, 3)).at[1].set(jnp.asarray([0.5, 0.5, 0]))
    blurred = d.blur(edge, kernel)
    assert float(blurred[3, 2, 0]) == pytest.approx(0.7354, abs=1e-3)  # sRGB of 0.5


@pytest.mark.parametrize("curve", [d.to_srgb, d.to_linear])
def test_curves_have_gradients_everywhere(curve):
    values = jnp.asarray([0.0, 1e-4, 0.0031308, 0.04045, 0.5, 1.0])
    assert jnp.isfinite(jax.vmap(jax.grad(curve))(values)).all()
    np.testing.assert_allclose(d.to_srgb(d.to_linear(values)), values, atol=1e-6)


def test_jpeg_of_gray_and_of_samples_out_of_range():
    image = photograph(40, 50)
    gray = d.jpeg(image[..., :1], 90)
    assert gray.shape == (40, 50, 1) and float(psnr(gray, image[..., :1])) > 40
    assert np.array_equal(d.jpeg(3 * image - 1, 75), d.jpeg(np.clip(3 * image - 1, 0, 1), 75))


def libjpeg(image: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    file = io.BytesIO()
    pixels = Image.fromarray(np.uint8(np.rint(image * 255)))
    pixels.save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file), np.float32) / 255


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [10, 30, 40, 75, 95])
@pytest.mark.parametrize("size", [(96, 128), (71, 53)])
def test_jpeg_against_libjpeg(size, quality, subsampling):
    image = photograph(*size)
    theirs = libjpeg(image, quality, subsampling)
    ours = d.jpeg(jnp.asarray(image), quality, full_chroma=subsampling == "4:4:4")
    assert ours.shape == image.shape
    lost = float(psnr(theirs, image))
    # As much is lost, but for roundings inside of libjpeg, and the same: the two are closer to
    # each other than to the photograph, by 10 dB where roundings allow it.
    assert float(psnr(ours, image)) == pytest.approx(lost, abs=1)
    assert float(psnr(ours, theirs)) > max(lost + 2, min(lost + 10, 44))


def test_blocks_begin_anywhere_and_chroma_is_whole_in_some():
    """A cut-out of a file's picture: for some key it is what libjpeg makes of the picture whole."""
    image = photograph(64, 80)
    whole = np.pad(image, ((16, 16), (16, 16), (0, 0)), mode="edge")
    files = {
        (row, column, chroma): libjpeg(whole[row:, column:], 60, chroma)[
            16 - row : 80 - row, 16 - column : 96 - column
        ]
        for row in range(16) for column in range(16) for chroma in ("4:2:0", "4:4:4")
    }  # fmt: skip
    degradation = jax.jit(d.Jpeg((60, 60), full_chroma=0.5))
    found = []
    for i in range(12):
        ours = np.asarray(degradation(jax.random.key(i), image))
        close = {place: np.abs(ours - theirs).mean() for place, theirs in files.items()}
        found.append(min(close, key=close.get))
        assert close[found[-1]] < 0.6 * np.median([*close.values()])
    rows, columns, chroma = map(set, zip(*found, strict=True))
    assert len(rows) > 5 and len(columns) > 5 and len(chroma) == 2


def test_a_camera_that_does_not_turn_blurs_alike_everywhere():
    """Two ways to say the same: pictures moved along a path, and the path's kernel."""
    image = jnp.asarray(photograph(48, 64))
    path = d.trajectory(KEY, 7.0)
    np.testing.assert_allclose(
        d.shake(image, path, jnp.zeros(d.STEPS)),
        d.blur(image, d.path_kernel(path, 7)),
        atol=1e-5,
    )


def test_a_part_that_does_not_turn_is_blurred_alike_everywhere():
    """Where nothing is brighter than white and nothing moves by itself, by the one kernel."""
    image = jnp.asarray(photograph(48, 64))
    blurred = jax.jit(d.HandHeld((7, 7), (0, 0), moving=0, brightest=(1, 1)))(KEY, image)
    path = d.trajectory(jax.random.split(KEY, 9)[1], 7.0)
    np.testing.assert_allclose(blurred, d.blur(image, d.path_kernel(path, 7)), atol=1e-5)


def test_a_part_that_turns_is_blurred_across_the_way_to_its_middle():
    """So at the top left and the bottom right alike, and at the other corners the other way."""
    dots = np.zeros((97, 121, 3), np.float32)
    places = [(20, 20), (20, -21), (-21, 20), (-21, -21), (48, 60)]
    for row, column in places:
        dots[row, column] = 1
    turning = d.HandHeld((0, 0), (24, 24), 0, (1, 1))
    blurred = jax.jit(jax.vmap(turning, (0, None)))(jax.random.split(KEY, 8), jnp.asarray(dots))
    blurred = d.to_linear(blurred).mean(0)
    *corners, middle = (
        np.asarray(blurred[row % 97 - 14 : row % 97 + 15, column % 121 - 14 : column % 121 + 15, 0])
        for row, column in places
    )
    slopes = [np.tensordot(dot, np.outer(np.arange(-14, 15), np.arange(-14, 15))) / dot.sum()
              for dot in corners]  # fmt: skip
    assert slopes[1] > 1 < slopes[2] and slopes[0] < -1 > slopes[3]
    assert middle[14, 14] > 1.5 * max(dot[14, 14] for dot in corners)


def test_what_moves_by_itself_is_a_part_of_the_picture():
    image = jnp.asarray(np.random.default_rng(0).random((96, 96, 3), np.float32))
    all_alike, moving = (jax.jit(d.HandHeld((6, 6), (0, 0), share)) for share in (0, 1))
    parts = []
    for i in range(8):
        still, moved = (degrade(jax.random.key(i), image) for degrade in (all_alike, moving))
        parts.append(float((jnp.abs(still - moved).max(-1) > 1e-3).mean()))
    assert min(parts) > 0.02 and max(parts) < 0.98 and 0.2 < np.mean(parts) < 0.7


def test_what_is_white_leaves_trails():
    """A lamp that is brighter than white stays white where its light was spread."""
    lamp = jnp.zeros((40, 40, 3)).at[18:22, 18:22].set(1)
    spread = [
        float(jax.jit(d.HandHeld((12, 12), (0, 0), 0, (white, white)))(KEY, lamp).sum())
        for white in (1, 4)
    ]
    assert spread[1] > 1.5 * spread[0]


def test_a_camera_that_turns_blurs_corners_and_not_the_middle():
    image = jnp.asarray(np.random.default_rng(0).random((129, 161, 3), np.float32))
    blurred = d.CameraShake((0, 0), (8, 8))(KEY, image)
    change = np.abs(np.asarray(blurred - image)).mean(-1)
    assert change[62:67, 78:83].mean() < 0.3 * change[:9, :9].mean()
