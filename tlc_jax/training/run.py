"""Training: pairs of pictures, or clean photographs and what spoils them, to a checkpoint.

    from tlc_jax.training.config import Config, Phase
    from tlc_jax.training.run import train

    config = Config(model=NAFNet.variant("gopro-width32"),
                    phases=(Phase(200_000, crop=256, batch=32),),
                    input="GoPro/train/input", target="GoPro/train/target")
    train(config, "runs/nafnet")

A run is a folder; `train` with the same folder goes on where the last whole checkpoint was made, to
the same parameters that it would have had without an interruption. In it are

    model/         the averaged parameters, a checkpoint as of `tlc_jax.save`, made anew each time
                   that the run is validated
    checkpoints/   what the run needs to go on
    metrics.jsonl  one line for each report and each validation; tensorboard/ holds the same
    config.json    what is trained
    pictures/      the decoded pictures, until the run is done
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import math
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from tlc_jax.evaluation.metrics import Protocol, measure
from tlc_jax.files import checkpoints
from tlc_jax.files.atomic import why_not_written, write_atomically
from tlc_jax.inference.programs import is_out_of_memory
from tlc_jax.inference.ways import restore
from tlc_jax.layers.network import Params
from tlc_jax.ops.pixels import to_float
from tlc_jax.training.config import (
    Batch,
    Config,
    State,
    TrainingError,
    check,
    init,
    learning_rate,
    step,
)
from tlc_jax.training.crops import Crops, Files, batches, decode, picture_of, widest_type
from tlc_jax.training.degradations import Degradation

Watch = Callable[[dict[str, Any]], None]


def train(config: Config, run: Path | str, watch: Watch = lambda report: None) -> Path:
    """Train, or go on with a run; every host of a distributed run calls it.

    Args:
      config: what to train.
      run: a folder, of this run alone; hosts share it.
      watch: called with what also goes to metrics.jsonl: "step" and, in a report, "loss",
        "gradient" (its norm), "learning_rate" and "samples_per_second", or after a validation the
        PSNR in dB of "input", "global" and "local"; and with "note", a sentence, which goes
        nowhere else.

    Returns:
      The checkpoint with the averaged parameters.

    Raises:
      TrainingError: a configuration that cannot be trained, a run of another one or a damaged one,
        a loss that is not finite, validation that takes too much memory, or a full disk.
      CheckpointError: of `init_from`, or of the model where it cannot be written.
      DataError: pictures that are not there, do not pair or are too small.
    """
    import orbax.checkpoint as ocp

    for package in ("grain", "tensorboardX"):
        if importlib.util.find_spec(package) is None:
            raise TrainingError(f"training needs the package {package}; install the extra [train].")
    check(config)
    run = Path(run).absolute()
    _refuse_other_runs(config, run)
    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
    with _writing(run / "checkpoints"):
        manager = ocp.CheckpointManager(run / "checkpoints", options=options)
    try:
        last = manager.latest_step()
        if not (_has_model(run, config.steps) and last == config.steps):
            _go_on(config, run, manager, last, watch)
    finally:
        with _writing(run / "checkpoints"):
            manager.close()
    return run / "model"


def _go_on(config: Config, run: Path, manager: Any, last: int | None, watch: Watch) -> None:
    """Train from the last checkpoint, if there is one, to the end."""
    first_host = jax.process_index() == 0
    decoded = functools.partial(_decoded, config, run, watch)
    host = jax.process_index(), jax.process_count()
    pictures = tuple(decoded(config.input, config.target, host=host))
    held_out = []
    if first_host and config.validation_target is not None:
        sources = config.validation_input, config.validation_target
        held_out = decoded(*sources, most=config.validation_pictures)
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    if last is None:
        state = jax.device_put(init(config), everywhere)
    else:  # the parameters to begin with need not be there any more
        begun = dataclasses.replace(config, init_from=None)
        shapes = jax.eval_shape(functools.partial(init, begun))
        like = jax.tree.map(lambda x: x.update(sharding=everywhere), shapes)
        state = _restored(manager, last, like)
    largest = max(phase.crop for phase in config.phases)
    dtype = widest_type(pictures, largest + 2 * config.margin)
    _describe(config, run, pictures)
    done = last or 0
    pending: list[dict[str, Any]] = []
    count, start = 0, time.monotonic()
    with _Journal(run, done, watch) as journal:
        for batch in _stream(config, pictures, dtype, done, mesh):
            state, report = step(config, state, batch)
            done += 1
            count += len(batch["target"])
            pending.append(report)
            if len(pending) > 2:  # or batches would pile up on the device
                jax.block_until_ready(pending[-3])
            to_report, to_save, to_validate = (
                done % every == 0 or done == config.steps
                for every in (config.report_every, config.save_every, config.validate_every)
            )
            if not (to_report or to_save or to_validate):
                continue
            pending = jax.device_get(pending)
            _check_finite(pending, done, run, manager.latest_step())
            paused = time.monotonic()
            if to_report:
                journal.write(
                    step=done,
                    loss=float(np.mean([report["loss"] for report in pending])),
                    gradient=float(np.mean([report["gradient"] for report in pending])),
                    learning_rate=np.asarray(learning_rate(config)(done - 1)).item(),
                    samples_per_second=count / (paused - start),
                )
                pending, count, start = [], 0, paused
            if to_save or to_validate:  # validation may take more memory than there is
                _save(manager, done, state)
            if to_validate and done < config.steps and first_host:
                _evaluate(config, run, state, done, held_out, journal)
            start += time.monotonic() - paused
        _save(manager, done, None)
        if first_host:  # also where a run was killed between its last step and its model
            _evaluate(config, run, state, done, held_out, journal)
    if jax.process_count() > 1:  # the first host is not left alone until the model is there
        multihost_utils.sync_global_devices("model")
    if first_host:
        shutil.rmtree(run / "pictures", ignore_errors=True)


def _evaluate(
    config: Config, run: Path, state: State, done: int, held_out: list[Files], journal: "_Journal"
) -> None:
    """Validate the averaged parameters and make them the run's model."""
    params = jax.device_get(state.average)
    try:
        scores = validate(config, params, held_out)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"{config.validation_target}: not enough memory to restore whole pictures after step "
            f"{done}, which is saved; start again with smaller ones, or without validation_target."
        ) from None
    if scores:
        journal.write(step=done, **scores)
    _export(config, run, params, done, scores)


