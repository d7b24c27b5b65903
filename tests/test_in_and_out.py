"""What a file says besides its pixels goes into the file of the restored picture."""

import io
import re
import sys

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin

from tlc_jax.files.pictures import ImageError, picture_size, read_picture
from tlc_jax.files.writing import check_holds, write_image, write_restored

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]  # nobody here reads on
ORIENTATION, MAKE, DATE, XMP_TAG, EXIF, GPS = 0x0112, 0x010F, 0x0132, 700, 0x8769, 0x8825
EXPOSURE, ACROSS, DOWN, LENS = 0x829A, 0xA002, 0xA003, 0xA434
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:D tiff:Orientation="{}" dc:rights="©"/></x:xmpmeta>'
H, W = 24, 40  # as it lies in the file, a quarter turn from upright


def smooth(h=H, w=W, dtype=np.uint8):
    rows, columns = np.mgrid[:h, :w]
    waves = [np.sin(rows / 9 + k) * np.cos(columns / 7 - k) for k in range(3)]
    top = np.iinfo(dtype).max
    return np.rint((0.5 + 0.4 * np.stack(waves, -1)) * top).astype(dtype)


def exif(thumbnail=False):
    tags = Image.Exif()
    tags[ORIENTATION], tags[MAKE], tags[DATE] = 6, "Acme", "2024:05:01 10:00:00"
    tags.get_ifd(EXIF).update({EXPOSURE: (1, 100), ACROSS: W, DOWN: H, LENS: "50 mm"})
    tags.get_ifd(GPS).update({1: "N", 2: (47.0, 22.0, 30.0)})
    return tags


def save(path, pixels, **options):
    """A file with EXIF, XMP, a profile and 300 pixels an inch, as others write it."""
    tags, told = exif(), {"dpi": (300, 300), "icc_profile": SRGB, "xmp": XMP.format(6).encode()}
    if path.suffix == ".png":
        told["pnginfo"] = PngImagePlugin.PngInfo()
        told["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.format(6))
    tags.load(tags.tobytes())  # or Pillow leaves parts of it out of a TIFF
    if path.suffix == ".tif":
        tags[XMP_TAG] = XMP.format(6).encode()
    Image.fromarray(pixels).save(path, exif=tags, **told, **options)
    return path


def told(path):
    """What an independent reader finds, as ints and text."""
    with Image.open(path) as image:
        image.load()
        tags = Image.Image.getexif(image)
        details, place = tags.get_ifd(EXIF), tags.get_ifd(GPS)
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or tags.get(XMP_TAG)
        return {
            "format": image.format,
            "size": image.size,
            "orientation": tags.get(ORIENTATION, 1),
            "make": tags.get(MAKE),
            "date": tags.get(DATE),
            "exposure": tuple(map(float, details[EXPOSURE])),
            "lens": details.get(LENS),
            "recorded": (details.get(ACROSS), details.get(DOWN)),
            "latitude": tuple(map(float, place[2])),
            "xmp": xmp if isinstance(xmp, str) else xmp.decode(),
            "profile": image.info.get("icc_profile"),
        }


FORMATS = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".avif": "AVIF", ".tif": "TIFF"}


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("of", FORMATS)
def test_metadata_goes_from_format_to_format(tmp_path, of, to):
    source = read_picture(save(tmp_path / f"in{of}", smooth()), channels=3)
    assert source.pixels.shape == (W, H, 3)  # upright
    assert write_restored(tmp_path / f"out{to}", source.pixels, source) == []
    xmp = XMP.format(1)
    if of == ".tif":  # which Pillow turns itself
        xmp = xmp.replace('tiff:Orientation="1"', "")
    assert told(tmp_path / f"out{to}") == {
        "format": FORMATS[to],
        "size": (H, W),
        "orientation": 1,
        "make": "Acme",
        "date": "2024:05:01 10:00:00",
        "exposure": (1.0, 100.0),
        "lens": "50 mm",
        "recorded": (H, W),
        "latitude": (47.0, 22.0, 30.0),
        "xmp": xmp,
        "profile": SRGB,
    }
    again = read_picture(tmp_path / f"out{to}")
    assert again.notes == ()  # nothing is to be turned a second time
    assert np.abs(again.pixels.astype(int) - source.pixels).mean() < 2
    if of in (".jpg", ".png", ".tif") and to in (".jpg", ".png", ".tif"):
        np.testing.assert_allclose(again.metadata.dpi, 300, atol=0.01)


