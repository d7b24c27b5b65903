"""Arrays -> files: pictures at their full bit depth, in the format that a name ends in.

A restored picture is written as its source was: with its depth, its alpha, its metadata, and as
finely as its format was set there. Pillow encodes, and imagecodecs PNGs.
"""

import io
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tlc_jax.files.atomic import write_atomically
from tlc_jax.files.metadata import Metadata, png_chunks, tiff_tags
from tlc_jax.files.pictures import (
    BITS_PER_SAMPLE,
    DTYPES,
    FORMATS,
    HEIGHT,
    PHOTOMETRIC,
    PLANAR_CONFIGURATION,
    WIDTH,
    ImageError,
    Picture,
    load_heif,
)
from tlc_jax.ops.pixels import FARTHEST, check_range, from_float, to_float, to_gray

# As Pillow takes it, or for PNG imagecodecs.
DEFAULTS: dict[str, dict[str, Any]] = {
    "PNG": {"level": 3},  # of libpng; 6 takes three times as long, for a tenth less
    "JPEG": {"quality": 95},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 90},
    "HEIF": {"quality": 90},
}
DEEP = ("PNG", "TIFF")  # of 16 bits, too
# What the luma of JPEG is divided by at quality 95, all frequencies together. A coarser source is
# written so, or its blocks would come back; that of a noisy one is no larger for it.
FINE = 375
LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_536, "HEIF": 16_384}  # pixels
LONGEST = 65_000  # bytes of EXIF or XMP in a JPEG
STRIP = 2**20  # bytes of a TIFF's strip, about
COMPRESSION, STRIP_OFFSETS, SAMPLES_PER_PIXEL, ROWS_PER_STRIP = 259, 273, 277, 278  # tags of TIFF
STRIP_BYTE_COUNTS, PREDICTOR, EXTRA_SAMPLES = 279, 317, 338


