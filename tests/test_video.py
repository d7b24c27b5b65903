"""Videos in files: times, colours, depth, orientation, sound, damage, and what stays on disk.

The clips are made here with PyAV, from crops that move over a photograph; what they should look
like is computed with NumPy from the standards.
"""

import gc
import os
import re
import resource
import struct
import sys
import weakref
from fractions import Fraction
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tlc_jax.files import video as module
from tlc_jax.files.video import VIDEOS, WRITABLE, VideoError, VideoWriter, read_video
from tlc_jax.files.whole import is_done

av = pytest.importorskip("av")

PHOTOGRAPH = np.asarray(Image.open(Path(__file__).parents[1] / "tlc_jax/examples" / "kodim.png"))
NTSC = Fraction(30000, 1001)
LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def moving(count, h=48, w=64, step=2):
    """Crops of a photograph, smooth as videos are."""
    starts = [100 + step * i for i in range(count)]
    return [PHOTOGRAPH[start : start + h, 2 * start :][:, :w].copy() for start in starts]


def to_yuv(rgb, matrix, bits=8, full=False):
    """Of fractions of full scale, by ITU-T H.273, equations 8.3 on."""
    red, blue = LUMA[matrix]
    y = rgb @ np.array([red, 1 - red - blue, blue])
    yuv = [y, (rgb[..., 2] - y) / (2 - 2 * blue), (rgb[..., 0] - y) / (2 - 2 * red)]
    top, unit = 2**bits - 1, 2 ** (bits - 8)
    scale = [(top, 0), *[(top, 128 * unit)] * 2] if full else None
    scale = scale or [(219 * unit, 16 * unit), *[(224 * unit, 128 * unit)] * 2]
    return np.stack([a * x + b for x, (a, b) in zip(yuv, scale, strict=True)], -1)


def sine(container, seconds, *, codec="aac", rate=48000):
    stream = container.add_stream(codec, rate=rate)
    wave = 0.3 * np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 440 / rate)
    wave = np.broadcast_to(wave.astype(np.float32), (2, len(wave))).copy()
    frame = av.AudioFrame.from_ndarray(wave, "fltp", "stereo")
    frame.rate, frame.pts = rate, 0
    return [*stream.encode(frame), *stream.encode(None)]


def clip(
    path,
    frames,
    *,
    rate: Fraction | int = 10,
    ticks=None,
    time_base=None,
    pix_fmt="yuv420p",
    tags=(2, 2, 2, 0),
    codec="libx264",
    sounds=(),
    seconds=1,
    options=None,
    container_options=None,
):
    """Writes (H, W, 3) uint8 RGB, or av.VideoFrame that have the format already."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        h, w = frames[0].shape[:2] if isinstance(frames[0], np.ndarray) else (None, None)
        stream.width, stream.height = w or frames[0].width, h or frames[0].height
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.time_base = time_base or 1 / Fraction(rate)
        context.color_primaries, context.color_trc, context.colorspace = tags[:3]
        context.color_range = tags[3]
        packets = [p for codec in sounds for p in sine(container, seconds, codec=codec)]
        for i, frame in enumerate(frames):
            if isinstance(frame, np.ndarray):
                frame = av.VideoFrame.from_ndarray(frame, "rgb24")
            frame.time_base = context.time_base
            frame.pts = i if ticks is None else ticks[i]
            packets += stream.encode(frame)
        container.mux(sorted(packets + stream.encode(None), key=lambda p: p.dts * p.time_base))
    return path


def plain(yuv, pix_fmt, *, h=48, w=64):
    """A frame of one colour, given as it is stored."""
    frame = av.VideoFrame(w, h, pix_fmt)
    for plane, value in zip(frame.planes, yuv, strict=True):
        dtype = np.uint16 if "10" in pix_fmt else np.uint8
        plane.update(np.full(plane.buffer_size // np.dtype(dtype).itemsize, value, dtype).tobytes())
    return frame


def restore(source, target, change=lambda pixels: pixels):
    video = read_video(source)
    with VideoWriter(target, video) as writer:
        for time, pixels in video:
            writer.write(time, change(pixels))
    return writer


def packets(path, kind):
    """(bytes, exact time) of all packets of the streams of one kind."""
    with av.open(str(path)) as container:
        streams = [s for s in container.streams if s.type == kind]
        found = [(p.stream_index, bytes(p), p.pts, p.time_base) for p in container.demux(streams)]
        return [(i, data, pts * base) for i, data, pts, base in found if data]


def stored(path):
    """The frames of a file as they are stored, and their format."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return frames, container.streams.video[0].codec_context


def difference(a, b):
    return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))


# Round trips


