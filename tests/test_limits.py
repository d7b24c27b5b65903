"""Files that ask for far more than they are: each is refused at its head, in little memory."""

import io
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tlc_jax.files import limits
from tlc_jax.files.pictures import ImageError, picture_size, read_picture
from tlc_jax.inference import memory

LITTLE = 600  # MiB


def directory(entries, length, order="<", at=8, following=0):
    """A TIFF's, of which all entries point to the same bytes."""
    rows = b"".join(struct.pack(f"{order}HHII", 40000 + i, 7, length, 0) for i in range(entries))
    kind = b"II" if order == "<" else b"MM"
    head = kind + struct.pack(f"{order}HI", 42, at)
    return (
        head.ljust(at, b"\0") + struct.pack(f"{order}H", entries) + rows
        + struct.pack(f"{order}I", following)
    )  # fmt: skip


def amplifying(size=300_000):
    """EXIF of little that says gigabytes."""
    return directory(20_000, size).ljust(size, b"\0")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def saved(format, **options):
    file = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), 99, np.uint8)).save(file, format, **options)
    return file.getvalue()


def png(width, height, bits=8, *after):
    header = struct.pack(">IIBBBBB", width, height, bits, 2 if bits == 8 else 0, 0, 0, 0)
    data = zlib.compress(bytes(32 * (1 + 3 * 48)))  # of a picture of 48x32
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, content)
        for kind, content in ((b"IHDR", header), *after, (b"IDAT", data), (b"IEND", b""))
    )


def gif(width, height):
    head = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(6)
    picture = b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0\x02\x02\x44\x01\0;"
    return head + picture


def bmp(width, height):
    """Run-length encoded."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 100, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1178, 0, 0, 1078) + head + bytes(1024) + bytes(100)


def jpeg(width, height):
    """One of 1 kB that says to be larger."""
    data = bytearray(saved("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def webp(width, height):
    file = saved("WEBP", lossless=True)
    at = file.index(b"VP8L") + 9
    bits = (
        int.from_bytes(file[at : at + 4], "little") >> 28 << 28 | (height - 1) << 14 | (width - 1)
    )
    return file[:at] + bits.to_bytes(4, "little") + file[at + 4 :]


LARGE = {
    "gif": gif(32_000, 32_000),
    "bmp": bmp(60_000, 60_000),
    "jpg": jpeg(65_000, 65_000),
    "png": png(2**30, 2**30),
    "1 bit.png": png(32_000, 32_000, 1),
    "pgm": b"P5 100000 100000 255\n",
    "webp": webp(16_384, 16_384),
    "tif": saved("TIFF").replace(
        struct.pack("<HHII", 256, 4, 1, 48), struct.pack("<HHII", 256, 4, 1, 2**30)
    ),
}  # fmt: skip


def grown(do):
    """Whether a task needs less than LITTLE, by the most that this process ever had."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    do()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < LITTLE


@pytest.mark.parametrize("name", LARGE)
def test_sizes_are_checked_before_anything_is_decoded(tmp_path, name, monkeypatch):
    path = tmp_path / f"a.{name}"
    path.write_bytes(LARGE[name])
    monkeypatch.setattr(limits, "_limit", 2**27)

    def read():
        for way in (read_picture, picture_size):
            with pytest.raises(ImageError, match=r"megapixels, of which 134\.2 are allowed; cut"):
                way(path)

    assert grown(read)


def test_memory_is_looked_at_before_anything_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(saved("PNG"))
    monkeypatch.setattr(memory, "free", lambda: limits.DECODED * 48 * 32)
    assert read_picture(path).pixels.shape == (32, 48, 3)
    monkeypatch.setattr(memory, "free", lambda: limits.DECODED * 48 * 32 - 1)
    with pytest.raises(
        ImageError, match=r"a\.png: it is 48x32, 0\.0 megapixels, which take 0\.0 G"
    ):
        read_picture(path)


def segments(exif):
    """In a JPEG, which has up to 64 kB in each."""
    data = saved("JPEG")
    parts = (exif[i : i + 65_000] for i in range(0, len(exif), 65_000))
    made = (b"\xff\xe1" + struct.pack(">H", len(p) + 8) + b"Exif\0\0" + p for p in parts)
    # Without the density of JFIF Pillow looks for it in EXIF as it opens the file.
    return data[:2] + b"".join(made) + data[data.index(b"\xff\xdb") :]


