"""Attention between channels, over the whole feature map or TLC's overlapping windows.

Multi-Dconv head transposed attention (Zamir et al., "Restormer", arXiv 2111.09881, section 3.1):
for each head, A = softmax(temperature * q k^T / (|q| |k|)) of size c x c, where products and norms
run over all pixels, and out = A v. TLC does this in each window and averages where windows overlap.

Overlap costs little. Cut the map into cells at every start and end of a window. Each window w is a
union of cells, so its products and norms are sums over its cells. All pixels of a cell lie in the
same windows, so the average of A_w v over these windows is (average of A_w) v. Hence each pixel is
read once, as in global attention, however much the windows overlap. Cells differ in size; cut into
equal tiles they form one batch of products.

A 1x1 convolution that follows, of matrix P, is linear, too: v is multiplied by P A at once.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from tlc_jax.ops.backends import by_backend, stored
from tlc_jax.ops.checks import check_heads, refusing
from tlc_jax.ops.masked import SMALLEST_NORM, attention_of_masks, axis_slots, column_slots
from tlc_jax.ops.windows import AxisTiles, Size, Window, axis_tiles, clip_window, tile_size


def transposed_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    temperature: jax.Array,
    window: Window = None,
    *,
    project: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention between the channels of each head, within windows.

    Products, norms and softmax are float32 whatever the type of the inputs.

    Args:
      q, k, v: (N, H, W, C), the heads side by side in C.
      temperature: (heads,) factor of the cosine similarity.
      window: (height, width) in pixels, clipped to the map; `None` is the whole map.
      project: (C, features) matrix to multiply the result by, that of a 1x1 convolution; it costs
        less here than it does afterwards.

    Returns:
      (N, H, W, C), or features in place of C, of v's type.

    Raises:
      ValueError: arrays of unlike shapes, channels that do not divide into the heads, a `project`
        of other channels, or a window that is not two whole numbers of pixels.
    """
    check_heads(q, k, v, temperature.size)
    if project is not None:
        c = v.shape[-1]
        with refusing(f"project is (C, features) with C = {c} channels, got {project.shape}."):
            chex.assert_shape(project, (c, None))
    # Checked outside jit, whose own message for a list or an array is obscure.
    size = clip_window(window, (v.shape[1], v.shape[2]))
    return _in_windows(q, k, v, temperature, project, size)


@functools.partial(jax.jit, static_argnames="window")
def _in_windows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    temperature: jax.Array,
    project: jax.Array | None,
    window: Size,
) -> jax.Array:
    if project is None:
        project = jnp.eye(v.shape[-1], dtype=jnp.float32)

    size = v.shape[1], v.shape[2]

    def tiles(*arrays: Any) -> jax.Array:
        rows, columns = map(axis_tiles, size, window, tile_size(size, window))
        return attention_of_tiles(*arrays, rows=rows, columns=columns)

    def masks(*arrays: Any) -> jax.Array:
        (rows,) = axis_slots(size[0], window[0]).holds
        columns = column_slots(size[1], window[1], rows.shape[1])
        held = jnp.asarray(rows)
        return attention_of_masks(*arrays, rows=held, columns=columns, whole=window == size)

    forms = {"tiles": tiles, "masks": masks}
    return by_backend("attention", forms, q, k, v, temperature, project)


