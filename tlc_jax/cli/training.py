"""The command that trains."""

import dataclasses
import difflib
import re
import runpy
import signal
import socket
import sys
import time
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import jax
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tlc_jax.cli.common import UserError, console, enough_memory, parse_settings, silence_orbax

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
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Another field; can be repeated."),
    ] = None,
    coordinator: Annotated[
        str | None, typer.Option(help="HOST:PORT of the first of several processes.")
    ] = None,
    processes: Annotated[int | None, typer.Option(help="How many there are.")] = None,
    process: Annotated[int | None, typer.Option(help="Which one this is, from 0.")] = None,
) -> None:
    """Train a network, or go on with a run that was interrupted.

    \b
    tlc-jax train nafnet_gopro -o runs/nafnet --input GoPro/train/input \\
      --target GoPro/train/target

    Our configurations: denoise, deblur, nafnet_gopro, nafnet_sidd, restormer.
    """
    from tlc_jax.training.config import TrainingError, check

    sources = {"target": target, "input": input_}
    given = {name: source for name, source in sources.items() if source is not None}
    wanted = with_changes(open_config(config), parse_settings(settings) | given)
    silence_orbax()
    if any(option is not None for option in (coordinator, processes, process)):
        _join(coordinator, processes, process)
    else:
        # The blocks that wait for a checkpoint under way, and those that end processes, run.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        check(wanted)  # before the bar, which asks how many steps there are
        with enough_memory(output, "smaller crops or batches"):
            made = _watched(wanted, output)
    except TrainingError as error:
        raise UserError(str(error)) from None
    if jax.process_index() == 0:
        console.print(f"{made}: the averaged parameters after {wanted.steps} steps")


def _join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Become one of the processes of a run."""
    if coordinator is None or processes is None or process is None:
        raise UserError("--coordinator, --processes and --process: give all three or none.")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator {coordinator}: write HOST:PORT, as in 10.0.0.1:1234.")
    if not 0 <= process < processes:
        raise UserError(f"--process {process}: the {processes} processes count from 0.")
    # JAX aborts, with no error that could be caught, where it finds nobody there.
    until = time.monotonic() + PATIENCE
    while True:
        try:
            if process == 0:
                socket.create_server(("", int(port))).close()
            else:
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            break
        except OSError as error:
            if process == 0 or time.monotonic() > until:
                raise UserError(
                    f"--coordinator {coordinator}: {(error.strerror or str(error)).lower()}; give "
                    "all processes the address of the first, and a port that is free there."
                ) from None
        time.sleep(1)
    # What SLURM or Open MPI tell would leave each process one device of its own.
    jax.distributed.initialize(
        coordinator, processes, process, cluster_detection_method="deactivate"
    )
    # JAX takes it as a notice, that it is about to end, and goes on. A process may be waiting for
    # one that has ended already, so no block of Python may have to run.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _watched(config: Any, output: Path) -> Path:
    """Train, telling on the terminal of the first host how it goes."""
    from tlc_jax.training.run import train

    with Progress(
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal or jax.process_index() > 0,
    ) as bar:
        task = bar.add_task("", total=config.steps)

        def watch(report: dict[str, Any]) -> None:
            if jax.process_index() > 0:
                return
            if "loss" in report:
                bar.update(task, completed=report["step"], description=_said(report))
            if "loss" not in report or not console.is_terminal:
                console.print(_said(report))

        return train(config, output, watch)


def _said(report: dict[str, Any]) -> str:
    if "note" in report:
        return report["note"]
    if "loss" in report:
        return "step {step}: loss {loss:.4g}, {samples_per_second:.3g} samples/s".format(**report)
    scores = (f"{name} {report[name]:.2f}" for name in ("input", "global", "local"))
    return f"step {report['step']}: PSNR {', '.join(scores)} dB"


def open_config(name: str) -> Any:
    """The configuration that a Python file defines, by its path or as one of ours."""
    from tlc_jax.training.config import Config

    path = Path(name)
    if path.suffix != ".py":
        path = OURS / f"{name}.py"
    if not path.is_file():
        ours = ", ".join(sorted(file.stem for file in OURS.glob("[a-z]*.py")))
        raise UserError(f"{name}: neither a Python file nor one of our configurations, {ours}.")
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as error:  # of somebody's own program
        raise UserError(f"{path}: {_explained(error, Config)}") from None
    if not isinstance(config, Config):
        raise UserError(f"{path}: defines no 'config' that is a tlc_jax.training.config.Config.")
    return config


def _explained(error: Exception, config: type) -> str:
    found = re.search(
        r"Config\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)
    )
    if not found:
        return f"{type(error).__name__}: {error}"
    fields = [field.name for field in dataclasses.fields(config)]
    return f"there is no field {found[1]}; {_meant(found[1], fields)}"


def _meant(name: str, fields: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, fields, 1)
    return f"did you mean {close[0]}?" if close else f"the fields are {', '.join(fields)}."


def with_changes(config: Any, changes: dict[str, Any]) -> Any:
    """The configuration with some fields changed, as of the command line."""
    from tlc_jax.training.config import Config, Phase

    types = typing.get_type_hints(Config)
    del types["model"], types["degradation"]
    checked = {}
    for name, value in changes.items():
        if name not in types:
            raise UserError(f"--set {name}: no field that can be set here; {_meant(name, types)}")
        if name == "phases" and isinstance(value, tuple):
            value = tuple(
                Phase(*part) if isinstance(part, list) and len(part) == 3 else part
                for part in value
            )
        if not _fits(value, types[name]):
            raise UserError(f"--set {name}={value}: is to be like {getattr(config, name)}.")
        checked[name] = value
    return dataclasses.replace(config, **checked)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; whole numbers are numbers, truth values are not."""
    if hint in (int, float):
        numbers = int if hint is int else int | float
        return isinstance(value, numbers) and not isinstance(value, bool)
    if parts := typing.get_args(hint):
        if typing.get_origin(hint) is not tuple:
            return any(_fits(value, part) for part in parts)
        if not isinstance(value, tuple):
            return False
        parts = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(parts) == len(value) and all(map(_fits, value, parts))
    return isinstance(value, hint)
