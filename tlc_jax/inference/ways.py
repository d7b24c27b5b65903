"""Ways to restore an image: at once, in tiles, shifted; they combine.

tlc.restore(model, params, image)
tlc.restore(model, params, image, way=tlc.tiled(1024))
tlc.restore(model, params, image, way=lambda run: tlc.shifted(5)(tlc.tiled(1024)(run)))
"""

import contextlib
import functools
import itertools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import numpy as np

from tlc_jax.inference.machine import Devices
from tlc_jax.inference.programs import as_input, compile_for, forward
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.ops.pixels import like
from tlc_jax.ops.windows import Size

FADE = 32  # pixels, over which a tile fades into the next
LATTICE = 64  # pixels, the side of MAXIM's largest blocks; the sides of its others divide it

Precision = Literal["default", "high", "highest"]

# Takes a network, its parameters and (H, W, C) float32, and returns the restored image likewise.
Run = Callable[[Network, Params, np.ndarray], np.ndarray]
Way = Callable[[Run], Run]  # makes one such function from another


def at_once(run: Run) -> Run:
    """The way that restores the image as a whole."""
    return run


def restore(
    model: Network,
    params: Params,
    image: np.ndarray,
    *,
    way: Way = at_once,
    bucket: Size | None = None,
    devices: Devices = 1,
    precision: Precision | None = None,
) -> np.ndarray:
    """Restore one image with a network, global or local as `model.local_mode` says.

    The first image of a size compiles; later ones of the same network and size do not.

    Args:
      model: a network; `model.clone(local_mode=True)` for TLC. One of your own derives from
        `tlc_jax.Network`, and its fields hold tuples, not lists.
      params: its parameter tree.
      image: (H, W, C) with the network's channels, float in [0, 1], uint8 or uint16.
      way: `tiled(...)`, `shifted(...)`, or a combination of them.
      bucket: (height, width) no smaller than the image. One compiled program then serves all
        images of a bucket, with the same results but for rounding; see `choose_buckets`.
      devices: over how many its rows are divided, where it is too large for one or to have it
        sooner. The result is the same but for rounding. MAXIM does not divide.
      precision: of products of float32, "default", "high" or "highest", as
        `jax.default_matmul_precision` has them; `None` is what that is set to. On a CPU all are
        the same; the releases' numbers need "highest" on a GPU or TPU.

    Returns:
      (H scale, W scale, out_channels) with the network's scale and channels, of the image's type;
      integers are rounded and clipped, floats are not.

    Raises:
      ValueError: an array that is not (H, W, C) with the network's channels; floats that are NaN
        or far from [0, 1], as those of 0 to 255 are; a bucket that is too
        small, or for a network without buckets; more devices than there are, a network that does
        not divide, or a bucket with them; a network for clips, or one with a field that
        cannot be hashed; a result with NaN for an image of integers, which cannot hold it.
      TypeError: other types of numbers; a module that is no `Network` with a `forward`.
    """
    image = np.asarray(image)
    run = way(functools.partial(forward, bucket=bucket, devices=devices))
    chosen = (
        contextlib.nullcontext() if precision is None else jax.default_matmul_precision(precision)
    )
    with chosen:
        return like(image, run(model, params, as_input(model, image)))


class Compiled(NamedTuple):
    """What a way runs for an image: bytes that XLA plans for the largest program, and how often."""

    memory: int
    runs: int


def compile_way(
    way: Way,
    model: Network,
    params: Params,
    pixels: np.ndarray,
    bucket: Size | None = None,
    devices: Devices = 1,
) -> Compiled:
    """Compile all programs that a way runs for an image as from `as_input`, without running them.

    The bytes are those of `planned_memory`.
    """
    shapes: list[tuple[int, ...]] = []
    memory: dict[tuple[int, ...], int] = {}  # bytes, by shape

    def only_compile(model: Network, params: Params, pixels: np.ndarray) -> np.ndarray:
        shapes.append(pixels.shape)
        if pixels.shape not in memory:
            memory[pixels.shape] = compile_for(model, params, pixels, bucket, devices)
        h, w, _ = pixels.shape
        # One number that looks like a whole image.
        size = h * model.scale, w * model.scale, model.out_channels
        return np.broadcast_to(np.zeros((), np.float32), size)

    way(only_compile)(model, params, pixels)
    return Compiled(max(memory.values()), len(shapes))


