"""PSNR, SSIM and MAE of a restored image against its ground truth, for any batch.

`psnr` and `ssim` neither round, crop nor convert colours; `measure` first prepares the images as
publications do.
"""

import enum
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlc_jax.ops.pixels import to_float

TAPS = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2  # (K L)^2 with dynamic range L = 1
UNIFORM = 7  # pixels, the side of scikit-image's window


class Protocol(enum.StrEnum):
    """What publications measure in a restored image."""

    RGB = "rgb"  # all channels after rounding to 8 bits: deblurring (GoPro, HIDE, REDS)
    Y = "y"  # the luma after rounding to 8 bits: deraining, super-resolution
    SIDD = "sidd"  # all channels, clipped but not rounded: denoising of SIDD
    NAFNET = "nafnet"  # as RGB, with the SSIM of NAFNet and TLC: `ssim3d`
    NAFNET_SIDD = "nafnet-sidd"  # as SIDD, with that SSIM
    NAFSSR = "nafssr"  # as RGB, with scikit-image's SSIM: stereo super-resolution
    DPDD = "dpdd"  # as SIDD, with scikit-image's SSIM: defocus


class Scores(NamedTuple):
    """What is measured in an image: PSNR in dB, SSIM, and the mean absolute error, in [0, 1]."""

    psnr: jax.Array
    ssim: jax.Array
    mae: jax.Array


@jax.jit
def psnr(image: jax.Array | np.ndarray, reference: jax.Array | np.ndarray) -> jax.Array:
    """Peak signal-to-noise ratio, -10 log10(mean((image - reference)^2)), over all channels.

    Args:
      image, reference: (..., H, W, C) floats in [0, 1], uint8 or uint16.

    Returns:
      (...) float32 in dB, infinite for equal images.

    Raises:
      ValueError: if the shapes differ.
      TypeError: other types of numbers.

    Examples:
      >>> print(psnr(np.full((4, 4, 3), 0.6), np.full((4, 4, 3), 0.5)).round(2))
      20.0
    """
    x, y, top = _pair(image, reference)
    return _decibels((x - y) / top)


@jax.jit
def ssim(image: jax.Array | np.ndarray, reference: jax.Array | np.ndarray) -> jax.Array:
    """Structural similarity under a Gaussian window of 11 x 11 pixels (sigma 1.5), per channel.

    The mean over all windows that lie inside the image, and over channels. Wang et al., "Image
    Quality Assessment: From Error Visibility to Structural Similarity" (IEEE TIP 2004), section
    III.B, with its K1 = 0.01 and K2 = 0.03.

    Args:
      image, reference: (..., H, W, C) floats in [0, 1], uint8 or uint16; H, W >= 11.

    Returns:
      (...) float32 in [-1, 1], 1 for equal images.

    Raises:
      ValueError: if the shapes differ, or the images are smaller than the window.
      TypeError: other types of numbers.

    Examples:
      >>> print(ssim(np.full((16, 16, 1), 0.5), np.full((16, 16, 1), 0.5)))
      1.0
    """
    x, y, top = _pair(image, reference)
    _check_fits("ssim", x, TAPS)
    return _similarity(*_moments(x / top, y / top, (-3, -2), _gaussian()))


@jax.jit
def ssim3d(image: jax.Array | np.ndarray, reference: jax.Array | np.ndarray) -> jax.Array:
    """Structural similarity as NAFNet's and TLC's authors publish it, higher than `ssim`.

    Its Gaussian window has three dimensions, 11 x 11 x 11 with sigma 1.5 over rows, columns and
    channels. There is one for each number of the image; beyond its borders, and beyond the first
    and last channel, the nearest number is repeated.

    Args:
      image, reference: (..., H, W, C) floats in [0, 1], uint8 or uint16.

    Returns:
      (...) float32 in [-1, 1], 1 for equal images.

    Raises:
      ValueError: if the shapes differ.
      TypeError: other types of numbers.
    """
    x, y, top = _pair(image, reference)
    return _similarity(*_moments(x / top, y / top, (-3, -2, -1), _gaussian(), edges=True))


