"""Tiles for images that do not fit in memory at once."""

import math

import jax
import numpy as np

from tlc_jax.inference import memory
from tlc_jax.layers import Network
from tlc_jax.ops.windows import Size

SHARE = 0.7  # of what is available, as XLA takes more than it plans
COPIES = 4  # of the pixels, that the way from file to file has at a time
# Of more pixels, a CPU is not given more memory than this: it is no faster for it.
LARGE, ENOUGH = 2048**2, 3 * 2**30
SMALLEST = 256  # pixels, the least side of a tile
STEP = 64  # pixels; sides are multiples of it, as networks pad to such


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


def tile_for(model: Network, size: Size, planned: float, room: float) -> tuple[Size, int]:
    """The largest tiles that fit, of which an image takes few, and the overlap of neighbours.

    Args:
      model: the network.
      size: (H, W) of the image.
      planned: bytes for all of it.
      room: as of `room_for`.

    Raises:
      MemoryError: not even the smallest ones fit.
    """
    side = math.isqrt(max(0, int(room / planned * math.prod(size)))) // STEP * STEP
    if side < SMALLEST:
        raise MemoryError(f"no room for parts of {SMALLEST}x{SMALLEST}")
    overlap = overlap_of(model, side)

    def evenly(length: int) -> int:
        count = max(1, math.ceil((length - overlap) / (side - overlap)))
        whole = length + (count - 1) * overlap  # with what is seen twice
        return min(side, math.ceil(whole / count / STEP) * STEP)

    return (evenly(size[0]), evenly(size[1])), overlap


def overlap_of(model: Network, tile: int) -> int:
    """Pixels that neighbours share: a window, beyond which local statistics do not see."""
    return min(tile // 2, max(model.input_window("mean") or (tile, tile)))
