"""Tiles for images that do not fit in memory at once."""

import math

import numpy as np

from tlc_jax.inference import memory
from tlc_jax.layers import Network

SHARE = 0.6  # of what is available, as XLA takes more than it plans, and others take some
COPIES = 4  # of the pixels, that the way from file to file has at a time
SMALLEST = 256  # pixels, the least side of a tile
STEP = 64  # pixels; sides are multiples of it, as networks pad to such


def room_for(pixels: np.ndarray) -> int | None:
    """Bytes that a program may plan to restore an image; `None` where nothing tells."""
    there_is = memory.available()
    return None if there_is is None else int(SHARE * there_is) - COPIES * pixels.nbytes


def side_for(per_pixel: float, room: int) -> int:
    """The side of the largest tile that fits, or the smallest one that makes sense."""
    side = math.isqrt(max(0, int(room / per_pixel)))
    return max(SMALLEST, side // STEP * STEP)


def overlap_of(model: Network, tile: int) -> int:
    """Pixels that neighbours share: a window, as far as they go."""
    window = model.window or model.train_size
    return min(tile // 2, max(window))
