"""Attention between channels in windows that masks tell: the form of `ops.attention` for a TPU.

The map is cut into few large tiles, evenly, and mostly not at all; each sees a few windows, in its
slots. A tile's matrices are one product, in which pixels outside of a window count zero; for what
is not finite see `ops.products`. It takes as many times the operations as there are slots, but
reads each map once, in the layout it has.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlc_jax.ops.products import HUGE, bounded
from tlc_jax.ops.windows import Size, axis_starts

SLOTS = 4  # along an axis, at most, if it can be cut so
LANES = 128  # of a TPU, along the columns of a map
SMALLEST_NORM = 1e-12


class Slots(NamedTuple):
    """Tiles along an axis, and the windows that each sees, in its slots; -1 if there is none."""

    window: np.ndarray  # (tiles, slots)
    holds: np.ndarray  # (tiles, positions of a tile, slots) whether the window holds a position


def axis_slots(length: int, window: int, multiple: int = 1) -> Slots:
    """The fewest tiles of equal length, if possible a multiple, that see few windows each.

    Examples:
      >>> axis_slots(6, 3).window
      array([[0, 1]])
    """
    starts = np.array(axis_starts(length, window))

    def seen(tiles: int) -> np.ndarray:
        """(tiles, windows) whether a tile sees a window."""
        begin = np.arange(0, length, length // tiles)[:, None]
        return (starts < begin + length // tiles) & (begin < starts + window)

    def cost(tiles: int) -> tuple[bool, bool, int]:
        most = seen(tiles).sum(axis=1).max()
        return most > SLOTS, tiles > 1 and length // tiles % multiple > 0, tiles

    tiles = min((n for n in range(1, length + 1) if length % n == 0), key=cost)
    slots = [np.flatnonzero(row) for row in seen(tiles)]
    windows = np.full((tiles, max(map(len, slots))), -1)
    for row, few in zip(windows, slots, strict=True):
        row[: len(few)] = few
    first = np.where(windows < 0, length, starts[windows])[:, None]
    position = np.arange(length).reshape(tiles, -1, 1)
    return Slots(windows, (first <= position) & (position < first + window))


def attention_of_masks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    temperature: jax.Array,
    project: jax.Array,
    window: Size,
) -> jax.Array:
    """`ops.transposed_attention`; the window is clipped to the map."""
    n, h, w, channels = v.shape
    heads, features = temperature.size, project.shape[-1]
    c = channels // heads
    rows, columns = axis_slots(h, window[0]), axis_slots(w, window[1], LANES)
    (r, t_h, _), (s, t_w, _) = rows.holds.shape, columns.holds.shape
    whole = window == (h, w)
    # (r, t_h, s, t_w, a, b), which is never stored
    holds = (
        jnp.asarray(rows.holds)[:, :, None, None, :, None]
        & jnp.asarray(columns.holds)[None, None, :, :, None]
    )

    def tiles(x: jax.Array, heads: int) -> jax.Array:
        return x.reshape(n, r, t_h, s, t_w, heads, channels // heads)

    def in_slots(x: jax.Array, shares: jax.Array) -> jax.Array:
        """Times the share of each slot's window: two axes more, before the heads."""
        return jnp.expand_dims(x, (5, 6)) * shares.astype(x.dtype)[None, ..., None, None]

    def norms(x: jax.Array) -> jax.Array:
        """Of each window, (n, windows, windows, heads, c); NaN where it holds a huge number."""
        square = tiles(jnp.square(x.astype(jnp.float32)), heads)
        if whole:
            of_slots = square.sum(axis=(2, 4))[:, :, None, :, None]
        else:  # rows first, which XLA fuses into what computes x
            square = jnp.stack([
                jnp.where(jnp.asarray(one)[None, :, :, None, None, None, None], square, 0).sum(2)
                for one in np.moveaxis(rows.holds, -1, 0)
            ], axis=2)  # fmt: skip
            held = jnp.moveaxis(jnp.asarray(columns.holds), -1, 1)
            held = held[None, None, None, ..., None, None]
            of_slots = jnp.where(held, square[:, :, :, :, None], 0).sum(axis=5)
        squares = _of_windows(of_slots, rows, columns)
        lengths = jnp.sqrt(jnp.maximum(squares, SMALLEST_NORM**2))
        return jnp.where(squares < HUGE**2 / 2, lengths, jnp.nan)

    q, k = bounded(q, HUGE), bounded(k, HUGE)
    of_q, of_k = norms(q)[..., :, None], norms(k)[..., None, :]
    if whole:
        q = jnp.expand_dims(tiles(q, heads), (5, 6))
    else:  # stored, or XLA computes them again for each layout in which they are read
        q, k = lax.optimization_barrier((q, k))
        q = in_slots(tiles(q, heads), holds)
    gram = jnp.einsum(
        "nrhswabkc,nrhswkd->nrasbkcd", q, tiles(k, heads),
        precision="highest", preferred_element_type=jnp.float32,
    )  # fmt: skip

    cosine = _of_windows(gram, rows, columns) / of_q / of_k
    weights = jax.nn.softmax(cosine * temperature.reshape(1, 1, 1, heads, 1, 1), axis=-1)
    project = project.astype(jnp.float32).reshape(heads, c, features)
    weights = jnp.einsum("nabkcd,kce->nabkde", weights, project, precision="highest")
    weights = weights.reshape(*weights.shape[:3], channels, features)
    if whole:
        return jnp.einsum("nhwd,nde->nhwe", v, weights[:, 0, 0].astype(v.dtype))

    # 0 x NaN is NaN: a window's own NaN are put back in the end. One of v stays in its pixel.
    bad = ~jnp.isfinite(weights).all(axis=(-2, -1))
    weights, bad = (
        x[:, rows.window][:, :, :, columns.window]
        for x in (jnp.where(bad[..., None, None], 0, weights).astype(v.dtype), bad)
    )
    shares = holds.astype(jnp.float32)
    shares = shares / shares.sum(axis=(-2, -1), keepdims=True)
    shared = in_slots(tiles(v, 1), shares)[..., 0, :]
    out = jnp.einsum("nrhswabd,nrasbde->nrhswe", shared, weights)
    touched = (holds[None] & jnp.swapaxes(bad, 2, 3)[:, :, None, :, None]).any(axis=(-2, -1))
    return jnp.where(touched[..., None], jnp.nan, out).astype(v.dtype).reshape(n, h, w, features)


def _of_windows(x: jax.Array, rows: Slots, columns: Slots) -> jax.Array:
    """Sums of each window over its slots, (n, r, a, s, b, ...) -> (n, windows, windows, ...)."""
    for slots, axis in (columns, 3), (rows, 1):
        count = slots.window.max() + 1
        if len(slots.window) > 1:
            shape = (1,) * axis + (count, *slots.window.shape) + (1,) * (x.ndim - axis - 2)
            mine = (slots.window == np.arange(count)[:, None, None]).reshape(shape)
            x = jnp.where(mine, jnp.expand_dims(x, axis), 0).sum(axis=(axis + 1, axis + 2))
        else:  # a single tile has every window, in order
            x = x.squeeze(axis)
    return x
