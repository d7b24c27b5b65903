"""Attention between positions, over the whole feature map or in TLC's overlapping windows.

Non-local operation (Wang et al., "Non-local Neural Networks", CVPR 2018, arXiv 1711.07971, section
3.2, embedded Gaussian): for each head out = softmax(scale * q k^T) v, where the products run over
pairs of positions. TLC (arXiv 2112.04491) does this in each window and averages where they overlap.

A window of 384 x 384 has 147456 positions, and its attention matrix would take 87 GB. So the matrix
is computed in blocks of queries by keys and never stored: a running maximum and a running sum keep
the softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv 1805.02867).
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlc_jax.ops.checks import check_heads
from tlc_jax.ops.windows import Size, Window, average_windows, axis_starts, clip_window

# Queries or keys in a block of the attention matrix, 4 MiB of float32: about a core's cache.
ATTENTION_BLOCK = 1024


def spatial_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    window: Window = None,
    *,
    heads: int = 1,
    scale: float | jax.Array | None = None,
) -> jax.Array:
    """Softmax attention between the positions of each window.

    Products, sums and softmax are float32 whatever the type of the inputs. A window of P positions
    costs 4 P^2 C operations. Memory holds the outputs of all windows, 1 to 4 times the map; and for
    the current window, P x C / heads numbers and a few blocks of 4 MiB. Nothing grows with the
    square of the map or of the window. The gradient computes each block twice more instead of
    storing it.

    Args:
      q, k, v: (N, H, W, C), the heads side by side in C.
      window: (height, width) in pixels, clipped to the map; `None` is the whole map.
      heads: how many parts the channels are split into, each with an attention of its own.
      scale: factor of the products; `None` is (C / heads) ** -0.5.

    Returns:
      (N, H, W, C) of v's type.

    Raises:
      ValueError: arrays of unlike shapes, channels that do not divide into the heads, or a window
        that is not two whole numbers of pixels.
    """
    check_heads(q, k, v, heads)
    # Checked outside jit, whose own message for a list or an array is obscure.
    size = clip_window(window, (v.shape[1], v.shape[2]))
    factor = (v.shape[-1] // heads) ** -0.5 if scale is None else scale
    return _in_windows(q, k, v, factor, size, heads) if len(v) else jnp.zeros_like(v)


@functools.partial(jax.jit, static_argnames=("window", "heads"))
def _in_windows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    scale: float | jax.Array,
    window: Size,
    heads: int,
) -> jax.Array:
    n, height, width, channels = v.shape
    h, w = window
    c = channels // heads

    @jax.checkpoint  # the gradient cuts the windows out again
    def attend(corner: jax.Array) -> jax.Array:
        """One head of one window of one image."""

        def positions(x: jax.Array) -> jax.Array:
            return lax.dynamic_slice(x, corner, (1, h, w, c)).reshape(h * w, c)

        return _attention(positions(q), positions(k), positions(v), scale)

    rows, columns = axis_starts(height, h), axis_starts(width, w)
    corners = itertools.product(rows, columns, range(n), range(0, channels, c))
    corners = np.array([(i, *place, head) for *place, i, head in corners], np.int32)
    # Window by window; of small ones as many at once as fit a block.
    out = lax.map(attend, corners, batch_size=max(1, ATTENTION_BLOCK**2 // (h * w) ** 2))
    out = out.reshape(-1, heads, h, w, c).transpose(0, 2, 3, 1, 4).reshape(-1, h, w, channels)
    return average_windows(out, (height, width))


def _attention(q: jax.Array, k: jax.Array, v: jax.Array, scale: float | jax.Array) -> jax.Array:
    """Softmax attention between P positions, (P, c) each, of v's type."""
    length, c = v.shape
    count = -(-length // ATTENTION_BLOCK)
    block = -(-length // count)
    filled = ((0, count * block - length), (0, 0))
    q, k, v = (jnp.pad(x, filled).reshape(count, block, c) for x in (q, k, v))
    inside = (np.arange(count * block) < length).reshape(count, 1, block)
    product = functools.partial(jnp.einsum, precision="highest", preferred_element_type=jnp.float32)

    @jax.checkpoint
    def of_queries(q: jax.Array) -> jax.Array:
        @jax.checkpoint
        def meet(carry: tuple[jax.Array, ...], keys: tuple[jax.Array, ...]) -> tuple:
            highest, total, out = carry
            k, v, inside = keys
            logits = jnp.where(inside, product("qc,kc->qk", q, k) * scale, -jnp.inf)
            # The result does not depend on the peak that is subtracted: it needs no gradient.
            peak = lax.stop_gradient(logits.max(axis=1, keepdims=True))
            peak = jnp.maximum(highest, peak)
            weights, fade = jnp.exp(logits - peak), jnp.exp(highest - peak)
            total = total * fade + weights.sum(axis=1, keepdims=True)
            out = out * fade + product("qk,kc->qc", weights.astype(v.dtype), v)
            return (peak, total, out), None

        none = jnp.zeros((block, 1), jnp.float32)
        start = (none - jnp.inf, none, jnp.zeros((block, c), jnp.float32))
        (_, total, out), _ = lax.scan(meet, start, (k, v, inside))
        return (out / total).astype(v.dtype)

    return lax.map(of_queries, q).reshape(-1, c)[:length]
