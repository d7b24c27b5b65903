"""Published weights by name: fetched, converted and installed where they are not there yet."""

import contextlib
import difflib
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tlc_jax.files import catalogue, checkpoints, fetching
from tlc_jax.files.atomic import why_not_written, write_atomically
from tlc_jax.files.catalogue import Published
from tlc_jax.files.checkpoints import CheckpointError
from tlc_jax.files.hub import fetch_from_hub
from tlc_jax.files.printable import printable
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params

HUB = "hf://"


def download(name: str, *, accept_licence: bool = False) -> Path:
    """Fetch published weights, convert them, and install them by their name.

    What is installed already is left as it is. The fetched file is removed once it is converted; a
    download that was interrupted goes on where it stopped. At a terminal a bar is shown.

    Args:
      name: as `tlc-jax models` lists it, or that of the published file.
      accept_licence: accept a licence that allows non-commercial use alone; that is remembered, so
        it is needed once for each such licence.

    Returns:
      The checkpoint folder, in `tlc_jax.files.checkpoints.home`.

    Raises:
      CheckpointError: there are no such weights, they cannot be fetched, are not those that were
        published, or their licence was not accepted; the message is a sentence.

    Examples:
      >>> import tlc_jax as tlc
      >>> tlc.download("nafnet-gopro-width64").name  # doctest: +SKIP
      'nafnet-gopro-width64'
    """
    from checkpoints_convert import ConversionError, convert_file  # it builds on this package

    one = of_name(name)
    name, folder = one.name, checkpoints.home() / one.name
    if name in checkpoints.installed():
        return folder
    if one.address is None:
        raise CheckpointError(f"{name}: no program can fetch it; {one.how_by_hand}.")
    checkpoints.check_absent(folder)
    fetching.check_allowed()
    if accept_licence:
        accept(one)
    if needs_accepting(one):
        raise CheckpointError(
            f"{name}: the licence of these weights is {one.licence}, see {one.source}; if you "
            f"accept it, type 'tlc-jax download {name} --accept-licence', or in Python "
            f"tlc.download({name!r}, accept_licence=True)."
        )
    with fetching.alone_with(name):
        if name in checkpoints.installed():  # by another process meanwhile
            return folder
        with _kept():
            checkpoints.home().mkdir(parents=True, exist_ok=True)
        try:
            return convert_file(one.address, folder)
        except ConversionError as error:
            raise CheckpointError(f"{name}: {error}") from None


def load(path: str | os.PathLike) -> tuple[Network, Params]:
    """Read a checkpoint.

    Args:
      path: a folder that `save` or the converter wrote, "denoise" or "deblur" for ours, the name of
        an installed one, or that of published weights, which are downloaded and installed the first
        time; see `download`.

    Returns:
      The network, global, and its parameters. `model.clone(local_mode=True)` takes the same ones.

    Raises:
      CheckpointError: not a checkpoint, incomplete, or not of the network that it names; or
        published weights that cannot be downloaded.

    Examples:
      >>> import tlc_jax as tlc
      >>> model, params = tlc.load("denoise")
      >>> model, params = tlc.load("nafnet-gopro-width64")  # doctest: +SKIP
    """
    return checkpoints.load(find(path))


def find(path: str | os.PathLike) -> Path:
    """The folder of a checkpoint, as `tlc_jax.files.checkpoints.find` tells it.

    Published weights that are named and not there are downloaded.

    Raises:
      CheckpointError: they cannot be.
    """
    one = missing(path)
    return checkpoints.find(path) if one is None else download(one.name)


def missing(path: str | os.PathLike) -> Published | None:
    """The published weights that `path` names and that have to be downloaded, if it does."""
    one = catalogue.named(str(path))
    if one is None or one.address is None or checkpoints.find(path).exists() or fetching.offline():
        return None
    return one


