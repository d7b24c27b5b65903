"""Local statistics, unless they fail: a guard for pictures unlike those of training.

There a window may hold statistics that training never showed, and the network answers with patches
of false colour, where it would not for the statistics of the whole picture.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tlc_jax.inference.buckets import Size
from tlc_jax.inference.programs import as_input, forward
from tlc_jax.inference.ways import Run, Way, at_once
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.ops.pixels import like

BLOCK = 16  # pixels; wider than what a restoration sharpens
LIMIT = 0.1  # of full scale; see benchmarks/guard.py for what is usual and what is not


class Guarded(NamedTuple):
    """A restored picture, and which statistics it was restored with."""

    restored: np.ndarray
    mode: str  # "local" or "global"


def restore_guarded(
    model: Network,
    params: Params,
    image: np.ndarray,
    *,
    way: Way = at_once,
    bucket: Size | None = None,
) -> Guarded:
    """Restore one picture with local statistics, or with global ones where the local ones fail.

    They fail where the mean colour of a block of 16 x 16 pixels strays by more than a tenth of full
    scale both from that of the picture and from that of the global result, and the global result
    strays less from the picture at its worst. The global network runs, and takes its time, only
    where a block strays from the picture, as on most pictures none does, or where the result has
    another shape than the picture.

    Args:
      model: a network for pictures; it is run in both modes, whatever its `local_mode`.
      params, image, way, bucket: as of `tlc_jax.restore`.

    Returns:
      What `tlc_jax.restore` returns in the mode that was chosen, and that mode.

    Raises:
      ValueError, TypeError: as `tlc_jax.restore`.

    Examples:
      >>> import tlc_jax as tlc
      >>> model, params = tlc.load("denoise")
      >>> restored, mode = restore_guarded(model, params, np.full((64, 96, 3), 0.5, np.float32))
      >>> mode
      'local'
    """
    image = np.asarray(image)
    run = way(functools.partial(forward, bucket=bucket))
    restored, mode = guarded(run)(model, params, as_input(model, image))
    return Guarded(like(image, restored), mode)


def guarded(run: Run) -> Callable[[Network, Params, np.ndarray], Guarded]:
    """As `restore_guarded`, of floats, which are not clipped: how far they leave [0, 1] counts."""

    def restored(model: Network, params: Params, pixels: np.ndarray) -> Guarded:
        locally = run(model.clone(local_mode=True), params, pixels)
        if suspicious(pixels, locally):
            globally = run(model.clone(local_mode=False), params, pixels)
            if fails(pixels, locally, globally):
                return Guarded(globally, "global")
        return Guarded(locally, "local")

    return restored


def suspicious(image: np.ndarray, locally: np.ndarray) -> bool:
    """Whether only the global result can tell if a local one fails.

    Args:
      image: the picture, (H, W, C) floats.
      locally: what local statistics made of it, larger where the network enlarges: nothing but the
        global result compares with that.
    """
    return locally.shape != image.shape or bool(_far(locally, image).any())


def fails(image: np.ndarray, locally: np.ndarray, globally: np.ndarray) -> bool:
    """Whether local statistics fail where global ones do not, as `restore_guarded` says.

    Args:
      image, locally: as of `suspicious`.
      globally: what global statistics made of the picture.
    """
    if not np.isfinite(globally).all():
        return False
    far = _far(locally, globally)
    if locally.shape != image.shape:
        return bool(far.any())
    far &= _far(locally, image)
    return bool(far.any()) and not stray(locally, image) <= stray(globally, image)


def stray(image: np.ndarray, other: np.ndarray) -> float:
    """The largest difference between the mean values of a channel in a block of two pictures.

    Args:
      image, other: (H, W, C), floats.

    Examples:
      >>> image = np.zeros((32, 48, 3))
      >>> image[16:, 32:, 2] = 0.3
      >>> round(stray(image, np.zeros((32, 48, 3))), 6)
      0.3
    """
    return float(_strays(image, other).max())


def _far(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    return ~(_strays(image, other) <= LIMIT)  # NaN is far from all


def _strays(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The difference between the mean values of each channel, (blocks down, across, C)."""
    difference = image - other
    area = np.ones((), np.float32)
    for axis, length in enumerate(difference.shape[:2]):
        count = max(1, length // BLOCK)
        starts = np.arange(count) * length // count
        difference = np.add.reduceat(difference, starts, axis)
        area = area[..., None] * np.diff(starts, append=length)
    return np.abs(difference / area[..., None])
