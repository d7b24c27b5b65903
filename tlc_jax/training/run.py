"""A run of training: from its first step, or the last one that was saved, to a model.

A run is a folder. `train` with the same folder resumes from its last complete checkpoint, to the
same parameters that it would have had without an interruption.
"""

import contextlib
import dataclasses
import functools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from tlc_jax.evaluation.metrics import Protocol, measure
from tlc_jax.files.atomic import reserve
from tlc_jax.files.checkpoints import array_store
from tlc_jax.inference.programs import is_out_of_memory
from tlc_jax.inference.ways import restore
from tlc_jax.layers.network import Params
from tlc_jax.ops.pixels import to_float
from tlc_jax.training import folder
from tlc_jax.training.config import Config, TrainingError, check
from tlc_jax.training.crops import Crops, Files, batches, decode, widest_type
from tlc_jax.training.folder import Journal, Watch, writing
from tlc_jax.training.step import Batch, State, init, learning_rate, step


def train(config: Config, run: Path | str, watch: Watch = lambda report: None) -> Path:
    """Train, or resume a run; every host of a distributed run calls it.

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
    check(config)
    run = Path(run).absolute()
    folder.refuse_other_runs(config, run)
    with folder.alone(run), _checkpoints(run / "checkpoints") as manager:
        last = manager.latest_step()
        if not (folder.has_model(run, config.steps) and last == config.steps):
            _resume(config, run, manager, last, watch)
    return run / "model"


@contextlib.contextmanager
def _checkpoints(path: Path) -> Iterator[Any]:
    """The manager of a run's checkpoints; one that is being written is finished at the end."""
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
    with writing(path):
        manager = ocp.CheckpointManager(path, options=options)
    try:
        yield manager
    finally:
        with writing(path):
            manager.close()


def _resume(config: Config, run: Path, manager: Any, last: int | None, watch: Watch) -> None:
    """Train from the last checkpoint, if there is one, to the end."""
    pictures, held_out = _pictures(config, run, watch)
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    state = _state(config, manager, last, NamedSharding(mesh, PartitionSpec()))
    dtype = widest_type(pictures, max(phase.crop for phase in config.phases) + 2 * config.margin)
    folder.describe(config, run, pictures)
    done = last or 0
    stream = _stream(config, pictures, dtype, done, NamedSharding(mesh, PartitionSpec("data")))
    _Run(config, run, manager, held_out, Journal(run, done, watch)).train(state, done, stream)
    # The first host is not left alone until the model is there.
    multihost_utils.sync_global_devices("model")
    if jax.process_index() == 0:
        shutil.rmtree(run / "pictures", ignore_errors=True)


def _pictures(config: Config, run: Path, watch: Watch) -> tuple[tuple[Files, ...], list[Files]]:
    """What to train on, and on the first host what to validate with, decoded."""
    decoded = functools.partial(
        decode,
        channels=config.model.inp_channels,
        folder=run / "pictures",
        may_fail=config.skip_unreadable,
        watch=lambda sentence: watch({"note": sentence}),
    )
    host, hosts = jax.process_index(), jax.process_count()
    pictures = tuple(decoded(config.input, config.target, host=(host, hosts)))
    if host > 0 or config.validation_target is None:
        return pictures, []
    most = config.validation_pictures
    return pictures, decoded(config.validation_input, config.validation_target, most=most)


def _state(config: Config, manager: Any, last: int | None, sharding: NamedSharding) -> State:
    """The state of the last checkpoint, or the one to begin with."""
    import orbax.checkpoint as ocp

    if last is None:
        return jax.device_put(init(config), sharding)
    # The parameters that the run began with need not be there any more.
    begun = dataclasses.replace(config, init_from=None)
    shapes = jax.eval_shape(functools.partial(init, begun))
    like = jax.tree.map(lambda x: x.update(sharding=sharding), shapes)
    saved = manager.directory / str(last)
    try:
        # Once by itself: orbax reads all arrays at a time, and threads print tracebacks of damage.
        store = array_store(saved / "default")
        for key in store.list().result():
            store.read(key).result()
        return manager.restore(last, args=ocp.args.StandardRestore(like))
    except Exception as error:  # whatever orbax meets in a file that is damaged
        if is_out_of_memory(error):
            raise
        raise TrainingError(
            f"{saved}: damaged or incomplete; remove it, and the run resumes from the checkpoint "
            "before."
        ) from None