@pytest.mark.parametrize("suffix", WRITABLE)
@pytest.mark.parametrize("rate", [Fraction(25), NTSC])
def test_round_trip(tmp_path, suffix, rate):
    frames = moving(12)
    source = clip(tmp_path / f"a{suffix}", frames, rate=rate, options={"crf": "1"})
    video = read_video(source)
    assert video.shape == (48, 64, 3) and video.dtype == np.uint8 and not video.has_audio
    assert video.frames == 12 and video.path == source
    before = list(video)
    for (_, pixels), frame in zip(before, frames, strict=True):
        assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
        assert difference(pixels, frame).mean() < 3  # the crops lose half their chroma

    target = tmp_path / f"b{suffix.upper()}"
    writer = restore(source, target)
    assert writer.notes == () and video.damaged == []
    copy = read_video(target)
    assert copy.shape == video.shape and copy.frames == 12
    after = list(copy)
    assert [time for time, _ in after] == [time for time, _ in before]
    if suffix != ".mkv":  # which has whole milliseconds
        assert copy.rate == rate and [time for time, _ in after] == [i / rate for i in range(12)]
    assert abs(copy.rate - rate) < 0.01
    for (_, ours), (_, theirs) in zip(after, before, strict=True):
        assert difference(ours, theirs).mean() < 2.5
    assert sorted(os.listdir(tmp_path)) == sorted([source.name, target.name])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_cut_video_is_not_done(tmp_path, suffix):
    source, target = clip(tmp_path / "a.mp4", moving(4)), tmp_path / f"b{suffix}"
    restore(source, target)
    assert is_done(source) and is_done(target)
    whole = target.read_bytes()
    for count in (0, 20, len(whole) // 2, len(whole) - 1):
        target.write_bytes(whole[:count])
        assert not is_done(target)


def test_each_iteration_begins_anew(tmp_path):
    video = read_video(clip(tmp_path / "a.mp4", moving(5)))
    first, second = list(video), list(video)
    assert len(first) == 5
    for (time, pixels), (again, same) in zip(first, second, strict=True):
        assert time == again
        np.testing.assert_array_equal(pixels, same)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_variable_frame_rate(tmp_path, suffix):
    ticks = [0, 40, 80, 81, 300, 700, 733, 1900]
    options = {"time_base": Fraction(1, 1000), "ticks": ticks}
    source = clip(tmp_path / f"a{suffix}", moving(8), **options)
    target = tmp_path / f"b{suffix}"
    restore(source, target)
    for path in (source, target):
        assert [1000 * time for time, _ in read_video(path)] == ticks


def test_times_survive_another_container(tmp_path):
    source = clip(tmp_path / "a.mkv", moving(8), rate=NTSC)
    restore(source, tmp_path / "b.mp4")
    times = [time for time, _ in read_video(tmp_path / "b.mp4")]
    assert times == [time for time, _ in read_video(source)]
    assert times == [Fraction(round(1000 * i / NTSC), 1000) for i in range(8)]


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".avi", "mpeg4"), (".webm", "libvpx-vp9"), (".ts", "libx264"), (".mpg", "mpeg2video")],
)
def test_other_containers_become_mkv(tmp_path, suffix, codec):
    assert suffix in VIDEOS and suffix not in WRITABLE
    sound = {".webm": "libopus", ".ts": "aac"}.get(suffix, "mp2")
    frames = moving(12, 64, 96)
    source = clip(tmp_path / f"a{suffix}", frames, rate=25, codec=codec, sounds=[sound])
    restore(source, tmp_path / "b.mkv")
    before, after = read_video(source), read_video(tmp_path / "b.mkv")
    assert before.has_audio and after.has_audio and before.damaged == []
    times = [time for time, _ in after]
    assert len(times) == 12
    offset = Fraction(times[0])
    assert 0 <= offset < Fraction(1, 10)  # sound begins before the pictures in some
    assert [round(25 * (time - offset)) for time in times] == list(range(12))
    ours, theirs = (packets(path, "audio") for path in (tmp_path / "b.mkv", source))
    assert len(ours) == len(theirs) > 10


def test_size_may_change(tmp_path):
    source = clip(tmp_path / "a.mp4", moving(3))
    restore(source, tmp_path / "b.mp4", lambda pixels: pixels.repeat(4, 0).repeat(4, 1))
    large = read_video(tmp_path / "b.mp4")
    assert large.shape == (192, 256, 3)
    for (_, pixels), frame in zip(large, moving(3), strict=True):
        assert difference(pixels[::4, ::4], frame).mean() < 8


