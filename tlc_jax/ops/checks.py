"""What the operations refuse, in words for those who called them."""

from typing import Any

import chex
import jax


def refusal(words: str, exception: type[Exception] = ValueError) -> dict[str, Any]:
    """Keywords for an assertion of chex: what it raises, and what it says besides the fact."""
    return {
        "exception_type": exception,
        "custom_message": words,
        "include_default_message": False,
    }


def check_maps(expected: str, *maps: jax.Array) -> None:
    """Refuse what are not arrays (N, H, W, C) of one shape, with pixels; N may be 0."""
    got = ", ".join(str(x.shape) for x in maps)
    chex.assert_rank(maps, 4, **refusal(f"{expected}, got shape {got}."))
    chex.assert_equal_shape(maps, **refusal(f"{expected}, got shapes {got}."))
    for axis in (1, 2):
        words = f"a map has rows and columns, got shape {maps[0].shape}."
        chex.assert_axis_dimension_gt(maps[0], axis, 0, **refusal(words))


def check_heads(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> None:
    """Refuse maps of unlike shapes, or channels that do not divide into the heads."""
    expected = f"q, k and v are (N, H, W, C) with C a multiple of {heads} heads"
    check_maps(expected, q, k, v)
    words = refusal(f"{expected}, got {v.shape[-1]} channels.")
    chex.assert_scalar_positive(heads, **words)
    chex.assert_is_divisible(v.shape[-1], heads, **words)
