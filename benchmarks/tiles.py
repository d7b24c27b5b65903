"""How far pictures in tiles are from the whole, by what a tile sees around its result.

    python -m benchmarks.tiles photographs

Prints a Markdown table: photographs with noise and with camera shake, restored with the weights of
the package, or with those of `--checkpoint`, whole and in tiles.
"""

import argparse
import itertools
from pathlib import Path

import jax
import numpy as np

import tlc_jax as tlc
from benchmarks.tlc_gain import shipped
from tlc_jax.inference.ways import context_of

HEADER = """
| network | mode | tile | context | whole | tiles | least | farthest, of 255 | to the whole, dB |
|---|---|---:|---:|---:|---:|---:|---:|---:|"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiles", description=__doc__)
    parser.add_argument("photographs", type=Path, help="A folder of .png and .jpg files.")
    parser.add_argument("--checkpoint", default="denoise,deblur", help="With commas.")
    parser.add_argument("--mode", default="local,global")
    parser.add_argument("--tile", default="1024,640")
    parser.add_argument("--context", default="0,32,64,96,144,192,default", help="Pixels.")
    given = parser.parse_args()
    files = sorted(file for file in given.photographs.iterdir() if file.suffix in (".png", ".jpg"))
    if not files:
        parser.error(f"{given.photographs}: no .png or .jpg in this folder.")
    lists = (getattr(given, name).split(",") for name in ("checkpoint", "mode", "tile", "context"))
    names, modes, tiles, contexts = lists
    print(HEADER)
    for name, mode in itertools.product(names, modes):
        model, params = tlc.load(name)
        model = model.clone(local_mode=mode == "local")
        case = (
            shipped.DENOISE["noise, sigma 25"]
            if name == "denoise"
            else shipped.DEBLUR["camera shake"]
        )
        found = {}  # of a tile and a context: what `compared` returns for each photograph
        for number, file in enumerate(files):
            truth = tlc.read_image(file)
            image = np.asarray(case.degradation(jax.random.key(number), truth))
            whole = tlc.restore(model, params, image)
            for tile, context in itertools.product(map(int, tiles), contexts):
                pixels = context_of(model, (tile, tile)) if context == "default" else int(context)
                way = tlc.tiled(tile, context=pixels)
                parts = tlc.restore(model, params, image, way=way)
                found.setdefault((tile, pixels), []).append(compared(truth, whole, parts))
        for (tile, context), rows in found.items():
            there, gain, farthest, near = np.transpose(rows)
            print(
                f"| {name} | {mode} | {tile} | {context} | {there.mean():.3f} | {gain.mean():+.4f} "
                f"| {gain.min():+.4f} | {farthest.max():.2f} | {near.mean():.1f} |",
                flush=True,
            )


def compared(truth: np.ndarray, whole: np.ndarray, parts: np.ndarray) -> tuple[float, ...]:
    """PSNR of the whole, what tiles add to it, how far they are from it in levels, and in dB."""
    of_whole, of_parts = (float(tlc.psnr(image, truth)) for image in (whole, parts))
    farthest = float(np.abs(parts - whole).max())
    return of_whole, of_parts - of_whole, 255 * farthest, float(tlc.psnr(parts, whole))


if __name__ == "__main__":
    main()
