"""What a file may take, seen before it is taken: its pixels, and what its directories say."""

import errno
import io
import os
import stat
import struct
from typing import BinaryIO

from tlc_jax.inference import memory

PIXELS = 2**28  # of a picture or a frame: more than those of any camera
DECODED = 16  # bytes of a pixel, for the samples and one copy, of 16 bits and with alpha
# Of TIFF: bytes of a number by its type, and the tags that point to other directories.
TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
TYPES |= {16: 8, 17: 8, 18: 8}
EXIF_IFD, GPS_IFD, INTEROPERABILITY, SUB_IFDS = 0x8769, 0x8825, 0xA005, 330
POINTERS = (EXIF_IFD, GPS_IFD, INTEROPERABILITY, SUB_IFDS)
PAGES = 2**14  # directories of a file
MOST_COPIED = 2**26  # bytes, of a small file that is only damaged
EXIF = b"Exif\0\0"

_limit = PIXELS


class TooLargeError(ValueError):
    """A picture that takes more than it may; the message is the end of a sentence."""


def limit_pixels(count: int) -> None:
    """Let pictures and frames have that many pixels, from now on in this process."""
    global _limit
    _limit = count


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read it; a pipe or a device, which might never end, is refused.

    Raises:
      OSError: it cannot be opened, or is not a file.
    """
    without_waiting = getattr(os, "O_NONBLOCK", 0)  # for somebody who writes to a pipe
    file = open(  # noqa: SIM115, as it is handed on
        path, "rb", opener=lambda name, flags: os.open(name, flags | without_waiting)
    )
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a file")
    return file


def most_pixels(each: int) -> int:
    """How many a picture may have, of so many bytes, by the limit and by the memory."""
    free = memory.free()
    return _limit if free is None else min(_limit, max(free, 0) // each)


def check_pixels(width: int, height: int, each: int = DECODED) -> None:
    """Refuse a picture of more pixels than are allowed, or than there is memory for.

    Args:
      width, height: what the head of its file says.
      each: bytes that a pixel takes for what is done next.

    Raises:
      TooLargeError: it is too large.
    """
    size = f"it is {width}x{height}, {width * height / 1e6:.1f} megapixels"
    if width * height > _limit:
        raise TooLargeError(
            f"{size}, of which {_limit / 1e6:.1f} are allowed; cut it into parts, or let more in "
            "by --max-pixels"
        )
    needed, free = width * height * each, memory.free()
    if free is not None and needed > free:
        raise TooLargeError(
            f"{size}, which take {needed / 2**30:.1f} GiB, and {max(free, 0) / 2**30:.1f} GiB of "
            "memory are free; cut it into parts"
        )


def check_directories(file: BinaryIO) -> None:
    """Refuse a TIFF file, or EXIF, whose directories say far more than there is.

    Pillow copies what each entry points to, so that 60,000 of them which point to the same bytes
    would fill the memory.

    Args:
      file: at any place; it ends there, too.

    Raises:
      TooLargeError: it is such a one. Other damage is left to who reads it.
    """
    whole = file.seek(0, 2)
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        return
    big = struct.unpack(f"{order}H", head[2:4])[0] == 43
    count, entry, offset = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    room = struct.calcsize(f"{order}{offset}")
    waiting = [struct.unpack_from(f"{order}{offset}", head, 8 if big else 4)[0]]
    seen: set[int] = set()
    copied = 0
    while waiting:
        at = waiting.pop()
        if at in seen or not 0 < at < whole:
            continue
        seen.add(at)
        file.seek(at)
        length = struct.calcsize(f"{order}{count}")
        entries = struct.unpack(f"{order}{count}", file.read(length).ljust(length, b"\0"))[0]
        size = struct.calcsize(f"{order}{entry}")
        rows = file.read(min(entries * size, whole))
        for tag, kind, number, value in struct.iter_unpack(
            f"{order}{entry}", rows[: len(rows) // size * size]
        ):
            taken = TYPES.get(kind, 0) * number
            copied += min(taken, whole) if taken > room else 0
            if tag in POINTERS and number == 1:
                waiting.append(struct.unpack(f"{order}{offset}", value)[0])
        if copied > max(2 * whole, MOST_COPIED) or len(seen) > PAGES:
            raise TooLargeError("its directories say more than there is in the file")
        after = file.read(room)
        if len(after) == room:
            waiting.append(struct.unpack(f"{order}{offset}", after)[0])


def check_exif(data: bytes) -> None:
    """`check_directories` of what a file that is no TIFF holds as EXIF."""
    check_directories(io.BytesIO(data.removeprefix(EXIF)))


def check_head(file: BinaryIO) -> None:
    """`check_directories` of those that Pillow reads as it opens a file, which is at its beginning.

    Raises:
      TooLargeError: as there.
    """
    head = file.read(12)
    if head[:2] in (b"II", b"MM"):
        check_directories(file)
    elif head[:2] == b"\xff\xd8":  # JPEG
        check_exif(_exif_of_jpeg(file))
    elif head[4:8] == b"ftyp":  # HEIF
        file.seek(0)
        check_exif(file.read().partition(EXIF)[2])
    file.seek(0)


def _exif_of_jpeg(file: BinaryIO) -> bytes:
    """All segments of it, which Pillow puts together."""
    found = b""
    file.seek(2)
    while len(head := file.read(4)) == 4 and head[0] == 0xFF and head[1] != 0xDA:  # of pixels
        data = file.read(max(0, int.from_bytes(head[2:], "big") - 2))
        if head[1] == 0xE1 and data.startswith(EXIF):
            found += data.removeprefix(EXIF)
    return found