@pytest.mark.parametrize("to", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_metadata_at_sixteen_bits(tmp_path, to, channels, with_alpha):
    """Read by another library, too, which knows nothing of ours."""
    source = read_picture(save(tmp_path / "in.jpg", smooth()), channels=3)
    pixels = smooth(W, H, np.uint16)[..., :channels] | 1  # no multiples of 257
    if channels == 1:
        source = read_picture(save(tmp_path / "in.jpg", smooth()[..., 0]))
    if with_alpha:
        source.__dict__["alpha"] = pixels[::-1, :, 0]
    path = tmp_path / f"out{to}"
    assert write_restored(path, pixels, source) == []
    again = read_picture(path)
    if (channels, with_alpha, to) == (1, True, ".tif"):  # as RGB, for Pillow
        pixels = pixels.repeat(3, axis=-1)
    np.testing.assert_array_equal(again.pixels, pixels)
    decode = imagecodecs.png_decode if to == ".png" else imagecodecs.tiff_decode
    decoded = decode(path.read_bytes()).reshape(W, H, -1)
    np.testing.assert_array_equal(decoded[..., : pixels.shape[-1]], pixels)
    if with_alpha:
        np.testing.assert_array_equal(again.alpha, pixels[::-1, :, 0])
        np.testing.assert_array_equal(decoded[..., -1], pixels[::-1, :, 0])
    with Image.open(path) as image:
        tags = Image.Image.getexif(image)
        assert tags[MAKE] == "Acme" and tags.get_ifd(GPS)[2] == (47.0, 22.0, 30.0)
    np.testing.assert_allclose(again.metadata.dpi, 300, atol=0.01)
    assert again.metadata.xmp.decode() == XMP.format(1)


def test_a_large_tiff_is_in_strips_and_compressed(tmp_path):
    source = read_picture(save(tmp_path / "in.jpg", smooth(700, 900)), channels=3)
    pixels = np.rot90(smooth(700, 900, np.uint16), -1).copy()
    write_restored(tmp_path / "out.tif", pixels, source)
    np.testing.assert_array_equal(read_picture(tmp_path / "out.tif").pixels, pixels)
    assert (tmp_path / "out.tif").stat().st_size < 0.8 * pixels.nbytes


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [60, 92, 98])
def test_a_jpeg_is_encoded_as_its_source(tmp_path, subsampling, quality):
    """But not coarser than at quality 95."""
    path = tmp_path / "in.jpg"
    save(path, smooth(), quality=quality, subsampling=subsampling)
    picture = read_picture(path)
    write_restored(tmp_path / "out.jpg", picture.pixels, picture)
    expected = io.BytesIO()
    Image.fromarray(smooth()).save(expected, "JPEG", quality=max(95, quality))
    with Image.open(tmp_path / "out.jpg") as out, Image.open(expected) as fine:
        assert JpegImagePlugin.get_sampling(out) == subsampling
        assert out.quantization == fine.quantization
    write_restored(tmp_path / "out.jpg", picture.pixels, picture, quality=40)
    Image.fromarray(smooth()).save(expected := io.BytesIO(), "JPEG", quality=40)
    with Image.open(tmp_path / "out.jpg") as out, Image.open(expected) as coarse:
        assert JpegImagePlugin.get_sampling(out) == subsampling
        assert out.quantization == coarse.quantization


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_loses_what_its_source_lost(tmp_path, lossless):
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "in.webp", lossless=lossless, icc_profile=SRGB)
    picture = read_picture(tmp_path / "in.webp")
    write_restored(tmp_path / "out.webp", noise, picture)
    assert (read_picture(tmp_path / "out.webp").pixels == noise).all() == lossless


def test_gray_stays_gray(tmp_path):
    """With its profile, which is for gray."""
    Image.fromarray(smooth()[..., 0]).save(tmp_path / "in.jpg", icc_profile=GRAY_PROFILE)
    picture = read_picture(tmp_path / "in.jpg", channels=3)
    write_restored(tmp_path / "out.jpg", picture.pixels, picture)
    again = read_picture(tmp_path / "out.jpg")
    assert again.pixels.shape == (H, W, 1) and again.icc_profile == GRAY_PROFILE


def test_what_a_format_cannot_hold_is_told(tmp_path):
    pixels, alpha = smooth(dtype=np.uint16), smooth(dtype=np.uint16)[..., 0]
    deep = np.concatenate([pixels, alpha[..., None]], -1)
    (tmp_path / "in.png").write_bytes(imagecodecs.png_encode(deep))
    picture = read_picture(tmp_path / "in.png")
    told = write_restored(tmp_path / "out.jpg", picture.pixels, picture)
    assert told == [
        "16 bits a channel reduced to 8, all that JPEG holds",
        "alpha left out, which JPEG does not have",
    ]
    assert write_restored(tmp_path / "out.webp", picture.pixels, picture) == [
        "16 bits a channel reduced to 8, all that WEBP holds"
    ]
    assert np.abs(read_picture(tmp_path / "out.webp").alpha - alpha / 257).max() <= 1


def test_long_metadata(tmp_path):
    """JPEG holds 64 KiB of each."""
    tags = exif()
    tags.get_ifd(EXIF)[0x927C] = bytes(70_000)  # a camera's own
    Image.fromarray(smooth()).save(tmp_path / "in.webp", exif=tags, xmp=b"x" * 70_000)
    picture = read_picture(tmp_path / "in.webp")
    assert len(write_restored(tmp_path / "out.jpg", picture.pixels, picture)) == 2
    assert write_restored(tmp_path / "out.webp", picture.pixels, picture) == []


