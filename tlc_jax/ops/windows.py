"""Where the windows of TLC lie: integer arithmetic on static sizes.

Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation" (ECCV 2022,
arXiv 2112.04491). A window is a pair (height, width); `None` is the whole feature map.
"""

import functools
import itertools
import math
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlc_jax.ops.checks import check_maps

Size = tuple[int, int]
"""(height, width) in pixels."""

Window = Size | None
"""(height, width) in pixels of the feature map it applies to; `None` is the whole map."""

# The cost of the C x C matrix of one tile of channel attention, as a number of pixels that are
# multiplied by such matrices. Measured at Restormer's levels on a CPU.
TILE_COST = 200


def site_window(size: Size, train_size: Size, window: Size) -> Size:
    """Window of one site of a network, in pixels of its feature map.

    k = f * window // train_size on each axis, where f is the size of the site's feature map for a
    training crop. It does not depend on the image to restore.

    Args:
      size: (H, W) of the site's feature map for a training crop.
      train_size: (height, width) of the training crops, input pixels.
      window: (height, width) in input pixels.

    Returns:
      (height, width) in feature pixels, at least 1.

    Examples:
      >>> site_window((32, 32), (256, 256), (384, 384))
      (48, 48)
    """
    down, across = map(lambda f, t, w: max(1, f * w // t), size, train_size, window)
    return down, across


def clip_window(window: Window, size: Size) -> Size:
    """The window, clipped to a map of `size`; `None` becomes the whole map.

    Examples:
      >>> clip_window((48, 48), (32, 160))
      (32, 48)
    """
    if window is None:
        return size
    check_pair("window", window)
    return min(int(window[0]), size[0]), min(int(window[1]), size[1])


def check_pair(name: str, pair: Size) -> None:
    """Refuse anything but a tuple (height, width) of positive integers of 32 bits."""

    def whole(n: Any) -> bool:
        return isinstance(n, numbers.Integral) and not isinstance(n, bool) and 0 < int(n) < 2**31

    if not isinstance(pair, tuple) or len(pair) != 2 or not all(map(whole, pair)):
        raise ValueError(f"{name} is a tuple (height, width) of whole pixels, got {pair!r}.")


def axis_starts(length: int, window: int) -> tuple[int, ...]:
    """Starts of the fewest evenly spaced windows that cover an axis, the last flush with its end.

    Examples:
      >>> axis_starts(1280, 384)
      (0, 299, 598, 896)
    """
    if length <= window:
        return (0,)
    count = (length - 1) // window + 1
    step = math.ceil((length - window) / (count - 1) - 1e-8)
    return (*range(0, length - window, step), length - window)


def axis_cells(length: int, window: int) -> list[tuple[int, int]]:
    """Cut an axis at every start and end of its windows: the cells, as (begin, end).

    Every window is a union of cells, and all positions of a cell lie in the same windows.

    Examples:
      >>> axis_cells(5, 3)
      [(0, 2), (2, 3), (3, 5)]
    """
    window = min(window, length)
    starts = axis_starts(length, window)
    return list(itertools.pairwise(sorted({*starts, *(start + window for start in starts)})))


Index = np.ndarray | jax.Array


class AxisTiles(NamedTuple):
    """An axis cut into cells, and each cell into tiles of equal length, the last one filled up.

    Equal tiles make one batch, whatever the number and lengths of the cells; they have nothing to
    do with `tlc_jax.tiled`. NumPy arrays if the length of the axis is known while tracing.
    """

    source: Index  # (tiles * length,) the position on the axis of each position in the tiles
    inside: Index  # (tiles * length,) False where a tile was filled up
    place: Index  # (axis,) the position in the tiles of each position on the axis
    cover: Index  # (windows, tiles) 1 where the window holds the tile


def axis_tiles(length: int, window: int, tile: int, part: Size | None = None) -> AxisTiles:
    """Tiles of `tile` positions for an axis of `length` with windows of `window`.

    `part` is (begin, end) of the positions to cut, counted from its begin; `None` is all of them.

    Examples:
      >>> axis_tiles(5, 3, tile=2).source
      array([0, 1, 2, 2, 3, 4])
    """
    window = min(window, length)
    begin, end = part or (0, length)
    cells = ((max(a, begin), min(b, end)) for a, b in axis_cells(length, window))
    first, last = (
        np.array([(first, b - 1) for a, b in cells for first in range(a, b, tile)], int)
        .reshape(-1, 2)
        .T
    )
    wanted, last = (first[:, None] + np.arange(tile)).ravel(), np.repeat(last, tile)
    start = np.array(axis_starts(length, window))[:, None]
    return AxisTiles(
        source=np.minimum(wanted, last) - begin,
        inside=wanted <= last,
        place=np.flatnonzero(wanted <= last),
        cover=((start <= first) & (first < start + window)).astype(np.float32),
    )


@functools.cache
def tile_size(size: Size, window: Size) -> Size:
    """(height, width) of the cheapest tiles for a map of `size`: few tiles, little filling.

    Examples:
      >>> tile_size((720, 1280), (384, 384))
      (56, 43)
    """
    if window == size:  # no filling; several parts run in parallel
        parts = max(n for n in range(1, 17) if size[0] % n == 0)
        return size[0] // parts, size[1]

    def counts(length: int, window: int) -> np.ndarray:
        cells = np.array([end - begin for begin, end in axis_cells(length, window)])
        return np.ceil(cells / np.arange(1, cells.max() + 1)[:, None]).sum(axis=1)  # by tile length

    rows, columns = map(counts, size, window)
    return cheapest_tile(rows, columns)


def cheapest_tile(rows: np.ndarray, columns: np.ndarray) -> Size:
    """`tile_size`, from the numbers of tiles along each axis for tiles of length 1, 2, ..."""
    pixels = np.outer(rows * (np.arange(rows.size) + 1), columns * (np.arange(columns.size) + 1))
    best = np.unravel_index(np.argmin(pixels + TILE_COST * np.outer(rows, columns)), pixels.shape)
    return int(best[0]) + 1, int(best[1]) + 1


def extract_windows(x: jax.Array, window: Window) -> jax.Array:
    """The fewest evenly spaced windows that cover a map, the last flush with its end.

    Args:
      x: (N, H, W, C).
      window: (height, width) in pixels, clipped to the map; `None` is the whole map.

    Returns:
      (windows * N, h, w, C): windows row by row, and for each window all N images.

    Raises:
      ValueError: a window that is not two whole numbers of pixels, or an array that is not NHWC.
    """
    check_maps("expected an array (N, H, W, C)", x)
    n, height, width, c = x.shape
    h, w = clip_window(window, (height, width))
    rows, columns = axis_starts(height, h), axis_starts(width, w)
    x = side_by_side(x, (h, w))
    x = x.reshape(n, len(rows), h, len(columns), w, c)
    return x.transpose(1, 3, 0, 2, 4, 5).reshape(len(rows) * len(columns) * n, h, w, c)


def average_windows(windows: jax.Array, size: Size) -> jax.Array:
    """Inverse of `extract_windows`; where windows overlap, their mean with equal weights.

    Args:
      windows: (windows * N, h, w, C) in the order of `extract_windows`.
      size: (H, W) of the whole map.

    Returns:
      (N, H, W, C) of the same type, averaged in float32.
    """
    check_maps("expected an array (windows * N, h, w, C)", windows)
    _, h, w, c = windows.shape
    rows, columns = len(axis_starts(size[0], h)), len(axis_starts(size[1], w))
    n = len(windows) // (rows * columns)
    x = windows.reshape(rows, columns, n, h, w, c).transpose(2, 0, 3, 1, 4, 5)
    x = x.reshape(n, rows * h, columns * w, c)
    return average_side_by_side(x, size, (h, w)).astype(windows.dtype)


def side_by_side(x: jax.Array, window: Size) -> jax.Array:
    """The windows of `extract_windows` where they lie: (N, H, W, C) -> (N, rows h, columns w, C).

    Windows that do not overlap are the map itself.
    """
    return _cut_axis(_cut_axis(x, window[0], axis=1), window[1], axis=2)


def average_side_by_side(x: jax.Array, size: Size, window: Size) -> jax.Array:
    """Inverse of `side_by_side`; where windows overlap, their mean in float32."""
    for axis in (1, 2):
        x = _average_axis(x, size[axis - 1], window[axis - 1], axis)
    return x


def _cut_axis(x: jax.Array, window: int, axis: int) -> jax.Array:
    """The windows of an axis side by side along it."""
    starts = axis_starts(x.shape[axis], window)
    if len(starts) * window == x.shape[axis]:  # no copy
        return x
    parts = [lax.slice_in_dim(x, start, start + window, axis=axis) for start in starts]
    return jnp.concatenate(parts, axis)


def _average_axis(x: jax.Array, length: int, window: int, axis: int) -> jax.Array:
    """Merge windows that stand side by side along an axis into that axis, cell by cell."""
    starts = axis_starts(length, window)
    if len(starts) * window == length:
        return x

    def cell(begin: int, end: int) -> jax.Array:
        total, count = jnp.zeros((), jnp.float32), 0
        for i, start in enumerate(starts):
            if start <= begin < start + window:
                first = i * window - start
                part = lax.slice_in_dim(x, first + begin, first + end, axis=axis)
                total, count = total + part.astype(jnp.float32), count + 1
        return total / count

    return jnp.concatenate([cell(*ends) for ends in axis_cells(length, window)], axis)
