"""A guard against patches of false colour: local statistics, or global ones where those fail.

In an image unlike those of training, a window may hold statistics that the network never met in
training. It then makes patches of false colour, which the statistics of the whole image would not.
"""

import functools
from typing import NamedTuple

import numpy as np

from tlc_jax.inference.programs import as_input, forward
from tlc_jax.inference.ways import Run, Way, at_once
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.ops.pixels import like
from tlc_jax.ops.windows import Size

SQUARE = 16  # pixels, the side of the squares compared; wider than what a restoration sharpens
LIMIT = 0.1  # of full scale; benchmarks/guard.py measures usual and unusual pictures


class Guarded(NamedTuple):
    """A restored image, and the statistics that it was restored with."""

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
    """Restore one image with local statistics, or with global ones where the local ones fail.

    The local result fails if both are true:

    - In some square of 16 x 16 pixels, its mean colour strays by more than a tenth of full scale
      from that of the input, and from that of the global result.
    - The largest stray from the input is smaller in the global result.

    The global network runs only if a square of the local result strays from the input, which is
    rare, or if the result has another shape than the input.

    Args:
      model: a network for single images; its `local_mode` is ignored.
      params, image, way, bucket: as for `tlc_jax.restore`.

    Returns:
      What `tlc_jax.restore` returns in the chosen mode, and that mode.

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
    restored, mode = guarded(run, model, params, as_input(model, image))
    return Guarded(like(image, restored), mode)


def guarded(run: Run, model: Network, params: Params, pixels: np.ndarray) -> Guarded:
    """`restore_guarded` for floats that are not clipped: how far they leave [0, 1] counts."""
    locally = run(model.clone(local_mode=True), params, pixels)
    if suspicious(pixels, locally):
        globally = run(model.clone(local_mode=False), params, pixels)
        if fails(pixels, locally, globally):
            return Guarded(globally, "global")
    return Guarded(locally, "local")


def suspicious(image: np.ndarray, locally: np.ndarray) -> bool:
    """Whether the global result is needed to tell if the local one fails.

    Args:
      image: the input, (H, W, C) floats.
      locally: the local result; if the network enlarges, only the global one compares with it.
    """
    return locally.shape != image.shape or bool(_far(locally, image).any())


def fails(image: np.ndarray, locally: np.ndarray, globally: np.ndarray) -> bool:
    """Whether the local result fails and the global one does not; see `restore_guarded`."""
    if not np.isfinite(globally).all():
        return False
    far = _far(locally, globally)
    if locally.shape != image.shape:
        return bool(far.any())
    far &= _far(locally, image)
    return bool(far.any()) and not stray(locally, image) <= stray(globally, image)


def stray(image: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two images (H, W, C) in the mean of a channel over one square.

    Examples:
      >>> image = np.zeros((32, 48, 3))
      >>> image[16:, 32:, 2] = 0.3
      >>> round(stray(image, np.zeros((32, 48, 3))), 6)
      0.3
    """
    return float(_strays(image, other).max())


def _far(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    return ~(_strays(image, other) <= LIMIT)  # NaN counts as far


def _strays(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Differences of the means of each channel over each square, (squares down, across, C)."""
    difference = image - other
    area = np.ones((), np.float32)
    for axis, length in enumerate(difference.shape[:2]):
        count = max(1, length // SQUARE)
        starts = np.arange(count) * length // count
        difference = np.add.reduceat(difference, starts, axis)
        area = area[..., None] * np.diff(starts, append=length)
    return np.abs(difference / area[..., None])
