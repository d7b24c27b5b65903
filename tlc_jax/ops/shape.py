"""Other sizes: pixel shuffle and its inverse, bilinear resizing, padding to a multiple."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from tlc_jax.ops.checks import check_maps
from tlc_jax.ops.windows import Size

Array = TypeVar("Array", jax.Array, np.ndarray)


def pixel_shuffle(x: jax.Array, r: int) -> jax.Array:
    """(N, H, W, C r^2) -> (N, H r, W r, C) in PyTorch's order: input channel (c * r + i) * r + j.

    TensorFlow's depth_to_space orders the channels otherwise, (i * r + j) * C + c.
    """
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, c // r**2, r, r).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, h * r, w * r, c // r**2)


def pixel_unshuffle(x: jax.Array, r: int) -> jax.Array:
    """(N, H, W, C) -> (N, H / r, W / r, C r^2), the inverse of `pixel_shuffle`."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // r, r, w // r, r, c).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(n, h // r, w // r, c * r**2)


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


def in_strips(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, count: int, reach: int
) -> jax.Array:
    """Apply a function to a map strip by strip of its rows, so that less is stored at a time.

    Args:
      function: (N, h, W, C) -> (N, h, W, C'), any h; each row of its result depends on `reach`
        rows above and below, and on zeros beyond the map.
      x: (N, H, W, C).
      count: how many strips, H at most; one is the function alone.
      reach: rows.

    Returns:
      (N, H, W, C'), as of the function alone.
    """
    if count == 1:
        return function(x)
    height, done = x.shape[1], []
    for strip in np.array_split(np.arange(height), count):
        begin, end = int(strip[0]), int(strip[-1]) + 1
        above, below = max(begin - reach, 0), min(end + reach, height)
        done.append(function(x[:, above:below])[:, begin - above : end - above])
        x, done[-1] = jax.lax.optimization_barrier((x, done[-1]))  # one after the other
    return jnp.concatenate(done, axis=1)


PADDINGS = {"zeros": "constant", "end": "reflect", "both": "reflect"}  # modes of numpy.pad

Margins = tuple[tuple[int, int], tuple[int, int]]  # pixels (above, below), (left, right)


def margins(size: Size, multiple: int | Size, padding: str) -> Margins:
    """Pixels to add around an image of `size` so that its sides are multiples.

    Arguments and errors are those of `pad_to_multiple`.

    Examples:
      >>> margins((481, 321), 8, "end")
      ((0, 7), (0, 7))
    """
    if padding not in PADDINGS:
        raise ValueError(f"unknown padding {padding!r}: choose {', '.join(map(repr, PADDINGS))}.")
    multiples = multiple if isinstance(multiple, tuple) else (multiple, multiple)
    extra = [-n % m for n, m in zip(size, multiples, strict=True)]
    top, left = (n // 2 if padding == "both" else 0 for n in extra)
    return (top, extra[0] - top), (left, extra[1] - left)


def pad_to_multiple(x: Array, multiple: int | Size, padding: str = "zeros") -> Array:
    """Pad (..., H, W, C), so that H and W are multiples.

    Args:
      x: an array of JAX or of NumPy; the result is of the same kind.
      multiple: of both sides, or (of the height, of the width).
      padding: "zeros" adds zeros below and to the right, "end" reflects the image there, "both" on
        both sides of each axis. A side too short for that is reflected repeatedly.

    Raises:
      ValueError: another padding.
    """
    *_, h, w, _ = x.shape
    around = margins((h, w), multiple, padding)
    pad: Any = np.pad if isinstance(x, np.ndarray) else jnp.pad
    return pad(x, (*[(0, 0)] * (x.ndim - 3), *around, (0, 0)), mode=PADDINGS[padding])
