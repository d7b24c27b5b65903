"""What the commands share: how they speak, and how they take a network from a checkpoint."""

import contextlib
import dataclasses
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tlc_jax import published
from tlc_jax.evaluation.evaluating import EvaluationError
from tlc_jax.files import checkpoints, fetching
from tlc_jax.files.catalogue import Published
from tlc_jax.files.checkpoints import CheckpointError
from tlc_jax.files.choosing import Quality, Task, choose, tasks_of
from tlc_jax.files.pictures import ImageError
from tlc_jax.files.printable import printable
from tlc_jax.files.video import VideoError
from tlc_jax.inference.machine import count_devices
from tlc_jax.inference.programs import is_out_of_memory
from tlc_jax.inference.ways import Precision
from tlc_jax.jobs import JobError
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params, abstract_params
from tlc_jax.ops.windows import Size

T = TypeVar("T")
Watch = Callable[..., None]
LONG = 20  # seconds; of what takes longer it is told how long

# Linen's own fields, and those that are options here.
NOT_TO_SET = {"parent", "name", "local_mode", "window", "dtype"}

# Names of files may look like its markup.
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(line: str = "") -> None:
    """A line on standard output."""
    console.print(printable(line))


class UserError(ValueError):
    """What was asked for cannot be done; the message is the sentence to print."""


# What is told in one sentence, as it is the user's to mend.
ERRORS = UserError, JobError, ImageError, VideoError, CheckpointError, EvaluationError, OSError

Dtype = Literal["float32", "bfloat16", "float16"]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="A folder that 'tlc-jax convert' or 'tlc-jax train' wrote, an installed one's name, "
        "or one that 'tlc-jax models' lists, which is downloaded."
    ),
]
ToDo = Annotated[
    Task | None,
    typer.Option("--task", help="What to do, where there is no --checkpoint [denoise]."),
]
HowWell = Annotated[
    Quality | None,
    typer.Option(
        "--quality",
        help="Of a --task: fast is our own network, best the best that is installed [best for "
        "deblur, if there is one; fast for denoise].",
    ),
]
WindowSide = Annotated[
    int | None,
    typer.Option(
        min=1, max=2**31 - 1, help="Side of the window, input pixels [1.5 x the training crops]."
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(min=1, help="Of a picture or a frame; larger ones are refused."),
]
Devices = Annotated[
    str, typer.Option("--devices", metavar="N", help="Of this machine, to share the work, or all.")
]
ComputeIn = Annotated[Dtype, typer.Option("--dtype", help="The type to compute in.")]


def _set_precision(precision: Precision | None) -> Precision | None:
    if precision is not None:
        jax.config.update("jax_default_matmul_precision", precision)
    return precision


Products = Annotated[
    Precision | None,
    typer.Option(
        "--precision",
        callback=_set_precision,
        help="Of products of float32 on GPUs and TPUs; highest is that of float32 [JAX's own].",
    ),
]


def set_option(what: str) -> Any:
    """The option --set, for `parse_settings`."""
    return typer.Option("--set", metavar="FIELD=VALUE", help=f"{what}; can be repeated.")


Settings = Annotated[
    list[str] | None,
    set_option("A field that changes no parameter, as train_size=[256,256] or padding=end"),
]


def find_checkpoint(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint that was named; what is only published is downloaded."""
    one = published.missing(checkpoint)
    return checkpoints.find(checkpoint) if one is None else download(one)


def download(one: Published, accept_licence: bool = False) -> Path:
    """Install published weights, once their licence is accepted; tells of both."""
    open_to_all = not published.needs_accepting(one)
    if not open_to_all and not accept_licence and sys.stdin.isatty():
        question = (
            f"The licence of {one.name} is {one.licence}, see {one.source}. Do you accept it?"
        )
        accept_licence = typer.confirm(question, err=True)
        if not accept_licence:
            raise UserError(f"{one.name}: not downloaded, as its licence is not accepted.")
    if open_to_all or accept_licence:
        fetching.check_allowed()
        size = "" if one.size is None else f", {one.size / 1e6:,.0f} MB"
        say(f"{one.name}: fetching {one.address}{size}, licence of the weights: {one.licence}")
    return published.download(one.name, accept_licence=accept_licence)


def choose_checkpoint(checkpoint: Path | None, task: str | None, quality: Quality | None) -> Path:
    """The folder that the three options name; tells of one that nobody named."""
    if checkpoint is None:
        folder = choose(task or "denoise", quality)
        if folder.parent == checkpoints.home() and folder.is_dir():
            say(f"{task or 'denoise'}: by {folder.name}, the best that is installed")
        return folder
    for option, value in (("task", task), ("quality", quality)):
        if value is not None:
            raise UserError(f"--{option} {value}: chooses a checkpoint; leave --checkpoint out.")
    return find_checkpoint(checkpoint)


def choose_checkpoints(
    checkpoint: Path | None, tasks: str | None, quality: Quality | None
) -> list[Path]:
    """The folders that the options name, of tasks with commas between them one for each."""
    if tasks is None:
        return [choose_checkpoint(checkpoint, None, quality)]
    return [choose_checkpoint(checkpoint, task, quality) for task in tasks_of(tasks)]


def open_network(
    checkpoint: Path, mode: str, window: int | None, dtype: Dtype, settings: Sequence[str] | None
) -> tuple[Network, Params]:
    """The network of a checkpoint, set as the options say, and the shapes of its parameters."""
    model, shapes = checkpoints.load_abstract(checkpoint)
    model = with_settings(model, settings).clone(
        local_mode=mode in ("local", "auto"),
        window=model.window if window is None else (window, window),
        dtype=None if dtype == "float32" else jnp.dtype(dtype),
    )
    return model, shapes


def parse_size(wanted: str) -> Size:
    """(H, W) of what --size names, in pixels."""
    width_height = re.fullmatch(r"(\d{1,6})x(\d{1,6})", wanted, re.ASCII)
    if width_height is None or "0" in width_height.groups():
        raise UserError(f"--size {wanted}: give width x height in pixels, as in --size 1280x720.")
    width, height = map(int, width_height.groups())
    return height, width


def parse_devices(wanted: str, option: str = "--devices") -> int:
    """How many devices an option names."""
    try:
        return count_devices(wanted)
    except ValueError as error:
        raise UserError(str(error).replace("devices", option, 1)) from None


def load_params(
    checkpoint: Path, model: Network, shapes: Params, mode: str, dtype: Dtype
) -> Params:
    """The parameters of a network that `open_network` gave; tells what is about to run."""
    params = checkpoints.load_params(checkpoint, shapes)
    licence = checkpoints.describe(checkpoint).get("weights_licence", "not recorded")
    how = f"{mode} in {dtype} on {jax.default_backend()}"
    name = checkpoints.network_name(checkpoint)
    say(f"{name}: {type(model).__name__} {how}, licence of the weights: {licence}")
    return params


def each(
    count: int,
    work: Callable[[Watch], Iterable[tuple[T, Future]]],
    tell: Callable[[T, Future], None],
) -> bool:
    """Do so many items, telling of those that fail; whether all could be done.

    `work` takes a function, to be told an item's next step and, as `of`, its name, which are shown
    to somebody at a terminal; it gives each item and what came of it, which `tell` tells.
    """
    columns = BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False)
    bar = Progress(*columns, console=console, transient=True)
    whole = bar.add_task("", total=count, visible=count > 1)
    step = bar.add_task("", total=None)

    begun = 0.0

    def watch(words: str, of: str = "") -> None:
        nonlocal begun
        part = re.search(r"(\d+) of (\d+)", words)
        done, total = (int(part[1]) - 1, int(part[2])) if part else (0, None)
        bar.update(step, description=printable(f"{of}{words}"), completed=done, total=total)
        if part and total and f"part {part[0]}" in words:  # of a large picture
            if done == 0:
                begun = time.monotonic()
            elif done == 1 and (seconds := (time.monotonic() - begun) * total) > LONG:
                words = words.replace(f"part {part[0]}", f"{total} parts")
                say(f"{of}{words}: about {seconds:.0f} s in all")

    all_done = True
    # Where nobody looks rich would print an empty line at the end.
    with bar if console.is_terminal else contextlib.nullcontext():
        for item, came in work(watch):
            try:
                tell(item, came)
            except ERRORS as error:
                all_done = False
                complain(error)
            bar.advance(whole)
    return all_done


@contextlib.contextmanager
def enough_memory(
    source: Path, remedy: str = "--dtype bfloat16 or cut the picture"
) -> Iterator[None]:
    """Turns the errors of a machine that runs out of memory into a sentence about `source`."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{source}: not enough memory; try {remedy}.") from None


def complain(error: Exception, lines: bool = False) -> None:
    """One sentence on standard error; where it is a list, its lines."""
    sentence = str(error)
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename}: "
        sentence = f"{where}{reason(error)}."
    shown = map(printable, sentence.split("\n") if lines else [sentence])
    print("tlc-jax:", "\n".join(shown), file=sys.stderr)