RIFF = saved("WEBP", lossless=True, exif=b"Exif\0\0" + amplifying())
AMPLIFIED = {
    "tif": amplifying(),
    "many.tif": amplifying()[:8] + amplifying()[8:].replace(b"\0" * 12, b"\1" * 12, 1),
    "jpg": segments(amplifying()),
    "png": png(48, 32, 8, (b"eXIf", amplifying())),
    "late.png": png(48, 32, 8)[:-12] + chunk(b"eXIf", amplifying()) + chunk(b"IEND", b""),
    "text.png": png(48, 32, 8, (
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(
            b"\nexif\n  300000\n" + amplifying().hex().encode()))),
    "webp": RIFF,
    "avif": saved("AVIF", exif=b"Exif\0\0" + amplifying()),
}  # fmt: skip


@pytest.mark.parametrize("name", AMPLIFIED)
def test_directories_say_no_more_than_there_is(tmp_path, name):
    """60,000 entries that point to the same bytes, of which Pillow would make as many copies."""
    path = tmp_path / f"a.{name}"
    path.write_bytes(AMPLIFIED[name])

    def read():
        try:
            assert "EXIF left out, as it is damaged" in read_picture(path).notes
        except ImageError as error:
            assert "more than there is" in str(error)

    assert grown(read)


def test_directories_of_honest_files(tmp_path):
    """Of several pages, of both orders of bytes, and with directories within directories."""
    pages = [Image.fromarray(np.full((32, 48), i, np.uint8)) for i in range(30)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert "first of the 30 pictures in the file" in read_picture(tmp_path / "a.tif").notes
    pages[0].save(tmp_path / "b.tif", big_tiff=True)
    assert read_picture(tmp_path / "b.tif").pixels.shape == (32, 48, 1)


def test_pages_have_an_end(tmp_path):
    """Pillow looks for each among all before it."""
    each = struct.pack("<HHHIIIH", 1, 256, 4, 1, 1, 0, 0)[:18]
    data = b"II" + struct.pack("<HI", 42, 8)
    for i in range(limits.PAGES + 10):
        data += each[:14] + struct.pack("<I", 8 + 18 * (i + 1))
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ImageError, match="its directories say more than there is"):
        read_picture(tmp_path / "a.tif")


def test_the_commands_refuse(terminal, tmp_path):
    """In one sentence, unless more is let in."""
    for name, data in (("a.png", png(9000, 30_000)), ("b.png", saved("PNG"))):
        (tmp_path / name).write_bytes(data)
    code, out, err = terminal(tmp_path, "restore", "a.png", "b.png", "-o", "out")
    assert (code, len(err.splitlines())) == (2, 1) and "b.png -> out/b.denoise.png" in out
    assert err.startswith(
        "tlc-jax: cannot read a.png: it is 9000x30000, 270.0 megapixels, of which"
    )
    code, _, err = terminal(
        tmp_path, "restore", "b.png", "-o", "c.png", "--max-pixels", str(48 * 32 - 1)
    )
    assert code == 2 and "48x32" in err and not (tmp_path / "c.png").exists()
    for folder in ("input", "target"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "b.png").write_bytes(saved("PNG"))
    folders = ("--input", "input", "--target", "target")
    code, _, err = terminal(tmp_path, "evaluate", *folders, "--max-pixels", "1")
    assert code == 2 and len(err.splitlines()) == 1 and "megapixels" in err


def test_frames_of_video(terminal, tmp_path):
    """By what the file says at its head, and by what a later frame is."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.avi"), "w") as file:
        stream = file.add_stream("mpeg4", 25)
        stream.width, stream.height = 640, 480
        frame = av.VideoFrame.from_ndarray(np.zeros((480, 640, 3), np.uint8))
        for packet in (*stream.encode(frame), *stream.encode()):
            file.mux(packet)
    options = ("-o", "b.mp4", "--max-pixels", str(640 * 480 - 1))
    code, _, err = terminal(tmp_path, "restore", "a.avi", *options)
    assert code == 2 and err.startswith("tlc-jax: cannot read a.avi: it is 640x480, 0.3 megapixels")
    # A head that says less than the frames are.
    data = (tmp_path / "a.avi").read_bytes()
    old, new = (struct.pack("<II", *size) for size in ((640, 480), (64, 48)))
    (tmp_path / "a.avi").write_bytes(data.replace(old, new))
    code, _, err = terminal(tmp_path, "restore", "a.avi", *options)
    assert code == 2 and err.startswith("tlc-jax: cannot read a.avi: ") and not err.count("\n") > 1
    assert not (tmp_path / "b.mp4").exists()
