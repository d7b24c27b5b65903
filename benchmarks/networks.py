"""Networks against each other: they take turns, each in a process of its own."""

import dataclasses
import json
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.contestant import Contestant


class Worker:
    """The process of a contestant; it is stopped while others have their turn."""

    def __init__(self, what: Contestant) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contestant", json.dumps(dataclasses.asdict(what))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> Any:
        """Its next answer; None of one that could not go on."""
        self.process.send_signal(signal.SIGCONT)
        line = self.process.stdout.readline()
        self.process.send_signal(signal.SIGSTOP)
        return json.loads(line) if line else None

    def turn(self) -> float:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.hear()

    def end(self) -> int:
        self.process.stdin.close()
        peak = self.hear()
        self.process.kill()
        self.process.wait()
        return peak


def race(contestants: list[Contestant], repeats: int, patience: float) -> list[dict[str, Any]]:
    """Get all ready, let them take turns, and return what was measured: bytes and seconds.

    There are `repeats` turns, or fewer: none begins after `patience` seconds. What does not fit
    into memory is left out.
    """
    ready: list[tuple[Worker, dict[str, Any]]] = []
    for what in contestants:
        worker = Worker(what)
        about = worker.hear()
        print(what.case, what.form, what.mode, "" if about else "DOES NOT FIT", flush=True)
        if about:
            ready.append((worker, {"form": what.form, "mode": what.mode, "seconds": [], **about}))
    start = time.monotonic()
    for _ in range(repeats):
        for worker, result in ready:
            result["seconds"].append(worker.turn())
        if time.monotonic() - start > patience:
            break
    for worker, result in ready:
        result["compile"] = result.pop("first") - statistics.median(result["seconds"])
        result["peak"] = worker.end()
    return [result for _, result in ready]


def ratio(one: dict[str, Any], other: dict[str, Any]) -> float:
    """One contestant's time as a share of another's: the median over the turns."""
    turns = zip(one["seconds"], other["seconds"], strict=True)
    return statistics.median(mine / others for mine, others in turns)


def ratios(race: list[dict[str, Any]]) -> dict[str, float]:
    """What local costs us, and what we take of each peer's time: the less the better."""
    ours = {one["mode"]: one for one in race if one["form"] == "ours"}
    found = {"ours local / ours global": ratio(ours["local"], ours["global"])}
    for other in race:
        if other["form"] != "ours":
            mode = other["mode"]
            found[f"ours {mode} / {other['form']} {mode}"] = ratio(ours[mode], other)
    return found
