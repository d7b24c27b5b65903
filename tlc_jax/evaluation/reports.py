"""Reports of an evaluation: a dict that is kept as JSON, and tables and plots of it.

"settings" decide the numbers. "images" has by name what `evaluating.evaluate` gives for each, and
"mean" their means. "notes" say what is measured. "subsets" are names of some of the images, by what
they have in common; their means are in "means_of_subsets".
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tlc_jax.evaluation.evaluating import EvaluationError
from tlc_jax.evaluation.metrics import RULES, Protocol, ssim, ssim3d, ssim_uniform
from tlc_jax.files.atomic import write_atomically
from tlc_jax.files.limits import open_file

ROUNDED = "restored pictures rounded to 8 bits"
CLIPPED = "restored pictures clipped to [0, 1] and not rounded"
NOTES = {
    Protocol.RGB: f"PSNR over all channels, {ROUNDED}.",
    Protocol.Y: f"PSNR and SSIM of the BT.601 luma, {ROUNDED}.",
    Protocol.SIDD: f"PSNR over all channels, {CLIPPED}.",
    Protocol.NAFNET: f"PSNR over all channels, {ROUNDED}.",
    Protocol.NAFNET_SIDD: f"PSNR over all channels, {CLIPPED}.",
    Protocol.NAFSSR: f"PSNR over all channels, {ROUNDED}; of two views their mean.",
    Protocol.DPDD: f"PSNR and MAE over all channels, {CLIPPED}.",
}
OF_WANG = (
    "SSIM is the mean over channels, under a Gaussian window of 11 x 11 pixels (Wang et al. 2004); "
    "that of NAFNet's publications has windows of three dimensions and is higher."
)
OF_NAFNET = (
    "SSIM is that of NAFNet's and TLC's publications, under a Gaussian window of three dimensions, "
    "11 x 11 x 11, over the channels, too; the usual one, per channel, is lower."
)
OF_SKIMAGE = (
    "SSIM is the mean over channels, under even windows of 7 x 7 pixels, as scikit-image's default."
)
SSIM_NOTES: dict[Any, str] = {ssim: OF_WANG, ssim3d: OF_NAFNET, ssim_uniform: OF_SKIMAGE}


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
        kept = dict(report["settings"])
        for image in report["images"].values():
            _check_image(image, kept["modes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
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


def _check_image(image: dict[str, Any], modes: Iterable[str]) -> None:
    """Refuse what `evaluating.evaluate` cannot have given, with almost any exception."""
    rows = [image[mode] for mode in modes] + [image[row] for row in ("input",) if row in image]
    for row in rows:
        numbers = [row["psnr"], row["ssim"], row.get("mae"), row.get("seconds")]
        if not all(x is None or math.isfinite(x) for x in numbers):
            raise ValueError


def check_same(report: dict[str, Any], names: Iterable[str], path: Path | None) -> None:
    """Refuse a report of other pictures than those that are measured now.

    Raises:
      EvaluationError: there are such; the means would be over them, too.
    """
    if others := sorted(report["images"].keys() - {*names}):
        shown = ", ".join(others[:3]) + (", ..." if others[3:] else "")
        raise EvaluationError(
            f"{path}: has {len(others)} pictures that are not measured now ({shown}); name another "
            "--report, or --overwrite."
        )


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON, atomically."""
    told: dict[str, Any] = {"notes": notes(report), "mean": means(report)}
    if report.get("subsets"):
        told["means_of_subsets"] = {
            name: means(part(report, images)) for name, images in report["subsets"].items()
        }
    write_json(report | told, path)


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write JSON, atomically.

    Raises:
      EvaluationError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be written ({error.strerror}); mend that and run it again."
        ) from None


