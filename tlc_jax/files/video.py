"""Files <-> arrays: videos, one frame after the other, with their times and their sound.

A `Video` is iterated for its upright RGB frames, a `VideoWriter` takes them back restored:

    video = read_video("in.mp4")
    with VideoWriter("out.mp4", video) as writer:
        for time, pixels in video:
            writer.write(time, restored(pixels))

Every frame keeps its time, so that a variable frame rate stays one, and a lost frame leaves a gap
instead of moving the sound. PyAV, which brings FFmpeg, is imported by the functions that need it.
"""

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike

from tlc_jax.files.atomic import settle, temporary
from tlc_jax.files.limits import check_pixels, most_pixels, open_file
from tlc_jax.ops.pixels import from_float

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

# By suffix FFmpeg's name of the format: the containers that hold H.264 at any time.
WRITABLE = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
READ_ONLY = (".webm", ".avi", ".3gp", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv")
VIDEOS = (*WRITABLE, *READ_ONLY)
OPENING = {  # closed lists: FFmpeg also draws text files, and opens playlists of any address
    "format_whitelist": "mov,matroska,avi,mpeg,mpegts,asf,flv",
    "protocol_whitelist": "file",
}
TITLES = "surrogateescape"  # those in any encoding are kept as they are
FRAME = 64  # bytes of a pixel: of some frames that the decoder holds, of one in RGB, and as floats
PATIENCE = 10  # failures to read in a row, after which a file counts as ended
SHORT = 1.0  # seconds by which a file may be shorter than it claims, as lengths are rounded

BT709, BT601, BT2020 = 1, 5, 9  # in ITU-T H.273, as primaries, transfer and matrix
UNSTATED = (0, 2, 3)
MATRICES = (BT709, 4, BT601, 6, 7, BT2020)  # that FFmpeg converts
LIMITED, FULL = 1, 2  # FFmpeg's numbers of ranges
# swscale's BICUBIC, FULL_CHR_H_INT, ACCURATE_RND and BITEXACT: its default is two levels off.
SCALING = 0x4 | 0x2000 | 0x40000 | 0x80000


class VideoError(ValueError):
    """A video that cannot be read or written; the message is a sentence for the user."""


@dataclass(frozen=True, eq=False)
class Video:
    """A video file. Iterating it decodes its frames, each time from the beginning.

    Yields `(time, pixels)`: exact seconds since the beginning of the file, strictly increasing,
    and an array of `shape` and `dtype`. Memory holds a few frames at a time. Damage inside the file
    does not end the iteration.

    Attributes:
      path: the file.
      shape: (H, W, 3) of the upright frames.
      dtype: uint8, or uint16 over its whole range where the file has more than 8 bits.
      rate: frames a second, their average where it varies.
      frames: their number as the file tells it or its length suggests, `None` if it does neither;
        good for a progress bar only.
      has_audio: whether there is sound.
      time_base: seconds of which the times are multiples.
      aspect: width of a pixel divided by its height.
      colours: primaries, transfer and matrix of the file, as numbered in ITU-T H.273.
      turn: how the frames of the file become upright: whether rows and columns swap, then the step,
        1 or -1, along the new rows and columns.
      damaged: seconds where a frame is lost or patched up by the decoder, or where a file ends
        before the length that it claims; filled by the iteration.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype
    rate: Fraction
    frames: int | None
    has_audio: bool
    time_base: Fraction
    aspect: Fraction
    colours: tuple[int, int, int]
    turn: tuple[bool, int, int]
    damaged: list[float] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[Fraction, np.ndarray]]:
        self.damaged.clear()
        last = -1 / self.rate
        with _naming("read", self.path), _open(self.path) as source:
            for time, frame in _decode(*source, self.damaged):
                if time is None or time < last - SHORT:  # a clock that is absent or set back
                    time = last + 1 / self.rate
                last = max(time, last + self.time_base)
                yield last, _pixels(frame, self)


def read_video(path: str | os.PathLike[str]) -> Video:
    """Opens a video and decodes its first frame, which tells what the file only claims.

    Args:
      path: a file of a kind in `VIDEOS`; of several video streams in it, the first.

    Raises:
      VideoError: if the file is no video, nothing of it can be decoded, or PyAV is missing.
    """
    path = Path(path)
    with _naming("read", path), _open(path) as (container, stream, start):
        frame = next((frame for _, frame in _decode(container, stream, start, [])), None)
        if frame is None:
            raise VideoError("no frame of it can be decoded; it is damaged or incomplete")
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        length = Fraction(container.duration or 0, 10**6)
        h, w, aspect = frame.height, frame.width, stream.sample_aspect_ratio or Fraction(1)
        turn = _turn(frame)
        if turn[0]:
            h, w, aspect = w, h, 1 / aspect
        deep = any(component.bits > 8 for component in frame.format.components)
        return Video(
            path=path,
            shape=(h, w, 3),
            dtype=np.dtype(np.uint16 if deep else np.uint8),
            rate=rate,
            frames=stream.frames or round(length * rate) or None,
            has_audio=bool(container.streams.audio),
            time_base=stream.time_base or 1 / rate,
            aspect=aspect,
            colours=(frame.color_primaries, frame.color_trc, _matrix(frame)),
            turn=turn,
        )


class VideoWriter:
    """Writes a restored video atomically: H.264 at high quality, and the source's sound.

    A context manager: the file appears when it is left; after an exception the folder is as before.
    Frames have 8 bits, or 10 for a source of uint16, and the source's primaries and transfer. The
    matrix is BT.709's, or BT.2020's where the source has that; chroma is 4:2:0, or 4:4:4 where
    height or width is odd. Sound is copied, not encoded again.

    Args:
      path: .mp4, .m4v, .mov or .mkv; the last takes any sound, so it suits sources of other kinds.
      source: the video that is restored, for its times, sound and colours.

    Attributes:
      notes: what of the source is left out, in plain words; known once it is entered.
      has_audio: whether it has the source's sound; likewise.

    Raises:
      VideoError: on entering, writing or leaving, if the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], source: Video):
        self.path, self.source = Path(path), source
        self.notes, self.has_audio = (), False
        self._temporary = temporary(self.path)
        self._shape: tuple[int, ...] | None = None  # of every frame, known from the first
        self._ticks = -1  # time of the last frame

    def __enter__(self) -> Self:
        with _naming("write", self.path), ExitStack() as stack:
            if (suffix := self.path.suffix.lower()) not in WRITABLE:
                raise VideoError(f"a name ends in {', '.join(WRITABLE)}, not in '{suffix}'")
            if not self.path.parent.is_dir():
                raise VideoError(f"there is no folder {self.path.parent}; create it first")
            source, picture, start = stack.enter_context(_open(self.source.path))
            if "libx264" not in _av().codecs_available:
                raise VideoError("this PyAV has no libx264; pip install --force-reinstall av")
            name, kind = f"file:{self._temporary}", WRITABLE[suffix]
            self._file = _av().open(name, "w", kind, metadata_errors=TITLES)
            self._file.metadata.update(source.metadata)
            quality = {"crf": "12", "preset": "medium"}  # where no loss is seen
            self._video = self._file.add_stream("libx264", self.source.rate, quality)
            copies = {}
            for stream in source.streams.audio:
                if _takes_sound(kind, self.source.path, stream.index):
                    copies[stream] = self._file.add_stream_from_template(stream)
                    copies[stream].metadata.update(stream.metadata)
            streams = (*source.streams.video, *source.streams.audio, *source.streams.subtitles)
            lost = (stream for stream in streams if stream not in (picture, *copies))
            self.notes = tuple(f"{stream.type} stream {stream.index} left out" for stream in lost)
            self.has_audio = bool(copies)
            self._sound = _to_copy(source, start, copies)
            self._waiting = next(self._sound, None)
            self._source = stack.pop_all()
        return self

    def write(self, time: Fraction | float, pixels: ArrayLike) -> None:
        """Writes the next frame.

        Args:
          time: seconds, those of the frame that was restored.
          pixels: (H, W, 3), of one size for the whole video, which need not be the source's;
            uint8, uint16, or floats, which are clipped to [0, 1].

        Raises:
          VideoError: if the disk or the encoder refuses, or the frame holds NaN.
        """
        pixels = np.asarray(pixels)
        if pixels.ndim != 3 or pixels.shape[-1] != 3 or 0 in pixels.shape:
            raise ValueError(f"a frame to write is (H, W, 3), got {pixels.shape}.")
        if self._shape not in (None, pixels.shape):
            raise ValueError(f"the frames before were {self._shape}, got {pixels.shape}.")
        with _naming("write", self.path):
            if pixels.dtype != self.source.dtype:
                pixels = from_float(pixels, self.source.dtype)
            if self._shape is None:
                self._configure(*pixels.shape[:2])
            self._shape = pixels.shape
            name = "rgb48le" if pixels.dtype == np.uint16 else "rgb24"
            frame = _av().VideoFrame.from_ndarray(np.ascontiguousarray(pixels), name)
            frame = frame.reformat(
                format=self._video.pix_fmt,
                src_color_range=FULL,
                dst_color_range=LIMITED,
                dst_colorspace=self._video.colorspace,
                interpolation=SCALING,
            )
            base = self.source.time_base
            self._ticks = max(round(time / base), self._ticks + 1)  # the encoder needs an order
            frame.pts, frame.time_base = self._ticks, base
            self._file.mux(self._video.encode(frame))
            self._copy_sound(until=time)

    def _configure(self, h: int, w: int) -> None:
        primaries, transfer, matrix = self.source.colours
        video, deep = self._video.codec_context, self.source.dtype == np.uint16
        video.width, video.height, video.time_base = w, h, self.source.time_base
        video.pix_fmt = f"yuv4{'44' if h % 2 or w % 2 else '20'}p{'10le' if deep else ''}"
        video.sample_aspect_ratio = self.source.aspect
        video.color_primaries = BT709 if primaries in UNSTATED else primaries
        video.color_trc = BT709 if transfer in UNSTATED else transfer
        video.colorspace = BT2020 if matrix == BT2020 else BT709
        video.color_range = LIMITED

    def _copy_sound(self, until: Fraction | float) -> None:
        while self._waiting is not None and self._waiting[0] <= until:
            self._file.mux(self._waiting[1])
            self._waiting = next(self._sound, None)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with _naming("write", self.path):
                    if self._shape is None:
                        raise VideoError("no frame was given to it")
                    self._file.mux(self._video.encode(None))
                    self._copy_sound(until=float("inf"))
                    self._file.close()
                    settle(self._temporary)
                    self._temporary.replace(self.path)
        finally:
            with suppress(Exception):  # the file is closed already, or given up
                self._file.close()
            self._source.close()
            self._temporary.unlink(missing_ok=True)


