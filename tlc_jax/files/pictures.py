"""Files <-> arrays: pictures at their full bit depth, upright, gray or RGB.

An image in memory is (H, W, C) float32 in [0, 1]; `to_float` and `from_float` are the only places
where whole numbers become fractions and back. Pillow is imported by the functions that need it, so
that importing the library stays cheap.
"""

import io
import os
import re
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import jax
import numpy as np

from tlc_jax.files.atomic import write_whole
from tlc_jax.ops.pixels import from_float, to_float, to_gray

if TYPE_CHECKING:
    from PIL import Image

LARGEST = 2**30  # pixels of a picture, far above any camera and far below a decompression bomb
DTYPES = {8: np.uint8, 16: np.uint16}  # by bits
CHUNK = 2**16  # bytes of a PNG chunk

# A closed list: of Pillow's other formats, some start programs (EPS) and some lose depth unnoticed.
READABLE = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM")
WRITABLE = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95},
    ".jpeg": {"format": "JPEG", "quality": 95},
    ".webp": {"format": "WEBP", "lossless": True},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF"},
}
ORIENTATION = 0x0112  # EXIF
BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR_CONFIGURATION = 258, 262, 284  # TIFF
# Pillow's names of byte orders (big, little, native), each with that of the opposite order.
OPPOSITE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


class ImageError(ValueError):
    """A picture that cannot be read or written; the message is a sentence for the user."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded file.

    Attributes:
      pixels: (H, W, C) uint8 or uint16, C = 1 for gray and 3 for RGB.
      alpha: (H, W) opacity of the same type, `None` where the file has none.
      icc_profile: the colour profile that describes `pixels`.
      notes: what was converted or left out, in plain words.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    icc_profile: bytes | None
    notes: tuple[str, ...]


def read_image(path: str | os.PathLike[str], *, channels: int | None = 3) -> np.ndarray:
    """Reads a picture as the networks take it.

    Args:
      path: a file that `read_picture` reads.
      channels: 3 for RGB, 1 for gray, `None` for what the file holds.

    Returns:
      (H, W, C) float32 in [0, 1].

    Raises:
      ImageError: if the file cannot be read.
      ValueError: another number of channels.
    """
    return to_float(read_picture(path, channels=channels).pixels)


def read_picture(
    path: str | os.PathLike[str], *, channels: int | None = None, file: BinaryIO | None = None
) -> Picture:
    """Reads a picture with all that is needed to write it back.

    Sets Pillow's limit on the size of pictures, which only exists once for the whole process, to
    2^30 pixels.

    Args:
      path: a PNG, JPEG, TIFF, WebP, BMP, GIF or PNM file; of several pictures in it, the
        first. 16 bits a channel are kept in PNG and TIFF files, and in gray ones of any format.
      channels: 3 repeats gray to RGB, 1 takes the BT.601 luma of colours, `None` keeps the file's.
      file: what to read; `path` then only names it. It is closed.

    Returns:
      The pixels as whole numbers, upright, and what else there is of them.

    Raises:
      ImageError: if the file cannot be read.
      ValueError: another number of channels.
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is 1, 3 or None, got {channels}.")
    try:
        with file or open(path, "rb") as encoded:
            samples, icc_profile, notes = _decode(encoded)
    except Exception as error:  # Pillow meets damaged files with almost any exception
        raise ImageError(f"cannot read {path}: {_why_unreadable(error)}.") from error

    pixels, alpha = samples, None
    if samples.shape[-1] in (2, 4):
        pixels, alpha = samples[..., :-1], np.ascontiguousarray(samples[..., -1])
    if (pixels.shape[-1], channels) == (1, 3):
        pixels = np.repeat(pixels, 3, axis=-1)
        notes.append("gray repeated to RGB")
    elif (pixels.shape[-1], channels) == (3, 1):
        pixels = to_gray(pixels)
        notes.append("RGB converted to gray")
    # Bytes 16 to 20 of a profile name the colours it is for; on other ones it does harm.
    colours = b"GRAY" if pixels.shape[-1] == 1 else b"RGB "
    if icc_profile and icc_profile[16:20] != colours:
        icc_profile = None
        notes.append("ICC profile dropped, as it describes other colours")
    return Picture(np.ascontiguousarray(pixels), alpha, icc_profile or None, tuple(notes))


