"""How often `restore_guarded` falls back to global statistics, where it should and should not.

    python -m benchmarks.guard kodak24

Prints a Markdown table. Usual pictures: photographs as they are, noisy, or shaken, restored with
the weights of the package. Unusual: tones that no picture has, patterns, and networks with channel
attention made too strong, which causes patches of false colour.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import tlc_jax as tlc
from benchmarks.tlc_gain import shipped
from tlc_jax.inference.guard import fails, stray, suspicious
from tlc_jax.training.degradations import EightBits


class Case(NamedTuple):
    """A kind of degraded picture, and the network that restores it."""

    name: str
    task: str
    degrade: Any  # (key, photograph) -> picture
    gain: float = 1  # on the weights of channel attention


def cases() -> Iterator[Case]:
    yield Case("photographs", "denoise", EightBits())
    yield Case("photographs", "deblur", EightBits())
    for task, known in (("denoise", shipped.DENOISE), ("deblur", shipped.DEBLUR)):
        for name, (degradation, quality) in known.items():
            if quality is None:
                yield Case(name, task, degradation)
    yield Case("noise, sigma 25", "deblur", shipped.noise(25))
    yield Case("tones of -1 to 2", "denoise", lambda key, x: 3 * x - 1)
    yield Case("half a pattern", "denoise", half_a_pattern)
    for gain in (1.5, 2.5, 4, 6):
        yield Case(f"attention {gain:g}x, photographs", "denoise", EightBits(), gain)
        yield Case(f"attention {gain:g}x, half a pattern", "denoise", half_a_pattern, gain)


def half_a_pattern(key: jax.Array, image: np.ndarray) -> np.ndarray:
    """The left half becomes a checkerboard of black and white pixels."""
    rows, columns = np.indices(image.shape[:2])
    pattern = ((rows + columns) % 2)[..., None]
    return np.where((columns < image.shape[1] / 2)[..., None], pattern, image).astype(np.float32)


def stronger(params: Any, gain: float) -> Any:
    """Parameters with the weights of channel attention multiplied by `gain`."""

    def scaled(path: Any, leaf: np.ndarray) -> np.ndarray:
        return leaf * gain if "sca" in jax.tree_util.keystr(path) and leaf.ndim == 4 else leaf

    return jax.tree_util.tree_map_with_path(scaled, params)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("photographs", type=Path, help="A folder of .png files.")
    folder = parser.parse_args().photographs
    files = sorted(folder.glob("*.png"))
    if not files:
        parser.error(f"{folder}: no .png in this folder.")
    print("| picture | network | of | global ran | fell back | farthest local - input | - global |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name, task, degrade, gain in cases():
        model, params = tlc.load(task)
        params = stronger(params, gain)
        ran, fell, strays = 0, 0, []
        for number, file in enumerate(files):
            image = np.asarray(degrade(jax.random.key(number), tlc.read_image(file)))
            globally, locally = (
                tlc.restore(model.clone(local_mode=local), params, image) for local in (False, True)
            )
            ran += suspicious(image, locally)
            fell += fails(image, locally, globally)
            strays.append((stray(locally, image), stray(locally, globally)))
        farthest = np.max(strays, axis=0)
        print(
            f"| {name} | {task} | {len(files)} | {ran} | {fell} | {farthest[0]:.3f} | "
            f"{farthest[1]:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
