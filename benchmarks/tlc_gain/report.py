"""The tables of the recorded results, in Markdown."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.tlc_gain.plots import mean_gain, standard_error


def markdown(results: dict[str, Any]) -> str:
    """All tables, each under a heading that says what it holds."""
    parts = {
        "shipped": _shipped,
        "ways": _ways,
        "seconds": _seconds,
        "sizes": _sizes,
        "maxim": _maxim,
    }
    lines = ["# What TLC gains", "", "Made by `python -m benchmarks.tlc_gain`. PSNR in dB.", ""]
    for part, lines_of in parts.items():
        if part in results:
            lines += lines_of(results[part])
    return "\n".join(lines) + "\n"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return [f"## {title}", "", *(f"| {' | '.join(row)} |" for row in (heads, rule, *rows)), ""]


def _shipped(folders: dict[str, Any]) -> list[str]:
    lines = []
    for folder, scores in folders.items():
        rows = []
        for case, ways in scores.items():
            for way, values in ways.items():
                row = [f"{case}: {way}", f"{np.mean(values):.2f}", f"{min(values):.2f}", "", ""]
                if way.endswith("local"):
                    gains = np.subtract(values, ways[way.replace("local", "global")])
                    row[3] = f"{gains.mean():+.3f} ± {standard_error(gains):.3f}"
                    row[4] = f"{(gains > 0).sum()} of {len(gains)}"
                rows.append(row)
        heads = ["", "mean", "least", "local over global", "local is better on"]
        lines += _table(f"The weights of the package, {folder}", heads, rows)
    return lines


def _ways(folders: dict[str, Any]) -> list[str]:
    lines = []
    for folder, networks in folders.items():
        rows = []
        for name, scores in networks.items():
            ways = [*next(iter(scores.values()))]
            means = [np.mean([of_way[way] for of_way in scores.values()]) for way in ways[:2]]
            gains = [mean_gain(scores, way) for way in ways[2:]]
            rows.append(
                [name, *(f"{mean:.3f}" for mean in means), *(f"{gain:+.3f}" for gain in gains)]
            )
        lines += _table(f"{folder}: gains over global", ["", *ways], rows)
    return lines


def _seconds(networks: dict[str, Any]) -> list[str]:
    ways = next(iter(networks.values()))
    rows = [
        [name, *(f"{value:.2f}" for value in of_way.values())] for name, of_way in networks.items()
    ]
    return _table("Seconds for a photograph of 768x512", ["", *ways], rows)


def _sizes(networks: dict[str, Any]) -> list[str]:
    sizes = next(iter(networks.values()))
    rows = [
        [name, *(f"{np.mean(v):+.3f} ± {standard_error(v):.3f}" for v in of_size.values())]
        for name, of_size in networks.items()
    ]
    title = "Gain of local over global by the side of the picture, pixels"
    return _table(title, ["network", *sizes], rows)


def _maxim(ways: dict[str, Any]) -> list[str]:
    rows = [
        [
            way,
            *(f"{psnr:.3f}" for psnr in scores["psnr"]),
            f"{np.mean(scores['psnr']):.3f}",
            f"{np.std(scores['psnr']):.3f}",
            f"{scores['mean']:.3f}",
        ]
        for way, scores in ways.items()
        if way != "input"
    ]
    alignments = [str(n + 1) for n in range(len(rows[0]) - 4)]
    heads = ["alignment", *alignments, "mean", "spread", "mean picture"]
    return _table(f"MAXIM on a frame of GoPro, blurred {ways['input']:.3f}", heads, rows)
