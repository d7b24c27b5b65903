"""The command line, one file for each group of commands."""

import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import jax
import typer

from tlc_jax.cli.common import ERRORS, UserError, complain, say
from tlc_jax.cli.evaluating import evaluate
from tlc_jax.cli.exporting import export
from tlc_jax.cli.restoring import restore
from tlc_jax.cli.serving import serve_page
from tlc_jax.cli.training import train
from tlc_jax.cli.weights import convert, download, info, models
from tlc_jax.files.atomic import first_line
from tlc_jax.files.printable import printable
from tlc_jax.inference.programs import is_out_of_memory

app = typer.Typer(
    help="Restore photographs with JAX networks, with local statistics (TLC) or global ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


# Click's, which is the base of what Typer gives a name.
USAGE_ERROR: Any = typer.BadParameter.__base__

_shown = {"debug": False}  # whether errors that nobody thought of are shown with their places


def _version(wanted: bool) -> None:
    if wanted:
        say(f"tlc-jax {version('tlc-jax')}")
        raise typer.Exit


@app.callback()
def _options(
    wanted: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Tell the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the program an error is met.")
    ] = False,
) -> None:
    _shown["debug"] = debug


for command in (restore, evaluate, train, models, download, convert, info, export):
    app.command()(command)
app.command("app")(serve_page)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of the user end it with one sentence and exit code 2."""
    from checkpoints_convert import ConversionError

    warnings.filterwarnings("ignore", module="PIL")  # what is damaged is told in our words
    # Without a cache programs are compiled again; JAX tells so with a line of its source.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "tlc-jax"))
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        sys.exit(app(given, standalone_mode=False) or 0)
    except USAGE_ERROR as error:
        if given:  # else it is the help
            error.message = printable(error.message)
        error.show()
        sys.exit(2)
    except (*ERRORS, ConversionError) as error:
        complain(error, lines=isinstance(error, ConversionError))
        sys.exit(2)
    except Exception as error:
        if _shown["debug"]:
            raise
        if is_out_of_memory(error):
            complain(UserError("not enough memory; close other programs, or raise the limit."))
            sys.exit(2)
        complain(
            UserError(
                f"this failed in a way that nobody thought of ({type(error).__name__}: "
                f"{first_line(error)}); 'tlc-jax --debug' with the same command shows where."
            )
        )
        sys.exit(2)
