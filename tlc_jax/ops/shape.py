"""Rearrangements of pixels and channels, and padding to a multiple."""

import jax
import jax.numpy as jnp
import numpy as np


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


def pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Zeros below and to the right of (N, H, W, C), until H and W are multiples.

    The published networks pad before the first convolution, so these rows enter their statistics.

    Raises:
      TypeError: whole numbers, which a network must not take for samples in [0, 1].
    """
    refuse_whole_numbers(x)
    _, h, w, _ = x.shape
    return jnp.pad(x, ((0, 0), (0, -h % multiple), (0, -w % multiple), (0, 0)))


def refuse_whole_numbers(x: jax.Array) -> None:
    """What a network takes are floats: it would return the difference to whole numbers cut off."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"a network takes floats in [0, 1], got {x.dtype}; tlc_jax.restore takes both."
        )


def reflection(length: int, multiple: int, padding: str) -> tuple[np.ndarray, int]:
    """Indices that reflect an axis out to a multiple, and how many come before the picture."""
    if padding not in ("both", "end"):
        raise ValueError(f"unknown padding {padding!r}: choose 'both' or 'end'.")
    extra = -length % multiple
    before = extra // 2 if padding == "both" else 0
    # Where the picture is too small numpy reflects again and again; a single pixel it repeats.
    return np.pad(np.arange(length), (before, extra - before), mode="reflect"), before
