"""Pictures in files: depth, colour, orientation, transparency, and a sentence for each failure.

What the writer makes is not only read by our own reader: 16-bit PNGs, TIFFs and a CMYK profile are
built by hand here from their specifications.
"""

import io
import os
import re
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tlc_jax.files.pictures import ImageError, picture_size, read_image, read_picture
from tlc_jax.files.writing import write_image
from tlc_jax.ops.pixels import from_float, to_float

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]  # nobody here reads on


def noise(*shape, dtype=np.uint16, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype, endpoint=True)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def paeth(a, b, c):
    p = a + b - c
    return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]


def filtered(lines, step, kinds):
    """PNG specification, section 9, one byte after the other."""
    above = bytes(len(lines[0]))
    for number, line in enumerate(lines):
        kind = kinds[number % len(kinds)]
        yield kind
        for i, byte in enumerate(line):
            a, b = line[i - step] if i >= step else 0, above[i]
            c = above[i - step] if i >= step else 0
            yield (byte - (0, a, b, (a + b) // 2, paeth(a, b, c))[kind]) % 256
        above = line


def png(samples, *, kinds=(0, 1, 2, 3, 4), interlaced=False, before=b"", after=b""):
    """A 16-bit PNG, its lines filtered in turn with `kinds`; chunks before and after the data."""
    h, w, c = samples.shape
    whole = [(0, 0, 1, 1)]
    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    adam7.append((1, 0, 2, 1))
    data = b""
    for top, left, down, right in adam7 if interlaced else whole:
        part = samples[top::down, left::right].astype(">u2")
        if part.size:
            data += bytes(filtered([line.tobytes() for line in part], 2 * c, kinds))
    header = struct.pack(">IIBBBBB", w, h, 16, (0, 4, 2, 6)[c - 1], 0, 0, interlaced)
    idat = chunk(b"IDAT", zlib.compress(data))
    return SIGNATURE + chunk(b"IHDR", header) + before + idat + after + chunk(b"IEND", b"")


def tiff(samples, *, order="<", deflate=False, orientation=1, photometric=2, planes=1):
    """An uncompressed or deflated TIFF of one strip (or one for each plane)."""
    h, w, c = samples.shape
    parts = [samples] if planes == 1 else [samples[..., i] for i in range(c)]
    strips = [
        np.ascontiguousarray(part).astype(samples.dtype.newbyteorder(order)) for part in parts
    ]
    strips = [zlib.compress(s.tobytes()) if deflate else s.tobytes() for s in strips]
    n = len(strips)
    bits = [8 * samples.itemsize] * c
    tags = {256: [w], 257: [h], 258: bits, 259: [8 if deflate else 1], 262: [photometric]}
    tags |= {273: [0] * n, 274: [orientation], 277: [c], 278: [h], 279: [len(s) for s in strips]}
    tags |= {284: [planes]} | ({338: [2]} if c == 4 and photometric == 2 else {})
    end = 8 + 2 + 12 * len(tags) + 4
    sizes = {tag: 4 * len(values) if len(values) > 1 else 0 for tag, values in tags.items()}
    start = end + sum(sizes.values())
    tags[273] = [start + sum(map(len, strips[:i])) for i in range(n)]
    entries, extra = b"", b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        where = struct.pack(f"{order}I", end + len(extra)) if len(values) > 1 else packed
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + where
        extra += packed if len(values) > 1 else b""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(f"{order}IH", 8, len(tags)) + entries + struct.pack(f"{order}I", 0)
    return head + extra + b"".join(strips)


def saved(path, image, **options):
    image.save(path, **options)
    return path


# Whole numbers and fractions


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_survives(dtype):
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    floats = to_float(levels)
    assert floats.dtype == np.float32 and floats[0] == 0 and floats[-1] == 1
    back = from_float(floats, dtype)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, levels)


def test_rounding_and_clipping():
    halves = np.array([0.5, 1.5, 2.5, 3.5]) / 255
    np.testing.assert_array_equal(from_float(halves, np.uint8), [0, 2, 2, 4])
    outside = np.array([-1, 1.5, np.inf, -np.inf])
    np.testing.assert_array_equal(from_float(outside, np.uint16), [0, 65535, 65535, 0])


def test_floats_only_become_float32():
    for dtype in (np.float64, np.float16, jnp.bfloat16):
        floats = to_float(np.array([-0.5, 2.0]).astype(dtype))
        assert floats.dtype == np.float32
        np.testing.assert_array_equal(floats, [-0.5, 2.0])


def test_other_numbers():
    with pytest.raises(TypeError, match="pixels are uint8, uint16 or floats, got int64"):
        to_float(np.zeros(3, np.int64))
    with pytest.raises(TypeError, match="pixels are stored as uint8 or uint16, not float32"):
        from_float(np.zeros(3), np.float32)
    with pytest.raises(ValueError, match="the image holds NaN"):
        from_float(np.array([0.5, np.nan]), np.uint8)


# Reading: 16 bits


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("shape", [(11, 13), (1, 1), (5, 2)])
def test_sixteen_bit_png(tmp_path, channels, interlaced, shape):
    samples = noise(*shape, channels)
    path = tmp_path / "a.png"
    path.write_bytes(png(samples, interlaced=interlaced))
    picture = read_picture(path)
    colours = channels - 1 if channels in (2, 4) else channels
    assert picture.pixels.dtype == np.uint16 and picture.notes == ()
    np.testing.assert_array_equal(picture.pixels, samples[..., :colours])
    if channels in (2, 4):
        np.testing.assert_array_equal(picture.alpha, samples[..., -1])
    else:
        assert picture.alpha is None


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("shape", [(6, 9), (1, 1), (1, 5), (5, 1)])
def test_sixteen_bit_tiff(tmp_path, channels, order, deflate, planes, shape):
    samples = noise(*shape, channels)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(samples, order=order, deflate=deflate, planes=planes))
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.pixels, samples[..., :3])
    assert channels == 3 or (picture.alpha == samples[..., 3]).all()


