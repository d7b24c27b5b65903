"""Attention between channels in windows that masks tell: the form of `ops.attention` for a TPU.

The columns of the map are cut into few tiles, evenly, and mostly not at all; each sees a few
windows, in its slots. A tile's matrices are one product, in which pixels outside of a window count
zero; for what is not finite see `ops.products`. It takes as many times the operations as there are
slots, but reads each map once, in the layout it has. Cut along the rows, a map would be copied.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlc_jax.ops.products import HUGE, bounded
from tlc_jax.ops.windows import axis_starts

SLOTS = 8  # of a tile; with no more, operations take less time than bytes
LANES = 128  # of a TPU, along the columns of a map
SMALLEST_NORM = 1e-12


class Slots(NamedTuple):
    """Tiles along an axis, and the windows that each sees, in its slots; -1 if there is none."""

    window: np.ndarray  # (tiles, slots)
    holds: np.ndarray  # (tiles, positions of a tile, slots) whether the window holds a position


def axis_slots(length: int, window: int, tiles: int = 1) -> Slots:
    """The windows that each of some tiles of equal length sees.

    Examples:
      >>> axis_slots(6, 3, tiles=2).window
      array([[0],
             [1]])
    """
    starts = np.array(axis_starts(length, window))
    begin = np.arange(0, length, length // tiles)[:, None]
    seen = (starts < begin + length // tiles) & (begin < starts + window)
    slots = [np.flatnonzero(row) for row in seen]
    windows = np.full((tiles, max(map(len, slots))), -1)
    for row, few in zip(windows, slots, strict=True):
        row[: len(few)] = few
    first = np.where(windows < 0, length, starts[windows])[:, None]
    position = np.arange(length).reshape(tiles, -1, 1)
    return Slots(windows, (first <= position) & (position < first + window))


def column_slots(length: int, window: int, rows: int) -> Slots:
    """The fewest tiles that have few slots, for so many windows along the rows.

    Examples:
      >>> column_slots(1280, 384, rows=2).window
      array([[0, 1, 2, 3]])
    """

    def cost(slots: Slots) -> tuple[float, bool, int]:
        tiles, tile, most = slots.holds.shape
        filled = -(-tile // LANES) * LANES
        return max(rows * most * filled / tile, SLOTS), tiles > 1 and tile < filled, tiles

    counts = (n for n in range(1, length + 1) if length % n == 0)
    return min((axis_slots(length, window, n) for n in counts), key=cost)


def attention_of_masks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    temperature: jax.Array,
    project: jax.Array,
    rows: jax.Array,
    columns: Slots,
    whole: bool,
    total: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
    """`ops.transposed_attention`, in windows given by the rows that they hold and their columns.

    Args:
      q, k, v, temperature, project: as there.
      rows: (H, windows) whether the window holds the row.
      columns: as of `column_slots`, for so many windows along the rows.
      whole: whether there is one window, with all of the map.
      total: of a map in parts, adds up the sums of all parts.
    """
    n, h, w, channels = v.shape
    heads, features = temperature.size, project.shape[-1]
    c = channels // heads
    s, t_w, _ = columns.holds.shape
    # (h, s, t_w, a, b), which is never stored
    holds = rows[:, None, None, :, None] & jnp.asarray(columns.holds)[None, :, :, None]

    def tiles(x: jax.Array, heads: int) -> jax.Array:
        return x.reshape(n, h, s, t_w, heads, channels // heads)

    def in_slots(x: jax.Array, shares: jax.Array) -> jax.Array:
        """Times the share of each slot's window: two axes more, before the heads."""
        return jnp.expand_dims(x, (4, 5)) * shares.astype(x.dtype)[None, ..., None, None]

    def norms(x: jax.Array) -> jax.Array:
        """Of each window, (n, windows, windows, heads, c); NaN where it holds a huge number."""
        square = tiles(jnp.square(x.astype(jnp.float32)), heads)
        if whole:
            of_slots = square.sum(axis=(1, 3))[:, None, :, None]
        else:  # rows first, which XLA fuses into what computes x
            square = jnp.stack([
                jnp.where(one[None, :, None, None, None, None], square, 0).sum(1)
                for one in rows.T
            ], axis=1)  # fmt: skip
            held = jnp.moveaxis(jnp.asarray(columns.holds), -1, 1)[None, None, ..., None, None]
            of_slots = jnp.where(held, square[:, :, :, None], 0).sum(axis=4)
        squares = total(_of_windows(of_slots, columns))
        lengths = jnp.sqrt(jnp.maximum(squares, SMALLEST_NORM**2))
        return jnp.where(squares < HUGE**2 / 2, lengths, jnp.nan)

    q, k = bounded(q, HUGE), bounded(k, HUGE)
    of_q, of_k = norms(q)[..., :, None], norms(k)[..., None, :]
    if whole:
        q = jnp.expand_dims(tiles(q, heads), (4, 5))
    else:  # stored, or XLA computes them again for each layout in which they are read
        q, k = lax.optimization_barrier((q, k))
        q = in_slots(tiles(q, heads), holds)
    gram = jnp.einsum(
        "nhswabkc,nhswkd->nasbkcd", q, tiles(k, heads),
        precision="highest", preferred_element_type=jnp.float32,
    )  # fmt: skip

    cosine = total(_of_windows(gram, columns)) / of_q / of_k
    weights = jax.nn.softmax(cosine * temperature.reshape(1, 1, 1, heads, 1, 1), axis=-1)
    project = project.astype(jnp.float32).reshape(heads, c, features)
    weights = jnp.einsum("nabkcd,kce->nabkde", weights, project, precision="highest")
    weights = weights.reshape(*weights.shape[:3], channels, features)
    if whole:
        return jnp.einsum("nhwd,nde->nhwe", v, weights[:, 0, 0].astype(v.dtype))

    # 0 x NaN is NaN: a window's own NaN are put back in the end. One of v stays in its pixel.
    bad = ~jnp.isfinite(weights).all(axis=(-2, -1))
    weights, bad = (
        x[:, :, columns.window]
        for x in (jnp.where(bad[..., None, None], 0, weights).astype(v.dtype), bad)
    )
    shares = holds.astype(jnp.float32)
    shares = shares / shares.sum(axis=(-2, -1), keepdims=True)
    shared = in_slots(tiles(v, 1), shares)[..., 0, :]
    out = jnp.einsum("nhswabd,nasbde->nhswe", shared, weights)
    touched = (holds[None] & jnp.swapaxes(bad, 1, 2)[:, None, :, None]).any(axis=(-2, -1))
    return jnp.where(touched[..., None], jnp.nan, out).astype(v.dtype).reshape(n, h, w, features)


def _of_windows(x: jax.Array, columns: Slots) -> jax.Array:
    """Sums of each window over its slots, (n, a, s, b, ...) -> (n, a, windows, ...)."""
    if len(columns.window) == 1:  # it has every window, in order
        return x[:, :, 0]
    count = columns.window.max() + 1
    mine = columns.window == np.arange(count)[:, None, None]
    mine = mine.reshape(1, 1, *mine.shape, *(1,) * (x.ndim - 4))
    return jnp.where(mine, x[:, :, None], 0).sum(axis=(3, 4))
