"""The tables of the evidence, from its results."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.tlc_gain.plots import mean_gain


def markdown(results: dict[str, Any]) -> str:
    """All tables, each under a heading that says what it holds."""
    parts = {"shipped": _shipped, "ways": _ways, "sizes": _sizes, "maxim": _maxim}
    lines = ["# What TLC gains", "", "Made by `python -m benchmarks.tlc_gain`. PSNR in dB.", ""]
    for part, lines_of in parts.items():
        if part in results:
            lines += lines_of(results[part])
    return "\n".join(lines) + "\n"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return [f"## {title}", "", *(f"| {' | '.join(row)} |" for row in (heads, rule, *rows)), ""]


def _shipped(folders: dict[str, Any]) -> list[str]:
    rows = [
        [f"{case}: {way}", *(f"{scores[case][way]:.2f}" for scores in folders.values())]
        for case, ways in next(iter(folders.values())).items()
        for way in ways
    ]
    return _table("The weights of the package", ["", *folders], rows)


def _ways(folders: dict[str, Any]) -> list[str]:
    lines = []
    for folder, networks in folders.items():
        rows = []
        for name, scores in networks.items():
            ways = [*next(iter(scores.values()))]
            psnr = {way: _mean(scores, way, "psnr") for way in ways[:2]}  # the input, global
            gains = [f"{mean_gain(scores, way):+.3f}" for way in ways[2:]]
            rows.append([name, *(f"{value:.3f}" for value in psnr.values()), *gains])
            rows.append(
                ["seconds", "", *(f"{_mean(scores, way, 'seconds'):.2f}" for way in ways[1:])]
            )
        lines += _table(f"{folder}: gains over global", ["", *ways], rows)
    return lines


def _mean(scores: dict[str, Any], way: str, key: str) -> float:
    return float(np.mean([of_way[way][key] for of_way in scores.values()]))


def _sizes(networks: dict[str, Any]) -> list[str]:
    sizes = next(iter(networks.values()))
    rows = [
        [name, *(f"{np.mean(values):+.3f}" if values else "" for values in of_size.values())]
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