def validate(config: Config, params: Params, pictures: list[Files]) -> dict[str, float]:
    """Mean PSNR in dB of whole pictures: the "input", and restored "global" and "local".

    Args:
      config: of the run.
      params: of its network.
      pictures: decoded, as of `tlc_jax.training.crops.decode`; none give no scores.
    """
    params = jax.device_put(params)  # once for all pictures
    scores: dict[str, list[float]] = {"input": [], "global": [], "local": []}
    for number, files in enumerate(pictures):
        *inputs, target = (to_float(file.pixels()) for file in files)
        if config.degradation is None:
            image = inputs[0]
        else:  # each picture in the same way every time
            key = jax.random.key(number)
            image = np.asarray(_degrade(config.degradation, key, target))
        restored = {
            mode: restore(config.model.clone(local_mode=mode == "local"), params, image)
            for mode in ("global", "local")
        }
        for name, result in ({"input": image} | restored).items():
            scores[name].append(float(_psnr(result, target)))
    return {name: float(np.mean(values)) for name, values in scores.items() if values}


@jax.jit  # so that the SSIM, which nobody asks for, is not computed
def _psnr(image: jax.Array, reference: jax.Array) -> jax.Array:
    return measure(image, reference, Protocol.RGB)[0]


@functools.partial(jax.jit, static_argnames="degradation")
def _degrade(degradation: Degradation, key: jax.Array, image: jax.Array) -> jax.Array:
    return degradation(key, image)


# What may change when a run goes on.
BOOKKEEPING = {
    "workers", "report_every", "validate_every", "save_every",
    "validation_target", "validation_input", "validation_pictures",
}  # fmt: skip


