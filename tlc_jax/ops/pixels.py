"""Pixels: integers as in files, floats in [0, 1] as in networks."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)  # ITU-R BT.601
# Of floats that stand for a picture: what a network made may leave [0, 1], and so does noise that
# denoisers are measured with: 6 sigma of 100 of 255.
LOWEST, HIGHEST = -3.0, 4.0
FARTHEST = 50.0  # from 0 of what a network made, however bad it is; those in 0 ... 255 are farther
Array = TypeVar("Array", np.ndarray, jax.Array)


def to_float(pixels: Array) -> Array:
    """Integers to floats in [0, 1].

    Args:
      pixels: uint8 or uint16 of any shape, or floats, which only become float32.

    Returns:
      float32, in [0, 1] for integers.

    Raises:
      TypeError: for any other type of number.

    Examples:
      >>> to_float(np.array([0, 51, 255], np.uint8))
      array([0. , 0.2, 1. ], dtype=float32)
    """
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if jnp.issubdtype(pixels.dtype, jnp.floating):  # NumPy alone does not know bfloat16
        return pixels.astype(np.float32)
    raise TypeError(f"pixels are uint8, uint16 or floats, got {pixels.dtype}.")


def check_range(pixels: np.ndarray, lowest: float = LOWEST, highest: float = HIGHEST) -> None:
    """Refuse floats that are none of a picture, with a `ValueError`."""
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(
            "the image holds NaN or infinite numbers; look for the step that made them"
        )
    if low < lowest or high > highest:
        raise ValueError(
            f"floats of a picture are in [0, 1], got {low:.4g} to {high:.4g}; divide those in "
            "0 ... 255 by 255, and look for the step that made others"
        )


def from_float(image: np.ndarray | jax.Array, dtype: DTypeLike) -> np.ndarray:
    """Floats in [0, 1] to integers, rounded half to even; the inverse of `to_float`.

    Args:
      image: floats of any shape, clipped to [0, 1].
      dtype: uint8 or uint16.

    Returns:
      An array of the same shape, of that type.

    Raises:
      ValueError: if the image holds NaN, which no integer stands for.
      TypeError: another type.

    Examples:
      >>> from_float(np.array([-0.1, 0.2, 1.0]), np.uint8)
      array([  0,  51, 255], dtype=uint8)
    """
    if np.dtype(dtype) not in (np.uint8, np.uint16):
        raise TypeError(f"pixels are stored as uint8 or uint16, not {np.dtype(dtype)}.")
    image = to_float(np.asarray(image))
    if np.isnan(image).any():
        raise ValueError("the image holds NaN; look for the step that made it")
    return np.rint(np.clip(image, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """The BT.601 luma of RGB integers, (H, W, 3) -> (H, W, 1) of the same type."""
    return from_float(to_float(pixels) @ LUMA, pixels.dtype)


def like(image: np.ndarray, restored: np.ndarray) -> np.ndarray:
    """The restored image in the type of the input image."""
    if np.issubdtype(image.dtype, np.integer):
        return from_float(restored, image.dtype)
    return restored.astype(image.dtype)
