"""The mismatch that TLC reduces: statistics of crops, of whole photographs, and of windows.

Chu et al., arXiv 2112.04491, section 3.2, where the paper shows it as histograms. A photograph is
divided into crops of the training size. The statistics of each crop are compared with those that
the network uses at its middle: of the whole photograph, or of the window there. A window of 1x
covers the same pixels as the crop: if even its statistics differ, the crop's borders are why.
"""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tlc_gain.gain import LOCAL, Network, degraded, ways
from tlc_jax.inference.sites import at_sites, sites
from tlc_jax.ops.windows import Window, clip_window

Values = dict[str, np.ndarray]  # by the name of a site, (crops, statistics)


def measured(network: Network, photographs: Path) -> dict[str, Values]:
    """The statistics at each site, for all crops of the photographs, in their order."""
    model, params, degradation = network
    side = model.train_size[0]
    variants = {way: ways(network)[way][0] for way in ("global", LOCAL, "local 1x")}
    found: dict[str, list[Values]] = {way: [] for way in ("crops", *variants)}
    for _, image, _ in degraded(degradation, photographs):
        down, across = (length // side for length in image.shape[:2])
        image = image[: down * side, : across * side]
        crops = image.reshape(down, side, across, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        for way, variant in {"crops": model, **variants}.items():
            images = crops if way == "crops" else image[None]
            values = _of_images(variant, params, images, (down, across))
            found[way].append(jax.device_get(values))
    in_order = [site.name for site in sites(model, (side, side))]
    return {
        way: {site: np.concatenate([values[site] for values in of_way]) for site in in_order}
        for way, of_way in found.items()
    }


@functools.partial(jax.jit, static_argnames=("model", "crops"))
def _of_images(
    model: nn.Module, params: Any, images: jax.Array, crops: tuple[int, int]
) -> dict[str, jax.Array]:
    """By site, (crops, statistics); `images` are the crops, or one image divided into them."""
    found = {}

    def note(name: str, layer: Any, args: tuple, window: Window) -> None:
        maps = [_windows(x, clip_window(window, x.shape[1:3]), crops) for x in args[:2]]
        heads = args[3].size if layer.site == "attention" else 1
        values = _aggregated(layer.site, maps, heads)
        found[name] = jnp.broadcast_to(values, (crops[0] * crops[1], values.shape[1]))

    with at_sites(note):
        model.apply({"params": params}, images)
    return found


def _windows(x: jax.Array, window: tuple[int, int], crops: tuple[int, int]) -> jax.Array:
    """(windows, pixels, C): whole maps, or of one map (1, H, W, C) around the middle of each crop.

    Near the border it is the nearest window inside the map, as in the network.
    """
    n, *size, c = x.shape
    if window == (*size,):
        return x.reshape(n, -1, c)
    tops, lefts = (
        np.clip((2 * np.arange(count) + 1) * length // (2 * count) - (k - 1) // 2, 0, length - k)
        for length, count, k in zip(size, crops, window, strict=True)
    )

    def cut(top: jax.Array, left: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(x[0], (top, left, 0), (*window, c)).reshape(-1, c)

    return jax.vmap(cut)(np.repeat(tops, crops[1]), np.tile(lefts, crops[0]))


def _aggregated(site: str, maps: list[jax.Array], heads: int) -> jax.Array:
    """(windows, statistics): means; means and deviations; or cosines of q and k for each head."""
    x = maps[0]
    if site == "mean":
        return x.mean(axis=1)
    if site == "moments":
        return jnp.concatenate([x.mean(axis=1), x.std(axis=1)], axis=-1)
    q, k = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in maps)
    q, k = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k))
    return jnp.einsum("wphi,wphj->whij", q, k).reshape(len(q), -1)


def distances(values_by_way: dict[str, Values]) -> dict[str, dict[str, float]]:
    """By way and site, the distance of the statistics used at a crop from the crop's own.

    It is the root mean square difference over crops, divided by the standard deviation over crops:
    statistics that are the same everywhere are at 1 or more. The median over a site's statistics.
    """
    return {
        way: {site: float(np.median(_distances(values_by_way, way, site))) for site in values}
        for way, values in values_by_way.items()
        if way != "crops"
    }


def example(values_by_way: dict[str, Values]) -> tuple[str, dict[str, np.ndarray]]:
    """The middle site, and by way its statistic whose distance is the median in windows."""
    names = [*values_by_way["crops"]]
    site = names[len(names) // 2]
    of_windows = _distances(values_by_way, LOCAL, site)
    number = np.argsort(of_windows)[len(of_windows) // 2]
    return site, {way: values[site][:, number] for way, values in values_by_way.items()}


def _distances(values_by_way: dict[str, Values], way: str, site: str) -> np.ndarray:
    on_crops = values_by_way["crops"][site]
    return np.sqrt(np.square(values_by_way[way][site] - on_crops).mean(axis=0)) / on_crops.std(
        axis=0
    )
