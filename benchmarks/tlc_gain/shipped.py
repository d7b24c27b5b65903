"""What the weights of the package do on photographs that they were not trained on."""

import functools
from pathlib import Path

import numpy as np

import tlc_jax as tlc
from benchmarks.tlc_gain.gain import Restore, psnr, spoilt
from tlc_jax.degradations import CameraShake, Degradation, EightBits, GaussianNoise, InTurn

NOISE = {
    f"noise, sigma {sigma}": InTurn((GaussianNoise((sigma, sigma)), EightBits()))
    for sigma in (15, 25, 50)
}
# Paths that no training saw: there the whole photograph is shaken alike.
SHAKE = {
    "camera shake": InTurn((CameraShake((5, 12), (0, 8)), EightBits())),
    "camera shake, noise, sigma 1": InTurn(
        (CameraShake((5, 12), (0, 8)), GaussianNoise((1, 1)), EightBits())
    ),
}


def nonlocal_means(image: np.ndarray) -> np.ndarray:
    """scikit-image's, as its gallery has it, with its own estimate of the noise."""
    from skimage.restoration import denoise_nl_means, estimate_sigma

    sigma = float(np.mean(estimate_sigma(image, channel_axis=-1)))
    return denoise_nl_means(
        image, h=0.8 * sigma, sigma=sigma, fast_mode=True, patch_size=5, patch_distance=6,
        channel_axis=-1,
    ).astype(np.float32)  # fmt: skip


def scores(folder: Path) -> dict[str, dict[str, float]]:
    """Mean PSNR in dB by what spoilt the photographs and what restored them, rounded to 8 bits."""
    denoise, deblur = map(_modes, ("denoise", "deblur"))
    table = {}
    for cases, ways in (
        (NOISE, denoise | {"non-local means": nonlocal_means}),
        (SHAKE, deblur),
        ({"nothing": EightBits()}, denoise | deblur),
    ):
        for case, degradation in cases.items():
            table[case] = _means(degradation, folder, ways)
            print(case, table[case], flush=True)
    return table


def _modes(task: str) -> dict[str, Restore]:
    model, params = tlc.load(task)
    return {
        f"{task}, {mode}": functools.partial(
            tlc.restore, model.clone(local_mode=mode == "local"), params
        )
        for mode in ("global", "local")
    }


def _means(degradation: Degradation, folder: Path, ways: dict[str, Restore]) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in ("input", *ways)}
    for _, image, truth in spoilt(degradation, folder):
        found["input"].append(psnr(image, truth))
        for name, way in ways.items():
            found[name].append(psnr(way(image), truth))
    return {name: float(np.mean(values)) for name, values in found.items()}
