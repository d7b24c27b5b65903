"""How well a network restores pictures whose ground truth is known, in one or several modes.

Modes are "local" (TLC), "global", and "tiles:SIZE/OVERLAP", where the global network restores
overlapping tiles as if each were an image.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlc_jax.evaluation.metrics import Protocol, measure
from tlc_jax.files.datasets import Pair
from tlc_jax.inference.timed import NotFiniteError, restore_timed
from tlc_jax.inference.ways import at_once, tiled
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.ops.pixels import to_float


class EvaluationError(ValueError):
    """An evaluation or report that is impossible; the message is a sentence for the user."""


def parse_modes(text: str) -> list[str]:
    """Split a list of modes at its commas.

    Raises:
      EvaluationError: an unknown mode, one named twice, or tiles no larger than their overlap.

    Examples:
      >>> parse_modes("local,tiles:256/32")
      ['local', 'tiles:256/32']
    """
    modes = [mode.strip() for mode in text.split(",")]
    for mode in modes:
        tiles = _tiles(mode)
        if mode not in ("local", "global") and (tiles is None or tiles[1] >= tiles[0]):
            raise EvaluationError(
                f"mode {mode!r}: the modes are local, global and tiles:SIZE/OVERLAP, with the "
                "overlap smaller than the size, as in tiles:256/32."
            )
    if len({*modes}) < len(modes):
        raise EvaluationError(f"modes {text}: name each one once.")
    return modes


def _tiles(mode: str) -> tuple[int, int] | None:
    """Size and overlap of a mode of tiles; `None` for other modes."""
    match = re.fullmatch(r"tiles:(\d+)/(\d+)", mode)
    return (int(match[1]), int(match[2])) if match else None


def evaluate(
    model: Network,
    params: Params,
    pair: Pair,
    modes: Sequence[str],
    protocol: Protocol = Protocol.RGB,
) -> dict[str, Any]:
    """Restore one picture in several modes, and measure each result against the ground truth.

    Args:
      model: a network of 1 or 3 channels; the modes decide whether it is local.
      params: its parameter tree.
      pair: the picture and its ground truth.
      modes: as `parse_modes` returns them.
      protocol: how PSNR and SSIM are measured.

    Returns:
      What a report has for this image: "size" [H, W], and for "input" and each mode a dict with
      "psnr" in dB, "ssim" (`None` for images smaller than its window) and, but for the input,
      "seconds" without compilation.

    Raises:
      ImageError: the picture or its ground truth cannot be read, or they differ in size.
      EvaluationError: a result holds NaN or infinite numbers.
    """
    image, ground_truth = pair.read(model.inp_channels)
    pixels = to_float(image)
    score = _score(image, ground_truth, protocol)
    result: dict[str, Any] = {"size": list(image.shape[:2]), "input": score}
    for mode in modes:
        tiles = _tiles(mode)
        way = tiled(*tiles) if tiles else at_once
        try:
            made = restore_timed(model.clone(local_mode=mode == "local"), params, pixels, way=way)
        except NotFiniteError as error:
            raise EvaluationError(f"picture {pair.name}: in mode {mode} {error}") from None
        result[mode] = _score(made.pixels, ground_truth, protocol) | {"seconds": made.running}
    return result


def _score(
    image: np.ndarray, ground_truth: np.ndarray, protocol: Protocol
) -> dict[str, float | None]:
    psnr, ssim = map(float, measure(image, ground_truth, protocol))
    # JSON has neither infinity, the PSNR of equal images, nor NaN.
    return {"psnr": psnr if np.isfinite(psnr) else None, "ssim": None if np.isnan(ssim) else ssim}