def reason(error: OSError) -> str:
    """The reason that the system gives, to go into a sentence."""
    return (error.strerror or str(error)).lower()


def check_writable(folder: Path) -> None:
    """Refuse before the work what would fail after it; the folder is made when it is needed."""
    present = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=present):  # what rights say is not what can be done
            pass
    except OSError:
        raise UserError(
            f"{present}: not a folder that can be written to; choose another output."
        ) from None


def parse_settings(settings: Sequence[str] | None) -> dict[str, Any]:
    """FIELD=VALUE pairs; values are JSON, lists become tuples and anything else is text."""
    parsed: dict[str, Any] = {}
    for setting in settings or ():
        name, separator, text = setting.partition("=")
        if not separator:
            raise UserError(
                f"--set {setting}: write FIELD=VALUE, as in --set 'train_size=[256,256]'."
            )
        value = text
        try:
            value = json.loads(text)
        except RecursionError:
            raise UserError(f"--set {name}: is nested too deeply.") from None
        except ValueError:  # no JSON, or a number of thousands of digits
            pass
        parsed[name] = tuple(value) if isinstance(value, list) else value
    return parsed


def with_settings(model: Network, settings: Sequence[str] | None) -> Network:
    """The network with fields changed that do not change its parameters."""
    wanted = parse_settings(settings)
    if not wanted:
        return model
    fields = {field.name for field in dataclasses.fields(model)} - NOT_TO_SET
    if unknown := wanted.keys() - fields:
        raise UserError(
            f"--set {', '.join(sorted(unknown))}: the fields of {type(model).__name__} are "
            f"{', '.join(sorted(fields))}; --mode, --window and --dtype are options of their own."
        )
    for name, value in wanted.items():
        present = getattr(model, name)
        if type(value) is not type(present):  # a text "False" would count as true
            raise UserError(
                f"--set {name}={value}: write a value like the present one, "
                f"{name}={json.dumps(present)}."
            )
    given = f"--set {' --set '.join(settings or ())}"
    try:
        changed = model.clone(**wanted)
        changed.check_windows()
        known = abstract_params(model)
        same = abstract_params(changed, most=len(jax.tree.leaves(known))) == known
    except Exception as error:  # whatever a network raises for sizes that it cannot have
        raise UserError(f"{given}: {error}") from None
    if not same:
        raise UserError(
            f"{given}: this makes another network, which the weights do not fit; only fields "
            "without parameters can be set."
        )
    return changed
