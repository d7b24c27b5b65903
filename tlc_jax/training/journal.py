"""What a run reports, in metrics.jsonl and in TensorBoard's files."""

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from tlc_jax.files.atomic import write_whole
from tlc_jax.training.folder import in_json, writing

Watch = Callable[[dict[str, Any]], None]


class Journal:
    """The lines of a run, which `watch` sees and the first host writes."""

    def __init__(self, run: Path, done: int, watch: Watch) -> None:
        self.path, self.watch = run / "metrics.jsonl", watch
        self.board = None
        if jax.process_index() == 0:
            # What an interrupted run reported after its last checkpoint comes once more.
            lines = self.path.read_text().splitlines() if self.path.exists() else []
            kept = "".join(f"{line}\n" for line in lines if _step_of(line) <= done)
            with writing(self.path):
                write_whole(self.path, kept.encode())
                self.board = _Board(run / "tensorboard", done)

    def write(self, step: int, **report: float) -> None:
        self.watch({"step": step} | report)
        if self.board is not None:
            with writing(self.path):
                with self.path.open("a") as file:
                    file.write(json.dumps({"step": step} | in_json(report)) + "\n")
                self.board.write(step, report)

    def close(self) -> None:
        if self.board is not None:
            with contextlib.suppress(OSError):  # was told when it was written
                self.board.writer.close()


class _Board:
    """TensorBoard's files, not by SummaryWriter, whose thread hangs where the disk is full."""

    def __init__(self, folder: Path, done: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self.proto: Any = event_pb2  # its names are made as it is imported
        folder.mkdir(exist_ok=True)
        self.writer = EventsWriter(str(folder / "events"))
        # An earlier run's events of later steps are void.
        start = self.proto.SessionLog(status=self.proto.SessionLog.START)
        self._add(step=done + 1, session_log=start)
        self.writer.flush()

    def write(self, step: int, report: dict[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in report.items():
            self._add(step=step, summary=scalar(name, value))
        self.writer.flush()

    def _add(self, **fields: Any) -> None:
        self.writer.write_event(self.proto.Event(wall_time=time.time(), **fields))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # cut off when the run was killed
        return math.inf
