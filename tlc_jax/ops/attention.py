"""Attention between channels, over the whole map or over TLC's overlapping windows.

Multi-Dconv head transposed attention (Zamir et al., "Restormer", arXiv 2111.09881, section 3.1):
for each head, A = softmax(temperature * q k^T / (|q| |k|)) of size c x c, where products and norms
run over all pixels, and out = A v. TLC does this in each window and averages where windows overlap.

Two facts make the windows free. Cut the map at every start and end of a window. Each window is a
union of cells, so its products and norms are sums of its cells' own. And the average of A_w v over
the windows that hold a pixel is (average of A_w) v, with the same windows for all pixels of a cell.
So each pixel is met once, as in the global attention, however much the windows overlap.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tlc_jax.ops.windows import Window, axis_cells, clip_window

SMALLEST_NORM = 1e-12


def transposed_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, temperature: jax.Array, window: Window = None
) -> jax.Array:
    """Softmax attention between the channels of each head, within windows.

    Products, norms and softmax are float32 whatever the type of the inputs.

    Args:
      q, k, v: (N, H, W, C), the heads side by side in C.
      temperature: (heads,) factor of the cosine similarity.
      window: (height, width) in pixels, clipped to the map; `None` is the whole map.

    Returns:
      (N, H, W, C) of v's type.
    """
    n, h, w, c = v.shape
    q, k, v = (x.reshape(n, h, w, temperature.size, -1) for x in (q, k, v))
    k_h, k_w = clip_window(window, (h, w))
    (rows, in_rows), (columns, in_columns) = axis_cells(h, k_h), axis_cells(w, k_w)
    cells = [[np.s_[:, top:bottom, left:right] for left, right in columns] for top, bottom in rows]

    def window_sums(of_cell: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
        sums = jnp.stack([jnp.stack([of_cell(q[cell], k[cell]) for cell in row]) for row in cells])
        return jnp.einsum("ar,bs,rs...->ab...", in_rows, in_columns, sums, precision="highest")

    def product(q: jax.Array, k: jax.Array) -> jax.Array:
        return jnp.einsum("nhwgc,nhwgd->ngcd", q, k, preferred_element_type=jnp.float32)

    def norm(x: jax.Array) -> jax.Array:
        return jnp.square(x.astype(jnp.float32)).sum(axis=(1, 2))

    norm_q, norm_k = (
        jnp.maximum(jnp.sqrt(square), SMALLEST_NORM)
        for square in (window_sums(lambda q, k: norm(q)), window_sums(lambda q, k: norm(k)))
    )
    cosine = window_sums(product) / (norm_q[..., :, None] * norm_k[..., None, :])
    maps = jax.nn.softmax(cosine * temperature.reshape(-1, 1, 1)[None, None, None], axis=-1)
    mean_rows, mean_columns = in_rows / in_rows.sum(axis=0), in_columns / in_columns.sum(axis=0)
    maps = jnp.einsum("ar,bs,ab...->rs...", mean_rows, mean_columns, maps, precision="highest")

    maps = maps.astype(v.dtype)
    bands = [
        [jnp.einsum("ngcd,nhwgd->nhwgc", maps[i, j], v[cell]) for j, cell in enumerate(row)]
        for i, row in enumerate(cells)
    ]
    out = jnp.concatenate([jnp.concatenate(band, axis=2) for band in bands], axis=1)
    return out.reshape(n, h, w, c)