def of_name(name: str) -> Published:
    """The published weights of a name, or of a file's name.

    Raises:
      CheckpointError: there are none; the message says what may be meant.
    """
    if one := catalogue.named(name) or catalogue.FILES.get(name):
        return one
    if name in checkpoints.SHIPPED:
        raise CheckpointError(f"{name}: comes with the package; use it as --task {name}.")
    known = [one.name for one in catalogue.PUBLISHED]
    near = difflib.get_close_matches(name, known, 1, 0.6)
    hint = f"is {near[0]!r} meant?" if near else "'tlc-jax models' lists their names."
    raise CheckpointError(f"{printable(name)}: no published weights have that name; {hint}")


# Licences


def needs_accepting(one: Published) -> bool:
    """Whether the licence of weights restricts their use, and was not accepted here so far."""
    return one.licence.startswith("non-commercial") and not _accepted(one).exists()


def accept(one: Published) -> None:
    """Remember that the licence of weights is accepted.

    Raises:
      CheckpointError: that cannot be written.
    """
    with _kept():
        _accepted(one).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_accepted(one), f"{one.licence}\n{one.source}\n".encode())


def _accepted(one: Published) -> Path:
    return checkpoints.home() / ".accepted" / _key(f"{one.licence} {one.source}")


# Files at addresses


class Fetched(NamedTuple):
    """A file that was at an address.

    Attributes:
      path: the file, under its own name.
      origin: the address, and the revision where there are several, for a checkpoint's model.json.
      published: what the catalogue has of the address.
    """

    path: Path
    origin: dict[str, str]
    published: Published | None


def is_address(source: str | os.PathLike) -> bool:
    """Whether this is an address, rather than a path."""
    return isinstance(source, str) and "://" in source


@contextlib.contextmanager
def fetched(address: str) -> Iterator[Fetched]:
    """The file at an https:// or hf:// address, for as long as it is used.

    Of published files size and SHA-256 are checked. Where no SHA-256 is known, the first one that
    is met is remembered, and other bytes at the same address are refused later.

    Raises:
      CheckpointError: it cannot be fetched, or is another than it was; the message is a sentence.
    """
    if address.startswith(HUB):
        path, revision = fetch_from_hub(address)
        yield Fetched(path, {"address": address, "revision": revision}, None)
        return  # what is in the hub's own cache stays there
    one = catalogue.at(address)
    known = {} if one is None else {"size": one.size, "sha256": one.sha256}
    known |= {} if one is None else {"instead": one.how_by_hand}
    with fetching.alone_with(address):
        with _bar(fetching.name_of(address)) as watch:
            path = fetching.fetch(address, watch=watch, **known)
        digest = None if one is None or one.sha256 else _pinned(one, path)
        # What others may be told of: a query may hold a key.
        origin = {"address": address.partition("?")[0].partition("#")[0]}
        try:
            yield Fetched(path, origin, one)
        except (CheckpointError, KeyboardInterrupt):  # as of a full disk: the file is still good
            raise
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)
        if one is not None and digest is not None:
            with _kept():
                _pin(one).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(_pin(one), f"{digest}\n".encode())


def _pin(one: Published) -> Path:
    return checkpoints.home() / ".pinned" / one.name


def _pinned(one: Published, path: Path) -> str:
    """The digest of a published file, which has to be the one that is remembered, if one is."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with _kept():
        before = _pin(one).read_text().strip() if _pin(one).exists() else digest
    if before != digest:
        path.unlink()
        raise CheckpointError(
            f"{one.address}: holds other bytes than when {one.name} was first downloaded (SHA-256 "
            f"{before} then, {digest} now); if its authors replaced it, remove {_pin(one)} and "
            "type the same command again."
        )
    return digest


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """What is remembered can be written, or it is said what to do."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{checkpoints.home()}: cannot be written ({why_not_written(error)}); set TLC_JAX_HOME "
            "to a folder that can."
        ) from None


@contextlib.contextmanager
def _bar(name: str) -> Iterator[fetching.Watch]:
    """Shows on standard error how much has come, to somebody at a terminal."""
    if not sys.stderr.isatty():
        yield lambda there, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn()
    console = Console(stderr=True)
    with Progress(
        *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task(name, total=None)
        yield lambda there, total: bar.update(task, completed=there, total=total)
