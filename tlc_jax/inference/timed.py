"""Restore one image, and measure the seconds and the memory that it takes."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tlc_jax.inference.guard import guarded
from tlc_jax.inference.programs import as_input, forward
from tlc_jax.inference.ways import Way, at_once, compile_way
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.ops.windows import Size

Watch = Callable[[str], None]


class NotFiniteError(ValueError):
    """A result with NaN or infinite numbers; the message is the end of a sentence for the user."""


class Timed(NamedTuple):
    """A restored image, and the time and memory that it took.

    Attributes:
      pixels: (H, W, C) float32, not clipped.
      mode: "local" or "global", the statistics that it was restored with.
      compiling, running: seconds of each.
      memory: bytes that XLA plans.
    """

    pixels: np.ndarray
    mode: str
    compiling: float
    running: float
    memory: int


def restore_timed(
    model: Network,
    params: Params,
    image: np.ndarray,
    *,
    way: Way = at_once,
    bucket: Size | None = None,
    guard: bool = False,
    watch: Watch = lambda words: None,
) -> Timed:
    """Restore one image, and measure the time and the memory.

    Args:
      model, params, image, way, bucket: as for `tlc_jax.restore`.
      guard: whether to choose the mode as `tlc_jax.restore_guarded` does.
      watch: called before each step with words for it, such as "compiling for 640x480".

    Raises:
      NotFiniteError: the result holds NaN or infinite numbers.
      ValueError, TypeError: as `tlc_jax.restore`.
    """
    pixels = as_input(model, image)
    height, width, _ = pixels.shape
    watch(f"compiling for {width}x{height}")
    start = time.perf_counter()
    memory = compile_way(way, model, params, pixels, bucket)
    compiled = time.perf_counter()
    watch(f"restoring, in {memory / 2**30:.2f} GiB")
    run = way(functools.partial(forward, bucket=bucket))
    if guard:
        restored, mode = guarded(run, model, params, pixels)
    else:
        restored, mode = run(model, params, pixels), "local" if model.local_mode else "global"
    done = time.perf_counter()
    check_finite(restored)
    return Timed(restored, mode, compiled - start, done - compiled, memory)


def check_finite(pixels: np.ndarray) -> None:
    """Refuse a result with NaN or infinite numbers, by a NotFiniteError."""
    if not np.isfinite(pixels).all():
        raise NotFiniteError(
            "the restored picture holds NaN or infinite numbers; convert the weights again, and "
            "compute in float32."
        )
