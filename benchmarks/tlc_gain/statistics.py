"""The mismatch that TLC mends: what a network aggregates on crops, whole photographs, in windows.

Chu et al., arXiv 2112.04491, section 3.2, where the paper shows it as histograms.
"""

import functools
import itertools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tlc_gain.gain import Network, spoilt
from tlc_jax.ops.windows import clip_window
from tlc_jax.restore import at_sites, sites

Values = dict[str, np.ndarray]  # by the name of a site, (windows, statistics)


@functools.partial(jax.jit, static_argnames="model")
def _of_picture(model: nn.Module, params: Any, image: jax.Array) -> dict[str, jax.Array]:
    found = {}

    def note(name: str, layer: Any, args: tuple) -> None:
        window = clip_window(layer.window, args[0].shape[1:3])
        found[name] = _aggregated(layer.site, [_cut(x, window) for x in args[:2]])

    with at_sites(note):
        model.apply({"params": params}, image[None])
    return found


def _cut(x: jax.Array, window: tuple[int, int]) -> jax.Array:
    """The windows that lie side by side in a map (1, H, W, C): (windows, pixels, C)."""
    k_h, k_w = window
    _, h, w, c = x.shape
    x = x[0, : h // k_h * k_h, : w // k_w * k_w].reshape(h // k_h, k_h, w // k_w, k_w, c)
    return jnp.moveaxis(x, 2, 1).reshape(-1, k_h * k_w, c)


def _aggregated(site: str, maps: list[jax.Array]) -> jax.Array:
    """(windows, statistics): means, spreads, or the cosines between channels of q and k."""
    x = maps[0]
    if site == "mean":
        return x.mean(axis=1)
    if site == "moments":
        return x.std(axis=1)
    q, k = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in maps)
    return jnp.einsum("wpi,wpj->wij", q, k).reshape(len(q), -1)


def by_way(network: Network, training: Path, photographs: Path) -> dict[str, Values]:
    """What each site aggregates on training crops, whole photographs and in windows of these."""
    model, params, degradation = network
    side = model.train_size[0]
    crops = [
        image[top : top + side, left : left + side]
        for _, image, _ in spoilt(degradation, training)
        for top, left in itertools.product(*(_thirds(n, side) for n in image.shape[:2]))
    ]
    whole = [image for _, image, _ in spoilt(degradation, photographs)]
    return {
        "crops": _of_pictures(model, params, crops),
        "whole photographs": _of_pictures(model, params, whole),
        "windows": _of_pictures(model.clone(local_mode=True), params, whole),
    }


def _thirds(length: int, side: int) -> tuple[int, int]:
    return (length - side) // 3, (length - side) * 2 // 3


def _of_pictures(model: nn.Module, params: Any, images: list[np.ndarray]) -> Values:
    of_each = [jax.device_get(_of_picture(model, params, image)) for image in images]
    in_order = [site.name for site in sites(model, images[0].shape[:2])]
    return {site: np.concatenate([values[site] for values in of_each]) for site in in_order}


def spreads(ways: dict[str, Values]) -> dict[str, dict[str, float]]:
    """By way and site, how much the statistics vary over how much they do on crops.

    1 is as in training. The median over a site's statistics of the ratio of standard deviations.
    """
    return {
        way: {site: float(np.median(_ratios(values, ways["crops"], site))) for site in values}
        for way, values in ways.items()
        if way != "crops"
    }


def example(ways: dict[str, Values]) -> tuple[str, dict[str, np.ndarray]]:
    """A site, the middle one, and by way one of its statistics, whose spread is the median."""
    names = [*ways["crops"]]
    site = names[len(names) // 2]
    ratios = _ratios(ways["whole photographs"], ways["crops"], site)
    number = np.argsort(ratios)[len(ratios) // 2]
    return site, {way: values[site][:, number] for way, values in ways.items()}


def _ratios(values: Values, crops: Values, site: str) -> np.ndarray:
    return values[site].std(axis=0) / crops[site].std(axis=0)
