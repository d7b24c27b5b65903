"""Tiles for images that do not fit in memory at once."""

import math

import jax
import numpy as np

from tlc_jax.inference import memory
from tlc_jax.inference.programs import planned_memory
from tlc_jax.inference.ways import FADE, context_of
from tlc_jax.layers import Network
from tlc_jax.ops.windows import Size

SHARE = 0.7  # of what is available, as XLA takes more than it plans
COPIES = 4  # of the pixels, that the way from file to file has at a time
# Of more pixels, a CPU is not given more memory than this: it is no faster for it.
LARGE, ENOUGH = 2048**2, 5 * 2**29
SMALLEST = 256  # pixels, the least side of a tile
STEP = 128  # pixels; sides are multiples of it
PROBE = 1024  # pixels, the side of the picture that tells how much memory a pixel takes


def room_for(model: Network, pixels: np.ndarray) -> float:
    """Bytes that a program may plan for an image; infinite where nothing tells.

    Global statistics change with tiles, so that they are taken at once wherever that is possible.
    """
    there_is, room = memory.available(), math.inf
    if jax.default_backend() == "cpu":
        if there_is is not None:
            room = SHARE * (there_is - COPIES * pixels.nbytes)
        height, width, _ = pixels.shape
        return min(room, ENOUGH) if model.local_mode and height * width > LARGE else room
    return room if there_is is None else SHARE * there_is


def may_fit(model: Network, size: Size, room: float) -> bool:
    """Whether it is worth to compile for all of an image of `size` = (H, W)."""
    pixels = math.prod(size)
    return pixels <= LARGE or pixels * _a_pixel(model) <= room


def tile_for(model: Network, size: Size, room: float) -> Size:
    """The largest tiles that fit, of which an image takes few.

    Their sides are multiples of `STEP`, so that pictures of several sizes share few programs.

    Args:
      model: the network.
      size: (H, W) of the image.
      room: bytes, as of `room_for`.

    Raises:
      MemoryError: not even the smallest ones fit.
    """
    side = math.isqrt(max(0, int(room / _a_pixel(model)))) // STEP * STEP
    while side >= SMALLEST and planned_memory(model, (side, side)) > room:
        side -= STEP
    if side < SMALLEST:
        raise MemoryError(f"no room for parts of {SMALLEST}x{SMALLEST}")
    shared = 2 * context_of(model, (side, side)) + FADE

    def evenly(length: int) -> int:
        count = max(1, math.ceil((length - shared) / (side - shared)))
        whole = length + (count - 1) * shared  # with what is seen twice
        return min(side, math.ceil(whole / count / STEP) * STEP)

    return evenly(size[0]), evenly(size[1])


def _a_pixel(model: Network) -> float:
    """Bytes planned for a pixel, about; it compiles once for a network."""
    return planned_memory(model, (PROBE, PROBE)) / PROBE**2
