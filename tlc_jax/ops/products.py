"""Sums and moments over a sliding window along an axis, as products with matrices of 0 and 1.

A product takes k times the operations of other forms, but reads each map once and stores its result
alone, in whatever layout the operations around it have: a TPU has operations to spare, not bytes.

It reads the whole axis, and 0 x NaN is NaN. So what is not finite counts as a huge number, which is
found in the sums that hold it; these become NaN.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

HUGE = 1e15  # and beyond, in what is summed; 1e30 in squares

Runs = tuple[jax.Array, ...]
"""(sum,) or (mean, biased variance) of runs of one length, arrays of one shape."""


def _in_parts(along: Callable[[Runs, int, int], Runs]) -> Callable[[Runs, int, int], Runs]:
    """Cuts a long axis into overlapping parts: the cost of a product grows with its length."""

    @functools.wraps(along)
    def of_parts(runs: Runs, axis: int, k: int) -> Runs:
        count = runs[0].shape[axis] - k + 1
        part = -(-max(3 * k, 512) // 128) * 128  # a TPU's lanes are 128
        ends = [min(start + part, count) for start in range(0, count, part)]
        parts = [
            along(tuple(lax.slice_in_dim(x, i, j + k - 1, axis=axis) for x in runs), axis, k)
            for i, j in zip((0, *ends), ends, strict=False)
        ]
        return tuple(jnp.concatenate(each, axis) for each in zip(*parts, strict=True))

    return of_parts


@_in_parts
def sums_along(runs: Runs, axis: int, k: int) -> Runs:
    """Sums of all runs of k along axis 1 or 2 of (N, H, W, C), float32; bfloat16 is read as it is.

    A sum of HUGE or more is NaN.
    """
    (x,) = runs
    length = x.shape[axis]
    if k == length:
        return (x.astype(jnp.float32).sum(axis=axis, keepdims=True),)
    total = _product(_holds(length, k)[None], bounded(x, HUGE)[None], axis)
    return (jnp.where(jnp.abs(total) < HUGE / 2, total, jnp.nan),)


@_in_parts
def moments_along(runs: Runs, axis: int, k: int) -> Runs:
    """Mean and biased variance of all runs of k along axis 1 or 2, from those of each position.

    Each run holds one multiple of k, its anchor. Deviations are those from the mean there: it is
    one of the run's own, so their mean square is at most k + 1 times the variance, and little is
    lost by subtracting the square of their mean.
    """
    mean, variance = runs
    length = mean.shape[axis]
    if k == length:
        return _whole(mean, variance, axis)
    mean, variance = bounded(mean, HUGE), bounded(variance, HUGE**2)
    anchors = [lax.slice_in_dim(mean, i, i + 1, axis=axis) for i in range(0, length, k)]

    def anchor(number: jax.Array) -> jax.Array:
        """The anchors of these numbers, one for each position along the axis."""
        # Selections fuse into what reads them, gathers do not.
        number = jnp.expand_dims(number, [other + 1 for other in range(4) if other != axis])
        chosen = anchors[0][None]
        for i, value in enumerate(anchors[1:], 1):
            chosen = jnp.where(number >= i, value[None], chosen)
        return chosen

    # A position is in runs of the anchor before it, or at it, and in those of the next one.
    position, start = jnp.arange(length), jnp.arange(length - k + 1)
    numbers, number = jnp.stack([position // k, position // k + 1]), -(-start // k)
    holds = _holds(length, k)[None] & (numbers[:, None] == number[None, :, None])
    deviation = mean[None] - anchor(numbers)
    total = _product(holds, deviation, axis)
    square = _product(holds, jnp.square(deviation) + variance[None], axis)

    (origin,) = anchor(number[None])
    fine = (jnp.abs(total) < HUGE / 2) & (jnp.abs(origin) < HUGE / 2) & (square < HUGE**2 / 2)
    shift = total / k
    variance = jnp.maximum(square / k - jnp.square(shift), 0)
    return jnp.where(fine, origin + shift, jnp.nan), jnp.where(fine, variance, jnp.nan)


@_in_parts
def finite_sums_along(runs: Runs, axis: int, k: int) -> Runs:
    """`sums_along` where all is finite, by a constant matrix: in ONNX a single product."""
    (x,) = runs
    if k == x.shape[axis]:
        return (x.sum(axis=axis, keepdims=True),)
    start, position = np.ogrid[: x.shape[axis] - k + 1, : x.shape[axis]]
    return (_matrix_product((start <= position) & (position < start + k), x, axis),)


@_in_parts
def finite_moments_along(runs: Runs, axis: int, k: int) -> Runs:
    """`moments_along` where all is finite, by constant matrices."""
    mean, variance = runs
    length = mean.shape[axis]
    if k == length:
        return _whole(mean, variance, axis)
    start, position = np.ogrid[: length - k + 1, :length]
    held = (start <= position) & (position < start + k)

    def anchor(number: np.ndarray) -> jax.Array:
        places = np.minimum(number.ravel(), (length - 1) // k) * k
        return jnp.take(mean, places, axis=axis, mode="clip")

    own = -(-start // k)  # the anchor that a run holds
    total, square = jnp.zeros((), mean.dtype), jnp.zeros((), mean.dtype)
    for number in (position // k, position // k + 1):
        deviation = mean - anchor(number)
        holds = held & (number == own)
        total = total + _matrix_product(holds, deviation, axis)
        square = square + _matrix_product(holds, jnp.square(deviation) + variance, axis)
    shift = total / k
    return anchor(own) + shift, jnp.maximum(square / k - jnp.square(shift), 0)


def _matrix_product(holds: np.ndarray, x: jax.Array, axis: int) -> jax.Array:
    terms = "ol,nlwc->nowc" if axis == 1 else "ol,nhlc->nhoc"
    return jnp.einsum(terms, holds.astype(np.float32), x.astype(jnp.float32), precision="highest")


def _whole(mean: jax.Array, variance: jax.Array, axis: int) -> Runs:
    # In two passes: values may be far from zero.
    rough = mean.mean(axis=axis, keepdims=True)
    exact = rough + (mean - rough).mean(axis=axis, keepdims=True)
    return exact, (variance + jnp.square(mean - exact)).mean(axis=axis, keepdims=True)


def _holds(length: int, k: int) -> jax.Array:
    """(runs, length) whether a run holds a position."""
    start, position = jnp.arange(length - k + 1)[:, None], jnp.arange(length)[None]
    return (start <= position) & (position < start + k)


def bounded(x: jax.Array, huge: float) -> jax.Array:
    """`huge` for what is not finite, or no less; bfloat16 stays, all else becomes float32."""
    if x.dtype != jnp.bfloat16:
        x = x.astype(jnp.float32)
    return jnp.where(jnp.abs(x) < huge, x, jnp.asarray(huge, x.dtype))


def _product(matrices: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    """The products of x[i] along an axis with matrix i, added up: (I, N, H, W, C) -> (N, ...)."""
    terms = "iol,inlwc->nowc" if axis == 1 else "iol,inhlc->nhoc"
    # Matrices of 0 and 1 are exact in any type.
    return jnp.einsum(
        terms, matrices.astype(x.dtype), x, precision="highest", preferred_element_type=jnp.float32
    )
