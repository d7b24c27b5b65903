"""The pictures of docs/tasks: photographs of the Kodak set, degraded, and what restores them.

    python -m benchmarks.task_pictures kodak24 --only denoise,defocus

Prints what each gains, in dB of 8 bits, with global and with local statistics, and writes a part of
it before and after. Rain, haze and low light take the installed weights of MAXIM.
"""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import scipy.ndimage
import scipy.signal
from PIL import Image

import tlc_jax as tlc
from tlc_jax.ops.pixels import from_float
from tlc_jax.training.degradations import Defocus, GaussianNoise

DOCS = Path(__file__).parent.parent / "docs/images/tasks"


def hazy(image: np.ndarray) -> np.ndarray:
    """Light of the air, 0.85, for 30% of the scene's below and 75% above, where it is far."""
    seen = np.exp(-1.4 * np.linspace(1, 0.25, len(image)))[:, None, None]
    return image * seen + 0.85 * (1 - seen)


def rainy(image: np.ndarray) -> np.ndarray:
    """Soft bright streaks of 40 pixels, 20 degrees from upright."""
    random = np.random.default_rng(1)
    size = image.shape[:2]
    drops = (random.random(size) < 0.002).astype(np.float32) * random.uniform(0.5, 1, size)
    down, across = (
        20 + np.linspace(-20, 20, 320) * turned(np.radians(20)) for turned in (np.cos, np.sin)
    )
    streak = np.zeros((42, 42))
    for rows, columns in itertools.product((0, 1), (0, 1)):  # between the pixels around a place
        y, x = np.floor(down).astype(int) + rows, np.floor(across).astype(int) + columns
        np.add.at(streak, (y, x), (1 - abs(down - y)) * (1 - abs(across - x)))
    light = scipy.signal.fftconvolve(drops, streak[:41, :41] / streak.max(), mode="same")
    light = np.clip(0.7 * scipy.ndimage.gaussian_filter(light, 0.5), 0, 1)[..., None]
    return image + 0.8 * (1 - image) * light


class Task(NamedTuple):
    """A photograph, what became of it, what restores it, and the corner of the part to show."""

    photograph: str
    degrade: Callable[[np.ndarray], np.ndarray]
    checkpoint: str | Path
    shown: str  # local or global
    corner: tuple[int, int]


TASKS = {
    "denoise": Task("23", lambda x: GaussianNoise((25, 25))(KEY, x), "denoise", "local", (60, 60)),
    "defocus": Task("05", lambda x: Defocus((3, 3))(KEY, x), "deblur", "local", (60, 300)),
    "rain": Task("14", rainy, "maxim-rain13k", "global", (100, 8)),
    "haze": Task("13", hazy, "maxim-reside-outdoor", "global", (8, 200)),
    "low_light": Task("22", lambda x: x / 6, "maxim-lol", "global", (60, 150)),
}
KEY = jax.random.key(0)
SIZE = 300, 400  # pixels, of the part


def main() -> None:
    """Degrades, restores, measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kodak", type=Path, help="the 24 PNG files of the Kodak set")
    parser.add_argument("--only", default=",".join(TASKS), help="which, by name")
    arguments = parser.parse_args()
    DOCS.mkdir(parents=True, exist_ok=True)
    for name in arguments.only.split(","):
        task = TASKS[name]
        (file,) = arguments.kodak.glob(f"*{task.photograph}.png")
        truth = tlc.read_image(file)
        before = from_float(np.asarray(task.degrade(truth)), np.uint8)
        model, params = tlc.load(task.checkpoint)
        after = {
            mode: tlc.restore(model.clone(local_mode=mode == "local"), params, before)
            for mode in ("global", "local")
        }
        gains = [tlc.psnr(pixels / np.float32(255), truth) for pixels in (before, *after.values())]
        print("{:10} {:.2f} dB, global {:.2f}, local {:.2f}".format(name, *gains), flush=True)
        top, left = task.corner
        part = np.s_[top : top + SIZE[0], left : left + SIZE[1]]
        gap = np.full((SIZE[0], 4, 3), 255, np.uint8)
        pair = np.hstack([before[part], gap, after[task.shown][part]])
        Image.fromarray(pair).save(DOCS / f"{name}.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main()
