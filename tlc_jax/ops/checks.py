"""Checks of the operations' arguments, with messages for the caller."""

import contextlib
from collections.abc import Iterator

import chex
import jax


@contextlib.contextmanager
def refusing(words: str, exception: type[Exception] = ValueError) -> Iterator[None]:
    """Context in which a failed assertion raises `exception(words)` instead."""
    try:
        yield
    except AssertionError:
        raise exception(words) from None


def check_maps(expected: str, *maps: jax.Array) -> None:
    """Refuse arrays that are not (N, H, W, C) of one shape, or have no pixels; N may be 0."""
    got = ", ".join(str(x.shape) for x in maps)
    with refusing(f"{expected}, got shape {got}."):
        chex.assert_rank(maps, 4)
        chex.assert_equal_shape(maps)
    with refusing(f"a feature map needs rows and columns, got shape {maps[0].shape}."):
        for axis in (1, 2):
            chex.assert_axis_dimension_gt(maps[0], axis, 0)


def check_heads(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> None:
    """Refuse maps of unlike shapes, or channels that do not divide into the heads."""
    expected = f"q, k and v are (N, H, W, C) with C a multiple of {heads} heads"
    check_maps(expected, q, k, v)
    with refusing(f"{expected}, got {v.shape[-1]} channels."):
        chex.assert_scalar_positive(heads)
        chex.assert_is_divisible(v.shape[-1], heads)