@pytest.mark.parametrize(
    ("order", "white_is_zero"), [("<", False), (">", False), ("<", True)]
)  # Pillow refuses the other one
def test_sixteen_bit_gray_tiff(tmp_path, order, white_is_zero):
    samples = noise(6, 9, 1)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(samples, order=order, photometric=int(not white_is_zero)))
    pixels = read_picture(path).pixels
    assert pixels.dtype == np.dtype(np.uint16) and pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, 65535 - samples if white_is_zero else samples)


def test_twelve_bit_gray_tiff(tmp_path):
    """Two samples lie in three bytes."""
    path = tmp_path / "a.tif"
    stored = tiff(np.frombuffer(b"\xff\xf8\x00", np.uint8).reshape(1, 3, 1), photometric=1)
    for tag, before, now in ((258, 8, 12), (256, 3, 2)):  # bits, width
        entry = struct.pack("<HHI", tag, 4, 1)
        stored = stored.replace(entry + struct.pack("<I", before), entry + struct.pack("<I", now))
    path.write_bytes(stored)
    picture = read_picture(path)
    assert picture.pixels.dtype == np.uint16
    assert picture.pixels.ravel().tolist() == [65535, round(0x800 * 65535 / 4095)]
    assert picture.notes == ("12 bits a channel stretched to 16",)


def test_sixteen_bit_gray_pgm(tmp_path):
    samples = noise(6, 9)
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 9 6 65535\n" + samples.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_picture(path).pixels[..., 0], samples)


def test_depth_that_pillow_reduces_is_noted(tmp_path):
    samples = noise(2, 3, 3)
    ppm = tmp_path / "a.ppm"
    ppm.write_bytes(b"P6 3 2 65535\n" + samples.astype(">u2").tobytes())
    cmyk = tmp_path / "a.tif"
    cmyk.write_bytes(tiff(noise(2, 3, 4), photometric=5))
    for path in (ppm, cmyk):
        picture = read_picture(path)
        assert picture.pixels.dtype == np.uint8
        assert "16 bits a channel reduced to 8" in picture.notes
    np.testing.assert_allclose(read_image(ppm), samples / 65535, atol=1 / 255)


