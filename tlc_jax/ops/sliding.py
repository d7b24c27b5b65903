"""Sums and moments over a sliding window along an axis.

By merging those of shorter runs, or by the products of `ops.products`, as the backend wants them.
A run is k consecutive positions. Runs are merged and never subtracted. So NaN, infinity or a huge
number in one position reaches only the runs that hold it, and the rounding error grows neither with
the length of the axis nor with other values on it. As van Herk, and Gil and Werman, do for maxima,
a run is the end of one block, whole blocks, and the beginning of another block.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlc_jax.ops.backends import by_backend, stored
from tlc_jax.ops.products import (
    Runs,
    finite_moments_along,
    finite_sums_along,
    moments_along,
    sums_along,
)
from tlc_jax.ops.windows import Size

Merge = Callable[[Sequence[Runs], Sequence[Any]], Runs]
"""Merges adjacent runs, given their lengths or numbers in proportion to them, into one run."""

# Positions in a block, the fastest measured (2 cores, AVX-512).
BLOCK_LENGTH = 4
WIDE_BLOCK_LENGTH = 16  # where the window covers the axis
EDGE_LENGTH = 16  # for a GPU


class Statistic(NamedTuple):
    """A statistic of runs: the sum, or mean and variance."""

    first: Callable[[jax.Array], Runs]  # of single positions
    merge: Merge
    products: Callable[[Runs, int, int], Runs]  # all runs of k along an axis
    finite: Callable[[Runs, int, int], Runs]  # the same, of finite numbers alone
    whole: Callable[[jax.Array], Runs]  # of the whole map, from single positions
    # Gradient of x, from x, its runs of k, their gradients, k, and sums over a position's runs.
    back: Callable[[Runs, Runs, Runs, int, Callable[[jax.Array], jax.Array]], Runs]


def _merge_sums(parts: Sequence[Runs], _: Sequence[Any]) -> Runs:
    return (functools.reduce(operator.add, (total for (total,) in parts)),)


def _merge_moments(parts: Sequence[Runs], counts: Sequence[Any]) -> Runs:
    """The updating formulae of Chan, Golub and LeVeque (1979), for several runs at once.

    Only differences of means enter: nothing large cancels, a constant map keeps its mean, and no
    variance is negative.
    """
    shares = [count / sum(counts) for count in counts]
    means, variances = zip(*parts, strict=True)
    first = means[0]
    mean = first + sum(s * (m - first) for s, m in zip(shares[1:], means[1:], strict=True))
    terms = zip(shares, means, variances, strict=True)
    spreads = (s * (v + jnp.square(m - mean)) for s, m, v in terms)
    return mean, functools.reduce(operator.add, spreads)


def _whole_moments(x: jax.Array) -> Runs:
    """The mean in two passes: the first sum is long, and its values may be far from zero."""
    mean_of = functools.partial(jnp.mean, axis=(1, 2), keepdims=True)
    rough = mean_of(x)
    mean = rough + mean_of(x - rough)
    return mean, mean_of(jnp.square(x - mean))


def _moments_back(x: Runs, y: Runs, gradient: Runs, k: int, held: Callable[..., Any]) -> Runs:
    of_mean, of_variance = gradient
    total = held(of_variance)
    spread = x[0] * total - held(of_variance * y[0])
    return (held(of_mean) + 2 * spread) / k, total / k


def _first_moments(x: jax.Array) -> Runs:
    x = x.astype(jnp.float32)
    return x, jnp.zeros_like(x)


SUMS = Statistic(
    first=lambda x: (x,),
    merge=_merge_sums,
    products=sums_along,
    finite=finite_sums_along,
    whole=lambda x: (x.astype(jnp.float32).sum(axis=(1, 2), keepdims=True),),
    back=lambda x, y, gradient, k, held: (held(gradient[0]),),
)
MOMENTS = Statistic(
    first=_first_moments,
    merge=_merge_moments,
    products=moments_along,
    finite=finite_moments_along,
    whole=lambda x: _whole_moments(x.astype(jnp.float32)),
    back=_moments_back,
)

# The methods that merge: all runs of k along the middle axis, (B, L, M) -> (B, L - k + 1, M).


def _cut(runs: Any, start: int, count: int, step: int = 1) -> Runs:
    return jax.tree.map(lambda x: x[:, start : start + count * step : step], runs)


def _halves(x: Runs, k: int, merge: Merge) -> Runs:
    """Each run from two of half its length, and one more position if k is odd."""
    if k == 1:
        return x
    half, rest = stored(_halves(x, k // 2, merge)), k % 2
    count = x[0].shape[1] - k + 1
    parts = [_cut(half, 0, count), _cut(half, k // 2, count)] + [_cut(x, k - 1, count)] * rest
    return merge(parts, [k // 2, k // 2] + [1] * rest)


def _reduce_window(x: Runs, k: int, merge: Merge) -> Runs:
    """k additions for each output, the plainest form; moments, too slow so, use `_halves`."""
    if merge is not _merge_sums:
        return _halves(x, k, merge)
    return (lax.reduce_window(x[0], 0.0, lax.add, (1, k, 1), (1, 1, 1), "VALID"),)


def _cumsum(x: Runs, k: int, merge: Merge) -> Runs:
    """Cumulative sums from both ends that restart every k positions: a run merges two of them."""
    b, length, m = x[0].shape

    def join(one: Any, other: Any) -> tuple[jax.Array, Runs]:
        counts, runs = zip(one, other, strict=True)
        return counts[0] + counts[1], merge(runs, counts)

    def totals(reverse: bool) -> Runs:
        count = -(-length // k)
        filled = ((0, 0), (0, count * k - length), (0, 0))
        blocks = jax.tree.map(lambda x: jnp.pad(x, filled).reshape(b, count, k, m), x)
        ones = jnp.ones((1, 1, k, 1))
        _, runs = lax.associative_scan(join, (ones, blocks), reverse=reverse, axis=2)
        return jax.tree.map(lambda x: x.reshape(b, count * k, m), runs)

    count = length - k + 1
    ends, starts = _cut(totals(reverse=True), 0, count), _cut(totals(reverse=False), k - 1, count)
    behind = (np.arange(count) % k)[None, :, None].astype(np.float32)  # positions in the next block
    both = merge([ends, starts], [k - behind, behind])
    return jax.tree.map(functools.partial(jnp.where, behind == 0), ends, both)


def _blocks(x: Runs, k: int, merge: Merge, size: int = BLOCK_LENGTH) -> Runs:
    """Merge the last positions of a block, whole blocks (recursively) and the first of the next.

    The cost does not grow with the window: the map is read about twice.
    """
    b, length, m = x[0].shape
    outputs = length - k + 1
    if k <= 2 * size:
        return merge([_cut(x, i, outputs) for i in range(k)], [1] * k)
    whole = k // size
    block = stored(merge([_cut(x, i, length // size, size) for i in range(size)], [1] * size))
    between = stored(_blocks(block, whole - 1, merge, size))
    heads = -(-outputs // size)

    def lane(begin: int) -> Runs:
        """The runs that begin at position `begin` of each block."""
        count, end = -(-(outputs - begin) // size), begin + k
        positions = (*range(begin, size), *range(end - end % size, end))
        parts = [_cut(x, i, count, size) for i in positions] + [_cut(between, 1, count)]
        counts = [1] * len(positions) + [size * (whole - 1)]
        if sum(counts) < k:
            parts, counts = [*parts, _cut(block, whole, count)], [*counts, size]
        filled = ((0, 0), (0, heads - count), (0, 0))
        return jax.tree.map(lambda x: jnp.pad(x, filled), merge(parts, counts))

    def interleaved(*lanes: jax.Array) -> jax.Array:
        return jnp.stack(lanes, axis=2).reshape(b, heads * len(lanes), m)[:, :outputs]

    return jax.tree.map(interleaved, *map(lane, range(min(size, outputs))))


def _edges(x: Runs, k: int, merge: Merge, size: int = EDGE_LENGTH) -> Runs:
    """As `_blocks`, each run by itself: one pass with some 2 * size reads from a GPU's caches."""
    moments = merge is _merge_moments
    length = x[0].shape[1]
    outputs = length - k + 1
    if k <= 4 * size:
        return merge([_cut(x, i, outputs) for i in range(k)], [1] * k)
    whole = k // size - 1  # blocks in every window, wherever it begins
    block = merge([_cut(x, i, length // size, size) for i in range(size)], [1] * size)
    between = _edges(block, whole, merge, size)
    begin = np.arange(outputs)
    first = -(-begin // size)  # whole block
    behind = begin + k - (first + whole) * size  # positions behind these blocks, below 2 * size
    before = first * size - begin
    inner = jax.tree.map(lambda x: jnp.take(x, first, axis=1, mode="clip"), between)

    def terms(taken: np.ndarray, start: int) -> Runs:
        """What the positions from `start` on add to the runs that have taken them."""
        part = _cut(x, start, outputs)
        if moments:  # about the mean of the blocks, most of the run: little cancels
            deviation = part[0] - inner[0]
            part = deviation, jnp.square(deviation) + part[1]
        return jax.tree.map(lambda x: jnp.where(taken[None, :, None], x, 0), part)

    parts = [terms(i < before, i) for i in range(size - 1)]
    parts += [terms(i < behind, k - 1 - i) for i in range(2 * size - 1)]
    total, *square = (functools.reduce(operator.add, each) for each in zip(*parts, strict=True))
    if not moments:
        return (inner[0] + total,)
    shift = total / k
    spread = (inner[1] * (whole * size) + square[0]) / k - jnp.square(shift)
    return inner[0] + shift, spread


MERGING: dict[str, Callable[[Runs, int, Merge], Runs]] = {
    "reduce_window": _reduce_window,
    "cumsum": _cumsum,
    "blocks": _blocks,
    "edges": _edges,
}
METHODS = "auto", *MERGING, "products"


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def slide(x: jax.Array, window: Size, statistic: Statistic, method: str = "auto") -> Runs:
    """All windows inside a map: (N, H, W, C) -> (N, H - k_h + 1, W - k_w + 1, C) float32 each."""
    if window == x.shape[1:3]:
        return statistic.whole(x)
    # An axis that its window covers goes first: it leaves the other one less to do.
    axes = (2, 1) if window[1] == x.shape[2] else (1, 2)
    runs = statistic.first(x)
    for axis in axes:
        runs = along(runs, axis, window[axis - 1], statistic, method)
    return tuple(x.astype(jnp.float32) for x in runs)


def along(runs: Runs, axis: int, k: int, statistic: Statistic, method: str = "auto") -> Runs:
    """All runs of k along axis 1 or 2 of (N, H, W, C), float32; k may be its whole length."""
    if k == 1:
        return runs
    made: Runs = _along(runs, axis, k, statistic, method)
    return made


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _along(x: Runs, axis: int, k: int, statistic: Statistic, method: str) -> Runs:
    def form(method: str) -> Callable[[Runs], Runs]:
        if method == "products":
            return lambda x: statistic.products(x, axis, k)
        if method == "finite products":
            return lambda x: statistic.finite(x, axis, k)
        return lambda x: _merged(x, axis, k, statistic, method)

    if method != "auto":
        return form(method)(x)
    forms = "products", "finite products", "blocks", "edges"
    return by_backend("window sums", {name: form(name) for name in forms}, x)


def _merged(runs: Runs, axis: int, k: int, statistic: Statistic, method: str) -> Runs:
    n, h, w, c = runs[0].shape
    runs = tuple(x.astype(jnp.float32) for x in runs)
    if statistic is SUMS and axis == 2 and k == w:
        # XLA:CPU's own sum is the fastest here, and along the other axis by far the slowest.
        return (runs[0].sum(axis=axis, keepdims=True),)
    if axis == 1:
        apart, together = (n, h, w * c), (n, h - k + 1, w, c)
    else:
        apart, together = (n * h, w, c), (n, h, w - k + 1, c)
    runs = jax.tree.map(lambda x: x.reshape(apart), runs)
    if k == runs[0].shape[1]:
        runs = _blocks(runs, k, statistic.merge, WIDE_BLOCK_LENGTH)
    else:
        runs = MERGING[method](runs, k, statistic.merge)
    return jax.tree.map(lambda x: x.reshape(together), runs)


def _along_forward(x: Runs, axis: int, k: int, statistic: Statistic, method: str) -> Any:
    y: Runs = _along(x, axis, k, statistic, method)
    return y, (x, y)


def _along_backward(
    axis: int, k: int, statistic: Statistic, method: str, saved: Any, gradient: Runs
) -> Any:
    """Sums over windows again; JAX's own gradient would pad and add for each part of a merge."""
    x, y = saved
    border = [(k - 1, k - 1) if other == axis else (0, 0) for other in range(4)]

    def held(y: jax.Array) -> jax.Array:
        """For each position, the sum over the runs that hold it."""
        if k == x[0].shape[axis]:
            return jnp.broadcast_to(y, x[0].shape)
        (total,) = along((jnp.pad(y, border),), axis, k, SUMS, method)
        return total

    return (tuple(g.astype(x[0].dtype) for g in statistic.back(x, y, gradient, k, held)),)


_along.defvjp(_along_forward, _along_backward)
