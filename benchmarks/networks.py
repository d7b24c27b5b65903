"""Time networks against each other: they take turns, each in a process of its own."""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.contestant import Contestant

SETTLE = 0.5  # seconds for a contestant to free the memory of its turn


class Worker:
    """The process of a contestant, stopped while others have their turn."""

    def __init__(self, what: Contestant) -> None:
        command = [sys.executable, "-m", "benchmarks.contestant", json.dumps(what.__dict__)]
        # Without caches, which would hide the time of compiling.
        fresh = {
            name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name
        }
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=fresh | {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"},
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.process.wait()

    def hear(self) -> Any:
        """Its next answer; None if the process ended."""
        self.process.send_signal(signal.SIGCONT)
        line = self.process.stdout.readline()
        time.sleep(SETTLE)
        self.process.send_signal(signal.SIGSTOP)
        return json.loads(line) if line else None

    def turn(self) -> float | None:
        with contextlib.suppress(BrokenPipeError):  # if it ended meanwhile
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        return self.hear()

    def end(self) -> int | None:
        self.process.stdin.close()
        return self.hear()


def race(contestants: list[Contestant], repeats: int, patience: float) -> list[dict[str, Any]]:
    """Start all contestants, let them take turns, and return their seconds and bytes.

    There are `repeats` turns, or fewer: none begins after `patience` seconds. A contestant that
    fails, mostly for want of memory, prints why and is left out.
    """
    ready: list[tuple[Contestant, Worker, dict[str, Any]]] = []
    done = []

    def tell(what: Contestant, failed: bool) -> None:
        print(what.case, what.form, what.mode, "FAILED" if failed else "", flush=True)

    with contextlib.ExitStack() as stack:
        for what in contestants:
            worker = stack.enter_context(Worker(what))
            about = worker.hear()
            tell(what, failed=not about)
            if about:
                result = {"form": what.form, "mode": what.mode, "seconds": [], **about}
                ready.append((what, worker, result))
        start = time.monotonic()
        for turn in range(repeats):
            # The order alternates, so that none always follows the same one.
            for what, worker, result in ready[:: (-1) ** turn]:
                seconds = worker.turn()
                if seconds is None:
                    tell(what, failed=True)
                    ready.remove((what, worker, result))
                result["seconds"].append(seconds)
            if time.monotonic() - start > patience:
                break
        for what, worker, result in ready:
            result["compile"] = result.pop("first") - statistics.median(result["seconds"])
            result["peak"] = worker.end()
            if result["peak"] is None:
                tell(what, failed=True)
            else:
                done.append(result)
    return done


def ratio(one: dict[str, Any], other: dict[str, Any]) -> float:
    """One contestant's time over another's: the median over the turns."""
    turns = zip(one["seconds"], other["seconds"], strict=True)
    return statistics.median(mine / others for mine, others in turns)


def ratios(race: list[dict[str, Any]]) -> dict[str, float]:
    """Our time local over global, and ours over that of each peer: the less the better."""
    by_name = {f"{one['form']} {one['mode']}": one for one in race}
    pairs = [("ours local", "ours global")]
    pairs += [(f"ours {one['mode']}", f"{one['form']} {one['mode']}") for one in race]
    return {
        f"{mine} / {other}": ratio(by_name[mine], by_name[other])
        for mine, other in pairs
        if mine != other and {mine, other} <= by_name.keys()
    }