def tiled(tile: int | Size, overlap: int | None = None, *, context: int | None = None) -> Way:
    """The way that restores overlapping tiles, to bound memory or to stand in for TLC.

    Tiles with a context, the default, are parts of one picture: they lie where the network's own
    steps lie in the whole, see their neighbours, and fade into them over 32 pixels. Tiles with an
    overlap are pictures of their own, averaged where they overlap, as was done before TLC. One
    compiled program serves all tiles of all images that are no smaller than a tile.

    Args:
      tile: side in pixels, or (height, width), clipped to the image; with a context rounded down to
        what the network's steps allow.
      overlap: pixels that averaged neighbours share, less than `tile`. The last tile ends with the
        image, so it may share more.
      context: pixels around a tile's result that the network sees only; `None`, without an overlap,
        is as many as `context_of` tells.

    Returns:
      A way for `restore`.

    Raises:
      ValueError: an overlap that is not in 0 ... tile - 1, a context that leaves nothing of a tile
        (that depends on the network, so the way itself may raise it), or both.

    Examples:
      >>> import tlc_jax as tlc
      >>> model, params = tlc.load("denoise")
      >>> tlc.restore(model, params, np.zeros((100, 150, 3), np.uint8), way=tiled(96)).shape
      (100, 150, 3)
    """
    sides = (tile, tile) if isinstance(tile, int) else tuple(tile)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"a tile is a side in pixels or (height, width), got {tile!r}.")
    if overlap is not None and context is not None:
        raise ValueError("tiles have an overlap that is averaged or a context; give one of them.")
    if overlap is not None and not 0 <= overlap < min(sides):
        raise ValueError(
            f"an overlap is 0 to {min(sides) - 1} pixels for tiles of {tile}, got {overlap}."
        )

    def restored(run: Run, model: Network, params: Params, pixels: np.ndarray) -> np.ndarray:
        if overlap is None:
            steps = steps_of(model)
            fits = all(n % step == 0 for n, step in zip(pixels.shape, steps, strict=False))
            whole = pixels if fits else model.pad(pixels)  # which copies it
            seen = context_of(model, sides) if context is None else context
            axes = [
                _with_context(*axis, seen) for axis in zip(whole.shape, sides, steps, strict=False)
            ]
        else:
            whole = pixels
            axes = [_averaged(*axis, overlap) for axis in zip(whole.shape, sides, strict=False)]
        scale = model.scale
        size = [scale * n for n in whole.shape[:2]]
        total = np.zeros((*size, model.out_channels), np.float32)
        for (rows, down), (columns, across) in itertools.product(*axes):
            part = run(model, params, whole[rows, columns])
            weights = np.outer(down, across).repeat(scale, 0).repeat(scale, 1)
            place = _place((rows.start, columns.start), part.shape, scale)
            total[place] += weights[..., None] * part
        return total if overlap is not None else model.crop(total, pixels.shape[:2])

    return lambda run: functools.partial(restored, run)


