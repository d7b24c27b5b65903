"""Files, checkpoints, names and values that ask for more than they are."""

import argparse
import io
import itertools
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

MEMORY, SECONDS = 6 * 2**30, 60
LINES = 3  # of a refusal by Typer: its usage, where help is, and what is wrong


def attempts(folder: Path, given: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Yields the class and the name of each input, and what went wrong with it, if anything."""
    os.chdir(folder)
    good = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(good).save("good.png")
    run(given.tree, "convert", "--help")  # compiled by Python once
    for kind, cases in {
        "heads of pictures": pictures(),
        "pictures in data sets": sets(given.tree),
        "checkpoints": checkpoints(given.tree),
        "conversions": conversions(),
        "names": names(),
        "values": values(),
        "places": places(),
    }.items():
        if given.only in kind:
            for name, arguments in cases:
                yield kind, name, run(given.tree, *arguments)


def run(tree: Path, *arguments: str | bytes) -> str:
    """What is wrong with how a command ends, if anything: it succeeds, or refuses in a sentence."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    before = hidden()
    begun = time.monotonic()
    try:
        ended = subprocess.run(
            [sys.executable, "-c", "from tlc_jax.cli import main; main()", *arguments],
            env=os.environ | {"PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu"},
            capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS, preexec_fn=bounded,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"still at work after {SECONDS} s"
    said = ended.stderr.decode("utf-8", "replace")
    if left := hidden() - before:
        return f"left {left}"
    if ended.returncode not in (0, 2):
        return f"exit code {ended.returncode} after {time.monotonic() - begun:.0f} s: {said[-200:]}"
    if "Traceback" in said or "Warning" in said or "nobody thought of" in said:
        return said[-300:]
    if ended.returncode == 2 and not 1 <= len(said.splitlines()) <= LINES + 1:
        return f"{len(said.splitlines())} lines: {said[:300]}"
    shown = (ended.stdout + ended.stderr).decode("utf-8", "replace")
    if odd := [c for line in shown.splitlines() for c in line if not c.isprintable()]:
        return f"not printable: {odd[:5]!a}"
    return ""


def hidden() -> set[str]:
    """What is unfinished."""
    return {str(path) for path in Path().rglob(".*") if "cache" not in str(path)}


Cases = Iterator[tuple[str, tuple[str | bytes, ...]]]


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colours: int, *more: bytes) -> bytes:
    """A file with the data of a small picture, whatever it says."""
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    data = zlib.compress(bytes(200_000))
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def directory(entries: int, length: int, size: int) -> bytes:
    """A TIFF whose entries all point at the same bytes."""
    rows = b"".join(struct.pack("<HHII", 270 + i, 2, length, 0) for i in range(entries))
    head = b"II*\0" + struct.pack("<IH", 8, entries) + rows + bytes(4)
    return head.ljust(size, b"\0")


def jpeg(width: int, height: int) -> bytes:
    """A small one that says another size."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "JPEG", progressive=True)
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc2") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def heads() -> Iterator[tuple[str, bytes]]:
    """Names and contents of pictures that say more than they hold."""
    small = struct.pack("<HH", 32000, 32000)
    yield (
        "a.gif",
        b"GIF89a" + small + b"\x80\0\0" + bytes(6) + b"," + bytes(4) + small + b"\0\2\2D\1\0;",
    )
    yield "logical.gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0;"
    for width in (40_000, 65_000):
        yield f"{width}.jpg", jpeg(width, width)
        yield f"bits-{width}.png", png(width, width, 1, 0)
        yield f"deep-{width}.png", png(width, width, 16, 6)
    yield "lines.png", png(2**31 - 1, 1, 1, 0)
    exif = directory(60_000, 700_000, 2_000_000)
    yield "exif.png", png(8, 8, 8, 2, chunk(b"eXIf", exif))
    yield (
        "text.png",
        png(8, 8, 8, 2, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))] * 40),
    )
    yield "profile.png", png(8, 8, 8, 2, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**28))))
    yield "directory.tif", directory(60_000, 2_000_000, 2_900_000)
    for compression in (1, 5, 8, 32773, 34712):
        tags = {
            256: 60_000,
            257: 60_000,
            258: 8,
            259: compression,
            262: 1,
            273: 8,
            278: 60_000,
            279: 99,
        }
        rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        yield f"{compression}.tif", b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(200)
    for bits, packing in ((1, 0), (8, 1), (24, 0)):
        head = struct.pack("<IiiHHIIiiII", 40, 30000, 30000, 1, bits, packing, 0, 0, 0, 0, 0)
        yield f"{bits}.bmp", b"BM" + struct.pack("<IHHI", 2000, 0, 0, 54) + head + bytes(2000)
    for kind in (b"P4", b"P5", b"P6", b"Pf"):
        yield f"{kind.decode()}.ppm", kind + b"\n60000 60000\n" + b"255\n" + bytes(99)
    yield "lossless.webp", b"RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0\x2f\xff\xff\xff\x0f" + bytes(12)
    yield "extended.webp", b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff"
    box = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"
    yield "a.avif", box + struct.pack(">I", 2**32 - 1) + b"meta" + bytes(60)
    yield "empty.png", b""
    yield "zeros.jpg", bytes(10**6)


def avi(width: int, height: int) -> bytes:
    """One frame without its pixels."""

    def part(kind: bytes, *parts: bytes) -> bytes:
        data = b"".join(parts)
        return kind + struct.pack("<I", len(data)) + data

    main = struct.pack("<14I", 40000, 0, 0, 0x10, 1, 0, 1, 10**6, width, height, 0, 0, 0, 0)
    stream = b"vidsDIB " + struct.pack(
        "<IHHIIIIIIIIhhhh", *[0] * 3, 0, 1, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0
    )
    frame = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    lists = part(b"LIST", b"strl", part(b"strh", stream), part(b"strf", frame))
    return part(
        b"RIFF", b"AVI ", part(b"LIST", b"hdrl", part(b"avih", main), lists),
        part(b"LIST", b"movi", part(b"00db", bytes(400))),
    )  # fmt: skip


def pictures() -> Cases:
    for name, content in [*heads(), ("a.avi", avi(12_000, 12_000)), ("b.avi", avi(60_000, 60_000))]:
        Path(name).write_bytes(content)
        yield name, ("restore", name, "-o", "out", "--task", "denoise")


def sets(tree: Path) -> Cases:
    """What is evaluated, or trained on."""
    config = str(next(tree.rglob("configs/denoise.py")))
    for name, content in itertools.islice(heads(), 0, None, 3):
        folder = Path("set", name)
        for part in ("input", "target"):
            (folder / part).mkdir(parents=True)
            (folder / part / name).write_bytes(content)
        options = ("--input", str(folder / "input"), "--target", str(folder / "target"))
        yield f"evaluate {name}", ("evaluate", *options, "--task", "denoise")
        run = ("-o", f"run-{name}", "--target", str(folder / "target"))
        yield f"train {name}", ("train", config, *run, "--set", "seed=1")


def checkpoints(tree: Path) -> Cases:
    """Folders that somebody sent."""
    whole = tree / "tlc_jax/weights/denoise"

    def sent(name: str, change: Callable[[Path], None]) -> tuple[str, tuple[str, ...]]:
        folder = Path("sent", name)
        shutil.copytree(whole, folder)
        change(folder)
        if name.startswith("info"):
            return name, ("info", str(folder))
        return name, ("restore", "good.png", "-o", "out", "--checkpoint", str(folder))

    def configured(**values: object) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            file = folder / "model.json"
            description = json.loads(file.read_text())
            description["config"] |= values
            file.write_text(json.dumps(description))

        return change

    for number, values in enumerate([
        {"middle_blk_num": 10**8}, {"width": 10**9}, {"width": -1}, {"width": 0},
        {"enc_blk_nums": [10**7] * 4}, {"enc_blk_nums": [1] * 10**5}, {"dec_blk_nums": []},
        {"width": 1e400}, {"width": "8"}, {"train_size": [10**30, 1]}, {"train_size": [-1, -1]},
        {"window": [10**9, 10**9]}, {"nothing": 1}, {"width": [[]]}, {"middle_blk_num": True},
    ]):  # fmt: skip
        yield sent(f"config-{number}", configured(**values))
        yield sent(f"info-{number}", configured(**values))

    def replaced(content: bytes) -> Callable[[Path], None]:
        return lambda folder: (folder / "model.json").write_bytes(content) and None

    for number, content in enumerate([
        b"", b"{", b"[]", b"null", b"[" * 10**6, b'{"a":' * 10**5, b'"' + b"a" * 10**8 + b'"',
        b"\xff\xfe", b'{"network": "nafnet", "config": {}, "format": 1e999}',
        b'{"network": "\\u001b[31m", "config": {}, "format": 1}',
    ]):  # fmt: skip
        yield sent(f"description-{number}", replaced(content))

    def special(make: Callable[[Path], None], name: str = "model.json") -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            (folder / name).unlink()
            make(folder / name)

        return change

    yield sent("pipe", special(os.mkfifo))
    yield sent("device", special(lambda path: path.symlink_to("/dev/zero")))
    yield sent("itself", special(lambda path: path.symlink_to(path.name)))
    yield sent("folder", special(Path.mkdir))
    files = sorted(p.relative_to(whole) for p in (whole / "params").rglob("*") if p.is_file())
    for number, name in enumerate(files[:: max(len(files) // 6, 1)]):
        yield sent(f"array-pipe-{number}", special(os.mkfifo, str(name)))
        yield sent(f"array-zero-{number}", special(lambda p: p.symlink_to("/dev/zero"), str(name)))
        yield sent(
            f"array-huge-{number}", lambda folder, name=name: os.truncate(folder / name, 2**40)
        )
        yield sent(
            f"array-text-{number}", special(lambda p: p.write_text("a" * 99) and None, str(name))
        )


def conversions() -> Cases:
    """Files that somebody published."""

    def convert(name: str) -> tuple[str, tuple[str, ...]]:
        return name, ("convert", name, f"out/{name}-converted")

    def header(name: str, entries: object, length: int | None = None, data: bytes = b"") -> None:
        text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
        size = len(text) if length is None else length
        Path(name).write_bytes(struct.pack("<Q", size) + text + data)

    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for number, (entries, length) in enumerate([
        ({f"a{i}": tensor | {"shape": [0], "data_offsets": [0, 0]} for i in range(3000)}, None),
        ({"a": tensor | {"shape": [10**9, 10**9]}}, None),
        ({"a": tensor}, 2**63), ({"a": tensor}, 2**62),
        ({"a\x1b[31m": tensor}, None), ({"a": tensor | {"data_offsets": [0, 2**60]}}, None),
        (b"[" * 10**5, None), ({}, None), ({"a" * 10**6: tensor}, None),
    ]):  # fmt: skip
        header(f"{number}.safetensors", entries, length, bytes(4))
        yield convert(f"{number}.safetensors")
    np.savez_compressed("bomb.npz", **{f"a{i}": np.zeros(2**28, np.uint8) for i in range(4)})
    yield convert("bomb.npz")
    with zipfile.ZipFile("many.npz", "w") as archive:
        for i in range(20_000):
            archive.writestr(f"{i}.npy", b"")
    yield convert("many.npz")
    for number, text in enumerate(
        ["(10**9, 10**9)", "(-1,)", "(0,)", "(" + "1," * 10**4 + ")", "'a'"]
    ):
        head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {text}, }}".encode()
        with zipfile.ZipFile(f"shape-{number}.npz", "w") as archive:
            archive.writestr(
                "a.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(head) % 2**16) + head
            )
        yield convert(f"shape-{number}.npz")
    np.savez("objects.npz", a=np.array([{}], object))
    yield convert("objects.npz")
    Path("code.pth").write_bytes(pickle.dumps(print))
    yield convert("code.pth")
    Path("deep.pth").write_bytes(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")
    yield convert("deep.pth")
    for content in (b"", b"PK\3\4", b"\x80\x02", bytes(10**6), b"PK\5\6" + bytes(18)):
        Path(f"{len(content)}-{content[:1].hex()}.pth").write_bytes(content)
        yield convert(f"{len(content)}-{content[:1].hex()}.pth")
    with zipfile.ZipFile("deflated.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
        archive.writestr("archive/data/0", bytes(2**30))
    yield convert("deflated.pth")
    try:
        import torch

        stretched = torch.zeros(1).as_strided((2**29,), (0,))
        torch.save({"intro.weight": stretched}, "stride.pth")
        yield convert("stride.pth")
    except ImportError:
        pass
    os.mkfifo("pipe.safetensors")
    yield convert("pipe.safetensors")
    for kind in (".pth", ".npz", ".safetensors", ".tgz"):
        Path(f"zero{kind}").symlink_to("/dev/zero")
        yield convert(f"zero{kind}")


ODD = [
    b"a\x1b[31m.png", b"a\nb.png", b"a\r.png", "a\u202eb.png".encode(), b"\xff\xfe.png", b"-x.png",
    b"a b.png", b"[bold].png", b":smile:.png", b"%s{}.png", b"a" * 240 + b".png",
    b"\xf0\x9f\x90\xb1.png",
    "a\u0301.png".encode(), b"a;b.png", b"a'b.png", b'a"b.png', b"\x7f.png", "\u2028.png".encode(),
]  # fmt: skip


def names() -> Cases:
    for number, name in enumerate(ODD):
        folder = f"names-{number}"
        Path(folder).mkdir()
        for content in ("good.png", None):
            path = os.path.join(os.fsencode(folder), name if content else b"bad" + name[:200])
            with open(path, "wb") as file:
                file.write(Path(content).read_bytes() if content else b"no picture")
        yield repr(name[:20]), ("restore", folder, "-o", f"out/{number}", "--task", "denoise")
        yield f"{name[:20]!r}, named", (
            "restore", os.path.join(os.fsencode(folder), name), "-o", f"out/named-{number}",
            "--task", "denoise",
        )  # fmt: skip
        yield f"{name[:20]!r}, checkpoint", ("restore", "good.png", "--checkpoint", name)


def values() -> Cases:
    restore = ("restore", "good.png", "-o", "out/values", "--task", "denoise")
    for option, given in {
        "--window": ["0", "-1", "9" * 5000, "1e9", "", "\x1b"],
        "--tiles": ["0", "-5", "9" * 30], "--strength": ["nan", "inf", "-1", "2", "1e400"],
        "--set": ["x", "=", "width", "width=" + "[" * 2000, "width=" + "9" * 5000,
                  "middle_blk_num=100000000"],
        "--max-pixels": ["0", "-1", "9" * 40], "--task": ["x", "", "denoise," * 3000],
        "--shifts": ["0", "-1", "9" * 20], "--quality-jpeg": ["0", "101", "x"],
        "--dtype": ["float64"],
        "--checkpoint": ["", ".", "/", "/dev/null", "a" * 5000],
        "-o": ["", "/", "/dev/null", "/proc/x"],
    }.items():  # fmt: skip
        for value in given:
            yield f"{option} {value[:20]!r}", (*restore, option, value)
    for size in ("x", "1x", "0x0", "-1x5", f"{10**30}x5", "99999999x99999999", "9" * 5000 + "x1"):
        yield f"--size {size[:20]}", ("info", "denoise", "--size", size)
    for host in ("a" * 300, "a..b", "", "256.1.1.1", "\x1b"):
        yield f"--host {host[:20]!r}", ("app", "--host", host, "--port", "1")
    for seed in (10**30, -1, "x"):
        yield f"seed {seed}", ("train", "denoise", "--set", f"seed={seed}", "-o", "run")


def places() -> Cases:
    restore = ("restore", "good.png", "--task", "denoise", "-o")
    Path("loop").symlink_to("loop")
    Path("closed").mkdir(mode=0o500)
    Path("dangling.png").symlink_to("nowhere/a.png")
    os.mkfifo("pipe.png")
    Path("zero.png").symlink_to("/dev/zero")
    (Path("circle") / "a").mkdir(parents=True)
    (Path("circle") / "a" / "b").symlink_to("..")
    Path("circle/good.png").write_bytes(Path("good.png").read_bytes())
    for output in (
        "loop",
        "loop/a.png",
        "good.png/a",
        "good.png",
        "/dev/full",
        "/sys/a",
        "a" * 300,
    ):
        yield f"-o {output[:20]}", (*restore, output)
    for source in (
        "loop",
        "dangling.png",
        "pipe.png",
        "zero.png",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/mem",
    ):
        yield source, ("restore", source, "--task", "denoise", "-o", "out")
    yield "circle", ("restore", "circle", "--recursive", "--task", "denoise", "-o", "out")