def part(report: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The report of some of the images."""
    wanted = {*names}
    images = {name: image for name, image in report["images"].items() if name in wanted}
    return {"settings": report["settings"], "images": images, "pictures": len(wanted)}


def rows_of(report: dict[str, Any]) -> list[str]:
    """What a report has a row for: "input", where it could be measured, and the modes."""
    images, modes = report["images"].values(), report["settings"]["modes"]
    return modes if images and not any("input" in image for image in images) else ["input", *modes]


def counted(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The images that the means are over: the same in all rows and columns.

    Left out are those that lack a PSNR, being equal to their truth, or an SSIM, being smaller than
    its window, where others have one.
    """
    images = [*report["images"].values()]

    def lacks(image: dict[str, Any], row: str, key: str) -> bool:
        return image.get(row, {}).get(key) is None

    needed = [
        (row, key)
        for row in rows_of(report)
        for key in ("psnr", "ssim")
        if not all(lacks(image, row, key) for image in images)
    ]
    return [image for image in images if not any(lacks(image, *one) for one in needed)]


def means(report: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Means over the `counted` images, for each of `rows_of`."""
    rows, images = rows_of(report), counted(report)

    def mean(row: str, key: str) -> float | None:
        values = [image.get(row, {}).get(key) for image in images]
        return None if not values or None in values else float(np.mean(values))

    def gain(row: str, base: str) -> float | None:
        ours, theirs = mean(row, "psnr"), mean(base, "psnr")
        if row in ("input", base) or base not in rows or ours is None or theirs is None:
            return None
        return ours - theirs

    return {
        row: {
            "psnr": mean(row, "psnr"),
            "ssim": mean(row, "ssim"),
            "mae": mean(row, "mae"),
            "over_input": gain(row, "input"),
            "over_global": gain(row, "global"),
            "seconds": mean(row, "seconds"),
        }
        for row in rows
    }


COLUMNS = {
    "psnr": ("PSNR dB", "{:.3f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "mae": ("MAE", "{:.4f}"),
    "over_input": ("over input dB", "{:+.3f}"),
    "over_global": ("over global dB", "{:+.3f}"),
    "seconds": ("s per image", "{:.3g}"),
}


def table(report: dict[str, Any]) -> str:
    """The means as a Markdown table, aligned for the terminal, too; one more for each subset."""
    columns = {**COLUMNS}
    if report["settings"]["protocol"] != Protocol.DPDD:  # the only one that MAE is published by
        del columns["mae"]
    parts = {"mean": report} | {
        f"{name}, mean": part(report, images) for name, images in report.get("subsets", {}).items()
    }
    tables = []
    for name, one in parts.items():
        rows = [[f"{name} of {_count(one)}", *(title for title, _ in columns.values())]]
        for row, values in means(one).items():
            cells = ((values[key], form) for key, (_, form) in columns.items())
            rows.append([row, *("" if x is None else form.format(x) for x, form in cells)])
        tables.append(_aligned(rows))
    return "\n\n".join(tables)


def _count(report: dict[str, Any]) -> str:
    """How many images the means are over, and of how many where some failed or are to come."""
    done = len(report["images"])
    wanted = report.get("pictures", done)
    return f"{len(counted(report))}{f' of {wanted}' if wanted > done else ''}"


def _aligned(rows: list[list[str]]) -> str:
    """A Markdown table of rows, the first of which is its head."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    rows.insert(1, ["-" * first, *("-" * (width - 1) + ":" for width in others)])
    return "\n".join(
        " | ".join([name.ljust(first), *map(str.rjust, cells, others)]).join(("| ", " |"))
        for name, *cells in rows
    )


def notes(report: dict[str, Any]) -> str:
    """What the numbers of a report are, in words."""
    protocol = Protocol(report["settings"]["protocol"])
    lines = [NOTES[protocol], SSIM_NOTES[RULES[protocol].ssim]]
    if left_out := len(report["images"]) - len(counted(report)):
        lines.append(
            f"Left out of all means: {left_out} of {len(report['images'])}, without a PSNR, being "
            "equal to their truth in some row, or without an SSIM, being smaller than its window."
        )
    return "\n".join(lines)


def best_window(report: dict[str, Any]) -> str | None:
    """The mode, of several local ones, with the highest mean PSNR."""
    found = means(report)
    scores = {
        mode: score
        for mode in report["settings"]["modes"]
        if mode.startswith("local:") and (score := found[mode]["psnr"]) is not None
    }
    if len({*scores.values()}) < 2:  # as of pictures no larger than any of them
        return None
    return max(scores, key=lambda mode: scores[mode])


def joined(reports: dict[tuple[str, str], dict[str, Any]]) -> str:
    """A table of several reports: a row for each network and mode, a column for each data set.

    Args:
      reports: by the names of the network and of the data set.

    Returns:
      Markdown; in each cell mean PSNR in dB and SSIM, and below of how many pictures.
    """
    networks, sets = (list(dict.fromkeys(names)) for names in zip(*reports, strict=True))
    found = {names: means(report) for names, report in reports.items()}
    rows = [["PSNR dB, SSIM", *sets]]
    for network in networks:
        here = {name: found[network, name] for name in sets if (network, name) in found}
        for mode in dict.fromkeys(mode for one in here.values() for mode in one if mode != "input"):
            cells = (here.get(name, {}).get(mode) for name in sets)
            rows.append([f"{network}, {mode}", *("" if x is None else _cell(x) for x in cells)])
    counts = [f"- {network} on {name}: {_count(x)}" for (network, name), x in reports.items()]
    return "\n".join([_aligned(rows), "", "Means over so many pictures:", "", *counts])


def _cell(values: dict[str, float | None]) -> str:
    shown = ((values["psnr"], "{:.3f}"), (values["ssim"], "{:.4f}"))
    return ", ".join("-" if value is None else form.format(value) for value, form in shown)


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

    rows, modes = rows_of(report), report["settings"]["modes"]
    base = "global" if "global" in modes and len(modes) > 1 else rows[0]
    # Only images with a PSNR in all modes: equal images have none.
    images = [
        image
        for image in report["images"].values()
        if None not in (image[row]["psnr"] for row in rows)
    ]
    images.sort(key=lambda image: image[base]["psnr"])
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_image, by_size = figure.subplots(1, 2)
    for mode in rows:
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
        if axes.get_legend_handles_labels()[0]:  # one mode without an input has no gain
            axes.legend()
    figure.savefig(path, dpi=150)
