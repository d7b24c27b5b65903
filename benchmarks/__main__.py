"""Speed, memory and ratios, of this library and of PyTorch in one run, in turns.

Figures are added to a JSON file named after the device, from which Markdown tables are made. Times
are medians over the turns, without compiling. Ratios are medians of each turn's ratio, so that a
busy machine slows down all contestants alike.

    python -m benchmarks                                     # all of it: many hours on a CPU
    python -m benchmarks networks --network nafnet --size 720x1280
    python -m benchmarks check                               # are the recorded ratios held?
    python -m benchmarks plan --help                         # for TPUs and GPUs that are not there
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import report
from benchmarks.contestant import DTYPES, FORMS, NETWORKS, ONNX, PEERS, Contestant
from benchmarks.networks import race, ratio, ratios

SIZES = [(256, 256), (512, 512), (720, 1280), (2160, 3840)]
BATCHES = {(256, 256): (1, 8)}  # 1 for other sizes
WINDOW = 384  # pixels; for a picture no larger, local is global
RESULTS = Path(__file__).parent / "results"
WORSE = 1.2  # how many times the recorded ratio counts as worse


def races(arguments: argparse.Namespace) -> Iterator[list[Contestant]]:
    """The contestants of each case that was asked for, case by case."""
    for network, size, dtype in itertools.product(
        arguments.network, arguments.size, arguments.dtype
    ):
        on_cpu = arguments.platform == "cpu"
        forms = [
            form
            for form in arguments.form
            if form == "ours" or (network in PEERS and (form not in ONNX or on_cpu))
        ]
        if not forms:
            continue
        modes = ("global", "local") if max(size) > WINDOW else ("global",)
        for batch in BATCHES.get(size, (1,)):
            yield [
                Contestant(network, size, batch, dtype, form, mode, arguments.platform)
                for form, mode in itertools.product(forms, modes)
            ]


def growth(arguments: argparse.Namespace) -> dict[str, float]:
    """The time for a pixel of a 4K picture, over that for a pixel of a 720p picture."""
    sizes = (720, 1280), (2160, 3840)
    contestants = [Contestant("nafnet", size, platform=arguments.platform) for size in sizes]
    measured = race(contestants, arguments.repeats, arguments.patience)
    if len(measured) < len(contestants):
        return {}
    small, large = measured
    return {
        "720x1280": statistics.median(small["seconds"]),
        "2160x3840": statistics.median(large["seconds"]),
        "ratio for each pixel": ratio(large, small) * math.prod(sizes[0]) / math.prod(sizes[1]),
    }


def is_worse(case: str, recorded: dict[str, float], now: dict[str, float]) -> bool:
    """Print a case's ratios beside the recorded ones; True if one is worse, or if there is none."""
    changes = {name: now[name] / recorded[name] for name in recorded if name in now}
    for name, change in changes.items():
        mark = "WORSE" if change > WORSE else ""
        print(f"{case:28}{name:32}{recorded[name]:7.3f}{now[name]:7.3f}{change - 1:+8.0%} {mark}")
    return max(changes.values(), default=math.inf) > WORSE


def main() -> None:
    if sys.argv[1:2] == ["plan"]:  # has options of its own
        program = [sys.executable, "-m", "benchmarks.plan", *sys.argv[2:]]
        sys.exit(subprocess.run(program, check=False).returncode)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parts = ("all", "networks", "growth", "operations", "start", "check")
    parser.add_argument("part", choices=parts, default="all", nargs="?")
    parser.add_argument("--network", choices=NETWORKS, nargs="+")
    parser.add_argument("--size", type=report.parse_size, nargs="+", metavar="HxW")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", help="default: all on a GPU")
    parser.add_argument("--form", choices=FORMS, nargs="+", help="ours, and forms of PyTorch")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    parser.add_argument("--patience", type=float, default=600, help="seconds; no turn begins later")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the figures")
    arguments = parser.parse_args()

    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the contestants share the device
    machine = report.machine()
    path = report.file(arguments.output, machine)
    results = report.read(path, machine)
    check = arguments.part == "check"  # unless asked for more, minutes: what TLC costs, and PyTorch
    if not check and results["machine"] != machine:
        parser.error(f"{path} is of another system or other versions; choose another --output.")
    arguments.platform = machine["platform"]
    on_cpu = arguments.platform == "cpu"
    arguments.network = arguments.network or (["nafnet"] if check else NETWORKS)
    arguments.size = arguments.size or ([(720, 1280)] if check else SIZES)
    arguments.form = arguments.form or (["ours", "eager"] if check else FORMS)
    arguments.dtype = arguments.dtype or (["float32"] if check or on_cpu else DTYPES)

    worse = False
    if arguments.part in ("all", "networks", "check"):
        for contestants in races(arguments):
            case = contestants[0].case
            recorded = results["networks"].get(case)
            if check and recorded is None:
                parser.error(f"{path} has no {case} to compare with.")
            measured = race(contestants, arguments.repeats, arguments.patience)
            if check:
                worse |= is_worse(case, ratios(recorded), ratios(measured))
            elif recorded and len(measured) < len(recorded):
                print(f"{case}: not recorded, as {path} has it with more contestants.")
            else:
                results["networks"][case] = measured
                report.write(path, results)
    if arguments.part in ("all", "growth"):
        results["growth"] = growth(arguments)
        report.write(path, results)
    for part in ("operations", "start"):
        if arguments.part in ("all", part):
            program = [sys.executable, "-m", f"benchmarks.{part}"]
            results[part] = json.loads(subprocess.check_output(program, text=True))
            report.write(path, results)
    sys.exit(worse)


if __name__ == "__main__":
    main()
