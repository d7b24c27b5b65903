"""Sums, means and moments over a sliding window (TLC, arXiv 2112.04491, section 3.2), NHWC.

A window of k_h x k_w slides over an H x W map. `window_*` return one value for each of the
(H - k_h + 1) x (W - k_w + 1) windows that lie inside, `spread` replicates the outermost of them
back to H x W, and `local_*` do both. Whatever acts on single positions commutes with `spread`: do
it before, on the smaller map. Everything is accumulated in float32.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlc_jax.ops.fusion import stored
from tlc_jax.ops.windows import Window, clip_window

BLOCK = 8
# Up to here, adding the k pixels of a window one by one is as fast as anything (2 cores, AVX-512).
LARGEST_DIRECT = 12

# The methods: sums over all windows of k along the middle axis, (B, L, M) -> (B, L - k + 1, M).


def _reduce_window(x: jax.Array, k: int) -> jax.Array:
    """k additions for each output: the plainest form, and the most exact."""
    return lax.reduce_window(x, 0.0, lax.add, (1, k, 1), (1, 1, 1), "VALID")


def _cumsum(x: jax.Array, k: int) -> jax.Array:
    """The difference of two prefix sums: its rounding error grows with the length of the axis."""
    total = jnp.cumsum(x, axis=1)
    return jnp.concatenate([total[:, k - 1 : k], total[:, k:] - total[:, :-k]], axis=1)


def _blocks(x: jax.Array, k: int) -> jax.Array:
    """Whole blocks for one window in BLOCK; for those between, what enters less what leaves.

    out[i + 1] = out[i] + x[i + k] - x[i], where at most BLOCK - 1 differences follow an out[i] that
    was summed afresh. So the error does not grow with the axis, nor the cost with the window: the
    map is read about twice.
    """
    if k <= BLOCK:
        return _reduce_window(x, k)
    b, length, m = x.shape
    outputs = length - k + 1
    heads = -(-outputs // BLOCK)

    parts = (x[:, i::BLOCK][:, : length // BLOCK] for i in range(BLOCK))
    block = functools.reduce(operator.add, parts)
    head = _auto(block, k // BLOCK)[:, :heads]
    for rest in range(k - k % BLOCK, k):
        head += x[:, rest::BLOCK][:, :heads]

    change = x[:, k:] - x[:, :-k]
    change = jnp.pad(change, ((0, 0), (0, heads * BLOCK - (outputs - 1)), (0, 0)))
    change = change.reshape(b, heads, BLOCK, m)
    first = stored(head)
    inside = itertools.accumulate((change[:, :, i] for i in range(BLOCK - 1)), initial=first)
    return jnp.stack(list(inside), axis=2).reshape(b, heads * BLOCK, m)[:, :outputs]


def _auto(x: jax.Array, k: int) -> jax.Array:
    return _reduce_window(x, k) if k <= LARGEST_DIRECT else _blocks(x, k)


METHODS: dict[str, Callable[[jax.Array, int], jax.Array]] = {
    "auto": _auto,
    "reduce_window": _reduce_window,
    "cumsum": _cumsum,
    "blocks": _blocks,
}


_jit = functools.partial(jax.jit, static_argnames=("window", "method"))


def window_sum(x: jax.Array, window: Window, *, method: str = "auto") -> jax.Array:
    """Sum of each window that lies inside the map.

    Args:
      x: (N, H, W, C), any float type.
      window: (k_h, k_w) in pixels, clipped to the map; `None` is the whole map.
      method: "reduce_window", "cumsum" or "blocks"; "auto" takes the fastest measured.

    Returns:
      (N, H - k_h + 1, W - k_w + 1, C) float32.

    Raises:
      ValueError: a window below 1 pixel, an unknown method or an array that is not NHWC.
      TypeError: whole numbers.
    """
    _check_map(x)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}.")
    n, h, w, c = x.shape
    k_h, k_w = clip_window(window, (h, w))
    along = METHODS[method]
    x = x.astype(jnp.float32)
    # An axis that its window covers is an ordinary sum; it leaves the other one less to do.
    if k_w == w:
        x = x.sum(axis=2, keepdims=True)
    if k_h == h:
        x = x.sum(axis=1, keepdims=True)
    else:
        x = along(x.reshape(n, h, -1), k_h).reshape(n, h - k_h + 1, -1, c)
    if k_w < w:
        rows = x.shape[1]
        x = along(x.reshape(n * rows, w, c), k_w).reshape(n, rows, w - k_w + 1, c)
    return x


def window_mean(x: jax.Array, window: Window, *, method: str = "auto") -> jax.Array:
    """Mean of each window that lies inside the map; arguments and shapes as for `window_sum`."""
    total = window_sum(x, window, method=method)
    _, h, w, _ = x.shape
    return total / np.float32(math.prod(clip_window(window, (h, w))))


def window_moments(
    x: jax.Array, window: Window, *, method: str = "auto"
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of each window that lies inside the map; see `window_sum`.

    The channel's mean over the map is taken off before squaring: it does not change the variance,
    and without it E[x^2] - E[x]^2 loses a third of a variance of 0.01 at mean 30.

    Returns:
      Two arrays (N, H - k_h + 1, W - k_w + 1, C) float32.
    """
    _check_map(x)
    wide = x.astype(jnp.float32)
    offset = wide.mean(axis=(1, 2), keepdims=True)
    return moments_about(wide, offset, lambda x: window_mean(x, window, method=method))


