"""PSNR of the package's weights on photographs that they were not trained on."""

import functools
from pathlib import Path

import numpy as np

import tlc_jax as tlc
from benchmarks.tlc_gain.gain import Restore, degraded, psnr
from tlc_jax.training.degradations import CameraShake, EightBits, GaussianNoise, InTurn

NOISE = {
    f"noise, sigma {sigma}": InTurn((GaussianNoise((sigma, sigma)), EightBits()))
    for sigma in (15, 25, 50)
}
# Paths unlike those of training, where the whole photograph is shaken alike.
SHAKE = {
    "camera shake": InTurn((CameraShake((5, 12), (0, 8)), EightBits())),
    "camera shake, noise, sigma 1": InTurn(
        (CameraShake((5, 12), (0, 8)), GaussianNoise((1, 1)), EightBits())
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
        (NOISE, as_it_is | others | denoise),
        (SHAKE, as_it_is | deblur),
        ({"nothing": EightBits()}, denoise | deblur),
    ):
        for case, degradation in cases.items():
            found: dict[str, list[float]] = {name: [] for name in ways}
            for _, image, ground_truth in degraded(degradation, folder):
                for name, way in ways.items():
                    found[name].append(psnr(way(image), ground_truth))
            table[case] = found
            print(folder.name, case, {way: np.mean(of) for way, of in found.items()}, flush=True)
    return table


def _modes(task: str) -> dict[str, Restore]:
    model, params = tlc.load(task)
    return {
        f"{task}, {mode}": functools.partial(
            tlc.restore, model.clone(local_mode=mode == "local"), params
        )
        for mode in ("global", "local")
    }