def _av():
    try:
        import av
        import av.error
        import av.stream
    except ImportError as error:
        message = "videos need PyAV, which is not installed; pip install 'tlc-jax[video]'."
        raise VideoError(message) from error
    return av


@contextmanager
def _naming(task: str, path: Path) -> Iterator[None]:
    """Turns what goes wrong with a file into one sentence that names it."""
    av = _av()
    try:
        yield
    except (OSError, ValueError, av.error.FFmpegError) as error:
        reason = getattr(error, "strerror", None)
        raise VideoError(f"cannot {task} {path}: {reason.lower() if reason else error}.") from error


@contextmanager
def _open(path: Path) -> "Iterator[tuple[InputContainer, VideoStream, Fraction]]":
    """The open file, its first video but covers, and the seconds at which it begins."""
    av = _av()
    with open_file(path) as file:  # whose errors say more than FFmpeg's
        if not file.read(1):
            raise VideoError("it is empty")
    try:
        # Without the protocol, a file "a:b.mp4" would be taken to have one.
        container = av.open(f"file:{path}", container_options=OPENING, metadata_errors=TITLES)
    except av.error.FFmpegError as error:
        reason = "it is no video of a known kind, or it is damaged or cut off"
        raise VideoError(f"{reason}; give an .mp4, .mov, .mkv or .webm") from error
    with container:
        cover = av.stream.Disposition.attached_pic
        stream = next((s for s in container.streams.video if not s.disposition & cover), None)
        if stream is None:
            raise VideoError("there is no video in it, only sound or other data")
        if stream.codec_context is None:
            raise VideoError("its video is of a kind that cannot be decoded")
        check_pixels(stream.codec_context.width, stream.codec_context.height, FRAME)
        # Later frames may be of another size; FFmpeg refuses those that are larger.
        stream.codec_context.options = {"max_pixels": str(most_pixels(FRAME))}
        # Broadcasts and cameras count from anywhere; trimmed sound may begin before zero.
        start = Fraction(max(container.start_time or 0, 0), 10**6)
        base = stream.time_base or Fraction(1, 10**6)
        yield container, stream, round(start / base) * base