def _check_map(x: jax.Array) -> None:
    if x.ndim != 4:
        raise ValueError(f"expected an array (N, H, W, C), got shape {x.shape}.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"expected floats, got {x.dtype}.")


def moments_about(
    x: jax.Array, offset: jax.Array, mean_of: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance by some mean of a float32 map, with `offset` taken off meanwhile."""
    centred = x - offset
    mean, square = mean_of(centred), mean_of(centred * centred)
    return mean + offset, jnp.maximum(square - mean * mean, 0.0)


def spread(y: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Replicate the edges of (N, H', W', C) to `size` = (H, W), (H - H') // 2 rows of them above.

    Row i then holds the window that starts at clip(i - (k_h - 1) // 2, 0, H - k_h). An axis of
    length 1 is left for broadcasting.
    """
    for axis, length in zip((1, 2), size, strict=True):
        inside = y.shape[axis]
        if 1 < inside < length:
            # XLA fuses this gather into what follows: the replicated border is never stored.
            index = np.clip(np.arange(length) - (length - inside) // 2, 0, inside - 1)
            y = jnp.take(y, index, axis=axis, mode="clip")
    return y


@_jit
def local_sum(x: jax.Array, window: Window, *, method: str = "auto") -> jax.Array:
    """Sum of the window around each position; arguments as for `window_sum`.

    Returns:
      (N, H, W, C) of x's type.
    """
    return _full(window_sum(x, window, method=method), x)


@_jit
def local_mean(x: jax.Array, window: Window, *, method: str = "auto") -> jax.Array:
    """Mean of the window around each position: TLC's local average pooling.

    Near the border the window is the nearest one that lies inside, so every mean is over exactly
    k_h x k_w pixels. A window that covers the map gives the global mean.

    Args:
      x: (N, H, W, C), any float type.
      window: (k_h, k_w) in pixels, clipped to the map; `None` is the whole map.
      method: "reduce_window", "cumsum" or "blocks"; "auto" takes the fastest measured.

    Returns:
      (N, H, W, C) of x's type.

    Raises:
      ValueError: a window below 1 pixel, an unknown method or an array that is not NHWC.
      TypeError: whole numbers.

    Examples:
      >>> import jax.numpy as jnp
      >>> x = jnp.arange(5.0).reshape(1, 1, 5, 1)
      >>> [round(float(mean), 3) for mean in local_mean(x, (1, 3)).ravel()]
      [1.0, 1.0, 2.0, 3.0, 3.0]
    """
    return _full(window_mean(x, window, method=method), x)


@_jit
def local_moments(
    x: jax.Array, window: Window, *, method: str = "auto"
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of the window around each position, exact as in `window_moments`.

    Returns:
      Two arrays (N, H, W, C) of x's type; arguments as for `local_mean`.
    """
    mean, variance = window_moments(x, window, method=method)
    return _full(mean, x), _full(variance, x)


def _full(y: jax.Array, like: jax.Array) -> jax.Array:
    _, h, w, _ = like.shape
    return jnp.broadcast_to(spread(y, (h, w)), like.shape).astype(like.dtype)