@pytest.mark.parametrize("size", [(47, 64), (48, 63), (47, 63)])
def test_odd_sizes(tmp_path, size):
    source = clip(tmp_path / "a.mkv", moving(3, *size), pix_fmt="yuv444p", options={"crf": "1"})
    assert read_video(source).shape == (*size, 3)
    restore(source, tmp_path / "b.mp4")
    for (_, pixels), frame in zip(read_video(tmp_path / "b.mp4"), moving(3, *size), strict=True):
        assert pixels.shape == (*size, 3)
        assert difference(pixels, frame).mean() < 2.5


def test_numbers_that_are_written(tmp_path):
    """Floats are clipped and rounded; whole numbers of another depth are rescaled."""
    video = read_video(clip(tmp_path / "a.mp4", moving(1)))
    levels = np.array([0.2, 0.7, 0.4])
    expected = 255 * levels
    plane = np.broadcast_to(levels, (48, 64, 3))
    for pixels in (
        plane.astype(np.float32),
        jnp.asarray(plane, jnp.bfloat16),
        np.rint(plane * 65535).astype(np.uint16),
        np.rint(plane * 255).astype(np.uint8),
    ):
        with VideoWriter(tmp_path / "b.mp4", video) as writer:
            writer.write(0, pixels)
        ((_, pixels),) = read_video(tmp_path / "b.mp4")
        assert difference(pixels, expected).max() <= 2
    with VideoWriter(tmp_path / "b.mp4", video) as writer:
        writer.write(0, plane * np.array([-3, 9, 9]))
    ((_, pixels),) = read_video(tmp_path / "b.mp4")
    assert difference(pixels, [0, 255, 255]).max() <= 2


# Colours


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
@pytest.mark.parametrize("bits", [8, 10])
def test_colours_are_read_by_the_matrix_of_the_file(tmp_path, matrix, full, bits):
    rgb = np.array([0.85, 0.1, 0.25])
    pix_fmt = "yuv420p10le" if bits == 10 else "yuv420p"
    frame = plain(np.rint(to_yuv(rgb, matrix, bits, full)), pix_fmt)
    tags = (1, 1, matrix, 2 if full else 1)
    source = clip(tmp_path / "a.mp4", [frame], pix_fmt=pix_fmt, tags=tags, options={"crf": "1"})
    video = read_video(source)
    assert video.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert video.colours == (1, 1, matrix)
    ((_, pixels),) = video
    assert difference(pixels / np.iinfo(pixels.dtype).max, rgb).max() < 2 / 255


@pytest.mark.parametrize(
    ("size", "matrix"), [((480, 720), 6), ((576, 720), 5), ((544, 1280), 1), ((720, 960), 1)]
)
def test_colours_of_files_that_do_not_say(tmp_path, size, matrix):
    rgb = np.array([0.1, 0.8, 0.2])
    frame = plain(np.rint(to_yuv(rgb, matrix)), "yuv420p", h=size[0], w=size[1])
    ((_, pixels),) = read_video(clip(tmp_path / "a.mp4", [frame]))
    assert difference(pixels / 255, rgb).max() < 2 / 255


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("tags", [(2, 2, 2, 0), (6, 6, 6, 1), (1, 1, 1, 2), (9, 16, 9, 1)])
def test_colours_are_written_as_they_are_labelled(tmp_path, bits, tags):
    pix_fmt = "yuv420p10le" if bits == 10 else "yuv420p"
    source = clip(tmp_path / "a.mp4", [plain([60, 100, 180], pix_fmt)], pix_fmt=pix_fmt, tags=tags)
    video = read_video(source)
    rgb = np.array([0.2, 0.7, 0.9])
    with VideoWriter(tmp_path / "b.mp4", video) as writer:
        writer.write(0, np.broadcast_to(rgb, (48, 64, 3)))
    (frame,), context = stored(tmp_path / "b.mp4")
    primaries, transfer, matrix = (1 if tag == 2 else tag for tag in tags[:3])
    assert (context.color_primaries, context.color_trc) == (primaries, transfer)
    assert context.colorspace == (9 if matrix == 9 else 1) and context.color_range == 1
    assert context.pix_fmt == pix_fmt
    dtype = np.uint16 if bits == 10 else np.uint8
    yuv = [np.frombuffer(plane, dtype)[0] for plane in frame.planes]
    # FFmpeg converts 10 bits as if full scale were 1020, in both directions.
    tolerance = 1.1 if bits == 8 else 4
    assert difference(yuv, to_yuv(rgb, context.colorspace, bits)).max() < tolerance


