"""What a picture needs, noise or blur taken away, by what our two small networks would change."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from tlc_jax.files import checkpoints
from tlc_jax.layers.network import Network, Params

SIDE = 160  # pixels, of the parts that are looked at: so many down, so many across
DOWN, ACROSS = 2, 3
# Levels of 8 bits that the denoiser takes away, root mean square: of clean photographs 0.2 to 1.2,
# as JPEGs of quality 75 up to 2.8, with noise of sigma 5 more than 3.
NOISE = 2.5
# What the deblurrer changes, as a share of the differences of neighbours: of sharp photographs 0 to
# 0.1, as JPEGs of quality 50 up to 0.29, of shaken ones more than 0.33.
BLUR = 0.3
FLAT = 2.0  # levels; of less detail nobody can tell whether it is blurred
LEAST = 16  # pixels; nor of a narrower picture


class Needs(NamedTuple):
    """Noise in levels, and blur as a share of the detail; and whether they are worth a network."""

    noise: float
    blur: float

    @property
    def tasks(self) -> tuple[bool, bool]:
        """Whether to denoise, whether to deblur."""
        return self.noise > NOISE, self.blur > BLUR

    def __str__(self) -> str:
        found = [name for name, is_so in zip(("noise", "blur"), self.tasks, strict=True) if is_so]
        seen = " and ".join(found) or "neither noise nor blur"
        return (
            f"{seen} found (noise {self.noise:.1f}, from {NOISE} on; blur {self.blur:.2f}, from "
            f"{BLUR} on)"
        )


def needs_of(pixels: np.ndarray) -> Needs:
    """What a picture needs, by six parts of it.

    Args:
      pixels: (H, W, 3) floats in [0, 1].
    """
    if min(pixels.shape[:2]) < LEAST:
        return Needs(0.0, 0.0)
    parts = _parts(pixels)
    denoised = _run("denoise", parts)
    deblurred = _run("deblur", denoised)
    noise, change = (
        255 * np.sqrt(np.square(a - b).mean(axis=(1, 2, 3)))
        for a, b in ((parts, denoised), (denoised, deblurred))
    )
    steps = [np.square(np.diff(denoised, axis=axis)).mean(axis=(1, 2, 3)) for axis in (1, 2)]
    detail = 255 * np.sqrt(sum(steps))
    return Needs(float(np.median(noise)), float(np.median(change / np.maximum(detail, FLAT))))


def _parts(pixels: np.ndarray) -> np.ndarray:
    """(n, h, w, 3): spread evenly, or fewer that cover a small picture."""
    axes = []
    for length, count in zip(pixels.shape[:2], (DOWN, ACROSS), strict=True):
        side = min(SIDE, length)
        count = min(count, -(-length // SIDE))
        axes.append([((length - side) * (2 * i + 1) // (2 * count), side) for i in range(count)])
    return np.stack([
        pixels[top : top + h, left : left + w] for top, h in axes[0] for left, w in axes[1]
    ])  # fmt: skip


def _run(task: str, parts: np.ndarray) -> np.ndarray:
    model, params = _load(task)
    return np.asarray(_forward(model, params, parts))


_load = functools.cache(checkpoints.load)


@functools.partial(jax.jit, static_argnames="model")
def _forward(model: Network, params: Params, images: jax.Array) -> Any:
    return model.apply({"params": params}, images)