def context_of(model: Network, tile: Size) -> int:
    """Pixels around a tile's result that let it differ little from that of the whole image.

    Half a window of TLC, as benchmarks/tiles.py measures, or less: half of a tile is its own.
    """
    window = model.input_window("mean") or (0, 0)
    side = min(n // step * step for n, step in zip(tile, steps_of(model), strict=True))
    return max(0, min(max(window) // 2, side // 4 - FADE // 2))


def steps_of(model: Network) -> Size:
    """Pixels down and across, in multiples of which a network's result moves with its image."""
    multiple = model.multiple
    return (multiple, multiple) if isinstance(multiple, int) else multiple


# Of each tile on an axis its pixels, and its weights there; the weights of all together are 1.
Tiles = list[tuple[slice, np.ndarray]]


def _averaged(length: int, side: int, overlap: int) -> Tiles:
    return _weighed(length, side, side - overlap, np.ones(min(side, length), np.float32))


def _with_context(length: int, side: int, step: int, context: int) -> Tiles:
    """Tiles that begin at multiples of `step`; the sides of a padded image are such, too."""
    side = side // step * step
    stride = (side - 2 * context - FADE) // step * step
    if context < 0 or stride < 1:
        raise ValueError(
            f"tiles of {side} pixels leave nothing beside a context of {context} on both sides, "
            f"{FADE} that fade and a network that moves in steps of {step}; take larger tiles."
        )
    inside = np.clip((np.arange(min(side, length)) + 0.5 - context) / FADE, 0, 1)
    return _weighed(length, side, stride, np.sin(np.pi / 2 * inside) ** 2)


def _weighed(length: int, side: int, stride: int, ramp: np.ndarray) -> Tiles:
    """Tiles whose weights rise as `ramp` from the borders that are not the image's."""
    starts = [*range(0, length - side, stride), max(0, length - side)]
    tiles = [slice(start, min(start + side, length)) for start in starts]
    weights = np.zeros((len(tiles), length), np.float32)
    for here, weight in zip(tiles, weights, strict=True):
        weight[here] = ramp if here.start > 0 else 1
        weight[here] *= ramp[::-1] if here.stop < length else 1
    weights /= weights.sum(axis=0)
    return [(here, weight[here]) for here, weight in zip(tiles, weights, strict=True)]


def shifted(shifts: int) -> Way:
    """The way that averages results for several shifts of the image against the network's blocks.

    MAXIM mixes pixels within blocks, so the result depends on where the blocks lie: on a frame of
    GoPro the mean over five shifts is 0.17 dB better than a single one is on average.

    Args:
      shifts: how many; it takes as many times as long. All runs have one size, on each axis 64
        pixels more than the image.

    Returns:
      A way for `restore`.

    Raises:
      ValueError: `shifts` below 1.
    """
    if shifts < 1:
        raise ValueError(f"shifts is 1 or more, got shifts={shifts}.")

    def restored(run: Run, model: Network, params: Params, pixels: np.ndarray) -> np.ndarray:
        height, width, _ = pixels.shape
        size = height * model.scale, width * model.scale
        total = np.zeros((*size, model.out_channels), np.float32)
        for corner in alignments(shifts):
            around = run(model, params, moved(pixels, corner))
            total += around[_place(corner, size, model.scale)]
        return total / shifts

    return lambda run: functools.partial(restored, run)


def _place(corner: tuple[int, int], size: tuple[int, ...], scale: int) -> tuple[slice, slice]:
    """The slices of a result for a part of `size` that begins at `corner` of the input."""
    top, left = (scale * start for start in corner)
    return slice(top, top + size[0]), slice(left, left + size[1])


def alignments(count: int) -> list[tuple[int, int]]:
    """Rows and columns to shift an image by, evenly spread over the lattice of blocks.

    Examples:
      >>> alignments(5)
      [(0, 0), (13, 39), (26, 14), (39, 53), (52, 28)]
    """
    # Steps of a fifth and three fifths; odd ones, so that places differ on finer lattices, too.
    return [(13 * n % LATTICE, 39 * n % LATTICE) for n in range(count)]


def moved(image: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """An image (H, W, C) at a place in one of (H + 64, W + 64), filled by reflection."""
    return np.pad(image, [*((n, LATTICE - n) for n in shift), (0, 0)], mode="reflect")
