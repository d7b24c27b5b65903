"""Pixel shuffle, its inverse (space to depth), and padding to a multiple."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

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


PADDINGS = {"zeros": "constant", "end": "reflect", "both": "reflect"}  # modes of numpy.pad

Margins = tuple[tuple[int, int], tuple[int, int]]  # pixels (above, below), (left, right)


def margins(size: tuple[int, int], multiple: int | tuple[int, int], padding: str) -> Margins:
    """Pixels to add around an image of `size` so that its sides are multiples.

    Args:
      size: (H, W).
      multiple: of both sides, or (of the height, of the width).
      padding: "both" adds half above and to the left, "zeros" and "end" all below and to the right.

    Raises:
      ValueError: another padding.

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


def pad_to_multiple(x: Array, multiple: int | tuple[int, int], padding: str = "zeros") -> Array:
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
