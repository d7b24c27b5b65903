"""PSNR and SSIM of a restored image against its ground truth, for any batch, differentiable.

`psnr` and `ssim` neither round, crop nor convert colours; `measure` first prepares the images as
publications do.
"""

import enum
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlc_jax.ops.pixels import to_float

TAPS = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2  # (K L)^2 with dynamic range L = 1


class Protocol(enum.StrEnum):
    """What publications measure in a restored image."""

    RGB = "rgb"  # all channels after rounding to 8 bits: deblurring (GoPro, HIDE, REDS)
    Y = "y"  # the luma after rounding to 8 bits: deraining, super-resolution
    SIDD = "sidd"  # all channels, clipped but not rounded: denoising of SIDD


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
    x, y = _pair(image, reference)
    return -10 * jnp.log10(jnp.square(x - y).mean(axis=(-3, -2, -1)))


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
    x, y = _pair(image, reference)
    h, w = x.shape[-3:-1]
    if min(h, w) < TAPS:
        raise ValueError(f"ssim needs images of at least {TAPS} x {TAPS} pixels, got {h} x {w}.")

    # E[x^2] - E[x]^2 would lose in float32 the small variance of a bright flat region, and C2 would
    # not hide that. Axis by axis nothing cancels: the variance in a window is the mean of its
    # lines' variances plus the variance of their means, and likewise the covariance.
    means = jnp.stack([x, y])
    products = jnp.zeros((3, *x.shape), x.dtype)
    for axis in (-3, -2):
        means, products = _slide(axis, means, products)
    (mean_x, mean_y), (var_x, var_y, covariance) = means, products
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return (luminance * structure).mean(axis=(-3, -2, -1))


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
    weights = jnp.array([[65.481], [128.553], [24.966]], jnp.float32)
    # By default accelerators multiply matrices at lower precision.
    return (16 + jnp.matmul(rgb, weights, precision=lax.Precision.HIGHEST)) / 255


@functools.partial(jax.jit, static_argnames="protocol")
def measure(
    image: jax.Array | np.ndarray, reference: jax.Array | np.ndarray, protocol: Protocol
) -> tuple[jax.Array, jax.Array]:
    """PSNR and SSIM of a restored image by one of the protocols that publications follow.

    Args:
      image, reference: (..., H, W, C) floats in [0, 1], uint8 or uint16; RGB for `Protocol.Y`.
        Only the image is clipped, and rounded where the protocol does.
      protocol: how to measure.

    Returns:
      `psnr` and `ssim`; the latter is NaN for images smaller than its window.

    Raises:
      ValueError: if the shapes differ, or `Protocol.Y` is asked for images that are not RGB.
    """
    x, y = _pair(image, reference)
    x = jnp.clip(x, 0, 1)
    if protocol != Protocol.SIDD:
        x = jnp.rint(x * 255) / 255
    if protocol == Protocol.Y:
        x, y = luma(x), luma(y)
    fits = min(x.shape[-3:-1]) >= TAPS
    return psnr(x, y), ssim(x, y) if fits else jnp.full(x.shape[:-3], jnp.nan)


def _pair(*images: jax.Array | np.ndarray) -> tuple[jax.Array, jax.Array]:
    x, y = (to_float(jnp.asarray(image)) for image in images)
    if x.shape != y.shape or x.ndim < 3:
        raise ValueError(f"images are (..., H, W, C) of one shape, got {x.shape} and {y.shape}.")
    return x, y


def _slide(axis: int, means: jax.Array, products: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(2, ...) means of x and y, (3, ...) variances and covariance, over a window along `axis`."""
    distance = jnp.arange(TAPS, dtype=jnp.float32) - TAPS // 2
    weights = jax.nn.softmax(-jnp.square(distance) / (2 * SIGMA**2))

    def shifted(x: jax.Array, tap: int) -> jax.Array:
        return lax.dynamic_slice_in_dim(x, tap, x.shape[axis] - TAPS + 1, axis)

    def mean(term: Callable[[int], jax.Array]) -> jax.Array:
        # A loop, as XLA would hold all shifted copies of unrolled additions at once.
        return lax.fori_loop(
            1, TAPS, lambda tap, total: total + weights[tap] * term(tap), weights[0] * term(0)
        )

    new_means = mean(lambda tap: shifted(means, tap))

    def second_moments(tap: int) -> jax.Array:
        x, y = shifted(means, tap) - new_means
        return shifted(products, tap) + jnp.stack([x * x, y * y, x * y])

    return new_means, mean(second_moments)