def _refuse_other_runs(config: Config, run: Path) -> None:
    path = run / "config.json"
    begun = path.exists() or _only_checkpoints(run / "checkpoints")
    if run.is_dir() and any(run.iterdir()) and not begun:
        raise TrainingError(f"{run}: holds other things than a run; choose a folder of its own.")
    for source in (config.input, config.target, config.validation_input, config.validation_target):
        if source is not None and Path(source).resolve().is_relative_to(run.resolve()):
            raise TrainingError(
                f"{source}: lies in the run's folder, where files are replaced; choose another run."
            )
    if path.exists():
        before, now = _described(path), _fields(config)
        changed = {name for name in now if before.get(name) != now[name]}
        if other := sorted(changed - BOOKKEEPING):
            raise TrainingError(
                f"{run}: a run of another configuration ({', '.join(other)}); choose another "
                "folder, or remove this one."
            )


def _only_checkpoints(folder: Path) -> bool:
    """Whether it is what a run saves its state in, which is named by steps."""
    return folder.is_dir() and all(path.name[0] in ".0123456789" for path in folder.iterdir())


def _describe(config: Config, run: Path, pictures: tuple[Files, ...]) -> None:
    """Note in the folder what it is a run of; refuse to go on with other pictures."""
    names = hashlib.sha256(repr([picture_of(files[0]) for files in pictures]).encode())
    path = run / "config.json"
    if jax.process_index() == 0 and not path.exists():
        fields = _fields(config) | {"pictures": names.hexdigest(), "origin": _origin(config)}
        with _writing(path):
            write_atomically(path, (json.dumps(fields, indent=2) + "\n").encode())
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("config.json")
    if _described(path)["pictures"] != names.hexdigest():
        raise TrainingError(
            f"{config.target}: not the pictures that {run} began with; bring those back, or choose "
            "another folder."
        )


def _origin(config: Config) -> dict[str, str]:
    """What the model's description says of where it comes from: a licence goes on to what is made
    of weights."""
    if config.init_from is None:
        return {"source": "trained with tlc-jax"}
    begun = checkpoints.describe(config.init_from)
    origin = {"source": f"trained with tlc-jax from: {begun.get('source', config.init_from)}"}
    if "weights_licence" in begun:
        origin["weights_licence"] = begun["weights_licence"]
    return origin


def _described(path: Path) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        described = json.loads(path.read_text())
        if isinstance(described, dict) and described.keys() >= {"pictures", "origin"}:
            return described
    raise TrainingError(
        f"{path}: damaged; remove it, if you are sure that the run is of this configuration, or "
        "the whole folder."
    )


