"""Ways to restore a picture: at once, in tiles, at several places; they combine.

tlc.restore(model, params, image)
tlc.restore(model, params, image, way=tlc.tiled(256, 32))
tlc.restore(model, params, image, way=lambda run: tlc.shifted(5)(tlc.tiled(256, 32)(run)))
"""

import functools
import itertools
from collections.abc import Callable

import numpy as np

from tlc_jax.inference.buckets import Size
from tlc_jax.inference.programs import as_input, compile_for, forward
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.ops.pixels import like

LATTICE = 64  # pixels, the side of MAXIM's largest block; that of the others divides it

# Takes a network, its parameters and (H, W, C) float32, and gives the restored picture likewise.
Run = Callable[[Network, Params, np.ndarray], np.ndarray]
Way = Callable[[Run], Run]


def at_once(run: Run) -> Run:
    """The way of a picture that is restored as it is."""
    return run


def restore(
    model: Network,
    params: Params,
    image: np.ndarray,
    *,
    way: Way = at_once,
    bucket: Size | None = None,
) -> np.ndarray:
    """Restore one picture with a network, global or local as `model.local_mode` says.

    The first picture of a size compiles; later ones of the same network and size do not.

    Args:
      model: a network; `model.clone(local_mode=True)` for TLC. One of your own derives from
        `tlc_jax.Network`, and has tuples for lists.
      params: its parameter tree.
      image: (H, W, C) with the network's channels, float in [0, 1], uint8 or uint16.
      way: `tiled(...)`, `shifted(...)`, or one made of them.
      bucket: (height, width) no smaller than the picture. One compiled program then serves all
        pictures of a bucket, with the same results but for rounding; `choose_buckets` finds some.

    Returns:
      (H, W, C) of the same type, 3 channels of a dual-pixel network; whole numbers are rounded and
      clipped, floats are not.

    Raises:
      ValueError: an array that is no picture, or not of the network's channels; a bucket that is
        too small, or of a network that has none; a network for clips, or one that JAX cannot
        compile by; a result that holds NaN, for a picture of whole numbers, which cannot.
      TypeError: other types of numbers; a module that is no `Network` with a `forward`.
    """
    image = np.asarray(image)
    run = way(functools.partial(forward, bucket=bucket))
    return like(image, run(model, params, as_input(model, image)))


def planned(
    way: Way, model: Network, params: Params, pixels: np.ndarray, bucket: Size | None = None
) -> int:
    """Compile all that a way runs for a picture of this size, without running it.

    Args:
      way, model, params, bucket: as of `restore`.
      pixels: as `programs.as_input` gives them.

    Returns:
      Bytes that XLA plans for the largest program, as `planned_memory`.
    """
    plans: dict[tuple[int, ...], int] = {}

    def plan(model: Network, params: Params, pixels: np.ndarray) -> np.ndarray:
        if pixels.shape not in plans:
            plans[pixels.shape] = compile_for(model, params, pixels, bucket)
        h, w, _ = pixels.shape
        return np.zeros((h * model.scale, w * model.scale, model.out_channels), np.float32)

    way(plan)(model, params, pixels)
    return max(plans.values())


def tiled(tile: int, overlap: int) -> Way:
    """The way of overlapping tiles, averaged with equal weights where they overlap.

    What is done for want of memory, or instead of TLC: each tile is a picture of its own to the
    network. One compiled program serves all tiles of all pictures that are no smaller.

    Args:
      tile: side in pixels; of a smaller picture, the whole side.
      overlap: pixels that neighbours share, less than `tile`. The last tile ends with the picture,
        so it may share more.

    Returns:
      A way for `restore`.

    Raises:
      ValueError: an overlap that is not in 0 ... tile - 1.
    """
    if not 0 <= overlap < tile:
        raise ValueError(
            f"an overlap is 0 to {tile - 1} pixels for tiles of {tile}, got {overlap}."
        )

    def starts(length: int) -> list[int]:
        return [*range(0, length - tile, tile - overlap), max(0, length - tile)]

    def way(run: Run) -> Run:
        def restored(model: Network, params: Params, pixels: np.ndarray) -> np.ndarray:
            height, width, _ = pixels.shape
            size = height * model.scale, width * model.scale
            total, count = (np.zeros((*size, n), np.float32) for n in (model.out_channels, 1))
            for top, left in itertools.product(starts(height), starts(width)):
                part = run(model, params, pixels[top : top + tile, left : left + tile])
                here = _place((top, left), part.shape, model.scale)
                total[here] += part
                count[here] += 1
            return total / count

        return restored

    return way


def shifted(shifts: int) -> Way:
    """The way of a mean over several places of the picture against the network's blocks.

    MAXIM mixes pixels within blocks, and it matters what falls into one: on a frame of GoPro the
    mean over five places is 0.17 dB better than its members are on average.

    Args:
      shifts: how many places; it takes as many times as long. All runs are of one size, the
        picture's and 64 pixels more.

    Returns:
      A way for `restore`.

    Raises:
      ValueError: less than one place.
    """
    if shifts < 1:
        raise ValueError(f"a picture is restored at one place or more, got shifts={shifts}.")

    def way(run: Run) -> Run:
        def restored(model: Network, params: Params, pixels: np.ndarray) -> np.ndarray:
            height, width, _ = pixels.shape
            size = height * model.scale, width * model.scale
            total = np.zeros((*size, model.out_channels), np.float32)
            for top, left in alignments(shifts):
                around = run(model, params, moved(pixels, (top, left)))
                total += around[_place((top, left), size, model.scale)]
            return total / shifts

        return restored

    return way


def _place(corner: tuple[int, int], size: tuple[int, ...], scale: int) -> tuple[slice, slice]:
    """Where in a result a part of `size` lies whose corner in the picture is this."""
    top, left = (scale * start for start in corner)
    return slice(top, top + size[0]), slice(left, left + size[1])


def alignments(count: int) -> list[tuple[int, int]]:
    """Rows and columns to move a picture by, so that its places on a lattice differ evenly.

    Examples:
      >>> alignments(5)
      [(0, 0), (13, 39), (26, 14), (39, 53), (52, 28)]
    """
    # Steps of a fifth and three fifths; odd ones, so that places differ on finer lattices, too.
    return [(13 * n % LATTICE, 39 * n % LATTICE) for n in range(count)]


def moved(image: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, C) at a place in one of (H + 64, W + 64), reflected around it."""
    return np.pad(image, [*((n, LATTICE - n) for n in shift), (0, 0)], mode="reflect")