def attention_of_tiles(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    temperature: jax.Array,
    project: jax.Array | None,
    rows: AxisTiles,
    columns: AxisTiles,
    total: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
    """`transposed_attention`, in windows given as the tiles of both axes.

    Of a map in parts, `total` adds up the sums of all parts.
    """
    n, _, _, channels = v.shape
    heads = temperature.size
    c = channels // heads
    (a, r), (b, s) = rows.cover.shape, columns.cover.shape
    t_h, t_w = rows.source.size // r, columns.source.size // s

    def tiles(x: jax.Array, heads: int) -> jax.Array:
        """(n * r * s * heads, pixels of a tile, channels // heads)."""
        x = _take(_take(x, rows.source, axis=1), columns.source, axis=2)
        # Zero the filling of the tiles; a mask for each axis stays small in the program.
        for inside, shape in ((rows.inside, (1, -1, 1, 1)), (columns.inside, (1, 1, -1, 1))):
            if isinstance(inside, jax.Array) or not inside.all():
                x = jnp.where(inside.reshape(shape), x, jnp.zeros((), x.dtype))
        part = channels // heads
        x = x.reshape(n, r, t_h, s, t_w, heads, part).transpose(0, 1, 3, 5, 2, 4, 6)
        return x.reshape(n * r * s * heads, t_h * t_w, part)

    def in_windows(of_tiles: jax.Array) -> jax.Array:
        """Sums over the tiles of each window, (n * r * s * heads, ...) -> (n, a, b, heads, ...)."""
        rest = of_tiles.shape[1:]
        size = heads * math.prod(rest)
        x = _select(rows.cover, of_tiles.reshape(n, r, s * size))
        x = _select(columns.cover, x.reshape(n * a, s, size))
        return total(x).reshape(n, a, b, heads, *rest)

    def average(of_windows: jax.Array) -> jax.Array:
        """Mean of the windows that hold each tile, (n, a, b, ...) -> (n * r * s, ...)."""
        rest = of_windows.shape[3:]
        size = math.prod(rest)
        covers = rows.cover, columns.cover
        of_rows, of_columns = (x / x.sum(axis=0, keepdims=True).clip(min=1) for x in covers)
        x = _select(of_columns.T, of_windows.reshape(n * a, b, size))
        x = _select(of_rows.T, x.reshape(n, a, s * size))
        return x.reshape(n * r * s, *rest)

    def norms(x: jax.Array) -> jax.Array:
        squares = jnp.square(x.astype(jnp.float32)).sum(axis=1)
        # The floor inside the root keeps the gradient of a black picture finite.
        return jnp.sqrt(jnp.maximum(in_windows(squares), SMALLEST_NORM**2))

    # Stored, or XLA would compute them again, in a worse order, for each product that reads them.
    q, k, v = jax.lax.optimization_barrier((tiles(q, heads), tiles(k, heads), tiles(v, 1)))
    gram = jnp.einsum("tpc,tpd->tcd", q, k, precision="highest", preferred_element_type=jnp.float32)
    cosine = in_windows(gram) / norms(q)[..., :, None] / norms(k)[..., None, :]
    weights = jax.nn.softmax(cosine * temperature.reshape(1, 1, 1, heads, 1, 1), axis=-1)

    if project is None:
        project = jnp.eye(channels, dtype=jnp.float32)
    features = project.shape[-1]
    project = project.astype(jnp.float32).reshape(heads, c, features)
    weights = jnp.einsum("nabhcd,hce->nabhde", weights, project, precision="highest")
    weights = weights.reshape(n, a, b, channels, features)
    # A single window has a single matrix: it is not copied for each tile.
    weights, alike = (weights[:, 0, 0], r * s) if a * b == 1 else (average(weights), 1)
    v = v.reshape(n * r * s // alike, alike * t_h * t_w, channels)
    out = jnp.einsum("tpd,tde->tpe", v, weights.astype(v.dtype))
    out = out.reshape(n, r, s, t_h, t_w, features).transpose(0, 1, 3, 2, 4, 5)
    out = out.reshape(n, r * t_h, s * t_w, features)
    return _take(_take(out, rows.place, axis=1), columns.place, axis=2)


def _select(shares: np.ndarray | jax.Array, x: jax.Array) -> jax.Array:
    """Weighted sums, (i, j) by (n, j, m) -> (n, i, m); a weight of zero keeps out NaN, too."""
    # Not one reduction, in which XLA:CPU would stride through memory.
    x = stored(x)
    parts = [x[:, j] for j in range(x.shape[1])]
    if isinstance(shares, np.ndarray):
        terms = ([row[j] * parts[j] for j in np.flatnonzero(row)] for row in shares)
        return stored(jnp.stack([functools.reduce(operator.add, few) for few in terms], axis=1))
    columns = zip(shares.T[:, None, :, None], parts, strict=True)
    all_terms = (jnp.where(share > 0, share * part[:, None], 0.0) for share, part in columns)
    return stored(functools.reduce(operator.add, all_terms))


def _take(x: jax.Array, index: np.ndarray | jax.Array, axis: int) -> jax.Array:
    """Take positions along an axis; no copy if `index` is all of them in order."""
    if isinstance(index, np.ndarray) and np.array_equal(index, np.arange(x.shape[axis])):
        return x
    return jnp.take(x, index, axis=axis, mode="clip")
