"""Tries hostile input and prints a table: of each class how much was tried, and how much held.

python -m benchmarks.hostile files              # each in 6 GiB and 60 s; minutes
python -m benchmarks.hostile signals            # kills and interrupts at random moments
python -m benchmarks.hostile page               # 100 visitors at once, some of them bad
python -m benchmarks.hostile files --tree PATH  # of another checkout, to compare
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.hostile import files, page, signals

parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
parser.add_argument("what", choices=["files", "signals", "page"])
parser.add_argument("--tree", type=Path, default=Path(__file__).parents[2])
parser.add_argument("--kills", type=int, default=30, help="of each command")
parser.add_argument("--only", default="", help="classes whose names hold this")
parser.add_argument("--seed", type=int, default=0)

if __name__ == "__main__":
    given = parser.parse_args()
    tried: Counter[str] = Counter()
    held: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        for kind, name, problem in {"files": files, "signals": signals, "page": page}[
            given.what
        ].attempts(Path(folder), given):
            tried[kind] += 1
            held[kind] += not problem
            if problem:
                print(f"{kind}, {name}: {problem}", flush=True)
    print("\n| class | tried | held |\n|---|---|---|")
    for kind, count in tried.items():
        print(f"| {kind} | {count} | {held[kind]} |")
    print(f"| together | {tried.total()} | {held.total()} |")
    raise SystemExit(tried != held)
