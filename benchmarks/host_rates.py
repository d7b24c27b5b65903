"""What a host does around the network: the rates of one core, and how many cores feed a device.

    python -m benchmarks.host_rates

Prints tables for docs/million.md. Seconds are those that one core computes, the least of some runs,
so that neither the disk nor a busy machine counts. A device's are planned, not measured: the bytes
of `benchmarks/results/planned.json` over the rate of its memory, in proportion to the pixels.
"""

import functools
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import plan, report
from tlc_jax.files.pictures import picture_size, read_picture
from tlc_jax.files.writing import write_restored

LARGE = "4000x3000"
SIZES = {"1280x720": (720, 1280), LARGE: (3000, 4000)}
PHOTOGRAPH = Path(__file__).parent.parent / "tlc_jax/examples/kodim.png"
NOISE = 2  # levels, as cameras leave it, or an enlarged photograph would be too easy to encode
RUNS = 5
LEVELS = (1, 3, 6, 9)  # of PNG
RATES = {"v5e": 819e9, "h100": 3350e9}  # bytes a second
CLOCK = 1.5e9  # of a v5e: 197 TFLOP/s by 4 arrays of 128 x 128, which multiply and add at once
NETWORKS = ("nafnet", "restormer")


def seconds(do: Callable[[], object]) -> float:
    """Of one core."""
    taken = []
    for _ in range(RUNS):
        start = time.process_time()
        do()
        taken.append(time.process_time() - start)
    return min(taken)


def tasks(folder: Path, size: tuple[int, int]) -> Iterator[tuple[str, Callable[[], object], Path]]:
    """What is done with a picture, and the file that is read or written."""
    with Image.open(PHOTOGRAPH) as photograph:
        enlarged = np.asarray(photograph.resize(size[::-1], Image.Resampling.LANCZOS), np.float64)
    noise = np.random.default_rng(0).normal(0, NOISE, enlarged.shape)
    pixels = np.uint8(np.clip(np.rint(enlarged + noise), 0, 255))
    for suffix, saving in {"jpg": {"quality": 92}, "png": {}}.items():
        source, target = folder / f"source.{suffix}", folder / f"restored.{suffix}"
        Image.fromarray(pixels).save(source, **saving)
        picture = read_picture(source)
        yield f"read {suffix}", functools.partial(read_picture, source), source
        yield (
            f"write {suffix}",
            functools.partial(write_restored, target, pixels, picture),
            target,
        )
        yield f"size of {suffix}", functools.partial(picture_size, source), source
    for level in LEVELS:
        file = folder / f"level{level}.png"
        yield (
            f"png of level {level}",
            functools.partial(write_restored, file, pixels, picture, png_level=level),
            file,
        )


def host() -> dict[tuple[str, str], float]:
    """Print what is measured; the seconds of each size and task."""
    measured, rows = {}, []
    title = f"one core of {report.machine()['device']}"
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for name, size in SIZES.items():
            for task, do, file in tasks(Path(folder), size):
                measured[name, task] = taken = seconds(do)
                rows.append({
                    title: f"{task}, {name}",
                    "ms": 1000 * taken,
                    "megapixels/s": math.prod(size) / 1e6 / taken,
                    "MB": file.stat().st_size / 1e6 if file.is_file() else "",
                })  # fmt: skip
    print(report.table(rows))
    return measured


def devices(measured: dict[tuple[str, str], float]) -> None:
    """Print what is planned, and the cores that a device would keep busy."""
    recorded, rows = json.loads(plan.RECORDED.read_text()), []
    ratio = math.prod(SIZES[LARGE]) / math.prod(SIZES["1280x720"])
    for network, (target, rate) in itertools.product(NETWORKS, RATES.items()):
        planned = recorded[f"{target} {network} 720x1280 bfloat16"]["local"]
        taken = ratio * planned["GB"] * 1e9 / rate
        row = {
            "planned, not measured": f"{network} on {target}, {LARGE}, local",
            "GB": ratio * planned["GB"],
            "s": taken,
            "hours for a million": taken * 1e6 / 3600,
        }
        for kind in ("jpg", "png"):
            around = f"read {kind}", f"write {kind}"  # whole numbers go to the device, and back
            row[f"cores, {kind}"] = sum(measured[LARGE, task] for task in around) / taken
        if "Mcycles" in planned:
            row["s by XLA's cycles"] = ratio * planned["Mcycles"] * 1e6 / CLOCK
        rows.append(row)
    print(f"\n{report.table(rows)}")


if __name__ == "__main__":
    devices(host())
