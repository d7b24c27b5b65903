"""Bilinear resizing by powers of two."""

import jax
import jax.numpy as jnp
import numpy as np

from tlc_jax.ops.checks import check_maps


def resize_bilinear(x: jax.Array, levels: int) -> jax.Array:
    """Resize by 2**levels, antialiased when it shrinks, as `jax.image.resize` does.

    The results are equal if the sides divide by 2**-levels; else this cuts the rest off, where that
    function stretches. That one multiplies by dense matrices; this reads only weighted pixels.

    Args:
      x: (N, H, W, C) floats.
      levels: how often the sides are doubled, or if negative, halved.

    Returns:
      (N, H 2**levels, W 2**levels, C), rounded down, of x's type.

    Raises:
      ValueError: an array that is not NHWC or has no pixels.
    """
    check_maps("expected an array (N, H, W, C)", x)
    n, h, w, c = x.shape
    x = _resize_axis(x.reshape(n, h, w * c), levels)
    h = x.shape[1]
    x = _resize_axis(x.reshape(n * h, w, c), levels)
    return x.reshape(n, h, x.shape[1], c)


def _resize_axis(x: jax.Array, levels: int) -> jax.Array:
    """Resize the middle axis of (B, L, M)."""
    if levels == 0:
        return x
    length, scale = x.shape[1], 2.0**levels
    centre = (np.arange(int(length * scale)) + 0.5) / scale - 0.5
    reach = max(1, int(1 / scale))  # pixels from the centre of the triangle to where it ends
    index = np.floor(centre).astype(int) - reach + 1 + np.arange(2 * reach)[:, None]
    inside = (index >= 0) & (index < length)
    weights = np.maximum(0, 1 - np.abs(index - centre) / reach) * inside
    weights = jnp.asarray(weights / weights.sum(axis=0), x.dtype)[:, None, :, None]
    # As in ops.spread, XLA fuses the gathers into the sum.
    index = index.clip(0, length - 1)
    taps = (jnp.take(x, i, axis=1, mode="clip") * w for i, w in zip(index, weights, strict=True))
    return sum(taps, start=jnp.zeros((), x.dtype))