def test_a_thumbnail_does_not_stay(tmp_path):
    """It would show what the picture was."""
    small = io.BytesIO()
    Image.fromarray(smooth()).resize((16, 8)).save(small, "JPEG")
    tags = exif()
    tags.get_ifd(1).update({0x0103: 6, 0x0201: 0, 0x0202: len(small.getvalue())})
    Image.fromarray(smooth()).save(tmp_path / "in.jpg", exif=tags.tobytes() + small.getvalue())
    picture = read_picture(tmp_path / "in.jpg")
    write_restored(tmp_path / "out.jpg", picture.pixels, picture)
    with Image.open(tmp_path / "out.jpg") as image:
        assert not image.getexif().get_ifd(1)
    assert small.getvalue() not in (tmp_path / "out.jpg").read_bytes()


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("damage", range(8, 120, 7))
def test_damaged_exif_costs_no_picture(tmp_path, damage):
    content = bytearray(exif().tobytes())
    content[damage : damage + 4] = b"\xff\xff\xff\x7f"
    Image.fromarray(smooth()).save(tmp_path / "in.jpg", exif=bytes(content))
    picture = read_picture(tmp_path / "in.jpg")
    for name in ("out.jpg", "out.tif", "out.png"):
        write_restored(tmp_path / name, picture.pixels, picture)
        assert read_picture(tmp_path / name).pixels.shape == picture.pixels.shape


def test_two_pictures_in_a_jpeg(tmp_path):
    """As phones write them, with a map of depth or brightness behind."""
    pictures = [Image.fromarray(smooth()), Image.fromarray(smooth()[::-1])]
    pictures[0].save(tmp_path / "in.jpg", "MPO", save_all=True, append_images=pictures[1:])
    picture = read_picture(tmp_path / "in.jpg")
    assert "first of the 2 pictures in the file" in picture.notes
    write_restored(tmp_path / "out.jpg", picture.pixels, picture)
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.format == "JPEG"


@pytest.mark.parametrize(("name", "most"), [("a.webp", 16383), ("a.jpg", 65500)])
def test_a_size_that_a_format_does_not_hold(tmp_path, name, most):
    """It is told before the work; what is told to fit does."""
    check_holds(tmp_path / name, 1, most)
    write_image(tmp_path / name, np.zeros((1, most, 1)))
    with pytest.raises(ImageError, match=f"{name}: a side of such a file has at most {most}"):
        check_holds(tmp_path / name, most + 1, 1)
    with pytest.raises(ImageError):
        write_image(tmp_path / name, np.zeros((1, most + 1, 1)))


# Raw files and HEIC


def a_dng(path):
    """A preview first, as cameras write it."""
    Image.fromarray(smooth()).save(path, "TIFF", tiffinfo={254: 1, 50706: b"\1\4\0\0"})


def a_preview(path):
    Image.fromarray(smooth()).save(path, "TIFF", tiffinfo={254: 1})


def canon(path):
    a_preview(path)
    content = bytearray(path.read_bytes())
    content[8:10] = b"CR"
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("a.dng", a_dng, "raw file of a camera; develop it first"),
        ("A.NEF", a_preview, "raw file of a camera; develop it first"),
        ("a.tif", a_dng, "raw file of a camera; develop it first"),
        ("a.tif", canon, "raw file of a camera; develop it first"),
        ("a.tif", a_preview, "small preview of another"),
    ],
)
def test_raw_files_are_refused(tmp_path, name, write, words):
    write(tmp_path / name)
    for read in (read_picture, picture_size):
        with pytest.raises(ImageError, match=f"cannot read .*{re.escape(name)}: .*{words}"):
            read(tmp_path / name)


def test_heic_with_and_without_its_package(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    Image.fromarray(smooth()).save(tmp_path / "in.heic", exif=exif().tobytes(), quality=95)
    picture = read_picture(tmp_path / "in.heic")
    assert np.abs(picture.pixels.astype(int) - np.rot90(smooth(), -1)).mean() < 3
    assert write_restored(tmp_path / "out.heic", picture.pixels, picture) == []
    with Image.open(tmp_path / "out.heic") as image:
        assert image.format == "HEIF" and image.getexif()[MAKE] == "Acme"
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC, which needs pillow-heif; pip install"):
        read_picture(tmp_path / "in.heic")
    with pytest.raises(ImageError, match=r"HEIC needs pillow-heif"):
        write_restored(tmp_path / "new.heic", picture.pixels, picture)


def test_cmyk_becomes_a_fine_jpeg(tmp_path):
    """Whose tables are for other colours."""
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / "a.jpg", quality=60)
    picture = read_picture(tmp_path / "a.jpg")
    write_restored(tmp_path / "b.jpg", picture.pixels, picture)
    Image.fromarray(smooth()).save(tmp_path / "fine.jpg", quality=95)
    with Image.open(tmp_path / "b.jpg") as out, Image.open(tmp_path / "fine.jpg") as fine:
        assert (out.mode, out.quantization) == ("RGB", fine.quantization)
