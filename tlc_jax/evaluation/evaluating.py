"""How well a network restores pictures whose ground truth is known, in one or several modes.

Modes are "local" (TLC), "global", and "tiles:SIZE/OVERLAP", where the global network restores
overlapping tiles as if each were an image.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from tlc_jax.evaluation.metrics import Protocol, measure
from tlc_jax.files.datasets import PICTURES, Pair
from tlc_jax.files.pictures import ImageError, picture_size
from tlc_jax.inference.batches import Batches, Program, batches_pay
from tlc_jax.inference.fitting import COPIES
from tlc_jax.inference.pipeline import pipeline
from tlc_jax.inference.timed import NotFiniteError, Timed, restore_timed
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
    ((_, future),) = evaluate_all(model, params, [pair], modes, protocol)
    return future.result()


def evaluate_all(
    model: Network,
    params: Params,
    pairs: Sequence[Pair],
    modes: Sequence[str],
    protocol: Protocol = Protocol.RGB,
    *,
    devices: int = 1,
) -> "Iterator[tuple[Pair, Future[dict[str, Any]]]]":
    """Evaluate pictures, which are read and measured beside the computing.

    Args:
      model, params, modes, protocol: as for `evaluate`.
      pairs: the pictures.
      devices: how many of this machine's share them.

    Returns:
      Each pair, in their order, with what `evaluate` returns or raises for it.
    """
    networks = {mode: model.clone(local_mode=mode == "local") for mode in modes}
    batches = {
        mode: Batches(network, params, devices)
        for mode, network in networks.items()
        if batches_pay(devices) and not _tiles(mode)
    }

    def program(mode: str, image: np.ndarray) -> Program | None:
        to = np.dtype(np.float32)
        return batches[mode].program(image.shape[:2], image.dtype, to, len(pairs))

    def count(read: _Read) -> int:
        programs = (program(mode, read.image) for mode in batches)
        return min((one.count for one in programs if one), default=1)

    def begin(group: list[_Read]) -> Callable[[], list[dict[str, Timed | Exception]]]:
        images = [read.image for read in group]
        waits = {
            mode: batches[mode].begin(one, images)
            for mode in batches
            if (one := program(mode, images[0]))
        }

        def alone(mode: str, image: np.ndarray) -> Timed | Exception:
            tiles = _tiles(mode)
            way = tiled(*tiles) if tiles else at_once
            try:
                return restore_timed(networks[mode], params, to_float(image), way=way)
            except NotFiniteError as error:
                return error

        def results() -> list[dict[str, Timed | Exception]]:
            made = {
                mode: waits[mode]() if mode in waits else [alone(mode, x) for x in images]
                for mode in modes
            }
            return [{mode: made[mode][i] for mode in modes} for i in range(len(group))]

        return results

    def score(read: _Read, made: dict[str, Timed | Exception]) -> dict[str, Any]:
        pair, image, truth = read
        result = {"size": list(image.shape[:2]), "input": _score(image, truth, protocol)}
        for mode, one in made.items():
            if isinstance(one, Exception):
                raise EvaluationError(f"picture {pair.name}: in mode {mode} {one}")
            result[mode] = _score(one.pixels, truth, protocol) | {"seconds": one.running}
        return result

    def weigh(pair: Pair) -> float:
        with contextlib.suppress(ImageError):
            if pair.input.file.suffix.lower() in PICTURES:  # others hold small ones
                return 4 * model.inp_channels * COPIES * math.prod(picture_size(pair.input.file))
        return 0.0

    return pipeline(
        pairs, lambda pair: _Read(pair, *pair.read(model.inp_channels)), begin, score,
        key=lambda read: (read.image.shape, read.image.dtype) if batches else None,
        at_once=count, weigh=weigh,
    )  # fmt: skip


class _Read(NamedTuple):
    """A picture and its ground truth."""

    pair: Pair
    image: np.ndarray
    truth: np.ndarray


def _score(
    image: np.ndarray, ground_truth: np.ndarray, protocol: Protocol
) -> dict[str, float | None]:
    psnr, ssim = map(float, measure(image, ground_truth, protocol))
    # JSON has neither infinity, the PSNR of equal images, nor NaN.
    return {"psnr": psnr if np.isfinite(psnr) else None, "ssim": None if np.isnan(ssim) else ssim}
