"""PSNR of the package's weights on photographs that they were not trained on."""

import functools
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import tlc_jax as tlc
from benchmarks.tlc_gain.gain import Restore, degraded, psnr
from tlc_jax.ops.pixels import from_float, to_float
from tlc_jax.training.degradations import (
    CameraNoise,
    CameraShake,
    Degradation,
    EightBits,
    GaussianNoise,
    InTurn,
)


class Case(NamedTuple):
    """A degradation, and the quality of the JPEG (4:2:0) in which its picture is kept, if any."""

    degradation: Degradation
    quality: int | None = None

    def stored(self, image: np.ndarray) -> np.ndarray:
        """What Pillow reads of the file that it wrote."""
        if self.quality is None:
            return image
        file = io.BytesIO()
        Image.fromarray(from_float(image, np.uint8)).save(file, "JPEG", quality=self.quality)
        return to_float(np.asarray(Image.open(file)))


def noise(sigma: float) -> Degradation:
    return InTurn((GaussianNoise((sigma, sigma)), EightBits()))


CAMERA = InTurn((CameraNoise(), EightBits()))
DENOISE = {
    "noise, sigma 15": Case(noise(15)),
    "noise, sigma 25": Case(noise(25)),
    "noise, sigma 50": Case(noise(50)),
    "noise, sigma 10, JPEG 92": Case(noise(10), 92),
    "noise, sigma 25, JPEG 92": Case(noise(25), 92),
    "noise, sigma 25, JPEG 75": Case(noise(25), 75),
    "noise of a camera": Case(CAMERA),
    "noise of a camera, JPEG 92": Case(CAMERA, 92),
    "JPEG 92": Case(EightBits(), 92),
    "JPEG 75": Case(EightBits(), 75),
}
# Paths unlike those of training, where the whole photograph is shaken alike.
DEBLUR = {
    "camera shake": Case(InTurn((CameraShake((5, 12), (0, 8)), EightBits()))),
    "camera shake, noise, sigma 1": Case(
        InTurn((CameraShake((5, 12), (0, 8)), GaussianNoise((1, 1)), EightBits()))
    ),
}


def nonlocal_means(image: np.ndarray) -> np.ndarray:
    """scikit-image's fast non-local means, as in its gallery, with its own noise estimate."""
    from skimage.restoration import denoise_nl_means, estimate_sigma

    sigma = float(np.mean(estimate_sigma(image, channel_axis=-1)))
    return denoise_nl_means(
        image, h=0.6 * sigma, sigma=sigma, fast_mode=True, patch_size=5, patch_distance=6,
        channel_axis=-1,
    ).astype(np.float32)  # fmt: skip


def scores(folder: Path, others: dict[str, Restore]) -> dict[str, dict[str, list[float]]]:
    """PSNR in dB of each photograph, by degradation and by what restored it.

    `others` are further denoisers to compare with.
    """
    as_it_is: dict[str, Restore] = {"input": lambda image: image}
    denoise, deblur = map(_modes, ("denoise", "deblur"))
    table = {}
    for cases, ways in (
        (DENOISE, as_it_is | others | denoise),
        (DEBLUR, as_it_is | deblur),
        ({"nothing": Case(EightBits())}, denoise | deblur),
    ):
        for name, case in cases.items():
            found: dict[str, list[float]] = {way: [] for way in ways}
            for _, image, ground_truth in degraded(case.degradation, folder):
                stored = case.stored(image)
                for way, restore in ways.items():
                    found[way].append(psnr(restore(stored), ground_truth))
            table[name] = found
            print(folder.name, name, {way: np.mean(of) for way, of in found.items()}, flush=True)
    return table


def _modes(task: str) -> dict[str, Restore]:
    model, params = tlc.load(task)
    return {
        f"{task}, {mode}": functools.partial(
            tlc.restore, model.clone(local_mode=mode == "local"), params
        )
        for mode in ("global", "local")
    }