@jax.jit
def ssim_uniform(image: jax.Array | np.ndarray, reference: jax.Array | np.ndarray) -> jax.Array:
    """Structural similarity under even windows of 7 x 7 pixels, per channel: scikit-image's.

    That of `skimage.metrics.structural_similarity` by default, which NAFSSR and work on DPDD
    publish: variances are those of samples, and only windows inside the image count.

    Args:
      image, reference: (..., H, W, C) floats in [0, 1], uint8 or uint16; H, W >= 7.

    Returns:
      (...) float32 in [-1, 1], 1 for equal images.

    Raises:
      ValueError: if the shapes differ, or the images are smaller than the window.
      TypeError: other types of numbers.
    """
    x, y, top = _pair(image, reference)
    _check_fits("ssim_uniform", x, UNIFORM)
    even = jnp.full(UNIFORM, 1 / UNIFORM, jnp.float32)
    means, products = _moments(x / top, y / top, (-3, -2), even)
    return _similarity(means, products * (UNIFORM**2 / (UNIFORM**2 - 1)))


def luma(image: jax.Array | np.ndarray) -> jax.Array:
    """The luma Y of ITU-R BT.601 YCbCr for video, in [16, 235] / 255, as MATLAB's rgb2ycbcr.

    Y = (16 + 65.481 R + 128.553 G + 24.966 B) / 255. MATLAB rounds the result of uint8 input; this
    does not.

    Args:
      image: (..., H, W, 3) RGB, floats in [0, 1], uint8 or uint16.

    Returns:
      (..., H, W, 1) float32.

    Raises:
      ValueError: if there are not 3 channels.

    Examples:
      >>> print(luma(np.ones((1, 1, 3))) * 255)
      [[[235.]]]
    """
    rgb = to_float(jnp.asarray(image))
    if rgb.shape[-1] != 3:
        raise ValueError(f"luma is of RGB images, got {rgb.shape}; give (..., H, W, 3).")
    return (16 + _weighed(rgb)) / 255


def _weighed(rgb: jax.Array) -> jax.Array:
    weights = jnp.array([[65.481], [128.553], [24.966]], jnp.float32)
    # By default accelerators multiply matrices at lower precision.
    return jnp.matmul(rgb, weights, precision=lax.Precision.HIGHEST)


class Rule(NamedTuple):
    """How a protocol prepares and compares images."""

    rounded: bool = True  # to 8 bits
    of_luma: bool = False
    ssim: Callable[..., jax.Array] = ssim
    smallest: int = TAPS  # pixels of a side, for SSIM


RULES = {
    Protocol.RGB: Rule(),
    Protocol.Y: Rule(of_luma=True),
    Protocol.SIDD: Rule(rounded=False),
    Protocol.NAFNET: Rule(ssim=ssim3d, smallest=1),
    Protocol.NAFNET_SIDD: Rule(rounded=False, ssim=ssim3d, smallest=1),
    Protocol.NAFSSR: Rule(ssim=ssim_uniform, smallest=UNIFORM),
    Protocol.DPDD: Rule(rounded=False, ssim=ssim_uniform, smallest=UNIFORM),
}


@functools.partial(jax.jit, static_argnames="protocol")
def measure(
    image: jax.Array | np.ndarray, reference: jax.Array | np.ndarray, protocol: Protocol
) -> Scores:
    """PSNR, SSIM and MAE of a restored image by one of the protocols that publications follow.

    Args:
      image, reference: (..., H, W, C) floats in [0, 1], uint8 or uint16; RGB for `Protocol.Y`.
        Only the image is clipped, and rounded where the protocol does.
      protocol: how to measure.

    Returns:
      The scores; SSIM is NaN for images smaller than its window.

    Raises:
      ValueError: if the shapes differ, or `Protocol.Y` is asked for images that are not RGB.
    """
    rule = RULES[protocol]
    x, y, top = _pair(image, reference)
    x = jnp.clip(x, 0, top)
    if rule.rounded:
        x = jnp.rint(x * (255 / top)) * (top / 255)
    error, x, y = (x - y) / top, x / top, y / top
    if rule.of_luma:
        x, y = luma(x), luma(y)
        error = _weighed(error) / 255  # not their difference, so that equal pixels leave none
    fits = min(x.shape[-3:-1]) >= rule.smallest
    similarity = rule.ssim(x, y) if fits else jnp.full(x.shape[:-3], jnp.nan)
    return Scores(_decibels(error), similarity, jnp.abs(error).mean(axis=(-3, -2, -1)))


