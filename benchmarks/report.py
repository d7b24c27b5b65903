"""The recorded figures: a JSON file for each device, and Markdown tables made of it."""

import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.contestant import kernel_bytes
from benchmarks.networks import ratio

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "onnxruntime", "openvino")
# By a flag of Linux: what a CPU's best instructions are called, which its name often hides.
UNITS = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}
DEVICE = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind)"


def machine() -> dict[str, Any]:
    """The hardware, the system and the versions that the figures depend on."""
    # In a process of its own, which leaves the device to the contestants.
    told = subprocess.check_output([sys.executable, "-c", DEVICE], text=True)
    kind, device = told.strip().split(maxsplit=1)
    if kind == "cpu":
        cpu = Path("/proc/cpuinfo").read_text()
        name = re.search(r"model name\s*: (.*)", cpu)
        units = [unit for flag, unit in UNITS.items() if re.search(rf"\b{flag}\b", cpu)]
        parts = [name[1] if name else platform.machine(), *units[:1], f"{os.cpu_count()} cores"]
        device = " ".join(parts)
    installed = {x.metadata["Name"]: x.version for x in importlib.metadata.distributions()}
    return {
        "platform": kind,
        "device": device,
        "cores": os.cpu_count(),
        "GiB": round(kernel_bytes("/proc/meminfo", "MemTotal") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: installed.get(package, "") for package in PACKAGES},
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
    }


def file(folder: Path, machine: dict[str, Any]) -> Path:
    return folder / (re.sub(r"\W+", "-", machine["device"]).strip("-").lower() + ".json")


def read(path: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """The recorded figures; without a file, none so far, of this machine."""
    recorded = json.loads(path.read_text()) if path.exists() else {"machine": machine}
    return {"networks": {}, "growth": {}, "operations": {}, "start": {}} | recorded


def write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(results))


def markdown(results: dict[str, Any]) -> str:
    parts = [
        "# Measured by `python -m benchmarks`",
        table([{"": name, "machine": value} for name, value in results["machine"].items()]),
        "Times are medians over turns with their range, ratios medians of the turns' own ratios. "
        "`ours / it` is our time as a share of this one's, in the same mode. Peak memory is the "
        "whole process's on a CPU and the device's on a GPU; planned is what XLA's buffers take. "
        "A picture of 256x256 is within one window: local is global.",
    ]
    if results["networks"]:
        races = results["networks"].items()
        parts.append(table([row for case, race in races for row in rows(case, race)]))
    if results["growth"]:
        parts += ["## NAFNet width 32 local, by size: seconds", table([results["growth"]])]
    for title, cases in results["operations"].items():
        parts += [f"## {title}", table(cases)]
    if results["start"]:
        parts += ["## The first picture of a new process, seconds", table([results["start"]])]
    return "\n\n".join(parts) + "\n"


def rows(case: str, race: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    by_name = {(one["form"], one["mode"]): one for one in race}
    for (form, mode), one in by_name.items():
        seconds = one["seconds"]
        row = {
            "case": case,
            "contestant": f"{form} {mode}",
            "s": statistics.median(seconds),
            "range": f"{number(min(seconds))} to {number(max(seconds))}",
            "compile s": one["compile"],
            "peak GiB": one["peak"] / 2**30,
        }
        if "planned" in one:
            row["planned GiB"] = one["planned"] / 2**30
            row["TFLOP/s"] = 1e-12 * one["flop"] / row["s"]
        if mode == "local" and (form, "global") in by_name:
            row["local / global"] = ratio(one, by_name[form, "global"])
        if form != "ours" and ("ours", mode) in by_name:
            row["ours / it"] = ratio(by_name["ours", mode], one)
        yield row


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown: all columns that any row has; the first is text."""
    titles = list(dict.fromkeys(title for row in rows for title in row))
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    lines += [[number(row.get(title, "")) for title in titles] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parse_size(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width


def size(height_and_width: tuple[int, int]) -> str:
    return "x".join(map(str, height_and_width))


def number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
