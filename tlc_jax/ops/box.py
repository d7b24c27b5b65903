"""Sums, means and moments over a sliding window (TLC, arXiv 2112.04491, section 3.2), NHWC.

A window of k_h x k_w slides over an H x W feature map. `window_*` return one value for each of the
(H - k_h + 1) x (W - k_w + 1) windows inside the map, `spread` replicates the outermost values back
to H x W, and `local_*` do both. Operations on single positions commute with `spread`: apply them
before it, to the smaller map. Sums are float32 and no differences of running totals, as a
summed-area table has them, whose rounding error grows with the map.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlc_jax.ops.backends import by_backend
from tlc_jax.ops.checks import check_maps, refusing
from tlc_jax.ops.sliding import METHODS, MOMENTS, SUMS, slide
from tlc_jax.ops.windows import Size, Window, clip_window


def window_sum(x: jax.Array, window: Window, *, method: str = "auto") -> jax.Array:
    """Sum of each window that lies inside the map.

    Args:
      x: (N, H, W, C), any float type.
      window: (k_h, k_w) in pixels, clipped to the map; `None` is the whole map.
      method: "reduce_window", "cumsum", "blocks", "edges" or "products"; "auto" is what the
        backend wants.

    Returns:
      (N, H - k_h + 1, W - k_w + 1, C) float32.

    Raises:
      ValueError: a window below 1 pixel, an unknown method or an array that is not NHWC.
      TypeError: integers.
    """
    size = _check(x, window, method)
    (total,) = slide(jnp.asarray(x), size, SUMS, method)
    return total


def window_mean(x: jax.Array, window: Window, *, method: str = "auto") -> jax.Array:
    """Mean of each window that lies inside the map; arguments and shapes as for `window_sum`."""
    total = window_sum(x, window, method=method)
    _, h, w, _ = x.shape
    return total / np.float32(math.prod(clip_window(window, (h, w))))


def window_moments(
    x: jax.Array, window: Window, *, method: str = "auto"
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of each window that lies inside the map; see `window_sum`.

    Only differences within the window are squared: E[x^2] - E[x]^2 loses a third of a variance of
    0.01 at mean 30. "reduce_window" merges halves of windows here.

    Returns:
      Two arrays (N, H - k_h + 1, W - k_w + 1, C) float32.
    """
    size = _check(x, window, method)
    mean, variance = slide(jnp.asarray(x), size, MOMENTS, method)
    return mean, variance


def _check(x: jax.Array, window: Window, method: str) -> Size:
    """Refuse bad arguments, and clip the window to the map."""
    check_maps("expected an array (N, H, W, C)", x)
    with refusing(f"expected floats, got {x.dtype}.", TypeError):
        chex.assert_type(x, float)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}.")
    return clip_window(window, (x.shape[1], x.shape[2]))


def spread(y: jax.Array, size: Size) -> jax.Array:
    """Replicate the edges of (N, H', W', C) to `size` = (H, W), (H - H') // 2 of the rows above.

    Row i then holds the value of the window that starts at clip(i - (k_h - 1) // 2, 0, H - k_h).
    An axis of length 1 keeps that length, for broadcasting.
    """
    with refusing(f"expected an array (N, H, W, C), got shape {y.shape}."):
        chex.assert_rank(y, 4)
    for axis, length in zip((1, 2), size, strict=True):
        if 1 < y.shape[axis] < length:
            along = {"axis": axis, "length": length}
            forms = {
                "gathered": functools.partial(_gathered, **along),
                "selected": functools.partial(_selected, **along),
            }
            y = by_backend("spread", forms, y)
    return y


# XLA fuses one of them into what follows: the replicated border is never stored.


def _gathered(y: jax.Array, axis: int, length: int) -> jax.Array:
    inside = y.shape[axis]
    index = np.clip(np.arange(length) - (length - inside) // 2, 0, inside - 1)
    return jnp.take(y, index, axis=axis, mode="clip")


def _selected(y: jax.Array, axis: int, length: int) -> jax.Array:
    inside = y.shape[axis]
    above = (length - inside) // 2
    below = length - inside - above
    first, last = (lax.slice_in_dim(y, i, i + 1, axis=axis) for i in (0, inside - 1))
    widths = [(above, below, 0) if other == axis else (0, 0, 0) for other in range(4)]
    padded = lax.pad(y, jnp.zeros((), y.dtype), widths)
    position = jnp.expand_dims(jnp.arange(length), [o for o in range(4) if o != axis])
    return jnp.where(position < above, first, jnp.where(position < above + inside, padded, last))


def local_sum(x: jax.Array, window: Window, *, method: str = "auto") -> jax.Array:
    """Sum of the window around each position; arguments as for `window_sum`.

    Returns:
      (N, H, W, C) of x's type.
    """
    return _local(window_sum, x, window, method)


def local_mean(x: jax.Array, window: Window, *, method: str = "auto") -> jax.Array:
    """Mean of the window around each position: TLC's local average pooling.

    Near the border the window is the nearest one inside the map, so every mean is over exactly
    k_h x k_w pixels. A window that covers the map gives global average pooling.

    Args:
      x: (N, H, W, C), any float type.
      window: (k_h, k_w) in pixels, clipped to the map; `None` is the whole map.
      method: "reduce_window", "cumsum", "blocks", "edges" or "products"; "auto" is what the
        backend wants.

    Returns:
      (N, H, W, C) of x's type.

    Raises:
      ValueError: a window below 1 pixel, an unknown method or an array that is not NHWC.
      TypeError: integers.

    Examples:
      >>> import jax.numpy as jnp
      >>> x = jnp.arange(5.0).reshape(1, 1, 5, 1)
      >>> [round(float(mean), 3) for mean in local_mean(x, (1, 3)).ravel()]
      [1.0, 1.0, 2.0, 3.0, 3.0]
    """
    return _local(window_mean, x, window, method)


def local_moments(
    x: jax.Array, window: Window, *, method: str = "auto"
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of the window around each position, exact as in `window_moments`.

    Returns:
      Two arrays (N, H, W, C) of x's type; arguments as for `local_mean`.
    """
    return _local(window_moments, x, window, method)


def _local(over_windows: Callable[..., Any], x: jax.Array, window: Window, method: str) -> Any:
    # Checked outside jit, whose own message for a list or an array is obscure.
    return _spread_out(over_windows, x, _check(x, window, method), method)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _spread_out(over_windows: Callable[..., Any], x: jax.Array, window: Size, method: str) -> Any:
    def full(y: jax.Array) -> jax.Array:
        return jnp.broadcast_to(spread(y, (x.shape[1], x.shape[2])), x.shape).astype(x.dtype)

    return jax.tree.map(full, over_windows(x, window, method=method))
