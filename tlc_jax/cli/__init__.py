"""The command line, one file for each group of commands."""

import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import jax
import typer

from tlc_jax.cli.common import ERRORS, complain, console
from tlc_jax.cli.evaluating import evaluate
from tlc_jax.cli.restoring import restore
from tlc_jax.cli.serving import serve_page
from tlc_jax.cli.training import train
from tlc_jax.cli.weights import convert, info, models

app = typer.Typer(
    help="Restore photographs with JAX networks, with local statistics (TLC) or global ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"tlc-jax {version('tlc-jax')}")
        raise typer.Exit


@app.callback()
def _options(
    wanted: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Tell the version.")
    ] = False,
) -> None:
    pass


for command in (restore, evaluate, train, models, convert, info):
    app.command()(command)
app.command("app")(serve_page)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of the user end it with one sentence and exit code 2."""
    from checkpoints_convert import ConversionError

    warnings.filterwarnings("ignore", module="PIL")  # what is damaged is told in our words
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "tlc-jax"))
    try:
        app(arguments)
    except (*ERRORS, ConversionError) as error:
        complain(error)
        sys.exit(2)
