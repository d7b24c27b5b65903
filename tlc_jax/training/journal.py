"""What a run reports, in metrics.jsonl."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from tlc_jax.files.atomic import write_atomically
from tlc_jax.training.folder import in_json, writing

Watch = Callable[[dict[str, Any]], None]


class Journal:
    """The lines of a run, which `watch` sees and the first host writes."""

    def __init__(self, run: Path, done: int, watch: Watch) -> None:
        self.path, self.watch = run / "metrics.jsonl", watch
        if jax.process_index() == 0:
            # What an interrupted run reported after its last checkpoint comes once more.
            lines = self.path.read_text().splitlines() if self.path.exists() else []
            kept = "".join(f"{line}\n" for line in lines if _step_of(line) <= done)
            with writing(self.path):
                write_atomically(self.path, kept.encode())

    def write(self, step: int, **report: float) -> None:
        self.watch({"step": step} | report)
        if jax.process_index() == 0:
            with writing(self.path), self.path.open("a") as file:
                file.write(json.dumps({"step": step} | in_json(report)) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # cut off when the run was killed
        return math.inf
