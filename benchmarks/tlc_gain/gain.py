"""PSNR of one network on photographs: global, local with windows of several sizes, in tiles."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from tlc_jax.evaluation import metrics
from tlc_jax.files.pictures import read_image
from tlc_jax.inference.ways import restore, tiled
from tlc_jax.ops.pixels import from_float
from tlc_jax.training.degradations import Degradation

FACTORS = (0.5, 1, 1.5, 2, 4)  # side of the windows over that of the training crops; TLC's is 1.5
LOCAL = "local 1.5x"
SIZES = (96, 192, 384, 768, 1536)  # sides of pictures, pixels; each divides the next

Restore = Callable[[np.ndarray], np.ndarray]


class Network(NamedTuple):
    """A network, and the degradation that it is measured on."""

    model: nn.Module
    params: Any
    degradation: Degradation


def ways(network: Network) -> dict[str, tuple[nn.Module, Restore]]:
    """The ways to restore with the same parameters."""
    model, params, _ = network
    side = model.train_size[0]
    models = {"global": model}
    for factor in FACTORS:
        window = (round(factor * side),) * 2
        models[f"local {factor:g}x"] = model.clone(local_mode=True, window=window)
    made = {
        name: (variant, functools.partial(restore, variant, params))
        for name, variant in models.items()
    }
    tiles = functools.partial(restore, model, params, way=tiled(side, side // 3))
    return made | {"tiles": (model, tiles)}


def degraded(
    degradation: Degradation, folder: Path
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """By photograph of a folder: name, degraded image, ground truth; the same every time."""
    degrade = jax.jit(degradation)
    for number, file in enumerate(sorted(folder.glob("*.png"))):
        ground_truth = read_image(file)
        image = np.asarray(degrade(jax.random.key(number), ground_truth))
        yield file.stem, image, ground_truth


def by_way(network: Network, folder: Path) -> dict[str, dict[str, float]]:
    """PSNR in dB, by the name of the photograph and the way to restore it."""
    restored_by = {way: way_to for way, (_, way_to) in ways(network).items()}
    return {
        name: {"input": psnr(image, ground_truth)}
        | {way: psnr(way_to(image), ground_truth) for way, way_to in restored_by.items()}
        for name, image, ground_truth in degraded(network.degradation, folder)
    }


def seconds(network: Network, folder: Path) -> dict[str, float]:
    """Seconds to restore a folder's first photograph, the median of seven, by the way to do it.

    The ways take turns, so that a busy machine slows down all alike.
    """
    _, image, _ = next(degraded(network.degradation, folder))
    times: dict[str, list[float]] = {}
    for way, (_, restored_by) in ways(network).items():
        restored_by(image)  # which compiles
        times[way] = []
    for _ in range(7):
        for way, (_, restored_by) in ways(network).items():
            start = time.perf_counter()
            restored_by(image)
            times[way].append(time.perf_counter() - start)
    return {way: statistics.median(of_way) for way, of_way in times.items()}


def by_size(network: Network, folder: Path) -> dict[int, list[float]]:
    """Gain in dB of local over global statistics on each photograph, by the side of the pictures.

    The middle of each photograph that is as large as the largest size is divided into pictures of
    one size, so that all sizes have the same pixels.
    """
    variants = [ways(network)[way][1] for way in (LOCAL, "global")]
    gains: dict[int, list[float]] = {size: [] for size in SIZES}
    for _, image, ground_truth in degraded(network.degradation, folder):
        h, w, _ = image.shape
        side = max(SIZES)
        if min(h, w) < side:
            continue
        middle = np.s_[(h - side) // 2 :, (w - side) // 2 :]
        for size in SIZES:
            places = itertools.product(range(0, side, size), repeat=2)
            parts = [np.s_[top : top + size, left : left + size] for top, left in places]
            local, everywhere = (
                psnr(
                    np.concatenate([way(image[middle][part]) for part in parts]),
                    np.concatenate([ground_truth[middle][part] for part in parts]),
                )
                for way in variants
            )
            gains[size].append(local - everywhere)
    return gains


def psnr(image: np.ndarray, ground_truth: np.ndarray) -> float:
    """PSNR in dB of the image as it is written, in 8 bits."""
    return float(metrics.psnr(from_float(image, np.uint8), ground_truth))
