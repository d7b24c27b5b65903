"""How well a network restores pictures whose ground truth is known, in one or several modes.

Modes are "local" (TLC), "local:WINDOW" with a window of its own, "global", and
"tiles:SIZE/OVERLAP", where the global network restores overlapping tiles as if each were an image.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from tlc_jax.evaluation.metrics import Protocol, measure
from tlc_jax.files.datasets import PICTURES, Pair
from tlc_jax.files.pictures import ImageError, picture_size
from tlc_jax.inference.batches import Batches, Program, batches_pay
from tlc_jax.inference.clips import restore_clip
from tlc_jax.inference.fitting import COPIES
from tlc_jax.inference.pipeline import pipeline
from tlc_jax.inference.timed import NotFiniteError, Timed, check_finite, restore_timed
from tlc_jax.inference.ways import at_once, tiled
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.models import RNNMBP
from tlc_jax.ops.pixels import to_float
from tlc_jax.ops.windows import Size

VIEW = 3  # channels of a view of a pair


class EvaluationError(ValueError):
    """An evaluation or report that is impossible; the message is a sentence for the user."""


def parse_modes(text: str) -> list[str]:
    """Split a list of modes at its commas.

    Raises:
      EvaluationError: an unknown mode, one named twice, or tiles no larger than their overlap.

    Examples:
      >>> parse_modes("local,local:2x,tiles:256/32")
      ['local', 'local:2x', 'tiles:256/32']
    """
    modes = [mode.strip() for mode in text.split(",")]
    for mode in modes:
        if is_local(mode):
            if mode != "local":
                window_of(mode.removeprefix("local:"), (1, 1))
            continue
        tiles = _tiles(mode)
        if mode != "global" and (tiles is None or tiles[1] >= tiles[0]):
            raise EvaluationError(
                f"mode {mode!r}: the modes are local, global and tiles:SIZE/OVERLAP, with the "
                "overlap smaller than the size, as in tiles:256/32."
            )
    if len({*modes}) < len(modes):
        raise EvaluationError(f"modes {text}: name each one once.")
    return modes


def is_local(mode: str) -> bool:
    """Whether a mode has local statistics."""
    return mode.partition(":")[0] == "local"


def window_of(text: str, train_size: Size) -> Size:
    """The window that a side in pixels, or a factor of the training crops, stands for.

    Args:
      text: such as "384", a square, or "1.5x".
      train_size: (height, width) of the training crops.

    Raises:
      EvaluationError: it is neither.

    Examples:
      >>> window_of("1.5x", (30, 90)), window_of("384", (30, 90))
      ((45, 135), (384, 384))
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(x?)", text)
    number = Fraction(match[1]) if match else Fraction(0)
    if match is None or not number or (match[2] == "" and number.denominator > 1):
        raise EvaluationError(
            f"window {text!r}: a window is a side in pixels, as 384, or a factor of the training "
            "crops, as 1.5x."
        )
    height, width = (max(1, int(number * n)) if match[2] else int(number) for n in train_size)
    return height, width


def networks_of(model: Network, modes: Sequence[str]) -> dict[str, Network]:
    """The network of each mode; its parameters are the same."""
    networks = {mode: model.clone(local_mode=is_local(mode)) for mode in modes}
    for mode in modes:
        if mode.startswith("local:"):
            window = window_of(mode.removeprefix("local:"), model.train_size)
            networks[mode] = networks[mode].clone(window=window)
    return networks


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
      model: a network for pictures or for pairs of views; the modes decide whether it is local.
      params: its parameter tree.
      pair: the picture, or both views as one, and the ground truth.
      modes: as `parse_modes` returns them.
      protocol: how PSNR and SSIM are measured; of two views their mean counts.

    Returns:
      What a report has for this image: "size" [H, W], and for "input" and each mode a dict with
      "psnr" in dB, "ssim" (`None` for images smaller than its window), "mae" in [0, 1] and, but for
      the input, "seconds" without compilation. There is no "input" where it is not of the target's
      size and channels.

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
    networks = networks_of(model, modes)
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
        result = _of_input(image, truth, protocol)
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
        pairs, lambda pair: _Read(pair, *_read(model, pair)), begin, score,
        key=lambda read: (read.image.shape, read.image.dtype) if batches else None,
        at_once=count, weigh=weigh,
    )  # fmt: skip