def test_channels_at_full_depth(tmp_path):
    path = tmp_path / "a.png"
    samples = noise(5, 4, 3)
    samples[0] = samples[0, :, :1]
    path.write_bytes(png(samples))
    picture = read_picture(path, channels=1)
    assert picture.notes == ("RGB converted to gray",)
    luma = samples.astype(np.float64) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(picture.pixels[..., 0], luma, atol=0.51)
    np.testing.assert_array_equal(picture.pixels[0, :, 0], samples[0, :, 0])

    path.write_bytes(png(samples[..., :1]))
    picture = read_picture(path, channels=3)
    assert picture.notes == ("gray repeated to RGB",)
    np.testing.assert_array_equal(picture.pixels, samples[..., [0, 0, 0]])
    np.testing.assert_array_equal(read_image(path), to_float(picture.pixels))
    assert read_image(path, channels=None).shape == (5, 4, 1)
    with pytest.raises(ValueError, match="channels is 1, 3 or None, got 2"):
        read_picture(path, channels=2)


# Reading: what else files hold


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_eight_bits(tmp_path, mode, suffix):
    samples = noise(7, 5, len(mode), dtype=np.uint8)
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(samples.squeeze()))
    picture = read_picture(path)
    colours = 3 if "RGB" in mode else 1
    assert picture.pixels.dtype == np.uint8 and picture.notes == ()
    np.testing.assert_array_equal(picture.pixels, samples[..., :colours])
    if mode.endswith("A"):
        np.testing.assert_array_equal(picture.alpha, samples[..., -1])
    else:
        assert picture.alpha is None


def test_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path / "a.png", image)
    picture = read_picture(path)
    assert picture.pixels.tolist() == [[[10, 20, 30], [200, 100, 50]]] and picture.alpha is None
    assert picture.notes == ("palette converted to RGB",)
    for transparency, alpha in ((1, [255, 0]), (b"\x07\x80", [7, 128])):
        picture = read_picture(saved(path, image, transparency=transparency))
        assert picture.pixels.tolist() == [[[10, 20, 30], [200, 100, 50]]]
        assert picture.alpha.tolist() == [alpha]


def test_one_transparent_colour(tmp_path):
    path = tmp_path / "a.png"
    rgb = Image.fromarray(np.uint8([[[1, 2, 3], [1, 2, 4]]]))
    assert read_picture(saved(path, rgb, transparency=(1, 2, 3))).alpha.tolist() == [[0, 255]]
    gray = Image.fromarray(np.uint8([[5, 6]]))
    assert read_picture(saved(path, gray, transparency=6)).alpha.tolist() == [[255, 0]]
    for bits in (2, 4):  # one of 1, one of the largest, of which the first is transparent
        row = bytes([0, (1 << 8 - bits) | (2**bits - 1 << 8 - 2 * bits)])
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0))
        key = chunk(b"tRNS", struct.pack(">H", 1))
        data = chunk(b"IDAT", zlib.compress(row))
        path.write_bytes(SIGNATURE + head + key + data + chunk(b"IEND", b""))
        picture = read_picture(path)
        assert picture.pixels.ravel().tolist() == [255 // (2**bits - 1), 255]
        assert picture.alpha.tolist() == [[0, 255]]
    bilevel = gray.point(lambda level: 255 * (level > 5), mode="1")
    picture = read_picture(saved(path, bilevel, transparency=0))
    assert picture.alpha.tolist() == [[0, 255]] and picture.pixels.tolist() == [[[0], [255]]]

    deep = np.uint16([[[300, 2, 3], [301, 2, 3]]])
    path.write_bytes(png(deep, before=chunk(b"tRNS", struct.pack(">3H", 300, 2, 3))))
    picture = read_picture(path)
    assert picture.alpha.tolist() == [[0, 65535]] and picture.alpha.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels, deep)
    path.write_bytes(png(deep[..., :1], before=chunk(b"tRNS", struct.pack(">H", 301))))
    assert read_picture(path).alpha.tolist() == [[65535, 0]]


def test_black_and_white(tmp_path):
    bilevel = Image.fromarray(np.array([[True, False, True]]))
    picture = read_picture(saved(tmp_path / "a.png", bilevel))
    assert picture.pixels.tolist() == [[[255], [0], [255]]]
    assert picture.notes == ("black and white converted to gray",)


def test_jpeg(tmp_path):
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    picture = read_picture(saved(tmp_path / "a.jpg", Image.fromarray(smooth), quality=95))
    assert picture.notes == () and picture.icc_profile is None
    np.testing.assert_allclose(picture.pixels.astype(int), smooth, atol=6)