def _packets(container: "InputContainer", streams: "list[Stream]") -> "Iterator[Packet | None]":
    """The packets of some streams in the file's order; `None` where it cannot be read."""
    av, failures = _av(), 0
    while streams and failures < PATIENCE:
        try:
            for packet in container.demux(streams):
                failures = 0
                if packet.size:  # the last ones are empty and only tell decoders to finish
                    yield packet
            return
        except av.error.FFmpegError:
            failures += 1
            if failures == 1:
                yield None


def _decode(
    container: "InputContainer", stream: "VideoStream", start: Fraction, damaged: list[float]
) -> "Iterator[tuple[Fraction | None, VideoFrame]]":
    """(seconds, frame) of what can be decoded; adds to `damaged` the seconds of what cannot."""
    av, end, base = _av(), Fraction(0), stream.time_base or Fraction(1)
    waiting, newest = set(), Fraction(-1)  # times of packets without a frame yet, and of frames
    trouble = False
    last = av.Packet()  # empty, for the frames that the decoder still holds at the end
    for packet in chain(_packets(container, list(container.streams)), [last]):
        if packet is None:
            damaged.append(float(end))
            continue
        if packet is not last:
            ticks = packet.dts if packet.pts is None else packet.pts
            time = end if ticks is None else ticks * packet.time_base - start
            end = max(end, time + (packet.duration or 0) * packet.time_base)
            if packet.stream is not stream:
                continue
            if packet.pts is not None:
                waiting.add(time)
        try:
            frames = stream.decode(packet)
        except av.error.FFmpegError:
            frames, trouble = [], True
            if packet.pts is None:
                damaged.append(float(end))
        for frame in frames:
            time = None if frame.pts is None else frame.pts * base - start
            if time is not None:
                if trouble and newest - SHORT < time < newest:
                    continue  # it comes too late, as some do after damage
                newest = time
                lost = {other for other in waiting if other < time}
                waiting -= {time, *lost}
                if trouble:  # otherwise they were never meant to be seen
                    damaged.extend(sorted(map(float, lost)))
            if frame.is_corrupt:
                damaged.append(float(end if time is None else time))
            yield time, frame
    if trouble:
        damaged.extend(sorted(map(float, waiting)))
    if end + SHORT < (container.duration or 0) / 10**6:
        damaged.append(float(end))


