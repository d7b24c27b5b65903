"""The folder of a run: which run it is of, its model and its reports.

It holds

    model/         the averaged parameters, a checkpoint as of `tlc_jax.save`, replaced each time
                   that the run is validated
    checkpoints/   what the run resumes from
    metrics.jsonl  one line for each report and each validation
    config.json    what is trained
    pictures/      the decoded pictures, until the run is done
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from tlc_jax import published
from tlc_jax.files import atomic, checkpoints
from tlc_jax.files.paths import real_path
from tlc_jax.layers.network import Params
from tlc_jax.training.config import Config, TrainingError
from tlc_jax.training.crops import Files, picture_of

Watch = Callable[[dict[str, Any]], None]

LOCK = ".lock"  # of who trains there
# What may change when a run resumes.
BOOKKEEPING = {
    "workers", "report_every", "validate_every", "save_every",
    "validation_target", "validation_input", "validation_pictures",
}  # fmt: skip


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the error of a full disk into a sentence about what was to be written."""
    try:
        yield
    except (OSError, ValueError) as error:  # the latter is tensorstore's
        raise TrainingError(
            f"{path}: cannot be written ({atomic.why_not_written(error)}); free some space "
            "and start again, the run resumes from its last complete checkpoint."
        ) from None


@contextlib.contextmanager
def alone(run: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder; of one that is refused no new folder is left."""
    if jax.process_index() > 0:
        yield
        return
    missing = [path for path in (run, *run.parents) if not path.exists()]
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        file = (run / LOCK).open("w")
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"{run}: another process trains there; wait for it, or choose another folder."
            ) from None
        except (ImportError, OSError):  # on Windows, and on disks that lock nothing
            pass
        try:
            yield
        except Exception:
            if missing and not (run / "config.json").exists():
                shutil.rmtree(missing[-1], ignore_errors=True)
            raise
        finally:
            (run / LOCK).unlink(missing_ok=True)


def refuse_other_runs(config: Config, run: Path) -> None:
    """Refuse a folder that is not this run's alone."""
    path, saved = run / "config.json", run / "checkpoints"
    # A run that was stopped early has only checkpoints, which are named by their steps.
    begun = path.exists() or (
        saved.is_dir() and all(entry.name[0] in ".0123456789" for entry in saved.iterdir())
    )
    if run.is_dir() and {entry.name for entry in run.iterdir()} - {LOCK} and not begun:
        raise TrainingError(f"{run}: holds other things than a run; choose a folder of its own.")
    for source in (config.input, config.target, config.validation_input, config.validation_target):
        if source is not None and real_path(Path(source)).is_relative_to(real_path(run)):
            raise TrainingError(
                f"{source}: lies in the run's folder, where files are replaced; choose another run."
            )
    if path.exists():
        before, now = _described(path), _texts(config)
        changed = {name for name in now if before.get(name) != now[name]}
        if other := sorted(changed - BOOKKEEPING):
            raise TrainingError(
                f"{run}: a run of another configuration ({', '.join(other)}); choose another "
                "folder, or remove this one."
            )


def describe(config: Config, run: Path, pictures: tuple[Files, ...]) -> None:
    """Note in the folder what it is a run of; refuse to resume with other pictures."""
    names = hashlib.sha256(repr([picture_of(files[0]) for files in pictures]).encode()).hexdigest()
    path = run / "config.json"
    if jax.process_index() == 0 and not path.exists():
        description = _texts(config) | {"pictures": names, "origin": _origin(config)}
        with writing(path):
            atomic.write_atomically(path, (json.dumps(description, indent=2) + "\n").encode())
    multihost_utils.sync_global_devices("config.json")
    if _described(path)["pictures"] != names:
        raise TrainingError(
            f"{config.target}: not the pictures that {run} began with; bring those back, or choose "
            "another folder."
        )


def _described(path: Path) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        described = json.loads(path.read_text())
        if isinstance(described, dict) and described.keys() >= {"pictures", "origin"}:
            return described
    raise TrainingError(
        f"{path}: damaged; remove it, if you are sure that the run is of this configuration, or "
        "the whole folder."
    )


def _texts(config: Config) -> dict[str, str]:
    return {field.name: repr(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _origin(config: Config) -> dict[str, str]:
    """Where the model comes from, for its description; it keeps the licence of `init_from`."""
    if config.init_from is None:
        return {"source": "trained with tlc-jax"}
    begun = checkpoints.describe(published.find(config.init_from))
    origin = {"source": f"trained with tlc-jax from: {begun.get('source', config.init_from)}"}
    if "weights_licence" in begun:
        origin["weights_licence"] = begun["weights_licence"]
    return origin


def export(config: Config, run: Path, params: Params, done: int, scores: dict[str, float]) -> None:
    """Put the averaged parameters in place of those of an earlier step."""
    new = run / ".model-new"
    shutil.rmtree(new, ignore_errors=True)
    origin = _described(run / "config.json")["origin"]
    checkpoints.save(new, config.model, params, steps=done, **origin, **_in_json(scores))
    atomic.replace_folder(new, run / "model")


def has_model(run: Path, steps: int) -> bool:
    """Whether the model is that of so many steps."""
    if jax.process_index() == 0:
        atomic.recover_folder(run / "model")
    try:
        return checkpoints.describe(run / "model").get("steps") == steps
    except checkpoints.CheckpointError:
        return False


class Journal:
    """The reports of a run, which `watch` sees and the first host writes to metrics.jsonl."""

    def __init__(self, run: Path, done: int, watch: Watch) -> None:
        self.path, self.watch = run / "metrics.jsonl", watch
        if jax.process_index() == 0:
            # What an interrupted run reported after its last checkpoint comes once more.
            lines = self.path.read_text().splitlines() if self.path.exists() else []
            kept = "".join(f"{line}\n" for line in lines if _step_of(line) <= done)
            with writing(self.path):
                atomic.write_atomically(self.path, kept.encode())

    def write(self, step: int, **report: float) -> None:
        self.watch({"step": step} | report)
        if jax.process_index() == 0:
            with writing(self.path), self.path.open("a") as file:
                file.write(json.dumps({"step": step} | _in_json(report)) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # cut off when the run was killed
        return math.inf


def _in_json(report: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no infinity, which is the PSNR of equal pictures."""
    return {name: value if math.isfinite(value) else None for name, value in report.items()}