def _stream(
    config: Config, pictures: tuple[Files, ...], dtype: np.dtype, done: int, rows: NamedSharding
) -> Iterator[Batch]:
    """The batches of the steps to come, each on its devices."""
    on_devices = functools.partial(jax.make_array_from_process_local_data, rows)
    first_step = first_sample = 0
    for phase in config.phases:
        share = phase.batch // jax.process_count()
        begin = jax.process_index() * share
        crops = Crops(
            pictures, config.seed, first_sample, phase.steps * phase.batch,
            phase.crop + 2 * config.margin, config.flips, dtype,
            (phase.batch, begin, begin + share),
        )  # fmt: skip
        if (skip := max(done - first_step, 0)) < phase.steps:
            for batch in batches(crops, skip, config.workers):
                yield jax.tree.map(on_devices, batch)
        first_step, first_sample = first_step + phase.steps, first_sample + crops.count


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run under way: what it trains, and where its checkpoints, models and reports go."""

    config: Config
    path: Path
    manager: Any
    held_out: list[Files]
    journal: Journal

    def train(self, state: State, done: int, stream: Iterator[Batch]) -> None:
        """Make the steps that remain, and the model."""
        config, reports, samples, start = self.config, [], 0, time.monotonic()
        for done, batch in enumerate(stream, done + 1):  # noqa: B020
            state, report = step(config, state, batch)
            reports.append(report)
            samples += len(batch["target"])
            if len(reports) > 2:  # or batches would pile up on the device
                jax.block_until_ready(reports[-3])
            to_report, to_save, to_validate = (
                done % every == 0 or done == config.steps
                for every in (config.report_every, config.save_every, config.validate_every)
            )
            if not (to_report or to_save or to_validate):
                continue
            reports = jax.device_get(reports)
            self.check_finite(reports, done)
            paused = time.monotonic()
            if to_report:
                mean = jax.tree.map(lambda *values: float(np.mean(values)), *reports)
                self.journal.write(
                    done,
                    loss=mean["loss"],
                    gradient=mean["gradient"],
                    learning_rate=np.asarray(learning_rate(config)(done - 1)).item(),
                    samples_per_second=samples / (paused - start),
                )
                reports, samples, start = [], 0, paused
            if to_save or to_validate:  # validation may take more memory than there is
                self.save(state, done)
            if to_validate and done < config.steps:
                self.evaluate(state, done)
            start += time.monotonic() - paused
        with writing(self.manager.directory):
            self.manager.wait_until_finished()
        self.evaluate(state, done)  # also where a run was killed between its last step and this

    def check_finite(self, reports: list[dict[str, np.ndarray]], done: int) -> None:
        """Refuse to train on with numbers that are none."""
        for number, report in enumerate(reports, done - len(reports) + 1):
            if not all(map(np.isfinite, report.values())):
                kept = self.manager.latest_step()
                last = f"the last checkpoint is of {kept}" if kept else "there is no checkpoint"
                raise TrainingError(
                    f"{self.path}: the loss, its gradient or the parameters are no numbers after "
                    f"step {number}, {last}. Start in another folder with a lower learning rate or "
                    "in float32; init_from may name this run's model."
                )

    def save(self, state: State, done: int) -> None:
        """Begin to write a checkpoint."""
        import orbax.checkpoint as ocp

        with writing(self.manager.directory):
            self.manager.wait_until_finished()
            if jax.process_index() == 0:
                # Where tensorstore finds a full disk, it prints a traceback for each array.
                reserve(self.manager.directory, sum(x.nbytes for x in jax.tree.leaves(state)))
            # Of a copy: the next step takes the state's own memory while files are written.
            self.manager.save(done, args=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)))

    def evaluate(self, state: State, done: int) -> None:
        """Validate the averaged parameters and make them the run's model, on the first host."""
        if jax.process_index() > 0:
            return
        params = jax.device_get(state.average)
        try:
            scores = validate(self.config, params, self.held_out)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"{self.config.validation_target}: not enough memory to restore whole pictures "
                f"after step {done}, which is saved; start again with smaller ones, or without "
                "validation_target."
            ) from None
        if scores:
            self.journal.write(done, **scores)
        folder.export(self.config, self.path, params, done, scores)


def validate(config: Config, params: Params, pictures: list[Files]) -> dict[str, float]:
    """Mean PSNR in dB of whole pictures: the "input", and restored "global" and "local".

    Args:
      config: of the run.
      params: of its network.
      pictures: decoded, as of `tlc_jax.training.crops.decode`; none give no scores.
    """
    params = jax.device_put(params)  # once for all pictures
    degrade = jax.jit(config.degradation) if config.degradation else None
    scores: dict[str, list[float]] = {"input": [], "global": [], "local": []}
    for number, files in enumerate(pictures):
        *inputs, target = (to_float(file.pixels()) for file in files)
        # Each picture is degraded in the same way every time.
        image = np.asarray(degrade(jax.random.key(number), target)) if degrade else inputs[0]
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
