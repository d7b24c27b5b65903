"""TLC's operations on an image that fills only the upper left corner of an array.

So one compiled program serves images of many sizes. `extent` is the (height, width) of the corner,
an integer array (2,) that is traced. Values outside the corner have no influence on the result, and
the result is meaningless there.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlc_jax.ops.attention import attention_of_tiles
from tlc_jax.ops.box import window_sum
from tlc_jax.ops.sliding import MOMENTS, SUMS, Runs, along
from tlc_jax.ops.windows import AxisTiles, Size, Window, axis_starts, cheapest_tile, clip_window


class Corner(NamedTuple):
    """The corner of `extent` pixels, for layers that are told which part of an array is the map."""

    extent: jax.Array

    def window_mean(self, x: jax.Array, window: Window) -> jax.Array:
        return window_mean_within(x, window, self.extent)

    def window_moments(self, x: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
        return window_moments_within(x, window, self.extent)

    def transposed_attention(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        temperature: jax.Array,
        window: Window,
        *,
        project: jax.Array | None,
    ) -> jax.Array:
        tiles = tiles_within(self.extent, (v.shape[1], v.shape[2]), window)
        return attention_of_tiles(q, k, v, temperature, project, *tiles)


def zero_beyond(x: jax.Array, extent: jax.Array) -> jax.Array:
    """(N, H, W, C) with zeros outside the corner."""
    _, h, w, _ = x.shape
    rows = (jnp.arange(h) < extent[0])[None, :, None, None]
    columns = (jnp.arange(w) < extent[1])[None, None, :, None]
    return jnp.where(rows & columns, x, jnp.zeros((), x.dtype))


def window_mean_within(x: jax.Array, window: Window, extent: jax.Array) -> jax.Array:
    """Mean of each window inside the corner; the last mean is repeated beyond them.

    Arguments and shape are as for `window_mean` of the whole array; `spread` then gives, in the
    corner, what it gives for the corner alone.
    """
    _, h, w, _ = x.shape
    size = clip_window(window, (h, w))
    y = window_sum(zero_beyond(x, extent), size)
    # A window larger than the corner is clipped to it.
    y = y / jnp.minimum(jnp.asarray(size), extent).prod().astype(y.dtype)
    return _last_repeated((y,), size, extent)[0]


def _last_repeated(runs: Runs, size: Size, extent: jax.Array) -> Runs:
    """Replace windows that reach beyond the corner by the last one inside it."""
    for axis, last in zip((1, 2), jnp.maximum(extent - jnp.asarray(size), 0), strict=True):
        index = jnp.arange(runs[0].shape[axis])
        if index.size > 1:
            index = jnp.minimum(index, last)
            runs = tuple(jnp.take(x, index, axis=axis, mode="clip") for x in runs)
    return runs


def window_moments_within(
    x: jax.Array, window: Window, extent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance as `window_moments`, arranged as in `window_mean_within`."""
    size = clip_window(window, (x.shape[1], x.shape[2]))
    runs = MOMENTS.first(x.astype(jnp.float32))
    for axis in (1, 2):
        runs = _moments_along(runs, axis, size[axis - 1], extent[axis - 1])
    mean, variance = _last_repeated(runs, size, extent)
    return mean, variance


def _moments_along(runs: Runs, axis: int, k: int, extent: jax.Array) -> Runs:
    """Moments of all runs of k along an axis; if k exceeds the extent, those of the extent."""
    length = runs[0].shape[axis]

    def of_extent(runs: Runs) -> Runs:
        inside = jnp.arange(length) < extent
        inside = jnp.expand_dims(inside, [other for other in range(4) if other != axis])

        def mean_of(x: jax.Array) -> jax.Array:
            (total,) = along((jnp.where(inside, x, 0.0),), axis, length, SUMS)
            return total / extent.astype(x.dtype)

        means, variances = runs
        mean = mean_of(means)
        both = mean, mean_of(variances + jnp.square(means - mean))
        return jax.tree.map(lambda x: jnp.repeat(x, length - k + 1, axis=axis), both)

    if k == length:
        return of_extent(runs)
    return lax.cond(extent < k, of_extent, lambda runs: along(runs, axis, k, MOMENTS), runs)


@functools.partial(jax.jit, static_argnames=("size", "window"))  # traced once for a level
def tiles_within(extent: jax.Array, size: Size, window: Window) -> tuple[AxisTiles, AxisTiles]:
    """Tiles of both axes of the corner of a map of `size`, for `attention_of_tiles`.

    Their number is what the whole map may need; those that the corner does not need are empty.
    """
    window = clip_window(window, size)
    lengths = map(np.arange, (1, 1), (size[0] + 1, size[1] + 1))
    row_counts, column_counts = map(_most_tiles, size, window, lengths)
    tile = cheapest_tile(row_counts, column_counts)
    rows, columns = map(_axis_tiles_within, extent, size, window, tile)
    return rows, columns


def _most_tiles(length: int, window: int, tile: Any) -> Any:
    """The most tiles that `length` positions need: each cell may have one that is not full."""
    cells = 2 * len(axis_starts(length, window)) - 1
    return length // tile + cells


def _cell_of(index: jax.Array, ends: jax.Array) -> jax.Array:
    """The cell that holds each index, from where the cells end; the last one beyond them."""
    cell = jnp.searchsorted(ends, index, side="right", method="compare_all")
    return cell.clip(0, ends.size - 1)


def _axis_tiles_within(extent: jax.Array, length: int, window: int, tile: int) -> AxisTiles:
    """`axis_tiles` for the first `extent` positions of an axis."""
    most = len(axis_starts(length, window))
    which = jnp.arange(most)
    k = jnp.minimum(window, extent)
    count = (extent - 1) // k + 1
    step = -(-(extent - k) // jnp.maximum(count - 1, 1))
    starts = jnp.minimum(which * step, extent - k)

    cuts = jnp.sort(jnp.concatenate([starts, starts + k]))
    begin, end = cuts[:-1], cuts[1:]  # of the cells, some of them empty
    tiles = -(-(end - begin) // tile)
    before = jnp.cumsum(tiles) - tiles

    number = jnp.arange(_most_tiles(length, window, tile))
    cell = _cell_of(number, before + tiles)
    first = begin[cell] + (number - before[cell]) * tile
    wanted = first[:, None] + jnp.arange(tile)[None]
    inside = wanted < end[cell][:, None]

    position = jnp.arange(length)
    of_position = _cell_of(position, end)
    start, in_tile = starts[:, None], first[None]
    holds = (start <= in_tile) & (in_tile < start + k) & inside[None, :, 0]
    return AxisTiles(
        source=jnp.minimum(wanted, extent - 1).ravel(),
        inside=inside.ravel(),
        place=before[of_position] * tile + position - begin[of_position],
        cover=(holds & (which < count)[:, None]).astype(jnp.float32),
    )