def write_image(
    path: str | os.PathLike[str],
    image: np.ndarray | jax.Array,
    *,
    alpha: np.ndarray | jax.Array | None = None,
    icc_profile: bytes | None = None,
    bits: int = 8,
) -> None:
    """Writes a picture atomically, in the format that its name ends in.

    Args:
      path: .png, .tif or .tiff, or with 8 bits also .jpg, .jpeg, .webp (lossless), .avif, .heic.
      image: (H, W, 1 or 3); floats are clipped to [0, 1], uint8 and uint16 written as they are.
      alpha: (H, W) opacity, converted to the depth of the picture; not for JPEG.
      icc_profile: the colour profile that describes `image`.
      bits: 8 or 16, the depth to which floats are rounded.

    Raises:
      ImageError: if the file cannot be written, or floats are NaN or far from [0, 1], as those of
        0 to 255 are.
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
        format = format_of(path)
        if image.dtype != dtype:
            check_range(to_float(image), -FARTHEST, FARTHEST)
        if alpha is not None:
            image = np.concatenate([to_float(image), to_float(np.asarray(alpha))[..., None]], -1)
        samples = from_float(image, dtype)
        if samples.dtype == np.uint16 and format not in DEEP:
            raise ImageError("16 bits a channel are written as .png or .tif only")
        if format == "JPEG" and samples.shape[-1] in (2, 4):
            raise ImageError("JPEG has no transparency; write a .png, or leave alpha out")
        _write(path, samples, Metadata(icc_profile), DEFAULTS[format])
    except (OSError, ValueError) as error:
        raise _not_written(path, error) from error


def write_restored(
    path: str | os.PathLike[str],
    pixels: np.ndarray,
    source: Picture,
    quality: int | None = None,
    png_level: int | None = None,
) -> list[str]:
    """Writes a restored picture as its source was: depth, colours, alpha, profile and metadata.

    Args:
      path: as of `write_image`. A file in the format of the source is encoded as that was, a JPEG
        at least as finely as with quality 95.
      pixels: (H, W, 1 or 3), whole numbers; made gray where the source is.
      source: the picture that was restored.
      quality: 1 to 100, of JPEG, AVIF, HEIC, and of WebP, which is then not lossless.
      png_level: 0 to 9, of PNG: how long to look for what makes the file smaller.

    Returns:
      What was left out or reduced, in words.

    Raises:
      ImageError: if the file cannot be written.
    """
    path, notes = Path(path), []
    try:
        format = format_of(path)
        if source.gray and pixels.shape[-1] == 3:
            pixels = to_gray(pixels)
        if pixels.dtype == np.uint16 and format not in DEEP:
            pixels = from_float(to_float(pixels), np.uint8)
            notes.append(f"16 bits a channel reduced to 8, all that {format} holds")
        if source.alpha is not None:
            if source.alpha.shape != pixels.shape[:2]:
                notes.append("alpha left out")
            elif format == "JPEG":
                notes.append("alpha left out, which JPEG does not have")
            else:
                alpha = from_float(to_float(source.alpha), pixels.dtype)
                pixels = np.concatenate([pixels, alpha[..., None]], axis=-1)
        about = source.metadata._replace(icc_profile=source.metadata.profile_for(pixels))
        if format == "JPEG":
            for name in ("exif", "xmp"):
                if len(getattr(about, name) or b"") > LONGEST:
                    about = about._replace(**{name: None})
                    notes.append(f"{name.upper()} left out, as it is longer than JPEG can hold")
        _write(path, pixels, about, _saving(format, source.saving, quality, png_level))
    except (OSError, ValueError) as error:
        raise _not_written(path, error) from error
    return notes


def has_format(path: Path, picture: Picture) -> bool:
    """Whether a file of this name is in the format that a picture came in."""
    return format_of(path) == picture.saving.get("format")


def copy_picture(source: Path, path: Path) -> None:
    """Copy a picture's file byte for byte.

    Raises:
      ImageError: if the file cannot be written.
    """
    try:
        write_atomically(path, source.read_bytes())
    except OSError as error:
        raise _not_written(path, error) from error


def check_holds(path: Path, height: int, width: int) -> None:
    """Refuse a size that the format of a file cannot hold, before the work is done.

    Raises:
      ImageError: the format holds less, or is none that is written.
    """
    try:
        most = LONGEST_SIDE.get(format_of(path), 2**31 - 1)
        if max(height, width) > most:
            raise ImageError(f"a side of such a file has at most {most} pixels; write a .png")
    except ImageError as error:
        raise _not_written(path, error) from None


def format_of(path: Path) -> str:
    """Pillow's name of the format that a file's name ends in.

    Raises:
      ImageError: it is none that is written; the message is the end of a sentence.
    """
    if (suffix := path.suffix.lower()) not in FORMATS:
        raise ImageError(f"a name ends in {', '.join(FORMATS)}, not in '{suffix}'")
    return FORMATS[suffix]


def _saving(
    format: str, source: Mapping[str, Any], quality: int | None, png_level: int | None
) -> dict[str, Any]:
    """How to save, given how the source is, and the quality or level that was asked for."""
    if format == "PNG":
        return DEFAULTS["PNG"] if png_level is None else {"level": png_level}
    # A JPEG in CMYK has tables, but for other colours than those that are written.
    if source.get("format") != format or (format == "JPEG" and "qtables" not in source):
        source = DEFAULTS[format]
    if quality is not None:
        return {"quality": quality, "subsampling": source.get("subsampling")}
    if sum(source.get("qtables", [[]])[0]) > FINE:
        return {"quality": 95, "subsampling": source.get("subsampling")}
    return {name: value for name, value in source.items() if name != "format"}


def _not_written(path: Path, error: Exception) -> ImageError:
    reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else error
    return ImageError(f"cannot write {path}: {reason}.")


def _write(path: Path, samples: np.ndarray, about: Metadata, saving: Mapping[str, Any]) -> None:
    """Samples (H, W, 1 to 4), where the last of 2 or 4 is alpha, saved as is told."""
    from PIL import Image

    if not path.parent.is_dir():
        raise ImageError(f"there is no folder {path.parent}; create it first")
    format = format_of(path)
    if format == "TIFF":
        return write_atomically(path, _tiff(samples, about))
    if format == "PNG":
        return write_atomically(path, _png(samples, about, **saving))
    told = {name: x for name, x in {**saving, **about._asdict()}.items() if x is not None}
    if format == "HEIF" and not load_heif():
        raise ImageError("HEIC needs pillow-heif; pip install 'tlc-jax[heic]', or write a .jpg")
    samples = samples[..., 0] if samples.shape[-1] == 1 else samples
    encoded = io.BytesIO()
    Image.fromarray(samples).save(encoded, format, **told)
    write_atomically(path, encoded.getvalue())


def _png(samples: np.ndarray, about: Metadata, level: int) -> bytes:
    """A PNG of any depth, which Pillow would cut to 8 bits, and the chunks of its metadata."""
    import imagecodecs

    encoded = bytes(imagecodecs.png_encode(np.ascontiguousarray(samples), level=level))
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in png_chunks(about)
    )
    end = 8 + 4 + 4 + 13 + 4  # of the signature and of IHDR: its length, type, data and checksum
    return encoded[:end] + chunks + encoded[end:]


def _tiff(samples: np.ndarray, about: Metadata) -> bytes:
    """A deflated TIFF, with tags by Pillow, whose own cuts to 8 bits or fails with EXIF."""
    from PIL import TiffImagePlugin

    if samples.shape[-1] == 2 and samples.dtype == np.uint16:
        samples = samples[..., [0, 0, 0, 1]]  # Pillow reads no gray of 16 bits with alpha
    h, w, c = samples.shape
    # Horizontal differencing, which helps deflate much: what a sample adds to the one before it.
    steps = np.diff(samples, axis=1, prepend=np.zeros_like(samples[:, :1]))
    steps = steps.astype(steps.dtype.newbyteorder("<"))
    rows = max(1, STRIP // steps[0].nbytes)
    strips = [zlib.compress(steps[top : top + rows].tobytes(), 3) for top in range(0, h, rows)]

    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.update(tiff_tags(about))
    tags[WIDTH], tags[HEIGHT], tags[BITS_PER_SAMPLE] = w, h, (8 * samples.itemsize,) * c
    tags[COMPRESSION], tags[PREDICTOR] = 8, 2
    tags[PHOTOMETRIC], tags[SAMPLES_PER_PIXEL] = (2 if c > 2 else 1), c
    tags[ROWS_PER_STRIP], tags[PLANAR_CONFIGURATION] = rows, 1
    if c in (2, 4):
        tags[EXTRA_SAMPLES] = 2  # alpha that colours were not multiplied by
    for tag in (STRIP_OFFSETS, STRIP_BYTE_COUNTS):
        tags.tagtype[tag] = 4  # long numbers, however small
    lengths = np.array([len(strip) for strip in strips])
    tags[STRIP_BYTE_COUNTS] = tuple(lengths.tolist())
    # From the end of the tags, where the strips begin; Pillow adds where that is.
    tags[STRIP_OFFSETS] = tuple((lengths.cumsum() - lengths).tolist())
    head = struct.pack("<2sHI", b"II", 42, 8)
    return b"".join([head, tags.tobytes(len(head)), *strips])