class _Read(NamedTuple):
    """A picture and its ground truth."""

    pair: Pair
    image: np.ndarray
    truth: np.ndarray


def _read(model: Network, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    return pair.read(model.inp_channels, of_target=model.out_channels, scale=model.scale)


def measured_frames(model: RNNMBP, frames: Sequence[Pair]) -> Sequence[Pair]:
    """The frames of a clip that count: those with as many neighbours as in training.

    For the others the release gives no result.
    """
    return frames[model.past_frames : max(0, len(frames) - model.future_frames)]


def evaluate_clip(
    model: RNNMBP,
    params: Params,
    frames: Sequence[Pair],
    modes: Sequence[str],
    protocol: Protocol = Protocol.RGB,
    *,
    chunk: int = 10,
    overlap: int = 5,
) -> dict[str, dict[str, Any]]:
    """Restore a clip in several modes, and measure its frames against their ground truth.

    Args:
      model, params: a network for clips.
      frames: in their order; each is read when it is its turn.
      modes, protocol: as for `evaluate`, but without tiles.
      chunk, overlap: as for `tlc_jax.restore_clip`.

    Returns:
      Of each of the `measured_frames` by its name what `evaluate` returns, but without "seconds":
      frames are not restored one by one.

    Raises:
      ImageError, EvaluationError: as `evaluate`; a clip that is too short, or whose frames differ
        in size.
    """
    counted = {pair.name for pair in measured_frames(model, frames)}
    results = {
        pair.name: _of_input(*_read(model, pair), protocol)
        for pair in frames
        if pair.name in counted
    }
    for mode, network in networks_of(model, modes).items():
        images = (to_float(_read(model, pair)[0]) for pair in frames)
        restored = restore_clip(network, params, images, chunk=chunk, overlap=overlap)
        for pair in frames:
            try:
                pixels = next(restored)
                check_finite(pixels)
            except ImageError:  # which is a ValueError, too
                raise
            except ValueError as error:
                raise EvaluationError(f"frame {pair.name}: in mode {mode} {error}") from None
            if pair.name in counted:
                truth = pair.target(model.out_channels)
                results[pair.name][mode] = _score(pixels, truth, protocol)
    return results


def evaluate_clips(
    model: RNNMBP,
    params: Params,
    clips: Mapping[str, Sequence[Pair]],
    modes: Sequence[str],
    protocol: Protocol = Protocol.RGB,
    *,
    chunk: int = 10,
    overlap: int = 5,
) -> "Iterator[tuple[str, Future[dict[str, dict[str, Any]]]]]":
    """Evaluate clips one after the other.

    Args:
      clips: frames by the names of the clips, as of `tlc_jax.files.datasets.clips`.
      model, params, modes, protocol, chunk, overlap: as for `evaluate_clip`.

    Returns:
      The name of each clip, with what `evaluate_clip` returns or raises for it.
    """
    for name, frames in clips.items():
        came: Future[dict[str, dict[str, Any]]] = Future()
        try:
            came.set_result(
                evaluate_clip(model, params, frames, modes, protocol, chunk=chunk, overlap=overlap)
            )
        except Exception as error:
            came.set_exception(error)
        yield name, came


def _of_input(image: np.ndarray, truth: np.ndarray, protocol: Protocol) -> dict[str, Any]:
    """The size of an image, and how near it is to the truth before it is restored."""
    result: dict[str, Any] = {"size": list(image.shape[:2])}
    if image.shape == truth.shape:
        result["input"] = _score(image, truth, protocol)
    return result


def _score(
    image: np.ndarray, ground_truth: np.ndarray, protocol: Protocol
) -> dict[str, float | None]:
    """The scores of an image, or their means over its views."""
    views = max(1, image.shape[-1] // VIEW)
    parts = zip(*(np.split(x, views, axis=-1) for x in (image, ground_truth)), strict=True)
    scores = np.array([measure(x, y, protocol) for x, y in parts], np.float64)
    psnr, ssim, mae = map(float, scores.mean(axis=0))
    # JSON has neither infinity, the PSNR of equal images, nor NaN.
    return {
        "psnr": psnr if np.isfinite(psnr) else None,
        "ssim": None if np.isnan(ssim) else ssim,
        "mae": mae,
    }
