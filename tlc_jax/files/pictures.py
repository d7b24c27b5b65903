"""Files -> arrays: pictures at their full bit depth, upright, gray or RGB.

An image in memory is (H, W, C) float32 in [0, 1]; `to_float` and `from_float` are the only places
where whole numbers become fractions and back. Pillow opens every file and decodes most; imagecodecs
decodes what Pillow would cut to 8 bits. Both are imported by the functions that need them, so that
importing the library stays cheap.
"""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from tlc_jax.files.limits import DECODED, TooLargeError, check_head, check_pixels, open_file
from tlc_jax.files.metadata import NO_METADATA, ORIENTATION, Metadata, exif_of, read_metadata
from tlc_jax.ops.pixels import to_float, to_gray

if TYPE_CHECKING:
    from PIL import Image, ImageFile

LARGEST_TILE = 2**24  # pixels of a TIFF's tile, as it is decoded whole
DTYPES = {8: np.uint8, 16: np.uint16}  # by bits

# A closed list: of Pillow's other formats, some start programs (EPS) and some lose depth unnoticed.
READABLE = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "BMP", "GIF", "PPM")
FORMATS = {  # that are written, by the end of a file's name
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
}
# What cameras' sensors saw; of most of these files Pillow would decode a small preview.
RAW = {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".gpr", ".iiq", ".kdc"}
RAW |= {".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl"}
RAW |= {".sr2", ".srf", ".srw", ".x3f"}
OF_RAW = (
    "it is a raw file of a camera; develop it first, as with darktable or RawTherapee, and give "
    "the TIFF or JPEG"
)
NEW_SUBFILE_TYPE, DNG_VERSION = 254, 50706  # TIFF
WIDTH, HEIGHT, BITS_PER_SAMPLE, PHOTOMETRIC = 256, 257, 258, 262  # TIFF
PLANAR_CONFIGURATION, TILE_WIDTH, TILE_HEIGHT = 284, 322, 323
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
HEAD = 2**16  # bytes, which tell the depth
PLAIN = ("L", "LA", "RGB", "RGBA", "CMYK", "I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes
KINDS = {"1": "black and white", "P": "palette", "PA": "palette"}  # of others


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
      gray: whether the file is gray, also where `pixels` are RGB.
      metadata: EXIF and the like.
      saving: how Pillow is to save a picture like it: its "format", and what that knows.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    icc_profile: bytes | None
    notes: tuple[str, ...]
    gray: bool = False
    metadata: Metadata = NO_METADATA
    saving: Mapping[str, Any] = field(default_factory=dict)


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

    Takes Pillow's limit on the size of pictures away, which is one for the whole process; that of
    `files.limits` takes its place.

    Args:
      path: a PNG, JPEG, TIFF, WebP, AVIF, BMP, GIF or PNM file, or HEIC where pillow-heif is
        installed; of several pictures in it, the first.
        16 bits a channel are kept in PNG and TIFF files, and in gray ones of any format.
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
    with _reading(path), file or open_file(path) as encoded:
        samples, image, notes = _decode(encoded)
        h, w, _ = samples.shape
        metadata = read_metadata(image, (w, h), notes)
        saving = _saving(image, encoded)

    pixels, alpha, gray = samples, None, samples.shape[-1] < 3
    if samples.shape[-1] in (2, 4):
        pixels, alpha = samples[..., :-1], np.ascontiguousarray(samples[..., -1])
    if (pixels.shape[-1], channels) == (1, 3):
        pixels = np.repeat(pixels, 3, axis=-1)
        notes.append("gray repeated to RGB")
    elif (pixels.shape[-1], channels) == (3, 1):
        pixels = to_gray(pixels)
        notes.append("RGB converted to gray")
    profile = metadata.profile_for(pixels)
    if profile is None and metadata.icc_profile and not (gray and pixels.shape[-1] == 3):
        notes.append("ICC profile dropped, as it describes other colours")
    return Picture(
        np.ascontiguousarray(pixels), alpha, profile, tuple(notes), gray, metadata, saving
    )


def picture_size(path: str | os.PathLike[str], *, each: int = DECODED) -> tuple[int, int]:
    """(height, width) that `read_picture` will give, from the head of the file alone.

    A PNG file may say how it is turned after its pixels; then the two are exchanged.

    Args:
      path: the file.
      each: bytes of a pixel for which there has to be memory, or 0 to tell the size all the same.

    Raises:
      ImageError: if the file cannot be read.
    """
    with _reading(path), open_file(path) as file, _opened(file, each) as image:
        width, height = image.size
        turned = image.format != "TIFF" and _orientation(image)  # Pillow turns those itself
    return (width, height) if turned in (5, 6, 7, 8) else (height, width)


@contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Takes Pillow's limit away, and turns what goes wrong into a sentence that names the file."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None
    try:
        if os.path.splitext(path)[1].lower() in RAW:
            raise ImageError(OF_RAW)
        yield
    except Exception as error:  # Pillow meets damaged files with almost any exception
        match error:
            case ImageError() | TooLargeError():
                reason = str(error)
            case UnidentifiedImageError():
                reason = (
                    "it is no picture of a known kind, or damaged; give a PNG, JPEG, TIFF or WebP"
                )
            case MemoryError():
                reason = "there is not enough memory for a picture of its size"
            case OSError(strerror=str(reason)):
                reason = reason.lower()
            case _:
                reason = f"it is damaged or of a kind that cannot be decoded ({error})"
        raise ImageError(f"cannot read {path}: {reason}.") from error


def _opened(file: BinaryIO, each: int = DECODED) -> "ImageFile.ImageFile":
    """A picture of which Pillow has read the head."""
    from PIL import Image

    head = file.read(12)
    if not head:
        raise ImageError("it is empty")
    formats = READABLE
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS:
        if not load_heif():
            raise ImageError("it is HEIC, which needs pillow-heif; pip install 'tlc-jax[heic]'")
        formats = ("HEIF",)
    if head[8:10] == b"CR":  # of Canon, in a TIFF
        raise ImageError(OF_RAW)
    file.seek(0)
    check_head(file)
    image = Image.open(file, formats=formats)
    check_pixels(*image.size, each)
    tags = _tags(image)
    if DNG_VERSION in tags:
        raise ImageError(OF_RAW)
    if tags.get(NEW_SUBFILE_TYPE, 0) & 1:
        raise ImageError(
            "its first picture is a small preview of another, as in raw files; save that alone"
        )
    return image


def load_heif() -> bool:
    """Have Pillow read and write HEIC, where pillow-heif is installed; whether it is."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _decode(file: BinaryIO) -> tuple[np.ndarray, "ImageFile.ImageFile", list[str]]:
    """Upright samples (H, W, 1 to 4), where the last of 2 or 4 is alpha; the picture; notes."""
    image = _opened(file)
    file.seek(0)
    head = file.read(HEAD)
    mode, bits, notes = image.mode, _bits(image, head), []
    # Of a TIFF file before Pillow turns it upright as it loads; of a PNG, which may say it after
    # its pixels, once Pillow has seen those.
    orientation = _orientation(image) if image.format == "TIFF" else None
    if (frames := getattr(image, "n_frames", 1)) > 1:
        notes.append(f"first of the {frames} pictures in the file")

    if image.format == "TIFF" and bits == 16 and mode in ("LA", "RGB", "RGBA", "RGBX"):
        samples, turn = _decode_tiff(file, image), orientation
    else:
        image.load()
        turn = _orientation(image)
        if image.format == "PNG" and (bits == 16 or "transparency" in image.info):
            samples = _decode_png(file)
        else:
            samples = _to_samples(image, notes)
    if (orientation or turn) in range(2, 9):
        notes.append("turned upright as its EXIF orientation says")
    if mode not in PLAIN:
        to = {1: "gray", 2: "gray", 3: "RGB", 4: "RGBA"}[samples.shape[-1]]
        notes.append(f"{KINDS.get(mode, mode)} converted to {to}")
    if bits > 8 and samples.dtype == np.uint8:
        notes.append(f"{bits} bits a channel reduced to 8")
    return _turn(samples, turn), image, notes


def _bits(image: "ImageFile.ImageFile", head: bytes) -> int:
    """How many a channel has in the file, of which Pillow may keep 8."""
    match image.format, image.tile:
        case "PNG", _:
            return head[24]  # of IHDR, which comes first in every file
        case "TIFF", _:
            return max(_tags(image).get(BITS_PER_SAMPLE, (1,)))
        case "PPM", [(_, _, _, (_, int(white)))]:
            return white.bit_length()
        case "AVIF" | "HEIF", _:
            box = head.find(b"pixi")  # its type, 4 bytes of flags, the channels, bits of the first
            return head[box + 9] if 0 <= box < len(head) - 9 else 8
    return 8


def _saving(image: "ImageFile.ImageFile", file: BinaryIO) -> dict[str, Any]:
    """How Pillow is to save a picture so that it is encoded as this one is, but for pixels."""
    from PIL import JpegImagePlugin

    saving: dict[str, Any] = {"format": "JPEG" if image.format == "MPO" else image.format}
    match image:
        case JpegImagePlugin.JpegImageFile(quantization=tables, layers=1 | 3):
            saving |= {"qtables": tables, "progressive": "progressive" in image.info}
            if image.layers == 3:
                saving["subsampling"] = max(0, JpegImagePlugin.get_sampling(image))
        case _ if image.format == "WEBP":
            file.seek(0)
            saving |= {"lossless": True} if _is_lossless_webp(file) else {"quality": 95}
    return saving


def _is_lossless_webp(file: BinaryIO) -> bool:
    """Whether the pixels lie in a chunk VP8L, after others or not."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        kind, length = head[:4], int.from_bytes(head[4:], "little")
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        file.seek(length + length % 2, os.SEEK_CUR)
    return False


def _tags(image: "Image.Image") -> Mapping[int, Any]:
    """Those of a TIFF file; other pictures have none."""
    return getattr(image, "tag_v2", {})


def _decode_png(file: BinaryIO) -> np.ndarray:
    """Samples of a file of any depth, its transparent colour made into alpha."""
    import imagecodecs

    file.seek(0)
    samples = imagecodecs.png_decode(file.read())
    return samples.reshape(*samples.shape[:2], -1)


def _decode_tiff(file: BinaryIO, image: "ImageFile.ImageFile") -> np.ndarray:
    """Samples, not turned, of a file with 16-bit colours, interleaved or plane by plane."""
    import imagecodecs

    tags = _tags(image)
    h, w, c = tags[HEIGHT], tags[WIDTH], len(tags[BITS_PER_SAMPLE])
    planes = tags.get(PLANAR_CONFIGURATION) == 2
    if tags.get(TILE_WIDTH, 0) * tags.get(TILE_HEIGHT, 0) > max(h * w, LARGEST_TILE):
        raise ImageError("its tiles are far larger than the picture; save it in strips")
    # Of the size that was checked: what else a hostile file may claim does not fit.
    samples = np.empty((c, h, w) if planes else (h, w, c), np.uint16)
    file.seek(0)
    imagecodecs.tiff_decode(file.read(), index=0, out=samples)
    samples = np.moveaxis(samples, 0, -1) if planes else samples
    return samples[..., : len(image.mode.removesuffix("X"))]


def _to_samples(image: "Image.Image", notes: list[str]) -> np.ndarray:
    """Samples of what Pillow has decoded, 8 bits, or 16 for gray."""
    if image.mode == "F":
        raise ImageError("it holds floating-point numbers; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        return _sixteen_bit_gray(image, notes)
    if image.mode == "CMYK":
        image = _from_cmyk(image, notes)
    target = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    target += "A" if image.has_transparency_data else ""
    image = image if image.mode == target else image.convert(target)
    return np.asarray(image).reshape(image.height, image.width, -1)


def _sixteen_bit_gray(image: "Image.Image", notes: list[str]) -> np.ndarray:
    """Pillow leaves samples of more than 8 bits as a TIFF file stores them."""
    samples = np.asarray(image)[..., None]
    if samples.min() < 0 or samples.max() > 65535:
        raise ImageError("it has 32 bits a channel; save it with 8 or 16")
    samples = samples.astype(np.uint16)
    tags = _tags(image)
    if tags.get(BITS_PER_SAMPLE) == (12,):
        samples = np.round(samples * (65535 / 4095)).astype(np.uint16)
        notes.append("12 bits a channel stretched to 16")
    return 65535 - samples if tags.get(PHOTOMETRIC) == 0 else samples  # 0 is white there


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


def _orientation(image: "Image.Image") -> int | None:
    """The EXIF orientation; `None` if there is none, it is damaged, or not read yet."""
    try:
        return exif_of(image).get(ORIENTATION)
    except Exception:  # Pillow meets damaged ones with almost any exception
        return None


def _turn(samples: np.ndarray, orientation: int | None) -> np.ndarray:
    """Turns (H, W, C) as the EXIF orientation says, 1 to 8; any other value does nothing."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return samples[::down, ::right]
