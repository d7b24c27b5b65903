"""What a run reports: the means of its steps, metrics.jsonl and TensorBoard's files."""

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tlc_jax.files.atomic import write_whole
from tlc_jax.training.config import TrainingError
from tlc_jax.training.folder import in_json, writing

Watch = Callable[[dict[str, Any]], None]


class Journal:
    """The lines of a run, which the first host writes and `watch` sees."""

    def __init__(self, run: Path, done: int, watch: Watch) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self.path, self.watch = run / "metrics.jsonl", watch
        self.proto: Any = event_pb2  # its names are made as it is imported
        self.board = None
        if jax.process_index() > 0:
            return
        # What an interrupted run reported after its last checkpoint comes once more.
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step_of(line) <= done]
        with writing(self.path):
            write_whole(self.path, "".join(f"{line}\n" for line in kept).encode())
            (run / "tensorboard").mkdir(exist_ok=True)
            # Not SummaryWriter: its thread ends where the disk is full, and then it never returns.
            self.board = EventsWriter(str(run / "tensorboard" / "events"))
            restart = self.proto.SessionLog(status=self.proto.SessionLog.START)
            self._add(step=done + 1, session_log=restart)  # which voids what there is of it
            self.board.flush()

    def write(self, step: int, **report: float) -> None:
        from tensorboardX.summary import scalar

        self.watch({"step": step} | report)
        if self.board is None:
            return
        with writing(self.path):
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step} | in_json(report)) + "\n")
            for name, value in report.items():
                self._add(step=step, summary=scalar(name, value))
            self.board.flush()

    def _add(self, **fields: Any) -> None:
        assert self.board is not None
        self.board.write_event(self.proto.Event(wall_time=time.time(), **fields))

    def close(self) -> None:
        if self.board is not None:
            with contextlib.suppress(OSError):  # was told when it was written
                self.board.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # cut off when the run was killed
        return math.inf


class Meter:
    """What the steps since the last line of the journal told, and how long they took."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.samples, self.start = 0, time.monotonic()

    def add(self, report: dict[str, jax.Array], samples: int) -> None:
        self.reports.append(report)
        self.samples += samples
        if len(self.reports) > 2:  # or batches would pile up on the device
            jax.block_until_ready(self.reports[-3])

    def check_finite(self, done: int, run: Path, kept: int | None) -> None:
        """Refuse to train on with numbers that are none; `kept` is the step of a checkpoint."""
        self.reports = jax.device_get(self.reports)
        for number, report in enumerate(self.reports, done - len(self.reports) + 1):
            if not all(map(np.isfinite, report.values())):
                last = f"the last checkpoint is of {kept}" if kept else "there is no checkpoint"
                raise TrainingError(
                    f"{run}: the loss, its gradient or the parameters are no numbers after step "
                    f"{number}, {last}. Start in another folder with a lower learning rate or in "
                    "float32; init_from may name this run's model."
                )

    def read(self) -> dict[str, float]:
        """The means of what was added, and its speed."""
        return {
            "loss": float(np.mean([report["loss"] for report in self.reports])),
            "gradient": float(np.mean([report["gradient"] for report in self.reports])),
            "samples_per_second": self.samples / (time.monotonic() - self.start),
        }