def _takes_sound(kind: str, path: Path, index: int) -> bool:
    """Whether a format takes a stream of sound, by a trial: some refuse it only at their end."""
    av = _av()
    # A ValueError where the format takes other sound, or FFmpeg does not know the codec.
    with suppress(ValueError, av.error.FFmpegError), _open(path) as (container, *_):
        stream = container.streams[index]
        with av.open(io.BytesIO(), "w", kind) as trial:
            copy = trial.add_stream_from_template(stream)
            packets = _packets(container, [stream])
            first = next((p for p in packets if p is not None and p.dts is not None), None)
            if first is not None:
                first.stream = copy
                trial.mux(first)
        return True
    return False


def _to_copy(
    container: "InputContainer", start: Fraction, copies: "dict[Stream, Stream]"
) -> "Iterator[tuple[Fraction, Packet]]":
    """(seconds, packet) of some streams, each packet addressed to the copy of its stream."""
    late, last, end = {}, {}, {}  # by stream, in its ticks
    for packet in _packets(container, list(copies)):
        if packet is None or packet.dts is None:
            continue
        stream, ticks = packet.stream, packet.dts
        shown = ticks if packet.pts is None else packet.pts
        late.setdefault(stream, round(start / packet.time_base))
        if stream in last and ticks - late[stream] < last[stream]:
            late[stream] = ticks - end[stream]  # the clock was set back, as where files are joined
        last[stream] = packet.dts = ticks - late[stream]
        packet.pts = shown - late[stream]
        end[stream] = last[stream] + (packet.duration or 0)
        packet.stream = copies[stream]
        yield last[stream] * packet.time_base, packet


def _matrix(frame: "VideoFrame") -> int:
    """The matrix between the frame's colours and RGB; as players do, by its size if unstated."""
    if frame.colorspace in UNSTATED:
        return BT709 if frame.width >= 1280 or frame.height > 576 else BT601
    if frame.colorspace not in MATRICES:
        raise VideoError(f"matrix {frame.colorspace} of its colours (ITU-T H.273) is not supported")
    return frame.colorspace


def _pixels(frame: "VideoFrame", video: Video) -> np.ndarray:
    """Upright RGB of the shape and type of the video."""
    (h, w, _), (swap, down, right) = video.shape, video.turn
    frame.colorspace = _matrix(frame)
    pixels = frame.to_ndarray(
        format="rgb48le" if video.dtype == np.uint16 else "rgb24",
        width=h if swap else w,
        height=w if swap else h,
        dst_color_range=FULL,
        interpolation=SCALING,
    )
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    return np.ascontiguousarray(pixels[::down, ::right])


def _turn(frame: "VideoFrame") -> tuple[bool, int, int]:
    """`Video.turn` by the display matrix.

    The matrix, a b u c d v x y w, moves what is at (x, y) to (ax + cy, bx + dy) (ISO/IEC 14496-12,
    8.3.2); those of cameras are quarter turns and reflections. To ask a frame for it makes a cycle
    that keeps the frame in memory for long, so only the first is asked.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, 1, 1
    a, b, _, c, d = (int(x) for x in np.frombuffer(bytes(matrix), np.int32)[:5])
    right, down = (c, b) if abs(b) > abs(a) else (a, d)
    return abs(b) > abs(a), -1 if down < 0 else 1, -1 if right < 0 else 1
