"""Whether a file that is there was written to its end: a cut one is no result."""

import os
from pathlib import Path
from typing import BinaryIO

from tlc_jax.files.pictures import ImageError, read_picture

PNG, JPEG, MATROSKA = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x1a\x45\xdf\xa3"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
KINDS = PNG, JPEG, MATROSKA, *TIFF, b"RIFF"
SEGMENT = b"\x18\x53\x80\x67"  # of Matroska: all but the header


def is_done(path: Path) -> bool:
    """Whether a file reaches to its end, as the format of its content tells.

    What is of another format is left alone, unless it begins with nothing but zeros, as after a
    power cut; so is a folder.
    """
    if not path.is_file():
        return path.exists()
    with path.open("rb") as file:
        size, head = path.stat().st_size, file.read(16)
        if len(head) < 16:
            return any(head) and not any(kind.startswith(head[:8]) for kind in KINDS)
        if head.startswith(PNG):
            file.seek(max(size - 12, 0))
            return file.read()[4:8] == b"IEND"
        if head[:4] == b"RIFF":  # WebP
            return int.from_bytes(head[4:8], "little") + 8 <= size
        if head[4:8] == b"ftyp":  # MP4, QuickTime, AVIF, HEIC
            return _holds_boxes(file, size)
        if head.startswith(MATROSKA):
            return _holds_segment(file, size)
        if head.startswith(JPEG):
            file.seek(max(size - 2, 0))
            if file.read() == b"\xff\xd9":
                return True
    if head.startswith((JPEG, *TIFF)):  # whose end is no certain one
        try:
            read_picture(path)
        except ImageError:
            return False
    return any(head)


def _holds_boxes(file: BinaryIO, size: int) -> bool:
    """ISO/IEC 14496-12, section 4.2: boxes, and among them the one that says what lies where."""
    begin, kinds = 0, set()
    while begin < size:
        file.seek(begin)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length == 0:  # it reaches to the end, wherever that is
            length = size - begin
        if length < 8:
            return False
        kinds.add(head[4:8])
        begin += length
    return begin == size and bool(kinds & {b"moov", b"meta"})


def _holds_segment(file: BinaryIO, size: int) -> bool:
    """RFC 8794, section 4: the header, and the segment by its own length."""
    file.seek(4)
    file.seek(_length(file), os.SEEK_CUR)
    is_segment, length = file.read(4) == SEGMENT, _length(file)
    return is_segment and file.tell() + length <= size


def _length(file: BinaryIO) -> int:
    """A number of as many bytes as the first one has leading zeros, and one more."""
    first = file.read(1) or b"\1"
    more = 8 - first[0].bit_length()
    mask = (1 << 7 * (more + 1)) - 1
    number = int.from_bytes(first + file.read(more), "big") & mask
    return 2**63 if number == mask else number  # all ones: not known, as it was not finished
