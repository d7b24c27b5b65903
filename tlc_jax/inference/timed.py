"""Restore one image, and measure the seconds and the memory that it takes."""

import itertools
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from tlc_jax.inference.fitting import may_fit, room_for, tile_for
from tlc_jax.inference.guard import guarded
from tlc_jax.inference.machine import Devices, count_devices
from tlc_jax.inference.programs import as_input, forward
from tlc_jax.inference.ways import Way, at_once, compile_way, tiled
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.ops.windows import Size

Watch = Callable[[str], None]


class NotFiniteError(ValueError):
    """A result with NaN or infinite numbers; the message is the end of a sentence for the user."""

    def __init__(self) -> None:
        super().__init__(
            "the restored picture holds NaN or infinite numbers; convert the weights again, and "
            "compute in float32."
        )


class Timed(NamedTuple):
    """A restored image, and the time and memory that it took.

    Attributes:
      pixels: (H, W, C) float32, not clipped.
      mode: "local" or "global", the statistics that it was restored with.
      compiling, running: seconds of each.
      memory: bytes that XLA plans.
      tile: (height, width) of the parts that it was restored in to fit in memory, if it was.
    """

    pixels: np.ndarray
    mode: str
    compiling: float
    running: float
    memory: int
    tile: Size | None = None


def restore_timed(
    model: Network,
    params: Params,
    image: np.ndarray,
    *,
    way: Way = at_once,
    bucket: Size | None = None,
    devices: Devices = 1,
    fit: bool = False,
    guard: bool = False,
    watch: Watch = lambda words: None,
) -> Timed:
    """Restore one image, and measure the time and the memory.

    Args:
      model, params, image, way, bucket, devices: as for `tlc_jax.restore`.
      fit: whether an image that does not fit in memory is restored in tiles that see their
        neighbours and fade into them; in place of `way`.
      guard: whether to choose the mode as `tlc_jax.restore_guarded` does.
      watch: called before each step with words for it, such as "compiling for 640x480".

    Raises:
      NotFiniteError: the result holds NaN or infinite numbers.
      ValueError, TypeError: as `tlc_jax.restore`.
    """
    pixels = as_input(model, image)
    height, width, _ = pixels.shape
    start = time.perf_counter()
    room = room_for(model, pixels) if fit else math.inf
    # The devices of a CPU have one memory.
    sharing = count_devices(devices) if jax.default_backend() == "cpu" else 1
    planned, tile = None, None
    watch(f"compiling for {width}x{height}")
    if devices != 1 or may_fit(model, (height, width), room):
        planned = compile_way(way, model, params, pixels, bucket, devices)
    if planned is None or planned.memory * sharing > room:
        tile = tile_for(model, (height, width), room)
        way, bucket = tiled(tile), None
        watch(f"compiling for {tile[1]}x{tile[0]}")
        planned = compile_way(way, model, params, pixels, devices=devices)
    compiled = time.perf_counter()
    done = itertools.cycle(range(1, planned.runs + 1))

    def run_one(model: Network, params: Params, pixels: np.ndarray) -> np.ndarray:
        part = f"part {next(done)} of {planned.runs}, " if planned.runs > 1 else ""
        watch(f"restoring, {part}in {planned.memory / 2**30:.2f} GiB")
        return forward(model, params, pixels, bucket, devices)

    run = way(run_one)
    if guard:
        restored, mode = guarded(run, model, params, pixels)
    else:
        restored, mode = run(model, params, pixels), "local" if model.local_mode else "global"
    end = time.perf_counter()
    check_finite(restored)
    return Timed(restored, mode, compiled - start, end - compiled, planned.memory, tile)


def check_finite(pixels: np.ndarray) -> None:
    """Refuse a result with NaN or infinite numbers, by a NotFiniteError."""
    if not np.isfinite(pixels).all():
        raise NotFiniteError