def _fields(config: Config) -> dict[str, str]:
    return {field.name: repr(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _decoded(
    config: Config, run: Path, watch: Watch, source: str | None, target: str, **options: Any
) -> list[Files]:
    """What to train on or to validate with, for `crops.decode` with more options."""
    return decode(
        None if source is None else Path(source),
        Path(target),
        config.model.inp_channels,
        run / "pictures",
        may_fail=config.skip_unreadable,
        watch=lambda sentence: watch({"note": sentence}),
        **options,
    )


def _stream(
    config: Config,
    pictures: tuple[Files, ...],
    dtype: np.dtype,
    done: int,
    mesh: jax.sharding.Mesh,
) -> Iterator[Batch]:
    """The batches of the steps to come, each on its devices."""
    rows = NamedSharding(mesh, PartitionSpec("data"))
    first_step = first_sample = 0
    for phase in config.phases:
        size = phase.crop + 2 * config.margin
        share = phase.batch // jax.process_count()
        begin = jax.process_index() * share
        crops = Crops(
            pictures, config.seed, first_sample, phase.steps * phase.batch, size, config.flips,
            dtype, (phase.batch, begin, begin + share),
        )  # fmt: skip
        if (skip := max(done - first_step, 0)) < phase.steps:
            for batch in batches(crops, skip, config.workers):
                yield {
                    name: jax.make_array_from_process_local_data(rows, array)
                    for name, array in batch.items()
                }
        first_step, first_sample = first_step + phase.steps, first_sample + crops.count


def _check_finite(
    reports: list[dict[str, np.ndarray]], done: int, run: Path, kept: int | None
) -> None:
    for number, report in enumerate(reports, done - len(reports) + 1):
        if not all(map(np.isfinite, report.values())):
            last = "there is no checkpoint" if kept is None else f"the last checkpoint is of {kept}"
            raise TrainingError(
                f"{run}: the loss, its gradient or the parameters are no numbers after step "
                f"{number}, {last}. Start in another folder with a lower learning rate or in "
                "float32; init_from may name this run's model."
            )


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns the error of a disk that is full into a sentence about what was to be written."""
    try:
        yield
    except (OSError, ValueError) as error:  # the latter is tensorstore's
        raise TrainingError(
            f"{path}: cannot be written ({why_not_written(error)}); free some space "
            "and start again, the run goes on from its last whole checkpoint."
        ) from None


def _restored(manager: Any, step: int, like: State) -> State:
    """The state of a checkpoint, of the shapes and places of `like`."""
    import orbax.checkpoint as ocp

    try:
        return manager.restore(step, args=ocp.args.StandardRestore(like))
    except Exception as error:  # whatever orbax meets in a file that is damaged
        if is_out_of_memory(error):
            raise
        raise TrainingError(
            f"{manager.directory / str(step)}: damaged or incomplete; remove it, and the run goes "
            "on from the checkpoint before."
        ) from None


def _save(manager: Any, done: int, state: State | None) -> None:
    """Begin to write a checkpoint, or wait for the last one where there is no state."""
    import orbax.checkpoint as ocp

    with _writing(manager.directory):
        manager.wait_until_finished()
        if state is not None:
            # Of a copy: the next step takes the state's own memory while files are written.
            manager.save(done, args=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)))


def _export(config: Config, run: Path, params: Params, done: int, scores: dict[str, float]) -> None:
    """Put the averaged parameters in place of those of an earlier step."""
    model, new, old = run / "model", run / ".model-new", run / ".model-old"
    shutil.rmtree(new, ignore_errors=True)
    origin = _described(run / "config.json")["origin"]
    checkpoints.save(new, config.model, params, steps=done, **origin, **_in_json(scores))
    if model.exists():
        shutil.rmtree(old, ignore_errors=True)
        model.rename(old)
    new.rename(model)
    shutil.rmtree(old, ignore_errors=True)


def _has_model(run: Path, steps: int) -> bool:
    """Whether the model is that of so many steps; one that was moved aside is put back."""
    if jax.process_index() == 0 and not (run / "model").exists():
        with contextlib.suppress(FileNotFoundError):
            (run / ".model-old").rename(run / "model")
    try:
        return checkpoints.describe(run / "model").get("steps") == steps
    except checkpoints.CheckpointError:
        return False


def _in_json(report: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no infinity, which is the PSNR of equal pictures."""
    return {name: value if math.isfinite(value) else None for name, value in report.items()}


class _Journal:
    """metrics.jsonl and TensorBoard's files, written by the first host."""

    def __init__(self, run: Path, done: int, watch: Watch) -> None:
        self.path, self.watch = run / "metrics.jsonl", watch
        self.board = None
        if jax.process_index() == 0:
            # What an interrupted run reported after its last checkpoint comes once more.
            lines = self.path.read_text().splitlines() if self.path.exists() else []
            kept = [line for line in lines if _step_of(line) <= done]
            with _writing(self.path):
                write_atomically(self.path, "".join(f"{line}\n" for line in kept).encode())
                self.board = _Board(run / "tensorboard", done + 1)

    def __enter__(self) -> "_Journal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()

    def write(self, step: int, **report: float) -> None:
        self.watch({"step": step} | report)
        if self.board is not None:
            with _writing(self.path):
                with self.path.open("a") as file:
                    file.write(json.dumps({"step": step} | _in_json(report)) + "\n")
                self.board.write(step, report)


class _Board:
    """Events as TensorBoard reads them.

    tensorboardX's own writer has a thread do it, which ends in a traceback where the disk is full,
    and whoever writes then waits for it forever.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        self.proto: Any = event_pb2  # makes its names when it is imported
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self.file = RecordWriter(str(folder / name))
        started = self.proto.SessionLog(status=self.proto.SessionLog.START)
        self._add(file_version="brain.Event:2")
        self._add(step=first_step, session_log=started)  # what there is of later steps is void

    def write(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._add(step=step, summary=scalar(name, value))
        self.file.flush()

    def _add(self, **fields: Any) -> None:
        event = self.proto.Event(wall_time=time.time(), **fields)
        self.file.write(event.SerializeToString())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # was told when it was written
            self.file.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # cut off when the run was killed
        return math.inf