def test_damage_in_the_middle(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(noise(64, 64, 3, dtype=np.uint8)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError):
        read_picture(path)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage!", b"Exif\0\0II*"])
def test_a_damaged_exif_is_none(tmp_path, exif):
    """The picture itself is whole."""
    for suffix in (".jpg", ".png", ".webp"):
        path = saved(tmp_path / f"a{suffix}", Image.new("RGB", (6, 4)), exif=exif, dpi=(72, 72))
        assert read_picture(path).pixels.shape == (4, 6, 3) and picture_size(path) == (4, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    """As Pillow itself turns it, at 16 bits too, alpha included."""
    samples = noise(3, 4, 4, dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(samples), exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    note = "turned upright as its EXIF orientation says"

    deep = noise(3, 4, 4)
    eXIf = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    index = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    index.getexif()[0x0112] = orientation
    turned = deep.reshape(12, 4)[np.asarray(ImageOps.exif_transpose(index))]
    for data, expected in [
        (path.read_bytes(), upright),
        (png(deep, before=eXIf), turned),
        (png(deep, after=eXIf), turned),
        (tiff(deep, orientation=orientation), turned),
    ]:
        path.write_bytes(data)
        picture = read_picture(path)
        np.testing.assert_array_equal(picture.pixels, expected[..., :3])
        np.testing.assert_array_equal(picture.alpha, expected[..., 3])
        assert (note in picture.notes) == (orientation != 1)
        if data != png(deep, after=eXIf):
            assert picture_size(path) == expected.shape[:2]
        assert picture.pixels.flags.c_contiguous and picture.alpha.flags.c_contiguous


def cmyk_profile():
    """A printer profile whose table says: all coloured inks are the same dark green."""
    white, green, black = ((255, 128, 128), (100, 60, 160), (0, 128, 128))  # CIELAB, 8 bits
    table = bytes(white + black + 7 * (green + black))
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i in (0, 4, 8)) for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + table + ramp * 3
    tag = struct.pack(">I4sII", 1, b"A2B0", 128 + 16, len(lut))
    size = 128 + len(tag) + len(lut)
    header = struct.pack(">I4sI4s4s4s", size, b"test", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + tag + lut


def test_cmyk(tmp_path):
    image = Image.frombytes("CMYK", (2, 8), bytes([0, 0, 0, 0, 255, 0, 0, 0]) * 8)
    path = tmp_path / "a.tif"
    picture = read_picture(saved(path, image))
    assert picture.pixels[0].tolist() == [[255, 255, 255], [0, 255, 255]]
    (note,) = picture.notes
    assert note == "CMYK converted to RGB without a usable ICC profile, so colours may be off"

    picture = read_picture(saved(path, image, icc_profile=cmyk_profile()))
    assert picture.pixels.shape == (8, 2, 3) and picture.icc_profile is None
    paper, ink = picture.pixels[0].astype(int)
    assert paper.min() > 250
    assert ink[1] > ink[0] + 40 and ink[1] > ink[2] + 40  # green, where plain conversion is cyan
    assert picture.notes == ("CMYK converted to sRGB by its ICC profile",)

    picture = read_picture(saved(path, image, icc_profile=b"broken"))
    assert picture.pixels[0].tolist() == [[255, 255, 255], [0, 255, 255]]
    assert picture.notes == (note,) and picture.icc_profile is None


def test_icc_profile_only_where_it_fits(tmp_path):
    dropped = "ICC profile dropped, as it describes other colours"
    rgb = Image.fromarray(noise(4, 4, 3, dtype=np.uint8))
    path = saved(tmp_path / "a.png", rgb, icc_profile=SRGB)
    assert read_picture(path).icc_profile == SRGB
    picture = read_picture(path, channels=1)
    assert picture.icc_profile is None and dropped in picture.notes
    path = saved(path, rgb.convert("L"), icc_profile=GRAY_PROFILE)
    assert read_picture(path).icc_profile == GRAY_PROFILE
    picture = read_picture(path, channels=3)  # for a network; what it makes is gray again
    assert picture.icc_profile is None and picture.metadata.icc_profile == GRAY_PROFILE


def test_first_of_several_pictures(tmp_path):
    first, second = (Image.fromarray(noise(4, 4, dtype=np.uint8, seed=seed)) for seed in (0, 1))
    path = saved(tmp_path / "a.tif", first, save_all=True, append_images=[second])
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.pixels[..., 0], np.asarray(first))
    assert picture.notes == ("first of the 2 pictures in the file",)
    animation = saved(tmp_path / "a.gif", first, save_all=True, append_images=[second])
    assert "first of the 2 pictures in the file" in read_picture(animation).notes


# Reading: failures


def fails(path, reason):
    with pytest.raises(ImageError) as caught:
        read_picture(path)
    assert re.fullmatch(f"cannot read {re.escape(str(path))}: {reason}\\.", str(caught.value))


def test_unreadable_paths(tmp_path, monkeypatch):
    fails(tmp_path / "missing.png", "no such file or directory")
    fails(tmp_path, "is a directory")
    locked = tmp_path / "locked.png"
    write_image(locked, np.zeros((2, 2, 3)))
    locked.chmod(0)
    if os.access(locked, os.R_OK):  # root reads everything

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
    fails(locked, "permission denied")


def test_files_that_are_no_pictures(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    fails(path, "it is empty")
    foreign = "it is no picture of a known kind, or damaged; give a PNG, JPEG, TIFF or WebP"
    path.write_bytes(b"Dear reader, I am a letter and not a picture.")
    fails(path, foreign)
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    fails(path, foreign)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp"])
def test_truncated(tmp_path, suffix):
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(noise(64, 64, 3, dtype=np.uint8)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    damaged = r"it is damaged or of a kind that cannot be decoded \(.+\)"
    # Depending on the format, Pillow sees the damage while it still asks whose file this is.
    fails(path, f"({damaged}|it is no picture of a known kind, or damaged; .+)")


def test_truncated_at_sixteen_bits(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(noise(40, 40, 3))[:3000])
    fails(path, r"it is damaged or of a kind that cannot be decoded \(.*truncated.*\)")


@pytest.mark.parametrize("deflate", [False, True])
def test_a_truncated_or_hostile_tiff_at_sixteen_bits(tmp_path, deflate):
    path = tmp_path / "a.tif"
    stored = tiff(noise(64, 64, 3), deflate=deflate)
    damaged = r"it is damaged or of a kind that cannot be decoded \(.+\)"
    path.write_bytes(stored[: len(stored) // 2])
    fails(path, damaged)
    # Another width, far beyond the file, that only one of two readers takes.
    width, huge = (struct.pack("<HHII", 256, 4, 1, value) for value in (64, 2**31 - 1))
    height = struct.pack("<HHII", 257, 4, 1, 64)
    for hostile in (stored.replace(height, huge), stored.replace(width + height, huge + width)):
        path.write_bytes(hostile)
        fails(path, f"({damaged}|it has more than {2**30} pixels; cut it into parts|it is no .+)")


def test_tiles_far_larger_than_the_picture(tmp_path):
    """Whoever decodes one needs its memory."""
    path = tmp_path / "a.tif"
    stored = tiff(noise(64, 64, 3))
    for tag, instead, value in ((278, 322, 2**16), (284, 323, 2**15)):  # in place of two others
        head = struct.pack("<HHI", tag, 4, 1)
        at = stored.index(head)
        stored = stored[:at] + struct.pack("<HHII", instead, 4, 1, value) + stored[at + 12 :]
    path.write_bytes(stored)
    fails(path, "its tiles are far larger than the picture; save it in strips")


def test_numbers_that_are_no_levels(tmp_path):
    path = tmp_path / "a.tif"
    saved(path, Image.fromarray(np.float32([[0.5, 1]])))
    fails(path, "it holds floating-point numbers; save it with 8 or 16 bits a channel")
    saved(path, Image.fromarray(np.int32([[0, 70000]])))
    fails(path, "it has 32 bits a channel; save it with 8 or 16")


def test_large_photographs_and_bombs(tmp_path):
    """Headers without data: what is too large is refused before it is decoded."""
    path = tmp_path / "a.png"

    def header(height):
        size = struct.pack(">IIBBBBB", 10_000, height, 1, 0, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b""))

    header(10_000)  # 100 megapixels: Pillow's own limit is 89
    fails(path, r"it is damaged or of a kind that cannot be decoded \(.*truncated.*\)")
    for height in (30_000, 1_000_000):
        header(height)
        fails(path, rf"it is 10000x{height}, {height // 100}\.0 megapixels, of which 268\.4 are .*")


# Writing


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".png", np.uint16), (".png", np.uint8), (".tif", np.uint8), (".webp", np.uint8)],
)
def test_round_trip(tmp_path, channels, with_alpha, suffix, dtype):
    pixels = noise(9, 7, channels, dtype=dtype)
    alpha = noise(9, 7, dtype=dtype, seed=1) if with_alpha else None
    path = tmp_path / f"a{suffix}"
    profile = SRGB if channels == 3 else None
    write_image(path, pixels, alpha=alpha, icc_profile=profile)
    picture = read_picture(path, channels=channels)  # WebP has no gray
    assert picture.pixels.dtype == dtype
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.icc_profile == profile
    if with_alpha and suffix != ".webp":
        np.testing.assert_array_equal(picture.alpha, alpha)
    assert os.listdir(tmp_path) == [path.name]


def unfiltered(data, h, step):
    """The lines of a PNG's data, filters undone one byte after the other."""
    size, above, lines = len(data) // h - 1, None, []
    for y in range(h):
        kind, line = data[y * (size + 1)], bytearray(data[y * (size + 1) + 1 :][:size])
        for i in range(size):
            a, b = line[i - step] if i >= step else 0, above[i] if above else 0
            c = above[i - step] if above and i >= step else 0
            line[i] = (line[i] + (0, a, b, (a + b) // 2, paeth(a, b, c))[kind]) % 256
        lines.append(bytes(line))
        above = line
    return lines


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_by_the_specification(tmp_path, channels):
    samples = noise(110, 90, channels)  # at 16 bits of noise a pixel, more than one chunk
    alpha = samples[..., -1] if channels in (2, 4) else None
    path = tmp_path / "a.png"
    write_image(path, samples[..., : 1 if channels < 3 else 3], alpha=alpha, icc_profile=SRGB)
    stream = io.BytesIO(path.read_bytes())
    assert stream.read(8) == b"\x89PNG\r\n\x1a\n"
    chunks = []
    while head := stream.read(8):
        size, kind = struct.unpack(">I4s", head)
        chunks.append((kind, stream.read(size)))
        assert struct.unpack(">I", stream.read(4))[0] == zlib.crc32(b"".join(chunks[-1]))
    kinds = [kind for kind, _ in chunks]
    assert list(dict.fromkeys(kinds)) == [b"IHDR", b"iCCP", b"IDAT", b"IEND"]
    assert channels < 4 or kinds.count(b"IDAT") > 1
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    assert chunks[0][1] == struct.pack(">IIBBBBB", 90, 110, 16, colour_type, 0, 0, 0)
    name, _, profile = chunks[1][1].partition(b"\0")
    assert 1 <= len(name) < 80 and profile[:1] == b"\0" and zlib.decompress(profile[1:]) == SRGB
    data = zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))
    lines = unfiltered(data, 110, 2 * channels)
    np.testing.assert_array_equal(np.frombuffer(b"".join(lines), ">u2"), samples.ravel())


def test_sixteen_bits_of_a_smooth_picture_are_compressed(tmp_path):
    ramp = np.linspace(0, 1, 256 * 256).reshape(256, 256, 1)
    write_image(tmp_path / "a.png", ramp, bits=16)
    assert (tmp_path / "a.png").stat().st_size < ramp.size / 4


@pytest.mark.parametrize("one", [(1, 1, 3), (1, 5, 1), (5, 1, 3)])
def test_thin_pictures(tmp_path, one):
    for dtype in (np.uint8, np.uint16):
        pixels = noise(*one, dtype=dtype)
        write_image(tmp_path / "a.png", pixels)
        np.testing.assert_array_equal(read_picture(tmp_path / "a.png").pixels, pixels)


@pytest.mark.parametrize("bits", [8, 16])
def test_floats_are_rounded_to_bits(tmp_path, bits):
    image = jnp.asarray(np.random.default_rng(0).uniform(-0.2, 1.2, (6, 5, 3)), jnp.float32)
    alpha = image[..., 0]
    write_image(tmp_path / "a.png", image, alpha=alpha, bits=bits)
    picture = read_picture(tmp_path / "a.png")
    exact = np.clip(np.asarray(image, np.float64), 0, 1) * (2**bits - 1)
    assert picture.pixels.dtype == f"uint{bits}"
    np.testing.assert_allclose(picture.pixels, exact, atol=0.51)
    np.testing.assert_array_equal(picture.alpha, picture.pixels[..., 0])


def test_alpha_takes_the_depth_of_the_picture(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((1, 2, 3)), alpha=np.uint16([[0, 257 * 77]]))
    alpha = read_picture(tmp_path / "a.png").alpha
    assert alpha.dtype == np.uint8 and alpha.tolist() == [[0, 77]]


def test_views_are_written_as_they_look(tmp_path):
    pixels = noise(3, 4, 6).transpose(2, 1, 0)[::-1]
    write_image(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").pixels, pixels)


def test_jpeg_is_close(tmp_path):
    image = np.linspace(0, 1, 64 * 64 * 3).reshape(64, 64, 3)
    for name in ("a.jpg", "B.JPEG"):
        write_image(tmp_path / name, image, icc_profile=SRGB)
        np.testing.assert_allclose(read_image(tmp_path / name), image, atol=6 / 255)
        assert (tmp_path / name).read_bytes().startswith(b"\xff\xd8")
        assert read_picture(tmp_path / name).icc_profile == SRGB


def does_not_write(path, reason, *, image=None, **options):
    before = {p: p.read_bytes() for p in path.parent.glob("*") if p.is_file()}
    with pytest.raises(ImageError) as caught:
        write_image(path, np.zeros((2, 2, 3)) if image is None else image, **options)
    assert re.fullmatch(f"cannot write {re.escape(str(path))}: {reason}\\.", str(caught.value))
    assert {p: p.read_bytes() for p in path.parent.glob("*") if p.is_file()} == before


def test_pictures_that_a_file_cannot_hold(tmp_path):
    deep = "16 bits a channel are written as .png or .tif only"
    does_not_write(tmp_path / "a.jpg", deep, bits=16)
    does_not_write(tmp_path / "a.webp", deep, image=noise(2, 2, 3))
    opaque = "JPEG has no transparency; write a .png, or leave alpha out"
    does_not_write(tmp_path / "a.jpg", opaque, alpha=np.ones((2, 2)))
    suffixes = r"a name ends in .png, .jpg, .+, .heif, not in '(.gif|)'"
    does_not_write(tmp_path / "a.gif", suffixes)
    does_not_write(tmp_path / "a", suffixes)
    nan = "the image holds NaN or infinite numbers; look for the step that made them"
    does_not_write(tmp_path / "a.png", nan, image=np.full((2, 2, 1), np.nan))
    does_not_write(tmp_path / "a.png", "the image holds NaN.+", alpha=np.full((2, 2), np.nan))
    whole = r"floats of a picture are in \[0, 1\], got 0 to 255; divide .+"
    does_not_write(tmp_path / "a.png", whole, image=np.float32([[[0], [255]]]))
    too_wide = np.zeros((1, 70000, 3))
    does_not_write(tmp_path / "a.webp", ".+", image=too_wide)


def test_places_that_take_no_file(tmp_path, monkeypatch):
    parent = tmp_path / "missing"
    missing = f"there is no folder {re.escape(str(parent))}; create it first"
    does_not_write(parent / "a.png", missing)
    assert not parent.exists()
    (tmp_path / "folder.png").mkdir()
    does_not_write(tmp_path / "folder.png", "is a directory")

    write_image(tmp_path / "old.png", np.ones((2, 2, 3)))

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tlc_jax.files.atomic.settle", full)
    does_not_write(tmp_path / "old.png", "no space left on device")
    assert (read_image(tmp_path / "old.png") == 1).all()


def test_wrong_arguments(tmp_path):
    path = tmp_path / "a.png"
    for shape in ((4, 4), (4, 4, 2), (1, 4, 4, 3), (0, 4, 3)):
        with pytest.raises(ValueError, match=re.escape(f"(H, W, 1 or 3), got {shape}.")):
            write_image(path, np.zeros(shape))
    with pytest.raises(ValueError, match=r"alpha is \(H, W\) = \(4, 5\), got \(5, 4\)"):
        write_image(path, np.zeros((4, 5, 3)), alpha=np.zeros((5, 4)))
    with pytest.raises(ValueError, match="bits is 8 or 16, got 12"):
        write_image(path, np.zeros((4, 5, 3)), bits=12)
    with pytest.raises(TypeError, match="got int64"):
        write_image(path, np.zeros((4, 5, 3), np.int64))
    assert os.listdir(tmp_path) == []
