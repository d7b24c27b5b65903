"""`tlc-jax app`: the page in the browser."""

import socket
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tlc_jax.app import Limits, of_folder, of_tasks, serve
from tlc_jax.app.visits import most_disk, most_memory, most_pixels
from tlc_jax.cli.common import UserError, find_checkpoint, reason, say
from tlc_jax.files import checkpoints
from tlc_jax.models import MODELS

DEFAULT = Limits()


def serve_page(
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="A folder to choose from, the name of an installed or a published one, or "
            "'denoise' or 'deblur', which are ours; can be repeated [all tasks, by ours and by the "
            "best installed]."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="[the first free one of 7860 to 7959]")
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", help="By which others call this machine, as a proxy does; can be repeated."
        ),
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Of a picture [what the memory allows].")
    ] = None,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Of a file.")] = DEFAULT.megabytes,
    max_memory: Annotated[
        float | None,
        typer.Option(min=0.5, help="GiB for a job, on a CPU [half of what is free, 8 at most]."),
    ] = None,
    max_disk: Annotated[
        float | None,
        typer.Option(min=0.1, help="GiB for all pictures [half of what is free, 8 at most]."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds, after which a job is stopped.")
    ] = DEFAULT.seconds,
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            help="At a time, each in a process of its own; of several, one for small pictures.",
        ),
    ] = DEFAULT.jobs,
) -> None:
    """Restore pictures in the browser, on this machine only unless told otherwise."""
    offers = {} if checkpoint else of_tasks()
    for folder in map(find_checkpoint, checkpoint or ()):
        _check_network(folder)
        name = checkpoints.network_name(folder)
        offers[str(folder) if name in offers else name] = of_folder(folder.absolute())
    _check_free(host, port)
    memory = max_memory or most_memory(jobs)
    limits = Limits(
        max_pixels or most_pixels(memory), max_megabytes, timeout, jobs, memory,
        max_disk or most_disk(Path(tempfile.gettempdir())),
    )  # fmt: skip
    try:
        serve(offers, limits, host, port, names or (), lambda at: say(f"{at}  (Ctrl-C ends it)"))
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("gradio"):
            raise
        raise UserError(
            "the page needs Gradio, which is not installed; pip install 'tlc-jax[app]'."
        ) from None


def _check_network(folder: Path) -> None:
    """Told by its description alone: JAX would take the memory of a GPU, which is the workers'."""
    description = checkpoints.describe(folder)
    network = MODELS[description["network"]]
    channels = description["config"].get("inp_channels", network.inp_channels)
    if network(inp_channels=channels).takes != "pictures":
        raise UserError(
            f"{folder}: {network.__name__} does not restore single pictures, which the page is "
            "for; use 'tlc-jax restore'."
        )


def _check_free(host: str, port: int | None) -> None:
    """Seen before the page is made, which takes seconds."""
    try:
        address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0]) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address[4])
    except UnicodeError:  # of names, whose parts have up to 63 letters
        raise UserError(f"--host {host}: is no name of a machine.") from None
    except OSError as error:
        where = host if port is None else f"{host}, port {port}"
        raise UserError(f"cannot listen at {where}: {reason(error)}; choose another.") from None