def test_ten_bits_survive(tmp_path):
    """Steps that 8 bits do not have come back."""
    y = np.arange(300, 300 + 128, dtype=np.uint16)
    frame = plain([0, 512, 512], "yuv420p10le", w=128)
    luma = np.broadcast_to(y, (48, 128))
    plane = np.zeros((48, frame.planes[0].line_size // 2), np.uint16)
    plane[:, :128] = luma
    frame.planes[0].update(plane.tobytes())
    options = {"pix_fmt": "yuv420p10le", "tags": (1, 1, 1, 1), "options": {"qp": "0"}}
    source = clip(tmp_path / "a.mkv", [frame], **options)
    ((_, pixels),) = read_video(source)
    assert pixels.dtype == np.uint16
    gray = (luma - 64) / 876
    assert difference(pixels / 65535, gray[..., None]).max() < 0.5 / 255
    assert len(np.unique(pixels)) == 128
    restore(source, tmp_path / "b.mp4")
    (frame,), context = stored(tmp_path / "b.mp4")
    assert context.pix_fmt == "yuv420p10le"
    rows = np.frombuffer(frame.planes[0], np.uint16).reshape(48, -1)[:, :128]
    assert difference(rows, luma).mean() < 1.5  # of 1023


def test_other_formats_become_rgb(tmp_path):
    for pix_fmt, codec in (("gray", "ffv1"), ("bgr0", "ffv1"), ("yuv422p", "ffv1")):
        frames = moving(2)
        if pix_fmt == "gray":
            frames = [frame[..., :1].repeat(3, -1) for frame in frames]
        source = clip(tmp_path / "a.mkv", frames, codec=codec, pix_fmt=pix_fmt)
        for (_, pixels), frame in zip(read_video(source), frames, strict=True):
            assert pixels.shape == (48, 64, 3)
            assert difference(pixels, frame).mean() < 3


# Orientation


def turn(path, a, b, c, d):
    """Writes a display matrix into the track header, as cameras do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # ISO/IEC 14496-12, 8.3.2, version 0
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    assert data[at : at + 36] == identity
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "matrix",
    [
        *[(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)],
        *[(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)],
    ],
)
def test_frames_come_out_upright(tmp_path, matrix):
    source = clip(tmp_path / "a.mp4", moving(2), options={"crf": "1"})
    ((_, flat), _) = read_video(source)
    turn(source, *matrix)
    a, b, c, d = matrix
    y, x = np.mgrid[:48, :64]
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    upright = np.zeros((down.max() + 1, across.max() + 1, 3), np.uint8)
    upright[down, across] = flat
    video = read_video(source)
    assert video.shape == upright.shape
    np.testing.assert_array_equal(next(iter(video))[1], upright)
    restore(source, tmp_path / "b.mp4")
    copy = read_video(tmp_path / "b.mp4")
    assert copy.shape == upright.shape
    assert difference(next(iter(copy))[1], upright).mean() < 2.5


def test_shape_of_pixels_survives(tmp_path):
    def wide(path):
        frames = moving(2)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.sample_aspect_ratio = Fraction(16, 11)
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode(None))

    wide(tmp_path / "a.mp4")
    assert read_video(tmp_path / "a.mp4").aspect == Fraction(16, 11)
    restore(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert read_video(tmp_path / "b.mp4").aspect == Fraction(16, 11)
    turn(tmp_path / "a.mp4", 0, 1, -1, 0)
    assert read_video(tmp_path / "a.mp4").aspect == Fraction(11, 16)


# Sound


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_sound_is_copied_bit_by_bit(tmp_path, suffix):
    source = clip(tmp_path / f"a{suffix}", moving(10), sounds=["aac", "aac"])
    video = read_video(source)
    assert video.has_audio
    target = tmp_path / f"b{suffix}"
    writer = restore(source, target)
    assert writer.notes == ()
    ours, theirs = packets(target, "audio"), packets(source, "audio")
    assert len({index for index, _, _ in theirs}) == 2 and len(theirs) > 80
    assert sorted(ours) == sorted(theirs)
    assert [time for time, _ in read_video(target)] == [time for time, _ in video]


def test_sound_stays_with_its_pictures_where_files_begin_late(tmp_path):
    """Transport streams begin at 1.4 seconds or, from a camera, anywhere."""
    options = {"rate": 25, "sounds": ["aac"], "container_options": {"output_ts_offset": "3600"}}
    source = clip(tmp_path / "a.ts", moving(20), **options)
    first = min(time for kind in ("audio", "video") for *_, time in packets(source, kind))
    assert first > 3599
    restore(source, tmp_path / "b.mkv")
    video = read_video(tmp_path / "b.mkv")
    times = [time for time, _ in video]
    assert 0 <= times[0] < 0.2
    ours, theirs = (
        packets(path, "audio")[0][2] - min(t for *_, t in packets(path, "video"))
        for path in (tmp_path / "b.mkv", source)
    )
    assert abs(ours - theirs) < 0.002
    # With headers of transport streams dropped, the sound itself is the same.
    with av.open(str(tmp_path / "b.mkv")) as one, av.open(str(source)) as two:
        for ours, theirs in zip(one.decode(audio=0), two.decode(audio=0), strict=True):
            np.testing.assert_array_equal(ours.to_ndarray(), theirs.to_ndarray())


def test_files_that_were_joined(tmp_path):
    """Recorders join transport streams as they are, so that the clock is set back in the middle."""
    part = clip(tmp_path / "a.ts", moving(50), rate=25, sounds=["aac"], seconds=2)
    joined = tmp_path / "b.ts"
    joined.write_bytes(2 * part.read_bytes())
    for suffix in (".mkv", ".mp4"):
        target = tmp_path / f"c{suffix}"
        restore(joined, target)
        times = [float(time) for time, _ in read_video(target)]
        np.testing.assert_allclose(np.diff(times), 0.04, atol=0.002)
        sound = [float(time) for _, _, time in packets(target, "audio")]
        np.testing.assert_allclose(np.diff(sound), 1024 / 48000, atol=0.002)
        assert len(times) == 100 and len(sound) == 2 * len(packets(part, "audio"))


def test_sound_lies_beside_its_pictures(tmp_path):
    """So that players need not jump, nor the writer hold one of them back."""
    source = clip(tmp_path / "a.mp4", moving(24) * 10, sounds=["aac"], seconds=24)
    restore(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        order = [(p.pos, float(p.dts * p.time_base)) for p in container.demux() if p.size]
    times = np.array([time for _, time in sorted(order)])
    assert (times > np.maximum.accumulate(times) - 2).all() and times.max() > 23


def test_sound_that_the_format_does_not_take(tmp_path):
    source = clip(tmp_path / "a.mkv", moving(4), sounds=["aac", "wavpack"])
    writer = restore(source, tmp_path / "b.mp4")
    assert writer.notes == ("audio stream 2 left out",)
    assert [index for index, _, _ in packets(tmp_path / "b.mp4", "audio")].count(1) > 40
    writer = restore(source, tmp_path / "b.mkv")
    assert writer.notes == ()
    assert sorted(packets(tmp_path / "b.mkv", "audio")) == sorted(packets(source, "audio"))


@pytest.mark.parametrize(
    ("sound", "suffix"), [("pcm_s16le", ".mp4"), ("pcm_s16le", ".mov"), ("libopus", ".mov")]
)
def test_sound_that_the_format_refuses_at_its_end(tmp_path, sound, suffix):
    """It is left out before, as any other."""
    source = clip(tmp_path / "a.mkv", moving(4), sounds=[sound])
    writer = restore(source, tmp_path / f"b{suffix}")
    taken = (sound, suffix) == ("pcm_s16le", ".mov")
    assert writer.notes == (() if taken else ("audio stream 1 left out",))
    assert writer.has_audio == taken == read_video(tmp_path / f"b{suffix}").has_audio


def test_titles_and_languages_survive(tmp_path):
    source = tmp_path / "a.mkv"
    with av.open(str(source), "w", metadata_errors="surrogateescape") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height = 64, 48
        container.metadata["title"] = "caf\udce9"  # Latin-1, as some old programs write
        packets = sine(container, 0.2)
        container.streams.audio[0].metadata["language"] = "fra"
        frames = [av.VideoFrame.from_ndarray(frame, "rgb24") for frame in moving(2)]
        container.mux([p for frame in [*frames, None] for p in stream.encode(frame)] + packets)
    restore(source, tmp_path / "b.mkv")
    with av.open(str(tmp_path / "b.mkv"), metadata_errors="surrogateescape") as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
        assert tags["title"] == "caf\udce9"
        assert container.streams.audio[0].language == "fra"


# Damage


def with_damage(path, number, *, kept=8):
    """Overwrites most of one video packet of an .mp4 file; returns its time."""
    with av.open(str(path)) as container:
        found = [(p.pos, p.size, p.pts or p.dts) for p in container.demux(video=0) if p.size]
        base = container.streams.video[0].time_base
    at, size, ticks = found[number]
    data = bytearray(path.read_bytes())
    data[at + kept : at + size] = (byte ^ 0x5A for byte in data[at + kept : at + size])
    path.write_bytes(data)
    return float(ticks * base)


@pytest.mark.parametrize("key", [False, True])
@pytest.mark.parametrize("reordered", [0, 2])
def test_damage_in_the_middle(tmp_path, key, reordered):
    frames = moving(30)
    source = clip(
        tmp_path / "a.mp4", frames, options={"g": "10", "bf": str(reordered)}, sounds=["aac"]
    )
    whole = {time: pixels for time, pixels in read_video(source)}
    hit = with_damage(source, 10 if key else 14, kept=0 if key else 8)
    video = read_video(source)
    seen = {time: pixels for time, pixels in video}
    assert set(seen) <= set(whole) and list(seen) == sorted(seen)
    assert hit in video.damaged
    assert {float(time) for time in set(whole) - set(seen)} <= set(video.damaged)
    # Nothing outside of the group of pictures that was hit; its last frame may come too late.
    assert all(0.9 <= time < 2 for time in video.damaged)
    for time in whole:
        if not Fraction(9, 10) <= time < 2:
            np.testing.assert_array_equal(seen[time], whole[time])
    damaged = list(video.damaged)
    assert len(list(video)) == len(seen) and video.damaged == damaged  # not added up

    restore(source, tmp_path / "b.mp4")
    copy = read_video(tmp_path / "b.mp4")
    assert [time for time, _ in copy] == list(seen) and copy.damaged == []
    assert sorted(packets(tmp_path / "b.mp4", "audio")) == sorted(packets(source, "audio"))


def test_frames_that_the_decoder_repairs_are_told(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (6, 96, 128, 3), np.uint8, endpoint=True)
    source = clip(tmp_path / "a.mp4", list(noise), options={"g": "1"})
    hit = with_damage(source, 3, kept=3000)
    video = read_video(source)
    assert [time * 10 for time, _ in video] == list(range(6))
    assert video.damaged == [hit] == [0.3]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
def test_files_that_were_cut_off(tmp_path, suffix):
    options = {"g": "10"} if suffix != ".avi" else None
    source = clip(
        tmp_path / f"a{suffix}",
        moving(40),
        codec="mpeg4" if suffix == ".avi" else "libx264",
        options=options,
        container_options={"movflags": "faststart"} if suffix in (".mp4", ".mov") else None,
    )
    whole = list(read_video(source))
    size = source.stat().st_size * (8 if suffix == ".avi" else 5) // 10
    source.write_bytes(source.read_bytes()[:size])
    video = read_video(source)
    part = list(video)
    assert 5 < len(part) < 30
    for (time, ours), (same, theirs) in zip(part[:-1], whole, strict=False):
        assert time == same
        np.testing.assert_array_equal(ours, theirs)
    assert abs(video.damaged[-1] - float(part[-1][0])) < 0.5
    restore(source, tmp_path / "b.mkv")
    assert len(list(read_video(tmp_path / "b.mkv"))) == len(part)


def test_places_that_cannot_be_read(tmp_path, monkeypatch):
    """The disk fails once, then for good."""
    video = read_video(clip(tmp_path / "a.mp4", moving(10), options={"bf": "0"}))
    original = module._packets

    class Failing:
        def __init__(self, container, streams, failures):
            self.packets, self.failures = iter(list(container.demux(streams))), failures
            self.streams, self.given = streams, 0

        def demux(self, streams):
            assert streams == self.streams
            while True:
                if self.given == 5 and self.failures:
                    self.failures -= 1
                    raise av.error.OSError(5, "Input/output error")
                if (packet := next(self.packets, None)) is None:
                    return
                self.given += 1
                yield packet

    for failures, count in ((1, 10), (10**6, 5)):

        def packets(container, streams, failures=failures):
            return original(Failing(container, streams, failures), streams)  # pyright: ignore

        monkeypatch.setattr(module, "_packets", packets)
        assert [10 * time for time, _ in video] == list(range(count))
        assert video.damaged == [0.5]


def test_times_that_are_missing_or_set_back(tmp_path, monkeypatch):
    video = read_video(clip(tmp_path / "a.mp4", moving(9)))
    original, tick, given = module._decode, float(video.time_base), [0, None, 0.1, 0.1, 0.3]

    def scrambled(*arguments):
        for (_, frame), time in zip(original(*arguments), [*given, 9, 1, 2, 9.5], strict=True):
            yield None if time is None else Fraction(time), frame

    monkeypatch.setattr(module, "_decode", scrambled)
    expected = [0, 0.1, 0.1 + tick, 0.1 + 2 * tick, 0.3, 9, 9.1, 9.2, 9.5]
    np.testing.assert_allclose([float(time) for time, _ in video], expected, atol=1e-9)


def test_damage_in_avi(tmp_path):
    """The format says when packets are decoded; FFmpeg works out when frames are shown."""
    options = {"bf": "2", "g": "10"}
    source = clip(tmp_path / "a.avi", moving(40), codec="mpeg4", options=options)
    whole = [time for time, _ in read_video(source)]
    assert len(whole) == 40
    hit = with_damage(source, 15, kept=0)
    video = read_video(source)
    seen = [time for time, _ in video]
    assert hit in video.damaged and all(abs(time - hit) < 0.5 for time in video.damaged)
    assert {float(time) for time in set(whole) - set(seen)} == set(video.damaged)


def test_times_between_ticks(tmp_path):
    video = read_video(clip(tmp_path / "a.mp4", moving(1)))
    base = video.time_base
    with VideoWriter(tmp_path / "b.mp4", video) as writer:
        for time in (0, 0, float(base) * 1.2, 0.5, 0.1):
            writer.write(time, np.zeros((48, 64, 3)))
    ticks = [time / base for time, _ in read_video(tmp_path / "b.mp4")]
    assert ticks == [0, 1, 2, 0.5 / base, 0.5 / base + 1]


def test_memory_is_bounded(tmp_path, monkeypatch):
    """Frames are decoded when they are asked for, and forgotten when they were used."""
    converted = []
    original = module._pixels

    def counting(frame, video):
        converted.append(frame.pts)
        return original(frame, video)

    monkeypatch.setattr(module, "_pixels", counting)
    video = read_video(clip(tmp_path / "a.mp4", moving(50)))
    frames = iter(video)
    assert converted == []
    alive = [weakref.ref(next(frames)[1]) for _ in range(3)]
    assert len(converted) == 3
    gc.collect()
    gc.disable()
    try:
        for _, pixels in frames:
            alive.append(weakref.ref(pixels))
            assert sum(reference() is not None for reference in alive) <= 2
        assert gc.collect() < 10  # frames in cycles would stay for long
    finally:
        gc.enable()
    assert len(converted) == 50


# Failures


def fails(path, reason):
    with pytest.raises(VideoError) as caught:
        read_video(path)
    assert re.fullmatch(f"cannot read {re.escape(str(path))}: {reason}\\.", str(caught.value))


def test_files_that_are_no_videos(tmp_path):
    fails(tmp_path / "missing.mp4", "no such file or directory")
    fails(tmp_path, "is a directory")
    path = tmp_path / "a.mp4"
    path.write_bytes(b"")
    fails(path, "it is empty")
    foreign = (
        "it is no video of a known kind, or it is damaged or cut off; "
        "give an .mp4, .mov, .mkv or .webm"
    )
    for data in (
        b"Dear reader, I am a letter and not a video. " * 99,
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile b.mp4\n",
        PHOTOGRAPH.tobytes()[:5000],
    ):
        path.write_bytes(data)
        fails(path, foreign)
    Image.fromarray(PHOTOGRAPH[:40, :40]).save(path, "PNG")
    fails(path, foreign)
    clip(path, moving(5))
    path.write_bytes(path.read_bytes()[:1000])  # its table of contents comes last
    fails(path, foreign)


def test_files_without_pictures(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.mux(sine(container, 0.2))
    fails(path, "there is no video in it, only sound or other data")


def test_covers_are_no_video(tmp_path):
    def with_cover(path, frames):
        with av.open(str(path), "w") as container:
            found = []
            for codec in ("mjpeg", "libx264")[: 1 + bool(frames)]:
                stream = container.add_stream(codec, rate=10)
                stream.width, stream.height = 64, 48
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
                if codec == "mjpeg":
                    stream.disposition = av.stream.Disposition.attached_pic
                pictures = moving(1) if codec == "mjpeg" else frames
                pictures = [av.VideoFrame.from_ndarray(picture, "rgb24") for picture in pictures]
                found += [p for picture in [*pictures, None] for p in stream.encode(picture)]
            container.mux(found + sine(container, 0.2))
        return path

    video = read_video(with_cover(tmp_path / "a.mp4", moving(7)))
    assert len(list(video)) == 7 and video.damaged == []
    writer = restore(video.path, tmp_path / "b.mp4")
    assert writer.notes == ("video stream 2 left out",)
    path = with_cover(tmp_path / "a.mp4", [])
    fails(path, "there is no video in it, only sound or other data")


def test_files_of_which_nothing_can_be_decoded(tmp_path):
    source = clip(tmp_path / "a.mp4", moving(3), options={"bf": "0"})
    for number in range(3):
        with_damage(source, number, kept=0)
    fails(source, "no frame of it can be decoded; it is damaged or incomplete")


def test_unusual_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "a.mp4", moving(3))
    (tmp_path / "c:d").mkdir()
    for name in ("a:b.mp4", "c:d/a.mp4", "-1.mp4", "%03d.mp4", "été 100%.mp4", "http:a.mp4"):
        os.replace("a.mp4", name)
        restore(name, f"{name}.mkv")
        assert len(list(read_video(f"{name}.mkv"))) == 3
        os.replace(name, "a.mp4")


def test_without_pyav(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match=r"pip install 'tlc-jax\[video\]'"):
        read_video(tmp_path / "a.mp4")


def test_pyav_without_the_encoder(monkeypatch, tmp_path):
    source = clip(tmp_path / "a.mp4", moving(1))
    monkeypatch.setattr(av, "codecs_available", {"libopenh264"})
    reason = "this PyAV has no libx264; pip install --force-reinstall av"
    does_not_write(tmp_path / "b.mp4", reason, source)


# Writing: atomic


def does_not_write(path, reason, source, change=lambda pixels: pixels):
    before = {p: p.read_bytes() for p in path.parent.glob("*") if p.is_file()}
    with pytest.raises(VideoError) as caught:
        restore(source, path, change)
    assert re.fullmatch(f"cannot write {re.escape(str(path))}: {reason}\\.", str(caught.value))
    assert {p: p.read_bytes() for p in path.parent.glob("*") if p.is_file()} == before


def test_an_exception_leaves_nothing_behind(tmp_path):
    source = clip(tmp_path / "a.mp4", moving(60), sounds=["aac"])
    (tmp_path / "b.mp4").write_bytes(b"an older file")
    for before in (0, 1, 59):  # the encoder gives nothing out for a while
        video = read_video(source)
        with (
            pytest.raises(KeyboardInterrupt),
            VideoWriter(tmp_path / "b.mp4", video) as writer,
        ):
            for number, (time, pixels) in enumerate(video):
                if number == before:
                    raise KeyboardInterrupt
                writer.write(time, pixels)
        assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]
        assert (tmp_path / "b.mp4").read_bytes() == b"an older file"


def test_the_name_appears_at_the_end(tmp_path):
    source = clip(tmp_path / "a.mp4", moving(3))
    video = read_video(source)
    with VideoWriter(tmp_path / "b.mp4", video) as writer:
        for time, pixels in video:
            writer.write(time, pixels)
            assert not (tmp_path / "b.mp4").exists()
    assert (tmp_path / "b.mp4").exists()
    restore(source, source)  # even onto itself
    assert len(list(read_video(source))) == 3


def test_files_that_cannot_be_written(tmp_path):
    source = clip(tmp_path / "a.mp4", moving(3))
    suffixes = r"a name ends in .mp4, .m4v, .mov, .mkv, not in '(.webm|)'"
    does_not_write(tmp_path / "b.webm", suffixes, source)
    does_not_write(tmp_path / "b", suffixes, source)
    missing = tmp_path / "missing"
    reason = f"there is no folder {re.escape(str(missing))}; create it first"
    does_not_write(missing / "b.mp4", reason, source)
    (tmp_path / "folder.mp4").mkdir()
    does_not_write(tmp_path / "folder.mp4", "is a directory", source)
    nan = "the image holds NaN; look for the step that made it"
    does_not_write(tmp_path / "b.mp4", nan, source, lambda pixels: pixels * np.float32("nan"))
    with (
        pytest.raises(VideoError, match="no frame was given to it"),
        VideoWriter(tmp_path / "b.mp4", read_video(source)),
    ):
        pass
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "folder.mp4"]


def test_full_disk(tmp_path):
    """A limit on the size of files stands for it."""
    noise = list(np.random.default_rng(0).integers(0, 255, (8, 96, 128, 3), np.uint8))
    source = clip(tmp_path / "a.mp4", noise)
    (tmp_path / "b.mp4").write_bytes(b"an older file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for size in (1, 30_000, 80_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            does_not_write(tmp_path / "b.mp4", "file too large", source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]


def test_wrong_arguments(tmp_path):
    video = read_video(clip(tmp_path / "a.mp4", moving(3)))
    for shape in ((4, 4), (4, 4, 1), (1, 4, 4, 3), (0, 4, 3)):
        with (
            pytest.raises(ValueError, match=re.escape(f"(H, W, 3), got {shape}.")),
            VideoWriter(tmp_path / "b.mp4", video) as writer,
        ):
            writer.write(0, np.zeros(shape))
    with (
        pytest.raises(ValueError, match=r"before were \(48, 64, 3\), got \(48, 32, 3\)"),
        VideoWriter(tmp_path / "b.mp4", video) as writer,
    ):
        writer.write(0, np.zeros((48, 64, 3)))
        writer.write(1, np.zeros((48, 32, 3)))
    with (
        pytest.raises(TypeError, match="got int64"),
        VideoWriter(tmp_path / "b.mp4", video) as writer,
    ):
        writer.write(0, np.zeros((48, 64, 3), np.int64))
    assert os.listdir(tmp_path) == ["a.mp4"]