def _pair(
    image: jax.Array | np.ndarray, reference: jax.Array | np.ndarray
) -> tuple[jax.Array, jax.Array, float]:
    """Both in the units of the reference's type, and what is full scale there.

    So the difference of equal whole numbers is exactly 0. Between fractions a compiler that fuses
    the division with the subtraction leaves a rest.
    """
    x, y = map(jnp.asarray, (image, reference))
    if x.shape != y.shape or x.ndim < 3:
        raise ValueError(f"images are (..., H, W, C) of one shape, got {x.shape} and {y.shape}.")
    top = _full_scale(y)
    return x.astype(jnp.float32) * (top / _full_scale(x)), y.astype(jnp.float32), top


def _full_scale(pixels: jax.Array) -> float:
    """The number that stands for 1."""
    to_float(pixels[..., :0])  # refuses other types
    floats = jnp.issubdtype(pixels.dtype, jnp.floating)
    return 1.0 if floats else float(jnp.iinfo(pixels.dtype).max)


def _decibels(error: jax.Array) -> jax.Array:
    return -10 * jnp.log10(jnp.square(error).mean(axis=(-3, -2, -1)))


def _check_fits(name: str, x: jax.Array, least: int) -> None:
    h, w = x.shape[-3:-1]
    if min(h, w) < least:
        raise ValueError(
            f"{name} needs images of at least {least} x {least} pixels, got {h} x {w}."
        )


def _gaussian() -> jax.Array:
    distance = jnp.arange(TAPS, dtype=jnp.float32) - TAPS // 2
    return jax.nn.softmax(-jnp.square(distance) / (2 * SIGMA**2))


def _similarity(means: jax.Array, products: jax.Array) -> jax.Array:
    """SSIM from the moments in each window, its mean over all of them."""
    (mean_x, mean_y), (var_x, var_y, covariance) = means, products
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return (luminance * structure).mean(axis=(-3, -2, -1))


def _moments(
    x: jax.Array, y: jax.Array, axes: tuple[int, ...], weights: jax.Array, edges: bool = False
) -> tuple[jax.Array, jax.Array]:
    """(2, ...) means, (3, ...) variances and covariance, in windows along `axes`.

    With `edges` there is a window around each number, as if the outermost ones went on for ever;
    else only those inside the image.
    """
    # E[x^2] - E[x]^2 would lose in float32 the small variance of a bright flat region, and C2 would
    # not hide that. Axis by axis nothing cancels: the variance in a window is the mean of its
    # lines' variances plus the variance of their means, and likewise the covariance.
    means = jnp.stack([x, y])
    products = jnp.zeros((3, *x.shape), x.dtype)
    for axis in axes:
        if edges:
            beside = [(0, 0)] * means.ndim
            beside[axis] = (len(weights) // 2, len(weights) // 2)
            means, products = (jnp.pad(z, beside, mode="edge") for z in (means, products))
        means, products = _slide(axis, means, products, weights)
    return means, products


def _slide(
    axis: int, means: jax.Array, products: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(2, ...) means of x and y, (3, ...) variances and covariance, over a window along `axis`."""
    taps = len(weights)

    def shifted(x: jax.Array, tap: int) -> jax.Array:
        return lax.dynamic_slice_in_dim(x, tap, x.shape[axis] - taps + 1, axis)

    def mean(term: Callable[[int], jax.Array]) -> jax.Array:
        # A loop, as XLA would hold all shifted copies of unrolled additions at once.
        return lax.fori_loop(
            1, taps, lambda tap, total: total + weights[tap] * term(tap), weights[0] * term(0)
        )

    new_means = mean(lambda tap: shifted(means, tap))

    def second_moments(tap: int) -> jax.Array:
        x, y = shifted(means, tap) - new_means
        return shifted(products, tap) + jnp.stack([x * x, y * y, x * y])

    return new_means, mean(second_moments)