def picture_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) that `read_picture` will give, from the head of the file alone.

    A PNG file may say how it is turned after its pixels; then the two are exchanged.

    Raises:
      ImageError: if the file cannot be read.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = LARGEST
    try:
        with Image.open(path, formats=READABLE) as image:
            width, height = image.size
            turned = image.format != "TIFF" and _orientation(image)  # Pillow turns those itself
    except Exception as error:
        raise ImageError(f"cannot read {path}: {_why_unreadable(error)}.") from error
    return (width, height) if turned in (5, 6, 7, 8) else (height, width)


def _why_unreadable(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    match error:
        case ImageError():
            return str(error)
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return f"it has more than {LARGEST} pixels; cut it into parts"
        case UnidentifiedImageError():
            return "it is no picture of a known kind, or damaged; give a PNG, JPEG, TIFF or WebP"
        case MemoryError():
            return "there is not enough memory for a picture of its size"
        case OSError(strerror=str(reason)):
            return reason.lower()
    return f"it is damaged or of a kind that cannot be decoded ({error})"


def _decode(file: BinaryIO) -> tuple[np.ndarray, bytes | None, list[str]]:
    """Upright samples (H, W, 1 to 4), where the last of 2 or 4 is alpha; ICC profile; notes."""
    from PIL import Image

    if not file.seek(0, os.SEEK_END):
        raise ImageError("it is empty")
    Image.MAX_IMAGE_PIXELS = LARGEST
    image = Image.open(file, formats=READABLE)
    if image.width * image.height > LARGEST:  # up to twice its limit Pillow only warns
        raise Image.DecompressionBombError
    _refuse_planes(image)
    # Pillow's name for the layout of 16-bit samples in the file, such as "RGB;16B".
    layout = re.search(r"(\w+);16([BLN])", str(image.tile[:1]))
    few_bits = re.search(r"'L;([24])'", str(image.tile[:1]))
    match image.tile:
        case [("ppm" | "ppm_plain", _, _, (_, int(white)))]:
            deep = white > 255
        case _:
            deep = layout is not None
    notes = []
    if (frames := getattr(image, "n_frames", 1)) > 1:
        notes.append(f"first of the {frames} pictures in the file")
    turned = _orientation(image) if image.format == "TIFF" else None  # by Pillow as it loads
    image.load()
    turn = _orientation(image)
    if (turned or turn) in range(2, 9):
        notes.append("turned upright as its EXIF orientation says")

    if layout and layout[1] in ("RGB", "RGBA", "LA"):
        samples = _sixteen_bit_colour(file, image, *layout.groups())
    else:
        image = _to_plain_mode(image, notes)
        samples = np.asarray(image).reshape(image.height, image.width, -1)
        if image.mode.startswith("I"):
            if samples.min() < 0 or samples.max() > 65535:
                raise ImageError("it has 32 bits a channel; save it with 8 or 16")
            samples = _full_scale(samples.astype(np.uint16), image, notes)
        elif deep:
            notes.append("16 bits a channel reduced to 8")

    key = image.info.get("transparency")
    if key is not None and samples.shape[-1] in (1, 3):  # the one colour that is transparent
        if few_bits:  # the key is as stored, but Pillow has stretched the samples to 8 bits
            key *= 255 // (2 ** int(few_bits[1]) - 1)
        opaque = (samples != np.array(key)).any(axis=-1, keepdims=True)
        samples = np.append(samples, from_float(opaque.astype(np.float32), samples.dtype), axis=-1)
    return _turn(samples, turn), image.info.get("icc_profile"), notes


def _sixteen_bit_colour(
    file: BinaryIO, image: "Image.Image", colours: str, order: str
) -> np.ndarray:
    """Samples (H, W, 2 to 4) uint16 of a file whose 16-bit colours Pillow cuts to 8 bits.

    Pillow has no mode for them, and decodes the high byte of each sample only. Told that the file
    has the opposite byte order, it decodes the low byte. For gray with alpha it knows one order,
    but the four bytes of a pixel pass as 8-bit RGBA.
    """
    from PIL import Image

    def decode(layout: str) -> np.ndarray:
        file.seek(0)
        image = Image.open(file, formats=READABLE)
        for i, tile in enumerate(image.tile):
            args = layout if isinstance(tile.args, str) else (layout, *(tile.args or ())[1:])
            image.tile[i] = tile._replace(args=args)
        return np.asarray(image).astype(np.uint16)

    if colours == "LA":
        high, low = np.split(decode("RGBA")[..., [0, 2, 1, 3]], 2, axis=-1)
    else:
        high = np.asarray(image).astype(np.uint16)
        low = decode(f"{colours};16{OPPOSITE[order]}")
    return high << 8 | low


def _full_scale(samples: np.ndarray, image: "Image.Image", notes: list[str]) -> np.ndarray:
    """Gray samples of a TIFF file with more than 8 bits, which Pillow leaves as they are stored."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(BITS_PER_SAMPLE) == (12,):
        samples = np.round(samples * (65535 / 4095)).astype(np.uint16)
        notes.append("12 bits a channel stretched to 16")
    return 65535 - samples if tags.get(PHOTOMETRIC) == 0 else samples  # 0 is white there


def _to_plain_mode(image: "Image.Image", notes: list[str]) -> "Image.Image":
    """The picture in one of Pillow's modes L, LA, RGB, RGBA and I, or I;16 in any byte order."""
    mode = image.mode
    if mode == "F":
        raise ImageError("it holds floating-point numbers; save it with 8 or 16 bits a channel")
    if mode == "CMYK":
        return _from_cmyk(image, notes)
    if mode in ("L", "LA", "RGB", "RGBA") or mode.startswith("I"):
        return image
    palette = "RGBA" if image.has_transparency_data else "RGB"
    target = {"1": "L", "La": "LA", "RGBa": "RGBA", "P": palette, "PA": palette}.get(mode, "RGB")
    kind = {"1": "black and white", "P": "palette", "PA": "palette"}.get(mode, mode)
    notes.append(f"{kind} converted to {'gray' if target.startswith('L') else target}")
    return image.convert(target)


def _from_cmyk(image: "Image.Image", notes: list[str]) -> "Image.Image":
    from PIL import ImageCms

    profile = io.BytesIO(image.info.pop("icc_profile", b""))
    try:
        srgb = ImageCms.createProfile("sRGB")
        rgb = ImageCms.buildTransform(profile, srgb, "CMYK", "RGB").apply(image)
    except ImageCms.PyCMSError:
        notes.append("CMYK converted to RGB without a usable ICC profile, so colours may be off")
        return image.convert("RGB")
    notes.append("CMYK converted to sRGB by its ICC profile")
    del rgb.info["icc_profile"]  # that of sRGB, which a file without a profile means anyway
    return rgb


def _refuse_planes(image: "Image.Image") -> None:
    """Refuses what Pillow decodes to noise: TIFF files with 16-bit colours plane by plane."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS_PER_SAMPLE, (8,))
    if tags.get(PLANAR_CONFIGURATION) == 2 and len(bits) > 1 and max(bits) > 8:
        raise ImageError("its 16-bit channels lie one after the other; save it interleaved")


def _orientation(image: "Image.Image") -> int | None:
    """As EXIF says, so far as it is read; a picture with a damaged one has none.

    A PNG may have it after the pixels, which its own method would decode in search of it.
    """
    from PIL import Image

    try:
        return Image.Image.getexif(image).get(ORIENTATION)
    except Exception:  # Pillow meets damaged ones with almost any exception
        return None


def _turn(samples: np.ndarray, orientation: int | None) -> np.ndarray:
    """Turns (H, W, C) as the EXIF orientation says, 1 to 8; any other value does nothing."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return samples[::down, ::right]


def write_image(
    path: str | os.PathLike[str],
    image: np.ndarray | jax.Array,
    *,
    alpha: np.ndarray | jax.Array | None = None,
    icc_profile: bytes | None = None,
    bits: int = 8,
) -> None:
    """Writes a picture, whole or not at all, in the format that its name ends in.

    Args:
      path: .png, or with 8 bits also .jpg, .jpeg, .webp (lossless), .tif, .tiff.
      image: (H, W, 1 or 3); floats are clipped to [0, 1], uint8 and uint16 written as they are.
      alpha: (H, W) opacity, converted to the depth of the picture; not for JPEG.
      icc_profile: the colour profile that describes `image`.
      bits: 8 or 16, the depth to which floats are rounded.

    Raises:
      ImageError: if the file cannot be written, or the image holds NaN.
      ValueError: another shape of the image or of its alpha, or other bits.
      TypeError: other types of numbers.
    """
    path, image = Path(path), np.asarray(image)
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"an image to write is (H, W, 1 or 3), got {image.shape}.")
    if alpha is not None and alpha.shape != image.shape[:2]:
        raise ValueError(f"alpha is (H, W) = {image.shape[:2]}, got {alpha.shape}.")
    if bits not in DTYPES:
        raise ValueError(f"bits is 8 or 16, got {bits}.")
    dtype = image.dtype if image.dtype in DTYPES.values() else DTYPES[bits]
    try:
        if not path.parent.is_dir():
            raise ImageError(f"there is no folder {path.parent}; create it first")
        if alpha is not None:
            image = np.concatenate([to_float(image), to_float(np.asarray(alpha))[..., None]], -1)
        write_whole(path, _encode(path.suffix.lower(), from_float(image, dtype), icc_profile))
    except (OSError, ValueError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else error
        raise ImageError(f"cannot write {path}: {reason}.") from error


def write_restored(path: str | os.PathLike[str], pixels: np.ndarray, source: Picture) -> None:
    """Writes what was made of a picture with its colour profile, and with its alpha if that fits.

    Args:
      path: as of `write_image`.
      pixels: (H, W, 1 or 3), whole numbers.
      source: the picture. Of another size the result does not say what opacity there is.

    Raises:
      ImageError: if the file cannot be written.
    """
    fits = source.alpha is not None and source.alpha.shape == pixels.shape[:2]
    alpha = source.alpha if fits else None
    write_image(path, pixels, alpha=alpha, icc_profile=source.icc_profile)


def _encode(suffix: str, samples: np.ndarray, icc_profile: bytes | None) -> bytes:
    from PIL import Image

    if suffix not in WRITABLE:
        raise ImageError(f"a name ends in {', '.join(WRITABLE)}, not in '{suffix}'")
    if samples.dtype == np.uint16:
        if suffix != ".png":
            raise ImageError("16 bits a channel are written as .png only")
        return _png_of_sixteen_bits(samples, icc_profile)
    if WRITABLE[suffix]["format"] == "JPEG" and samples.shape[-1] in (2, 4):
        raise ImageError("JPEG has no transparency; write a .png, or leave alpha out")
    encoded = io.BytesIO()
    samples = samples[..., 0] if samples.shape[-1] == 1 else samples
    Image.fromarray(samples).save(encoded, **WRITABLE[suffix], icc_profile=icc_profile)
    return encoded.getvalue()


def _png_of_sixteen_bits(samples: np.ndarray, icc_profile: bytes | None) -> bytes:
    """The one format that Pillow cannot write (PNG specification, third edition)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    h, w, c = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[c]  # by the number of channels
    rows = samples.astype(">u2", order="C").view(np.uint8).reshape(h, -1)
    sub = rows.copy()
    sub[:, 2 * c :] -= rows[:, : -2 * c]  # filter 1: each byte less that of the pixel on its left
    data = zlib.compress(np.insert(sub, 0, 1, axis=1).tobytes())
    profile = b"ICC profile\0\0" + zlib.compress(icc_profile) if icc_profile else b""
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, colour_type, 0, 0, 0)),
            chunk(b"iCCP", profile) if profile else b"",
            *(chunk(b"IDAT", data[i : i + CHUNK]) for i in range(0, len(data), CHUNK)),
            chunk(b"IEND", b""),
        ]
    )
