"""The figures of `docs/paper.md`, from the recorded results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.tlc_gain.gain import FACTORS, LOCAL


def mean_gain(scores: dict[str, dict[str, float]], way: str) -> float:
    """Mean gain in dB over photographs, of a way to restore over the global one."""
    return float(np.mean([one[way] - one["global"] for one in scores.values()]))


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean of the values."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5)


def windows(gains: dict[str, dict[str, Any]], path: Path) -> None:
    """What windows of several sizes gain over the whole picture, a line for each network."""
    figure = Figure(figsize=(7 * len(gains), 5), layout="constrained")
    colours: dict[str, Any] = {}  # one for all seeds of a kind, in all folders
    for axes, (folder, networks) in zip(
        figure.subplots(1, len(gains), squeeze=False)[0], gains.items(), strict=True
    ):
        for name, scores in networks.items():
            kind, _, _ = name.partition(", seed")
            values = [mean_gain(scores, f"local {factor:g}x") for factor in FACTORS]
            label = None if kind in colours else kind
            (line,) = axes.plot(FACTORS, values, ".-", label=label, color=colours.get(kind))
            colours[kind] = line.get_color()
            axes.plot([1], [mean_gain(scores, "tiles")], "x", color=colours[kind])
        axes.axhline(0, color="gray", linewidth=0.8)
        axes.set_title(folder)
        axes.set_xscale("log", base=2)
        axes.set_xticks(FACTORS, [f"{factor:g}x" for factor in FACTORS])
        axes.set_xlabel("window over training crop (x: overlapping tiles)")
        axes.set_ylabel("gain in PSNR over global, dB")
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=110)


def sizes(gains: dict[str, dict[int, list[float]]], path: Path) -> None:
    """What local gains on crops of several sizes: the mean, and its standard error."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, of_size in gains.items():
        found = {int(size): values for size, values in of_size.items()}
        errors = [standard_error(values) for values in found.values()]
        axes.errorbar([*found], [np.mean(v) for v in found.values()], errors, fmt=".-", label=name)
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks([*found], [str(size) for size in found])
    axes.set_xlabel("side of the picture, pixels")
    axes.set_ylabel(f"gain in PSNR of {LOCAL} over global, dB")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=110)


def distances(networks: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """The distance of statistics used at a crop from its own, by site; 1 is that of constants."""
    figure = Figure(figsize=(5 * len(networks), 3.6), layout="constrained")
    for axes, (name, ways) in zip(
        figure.subplots(1, len(networks), sharey=True, squeeze=False)[0],
        networks.items(),
        strict=True,
    ):
        for way, values in ways.items():
            axes.plot([*values.values()], ".-", label=way)
        axes.axhline(1, color="gray", linewidth=0.8)
        axes.set_title(name)
        axes.set_xlabel("sites of TLC, in the order in which they run")
        axes.set_ylabel("distance from a crop's statistics")
        axes.set_yscale("log")
        axes.legend()
    figure.savefig(path, dpi=110)


def histogram(site: str, values: dict[str, np.ndarray], path: Path) -> None:
    """One statistic of a site on crops, whole photographs and in windows: the paper's figure."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    every = np.concatenate([*values.values()])
    edges = np.linspace(*np.quantile(every, (0.005, 0.995)), 40)
    for way, of_way in values.items():
        axes.hist(of_way, edges, density=True, histtype="step", linewidth=1.5, label=way)
    axes.set_xlabel(f"a statistic of {site}")
    axes.set_ylabel("density")
    axes.legend()
    figure.savefig(path, dpi=110)
