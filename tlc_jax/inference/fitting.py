"""Tiles for images that do not fit in memory at once."""

import itertools
import math

import jax
import numpy as np

from tlc_jax.inference import memory
from tlc_jax.inference.programs import planned_memory
from tlc_jax.inference.ways import FADE, context_of, steps_of
from tlc_jax.layers import Network
from tlc_jax.ops.windows import Size

SHARE = 0.7  # of what is available, as XLA takes more than it plans
COPIES = 4  # of the pixels, that the way from file to file has at a time
# Of more pixels, a CPU is not given more memory than this: it is no faster for it, and 24
# megapixels stay within 4 GiB from file to file.
LARGE, ENOUGH = 2048**2, 2 * 2**30
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
    return pixels <= LARGE or room == math.inf or pixels * _a_pixel(model) <= room


def tile_for(model: Network, size: Size, room: float) -> Size:
    """Tiles that fit, of which an image takes least in all.

    Their sides are multiples of `STEP`, but where the image itself is short, so that images of
    several sizes share few programs.

    Args:
      model: the network.
      size: (H, W) of the image.
      room: bytes, as of `room_for`.

    Raises:
      MemoryError: not even the smallest ones fit.
    """
    area = room / _a_pixel(model)
    while area >= SMALLEST**2:
        side = math.isqrt(int(area))
        shared = 2 * context_of(model, (side, side)) + FADE
        rows, columns = map(_sides, size, (shared, shared), steps_of(model))
        seen = [
            (_seen(size[0], height, shared) * _seen(size[1], width, shared), (height, width))
            for height, width in itertools.product(rows, columns)
            if height * width <= area
        ]
        if seen and planned_memory(model, tile := min(seen)[1]) <= room:
            return tile
        area *= 0.9  # it takes more than the estimate
    raise MemoryError(f"no room for parts of {SMALLEST}x{SMALLEST}")


def _sides(length: int, shared: int, step: int) -> list[int]:
    """Of tiles along an axis: half of them is their own, or a short axis is not cut."""
    least = STEP * math.ceil(max(SMALLEST, 2 * shared) / STEP)
    whole = [step * math.ceil(length / step)] if length < 2 * least else []  # as it is padded
    return [*range(least, length, STEP), *whole]


def _seen(length: int, side: int, shared: int) -> int:
    """Pixels that tiles see along an axis, all together."""
    return side if side >= length else side * math.ceil((length - shared) / (side - shared))


def _a_pixel(model: Network) -> float:
    """Bytes planned for a pixel, about; it compiles once for a network."""
    return planned_memory(model, (PROBE, PROBE)) / PROBE**2
