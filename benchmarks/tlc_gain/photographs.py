"""The photographs for training and testing, from packages of Debian and of Python.

`photographs.tsv` lists each one with its author and licence. Those for training are in the public
domain, CC0 or CC-BY; they are resized by `scale`, so that they show neither noise nor traces of
compression. On Debian:

    python -m benchmarks.tlc_gain.photographs build/photographs

writes PNG files into the folders train/ and test/ there.
"""

import csv
import functools
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tlc_jax.files.atomic import folder_atomically

LIST = Path(__file__).with_name("photographs.tsv")
WHEELS = {"scikit-image", "scikit-learn"}


@functools.cache
def unpacked(package: str, version: str, scratch: Path) -> Path:
    """The files of a package: of this version for Python, of the available one for Debian."""
    folder = scratch / package
    folder.mkdir()
    if package in WHEELS:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, f"{package}=={version}", "--dest", folder], check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extractall(folder)
    else:
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        subprocess.run(["dpkg", "-x", next(folder.glob("*.deb")), folder], check=True)
    return folder


def resources(file: Path) -> Iterator[tuple[str, bytes]]:
    """The paths and contents in a binary resource file of Qt, from its tree of nodes."""
    content = file.read_bytes()
    version, tree, data, names = struct.unpack(">4I", content[4:20])
    node_size = 14 if version == 1 else 22

    def walk(number: int, path: str) -> Iterator[tuple[str, bytes]]:
        node = tree + number * node_size
        name, flags = struct.unpack(">IH", content[node : node + 6])
        if number:
            (length,) = struct.unpack(">H", content[names + name : names + name + 2])
            start = names + name + 6
            path += "/" + content[start : start + 2 * length].decode("utf-16-be")
        if flags & 2:  # a folder
            count, first = struct.unpack(">II", content[node + 6 : node + 14])
            for child in range(first, first + count):
                yield from walk(child, path)
        else:
            (at,) = struct.unpack(">I", content[node + 10 : node + 14])
            (size,) = struct.unpack(">I", content[data + at : data + at + 4])
            entry = content[data + at + 4 : data + at + 4 + size]
            yield path, zlib.decompress(entry[4:]) if flags & 1 else entry

    return walk(0, "")


def picture(package: str, version: str, file: str, scratch: Path) -> Image.Image:
    """One photograph of a package; "archive.rcc:path" is one in an archive."""
    archive, _, inside = file.partition(":")
    path = unpacked(package, version, scratch) / archive
    if inside:
        found = [content for name, content in resources(path) if name.endswith(inside)]
        path = scratch / "resource"
        path.write_bytes(found[0])
    return Image.open(path).convert("RGB")


def fetch(destination: Path) -> None:
    """Write the photographs, atomically, into the folders train/ and test/ of `destination`."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        folder_atomically(destination) as photographs,
        LIST.open(newline="") as lines,
    ):
        for number, row in enumerate(csv.DictReader(lines, delimiter="\t")):
            image = picture(row["package"], row["version"], row["file"], Path(scratch))
            scale = float(row["scale"])
            size = [round(side * scale) for side in image.size]
            folder = photographs / row["use"]
            folder.mkdir(exist_ok=True)
            stem = Path(row["file"].partition(":")[2] or row["file"]).stem
            smaller = image.resize(size, Image.Resampling.LANCZOS) if scale < 1 else image
            smaller.save(folder / f"{number:03}-{stem}.png")


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
