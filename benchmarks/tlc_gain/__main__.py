"""What TLC gains, measured with networks that were trained here, and with MAXIM's weights.

    python -m benchmarks.tlc_gain build/tlc_gain --kodak kodak24

fetches the photographs (see `photographs.py`), trains networks with three kinds of site, which
takes hours, restores the photographs in all ways, and writes `results/` beside this file and the
plots of `docs/images`. `--maxim` names MAXIM's checkpoint for GoPro, and `--frame` a blurred frame
and its ground truth. Networks that are trained already are not trained again.
"""

import argparse
import itertools
import json
from pathlib import Path

import tlc_jax as tlc
from benchmarks.tlc_gain import (
    gain,
    maxim,
    networks,
    photographs,
    plots,
    report,
    shipped,
    statistics,
)
from benchmarks.tlc_gain.gain import Network
from tlc_jax.files.atomic import write_atomically
from tlc_jax.files.pictures import read_image

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[2] / "docs/images"
PARTS = ("shipped", "ways", "seconds", "sizes", "statistics", "maxim")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tlc_gain", description=__doc__)
    parser.add_argument("folder", type=Path, help="for photographs and what is trained")
    parser.add_argument("--kodak", type=Path, required=True, help="folder of the 24 photographs")
    parser.add_argument("--maxim", type=Path, help="a checkpoint of tlc-jax")
    parser.add_argument("--frame", type=Path, nargs=2, metavar=("BLURRED", "SHARP"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    wanted = arguments.only
    pictures, runs = arguments.folder / "photographs", arguments.folder / "runs"
    RESULTS.mkdir(exist_ok=True)
    if not pictures.exists():
        photographs.fetch(pictures)
    folders = {"Kodak": arguments.kodak, "photographs of 2 to 6 megapixels": pictures / "test"}
    if "shipped" in wanted:
        others = {"non-local means": shipped.nonlocal_means}  # minutes for each larger photograph
        for name, folder in folders.items():
            scores = shipped.scores(folder, others if name == "Kodak" else {})
            record("shipped", scores, name)
    if {"ways", "seconds", "sizes", "statistics"} & {*wanted}:
        ours = {
            "denoise, ours": Network(*tlc.load("denoise"), shipped.noise(25)),
            "deblur, ours": Network(
                *tlc.load("deblur"), shipped.DEBLUR["camera shake"].degradation
            ),
        }
        kinds = {
            f"{name}, seed {seed}": networks.trained(name, seed, pictures / "train", runs)
            for name, seed in itertools.product(networks.MODELS, networks.SEEDS)
        }
        measure_networks(wanted, ours, kinds, folders)
    if "maxim" in wanted and arguments.maxim and arguments.frame:
        blurred, sharp = map(read_image, arguments.frame)
        record("maxim", gain.psnr(blurred, sharp), "input")
        for way, scores in maxim.by_way(*tlc.load(arguments.maxim), blurred, sharp):
            record("maxim", scores, way)
    draw()


def measure_networks(
    wanted: list[str],
    ours: dict[str, Network],
    kinds: dict[str, Network],
    folders: dict[str, Path],
) -> None:
    """Measure the networks whose training crops are known."""
    small, large = folders
    one_of_each = {name: net for name, net in kinds.items() if name.endswith("seed 0")}
    if "ways" in wanted:
        for name, network in (ours | kinds).items():
            record("ways", gain.by_way(network, folders[small]), small, name)
    if "seconds" in wanted:
        for name, network in (ours | one_of_each).items():
            record("seconds", gain.seconds(network, folders[small]), name)
    if "sizes" in wanted:
        for name, network in (ours | one_of_each).items():
            record("sizes", gain.by_size(network, folders[large]), name)
    if "statistics" in wanted:
        for name, network in one_of_each.items():
            values = statistics.measured(network, folders[small])
            record("statistics", statistics.distances(values), name)
            file = RESULTS / f"statistics-{name.partition(',')[0].lower()}.png"
            plots.histogram(*statistics.example(values), file)
    if "ways" in wanted:  # last, as this takes as long as all before it
        for name, network in ours.items():
            record("ways", gain.by_way(network, folders[large]), large, name)


def record(part: str, figures: object, *names: str) -> None:
    """Put figures into the results, which are kept as JSON."""
    file = RESULTS / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    place = results
    for name in (part, *names)[:-1]:
        place = place.setdefault(name, {})
    place[(part, *names)[-1]] = figures
    write_atomically(file, (json.dumps(results, indent=1) + "\n").encode())


def draw() -> None:
    """Draw the figures and write the tables of the recorded results."""
    results = json.loads((RESULTS / "results.json").read_text())
    for part, plot in {
        "ways": plots.windows,
        "sizes": plots.sizes,
        "statistics": plots.distances,
    }.items():
        if part in results:
            plot(results[part], IMAGES / f"{part}.png")
    (RESULTS / "results.md").write_text(report.markdown(results))


if __name__ == "__main__":
    main()
