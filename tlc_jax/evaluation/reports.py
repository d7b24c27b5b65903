"""Reports of an evaluation: a dict that is kept as JSON, and tables and plots of it.

"settings" decide the numbers. "images" has by name what `evaluating.evaluate` gives for each, and
"mean" their means. "notes" say what is measured.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tlc_jax.evaluation.evaluating import EvaluationError
from tlc_jax.evaluation.metrics import Protocol
from tlc_jax.files.atomic import write_atomically
from tlc_jax.files.limits import open_file

NOTES = {
    Protocol.RGB: "PSNR over all channels, restored pictures rounded to 8 bits.",
    Protocol.Y: "PSNR and SSIM of the BT.601 luma, restored pictures rounded to 8 bits.",
    Protocol.SIDD: "PSNR over all channels, restored pictures clipped to [0, 1] and not rounded.",
}
SSIM_NOTE = (
    "SSIM is the mean over channels, under a Gaussian window of 11 x 11 pixels (Wang et al. 2004); "
    "that of NAFNet's publications has windows of three dimensions and is higher."
)


def open_report(settings: dict[str, Any], path: Path | None = None) -> dict[str, Any]:
    """The report to resume, read from the file if it exists, or an empty one.

    Raises:
      EvaluationError: the file is no report, or one with other settings.
    """
    settings = json.loads(json.dumps(settings))  # as JSON has them: tuples become lists
    if path is None or not path.exists():
        return {"settings": settings, "images": {}}
    try:
        with open_file(path) as file:
            report = json.load(file)
        kept, _ = dict(report["settings"]), dict(report["images"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise EvaluationError(
            f"{path}: not a report that can be resumed; name another --report, or --overwrite."
        ) from None
    keys = {**kept, **settings}.keys() - {"checkpoint"}  # a name; the parameters' digest counts
    if other := sorted(key for key in keys if kept.get(key) != settings.get(key)):
        raise EvaluationError(
            f"{path}: made with other settings ("
            + ", ".join(f"{key} {kept.get(key)}, now {settings.get(key)}" for key in other)
            + "); name another --report, or --overwrite."
        )
    return report


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON, atomically."""
    text = json.dumps(report | {"notes": notes(report), "mean": means(report)}, indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be written ({error.strerror}); mend that and run it again."
        ) from None


def means(report: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Means over all images that have a value, for "input" and each mode.

    Equal images have no finite PSNR; a gain is over the images with a PSNR in both modes.
    """
    modes = ("input", *report["settings"]["modes"])
    images = report["images"].values()

    def mean(values: Iterable[float | None]) -> float | None:
        present = [value for value in values if value is not None]
        return float(np.mean(present)) if present else None

    def gain(mode: str, base: str) -> float | None:
        if mode in ("input", base) or base not in modes:
            return None
        both = ((image[mode]["psnr"], image[base]["psnr"]) for image in images)
        return mean(ours - theirs for ours, theirs in both if None not in (ours, theirs))

    return {
        mode: {
            "psnr": mean(image[mode]["psnr"] for image in images),
            "ssim": mean(image[mode].get("ssim") for image in images),
            "over_input": gain(mode, "input"),
            "over_global": gain(mode, "global"),
            "seconds": mean(image[mode].get("seconds") for image in images),
        }
        for mode in modes
    }


COLUMNS = {
    "psnr": ("PSNR dB", "{:.3f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "over_input": ("over input dB", "{:+.3f}"),
    "over_global": ("over global dB", "{:+.3f}"),
    "seconds": ("s per image", "{:.3g}"),
}


def table(report: dict[str, Any]) -> str:
    """The means as a Markdown table, aligned for the terminal, too."""
    count = len(report["images"])
    wanted = report.get("pictures", count)  # more than `count` if some failed or are to come
    of = f" of {wanted}" if wanted > count else ""
    rows = [[f"mean of {count}{of}", *(title for title, _ in COLUMNS.values())]]
    for mode, values in means(report).items():
        cells = ((values[key], form) for key, (_, form) in COLUMNS.items())
        rows.append([mode, *("" if value is None else form.format(value) for value, form in cells)])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    rows.insert(1, ["-" * first, *("-" * (width - 1) + ":" for width in others)])
    return "\n".join(
        " | ".join([name.ljust(first), *map(str.rjust, cells, others)]).join(("| ", " |"))
        for name, *cells in rows
    )


def notes(report: dict[str, Any]) -> str:
    """What the numbers of a report are, in words."""
    return f"{NOTES[report['settings']['protocol']]}\n{SSIM_NOTE}"


def markdown(report: dict[str, Any]) -> str:
    """The report for people: the table, what was measured and with which settings."""
    settings = [f"- {key}: {json.dumps(value)}" for key, value in report["settings"].items()]
    return "\n".join([table(report), "", notes(report), "", *settings, ""])


def plot(report: dict[str, Any], path: Path) -> None:
    """PSNR of every image, and the gain over global, or over the input, against its size.

    Raises:
      ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    modes = report["settings"]["modes"]
    base = "global" if "global" in modes and len(modes) > 1 else "input"
    # Only images with a PSNR in all modes: equal images have none.
    images = [
        image
        for image in report["images"].values()
        if None not in (image[mode]["psnr"] for mode in ("input", *modes))
    ]
    images.sort(key=lambda image: image[base]["psnr"])
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_image, by_size = figure.subplots(1, 2)
    for mode in ("input", *modes):
        psnr = np.array([image[mode]["psnr"] for image in images])
        (line,) = by_image.plot(range(1, len(images) + 1), psnr, ".-", label=mode)
        if mode not in ("input", base):
            gains = psnr - [image[base]["psnr"] for image in images]
            megapixels = [math.prod(image["size"]) / 1e6 for image in images]
            by_size.plot(megapixels, gains, ".", color=line.get_color(), label=mode)
    by_image.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_image.set(xlabel=f"images, in the order of the PSNR of {base}", ylabel="PSNR, dB")
    by_size.axhline(0, color="gray", linewidth=0.8)
    by_size.set(xlabel="size, megapixels", ylabel=f"gain in PSNR over {base}, dB")
    for axes in (by_image, by_size):
        axes.legend()
    figure.savefig(path, dpi=150)
