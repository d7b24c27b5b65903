"""The command that trains."""

import dataclasses
import logging
import runpy
import signal
import socket
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import typer
from rich.progress import BarColumn, Progress, TimeRemainingColumn

from tlc_jax.cli.common import (
    UserError,
    console,
    enough_memory,
    parse_settings,
    reason,
    say,
    set_option,
)

OURS = Path(__file__).parent.parent / "training" / "configs"
PATIENCE = 300  # seconds, for the first of several processes to be there


def train(
    config: Annotated[
        str, typer.Argument(help="A Python file that defines 'config', or the name of one of ours.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    target: Annotated[str | None, typer.Option(help="Pictures to train on.")] = None,
    input_: Annotated[
        str | None, typer.Option("--input", help="What is to be restored, paired by name.")
    ] = None,
    settings: Annotated[list[str] | None, set_option("Another field")] = None,
    coordinator: Annotated[
        str | None, typer.Option(help="HOST:PORT of the first of several processes.")
    ] = None,
    processes: Annotated[int | None, typer.Option(help="How many there are.")] = None,
    process: Annotated[int | None, typer.Option(help="Which one this is, from 0.")] = None,
) -> None:
    """Train a network, or resume a run that was interrupted.

    \b
    tlc-jax train nafnet_gopro -o runs/nafnet --input GoPro/train/input \\
      --target GoPro/train/target

    Our configurations: gaussian, denoise, deblur, nafnet_gopro, nafnet_sidd, restormer.
    """
    try:
        from tlc_jax.training import TrainingError
    except ImportError as error:  # of the extra
        raise UserError(str(error)) from None

    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of saves that are waited for
    sources = {"target": target, "input": input_}
    given = {name: source for name, source in sources.items() if source is not None}
    try:
        wanted = dataclasses.replace(open_config(config), **parse_settings(settings) | given)
        if any(option is not None for option in (coordinator, processes, process)):
            _join(coordinator, processes, process)
        with enough_memory(output, "smaller crops or batches"):
            made = _watched(wanted, output)
    except TrainingError as error:
        raise UserError(str(error)) from None
    if jax.process_index() == 0:
        say(f"{made}: the averaged parameters after {wanted.steps} steps")


def open_config(name: str) -> Any:
    """The configuration that a Python file defines, by its path or as one of ours."""
    from tlc_jax.training import Config, TrainingError

    path = Path(name)
    if path.suffix != ".py":
        path = OURS / f"{name}.py"
    if not path.is_file():
        ours = ", ".join(sorted(file.stem for file in OURS.glob("[a-z]*.py")))
        raise UserError(f"{name}: neither a Python file nor one of our configurations, {ours}.")
    try:
        config = runpy.run_path(str(path)).get("config")
    except TrainingError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # of somebody's own program
        raise UserError(f"{path}: {type(error).__name__}: {error}") from None
    if not isinstance(config, Config):
        raise UserError(f"{path}: defines no 'config' that is a tlc_jax.training.Config.")
    return config


def _join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Become one of the processes of a run."""
    if coordinator is None or processes is None or process is None:
        raise UserError("--coordinator, --processes and --process: give all three or none.")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator {coordinator}: write HOST:PORT, as in 10.0.0.1:1234.")
    if not 0 <= process < processes:
        raise UserError(f"--process {process}: the {processes} processes count from 0.")
    try:
        _meet(host.strip("[]"), int(port), first=process == 0)
    except OSError as error:
        raise UserError(
            f"--coordinator {coordinator}: {reason(error)}; give all processes the address of the "
            "first, and a port that is free there."
        ) from None
    # What SLURM or Open MPI tell would leave each process one device of its own.
    jax.distributed.initialize(
        coordinator, processes, process, cluster_detection_method="deactivate"
    )
    # JAX takes it as a notice that the process is about to end, and trains on. A process may wait
    # for one that has ended already, so no block of Python may have to run.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _meet(host: str, port: int, first: bool) -> None:
    """Wait for the first process; JAX would abort, with no error that could be caught."""
    if first:
        return socket.create_server(("", port)).close()
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection((host, port), timeout=10).close()
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(1)


def _watched(config: Any, output: Path) -> Path:
    """Train, telling on the terminal of the first host how it goes."""
    from tlc_jax.training import train

    if jax.process_index() > 0:
        return train(config, output)
    columns = "{task.completed}/{task.total}", BarColumn(), "{task.description}"
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=config.steps)

        def watch(report: dict[str, Any]) -> None:
            if "loss" in report and console.is_terminal:
                bar.update(task, completed=report["step"], description=_said(report))
            else:
                say(_said(report))

        return train(config, output, watch)


def _said(report: dict[str, Any]) -> str:
    if "note" in report:
        return report["note"]
    if "loss" in report:
        return "step {step}: loss {loss:.4g}, {samples_per_second:.3g} samples/s".format(**report)
    scores = (f"{name} {report[name]:.2f}" for name in ("input", "global", "local"))
    return f"step {report['step']}: PSNR {', '.join(scores)} dB"
