"""What a file says of a picture besides its pixels: EXIF, XMP, the size in print.

It goes from file to file as a picture is restored. Pixels are upright here, so that what EXIF and
XMP say of turning them is settled as they are read.
"""

import re
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tlc_jax.files.limits import EXIF, EXIF_IFD, GPS_IFD, INTEROPERABILITY, check_exif

if TYPE_CHECKING:
    from PIL import Image

ORIENTATION = 0x0112
XMP_TAG, ICC_TAG = 700, 34675
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
PIXELS_ACROSS, PIXELS_DOWN = 0xA002, 0xA003  # of EXIF_IFD
# What describes a picture and not how its file is laid out, which other tags of a TIFF do: its
# name, description, make, model, resolution and its unit, software, date, artist, host, rating,
# copyright, IPTC, and the title, comment, author, keywords and subject of Windows.
KEPT = {0x010D, 0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C}
KEPT |= {0x4746, 0x4749, 0x8298, 0x83BB, *range(0x9C9B, 0x9CA0)}


class Metadata(NamedTuple):
    """What goes into the file of a restored picture; `None` where there is none.

    Attributes:
      icc_profile: a colour profile.
      exif: as Pillow writes it, "Exif" and two zeros first; no thumbnail, and nothing to turn.
      xmp: XML; nothing to turn.
      dpi: pixels an inch, across and down.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None

    def profile_for(self, samples: np.ndarray) -> bytes | None:
        """The colour profile, if it is for the colours of samples (H, W, C)."""
        # Bytes 16 to 20 of a profile name the colours it is for; on other ones it does harm.
        colours = b"GRAY" if samples.shape[-1] < 3 else b"RGB "
        fits = self.icc_profile is not None and self.icc_profile[16:20] == colours
        return self.icc_profile if fits else None


NO_METADATA = Metadata()


def read_metadata(image: "Image.Image", size: tuple[int, int], notes: list[str]) -> Metadata:
    """The metadata of a decoded picture.

    Args:
      image: as Pillow has decoded it.
      size: (width, height) of the upright picture.
      notes: is told what is left out as it is damaged.
    """
    exif = None
    try:
        exif = _settled_exif(image, size)
    except Exception:  # Pillow meets damaged ones with almost any exception
        notes.append("EXIF left out, as it is damaged")
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if xmp is None and image.format == "TIFF":
        xmp = getattr(image, "tag_v2", {}).get(XMP_TAG)
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    if isinstance(xmp, bytes):
        xmp = re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]", rb"\g<1>1", xmp)
    else:
        xmp = None
    dpi = None
    try:
        across, down = map(float, image.info["dpi"])
        if 1 <= across < 1e5 and 1 <= down < 1e5:
            dpi = across, down
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        pass  # none, or damaged
    return Metadata(image.info.get("icc_profile") or None, exif, xmp, dpi)


def exif_of(image: "Image.Image") -> "Image.Exif":
    """What Pillow finds, but nothing that says more than there is."""
    from PIL import Image

    check_exif(image.info.get("exif") or b"")
    check_exif(bytes.fromhex("".join(image.info.get("Raw profile type exif", "").split("\n")[3:])))
    return Image.Image.getexif(image)  # not the PNG's own, which decodes the pixels in search of it


def _settled_exif(image: "Image.Image", size: tuple[int, int]) -> bytes | None:
    from PIL import Image

    told, kept = exif_of(image), Image.Exif()
    for tag in KEPT & told.keys():
        kept[tag] = told[tag]
    for ifd in (EXIF_IFD, GPS_IFD):
        if told.get_ifd(ifd):
            kept.get_ifd(ifd).update(told.get_ifd(ifd))
    if not kept.keys() and not kept.get_ifd(EXIF_IFD) and not kept.get_ifd(GPS_IFD):
        return None
    if ORIENTATION in told:
        kept[ORIENTATION] = 1
    details = kept.get_ifd(EXIF_IFD)
    details.pop(INTEROPERABILITY, None)
    for tag, length in zip((PIXELS_ACROSS, PIXELS_DOWN), size, strict=True):
        if tag in details:
            details[tag] = length
    return kept.tobytes()


def png_chunks(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """The metadata as chunks of a PNG: (type, data) of each."""
    chunks = []
    if metadata.icc_profile:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile)))
    if metadata.dpi:
        across, down = (round(number / 0.0254) for number in metadata.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", across, down, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif.removeprefix(EXIF)))
    if metadata.xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    return chunks


def tiff_tags(metadata: Metadata) -> dict[int, Any]:
    """The metadata as tags of a TIFF, as Pillow takes them."""
    from PIL import Image

    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    tags: dict[int, Any] = dict(exif)
    tags |= {ifd: exif.get_ifd(ifd) for ifd in (EXIF_IFD, GPS_IFD) if exif.get_ifd(ifd)}
    if metadata.dpi:
        tags[X_RESOLUTION], tags[Y_RESOLUTION] = metadata.dpi
        tags[RESOLUTION_UNIT] = 2  # an inch
    others = {XMP_TAG: metadata.xmp, ICC_TAG: metadata.icc_profile}
    return tags | {tag: content for tag, content in others.items() if content}
