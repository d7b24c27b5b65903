"""What is restored at once, how, and what came of it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tlc_jax.files.pictures import Picture
from tlc_jax.files.whole import is_done
from tlc_jax.inference.ways import Way, at_once
from tlc_jax.layers.network import Network, Params
from tlc_jax.ops.windows import Size

# Networks with their parameters; what the first makes of a picture is the next one's.
Networks = Sequence[tuple[Network, Params]]


class JobError(ValueError):
    """What was asked for cannot be done; the message is a sentence for the user."""


class Job(NamedTuple):
    """What is restored at once.

    Attributes:
      sources: a picture or video, the two views of a pair, or the frames of a clip.
      targets: as many files, or one for two views.
      sheet: a .png file that compares both modes of a picture.
      is_clip: whether the sources are the frames of one clip.
    """

    sources: tuple[Path, ...]
    targets: tuple[Path, ...]
    sheet: Path | None = None
    is_clip: bool = False

    @property
    def name(self) -> str:
        """The sources in words, of a clip the folder."""
        return ", ".join(map(str, [self.sources[0].parent] if self.is_clip else self.sources))

    @property
    def outputs(self) -> tuple[Path, ...]:
        return (*self.targets, self.sheet) if self.sheet else self.targets

    @property
    def is_done(self) -> bool:
        """Whether all outputs are there, and whole."""
        return all(map(is_done, self.outputs))


@dataclasses.dataclass(frozen=True)
class Options:
    """How jobs are done.

    Attributes:
      reference: the ground truth of a picture, or a folder of it by the names of the sources; for
        two targets with subfolders `left` and `right`.
      auto: whether of two networks, for noise and for blur, a picture gets those that it needs.
      strength: of pictures, 0 for what came to 1 for all that the networks do.
      guard: whether global statistics are taken where the local ones fail.
      way: of pictures, as of `tlc_jax.restore`.
      fit: whether those that do not fit in memory are restored in tiles instead.
      buckets: those of the sizes of pictures that share a program.
      quality: of JPEG and other files that lose something, 1 to 100; `None` for that of the source.
      png_level: of PNG files, 0 to 9; `None` for a quick one.
      chunk, overlap: frames at a time, as of `tlc_jax.restore_clip`.
      overwrite: whether outputs that are there are replaced; else only what is missing is written.
      devices: how many of this machine's share the pictures, or the frames of a video.
      split: over how many the rows of each picture are divided.
      complain: told at once of a frame of a clip that cannot be read; the others are restored.
    """

    reference: Path | None = None
    auto: bool = False
    strength: float = 1.0
    guard: bool = False
    way: Way = at_once
    fit: bool = True
    buckets: Mapping[Size, Size] = dataclasses.field(default_factory=dict)
    quality: int | None = None
    png_level: int | None = None
    chunk: int = 10
    overlap: int = 5
    overwrite: bool = False
    devices: int = 1
    split: int = 1
    complain: Callable[[Exception], None] = lambda error: None


DEFAULTS = Options()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a job.

    Attributes:
      written: the files, or the folder of a clip.
      facts: what was done, in words.
      notes: what was converted or left out, and how close the result is to the reference.
      problem: a sentence about what could not be done, as parts of a source that cannot be read.
      before: the picture as it was read, of a pair its first view.
      after: what was written of it, (H, W, C) whole numbers.
      mode: "local" or "global", the statistics that it was restored with.
      psnr: of the picture and of what was made of it, in dB, where there is a reference.
      reading, compiling, running, writing: seconds; those of a video are together.
      memory: bytes that XLA plans for a picture.
    """

    written: tuple[Path, ...]
    facts: str
    notes: tuple[str, ...] = ()
    problem: str | None = None
    before: Picture | None = None
    after: np.ndarray | None = None
    mode: str = ""
    psnr: tuple[float, ...] = ()
    reading: float = 0.0
    compiling: float = 0.0
    running: float = 0.0
    writing: float = 0.0
    memory: int = 0
