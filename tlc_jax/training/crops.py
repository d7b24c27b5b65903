"""Random crops of pictures, which a network is trained on.

Sample number n of a run depends on the run's seed and n alone, so a run resumes with the sample it
would have had, and processes share the samples of a batch by their numbers.
"""

import dataclasses
import functools
import hashlib
import io
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tlc_jax.files.atomic import write_atomically
from tlc_jax.files.datasets import DataError, pairs, photographs
from tlc_jax.files.pictures import ImageError


class Stored(NamedTuple):
    """A decoded picture in a .npy file, whose header was read once.

    Not for each crop: `np.load` parses it as Python, which threads of CPython 3.11 cannot always do
    at the same time (gh-106905).
    """

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]  # (H, W, C)
    offset: int  # bytes

    def pixels(self) -> np.ndarray:
        return np.memmap(self.file, self.dtype, "r", self.offset, self.shape)


Files = tuple[Stored, ...]  # a target, or an input and its target
KINDS = ("input", "target")
AHEAD = 4  # batches that are made before they are asked for


@dataclasses.dataclass(frozen=True)
class Crops:
    """The samples of one stretch of a run, by their number within it.

    A sample is a dict of "target" and, where pictures have one, "input", (size, size, C) uint8 or
    uint16, and "seed", uint32, for what is random about it later on.
    """

    pictures: tuple[Files, ...]
    seed: int
    first: int  # number of the stretch's first sample in the run
    count: int
    size: int  # pixels
    flips: bool  # and turns by 90 degrees
    dtype: np.dtype
    rows: tuple[int, int, int]  # of a batch: all, then this process's own, from and to

    def __len__(self) -> int:
        batch, begin, end = self.rows
        return self.count // batch * (end - begin)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Each picture once before any comes again, each time in another order."""
        batch, begin, end = self.rows
        batches_before, row = divmod(index, end - begin)
        number = self.first + batches_before * batch + begin + row
        epoch, place = divmod(number, len(self.pictures))
        files = self.pictures[_order(self.seed, epoch, len(self.pictures))[place]]
        random = np.random.default_rng((self.seed, 1, number))
        arrays = [file.pixels() for file in files]
        h, w, _ = arrays[0].shape
        top, left = random.integers(0, (h - self.size + 1, w - self.size + 1))
        down, across, turned = random.integers(0, 2, 3) if self.flips else (0, 0, 0)
        made = {}
        for name, array in zip(KINDS[-len(files) :], arrays, strict=True):
            crop = array[top : top + self.size, left : left + self.size]
            crop = crop[:: 1 - 2 * down, :: 1 - 2 * across]
            crop = crop.swapaxes(0, 1) if turned else crop
            widen = 257 if crop.dtype != self.dtype else 1  # of uint8 among uint16
            made[name] = np.ascontiguousarray(crop, self.dtype) * self.dtype.type(widen)
        return made | {"seed": random.integers(2**32, dtype=np.uint32)}


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


def batches(crops: Crops, skip: int, workers: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's rows of a stretch's batches, from batch number `skip` on.

    Args:
      crops: the stretch.
      skip: batches to leave out.
      workers: processes that make them; 0 has threads do it.
    """
    import grain

    rows = crops.rows[2] - crops.rows[1]
    dataset = grain.MapDataset.source(crops)[skip * rows :].batch(rows, drop_remainder=True)
    threads = os.cpu_count() or 1
    made = dataset.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=AHEAD))
    if workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain looks into them
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(workers)
        made = made.mp_prefetch(options, worker_init_fn=_end_with_parent)
    return iter(made)


def _end_with_parent(worker: int, workers: int) -> None:
    """Have a worker end when what started it does, in whatever way; else it would wait forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def decode(
    inputs: Path | str | None,
    targets: Path | str,
    channels: int,
    folder: Path,
    *,
    may_fail: int,
    watch: Callable[[str], None],
    most: int | None = None,
    host: tuple[int, int] = (0, 1),
) -> list[Files]:
    """Decode all pictures into .npy files, of which crops are read without reading the rest.

    Args:
      inputs, targets: sources as of `datasets.pairs`; `None` and one of clean photographs.
      channels: 1 or 3.
      folder: for the files; those that it has already are taken as they are.
      may_fail: how many pictures may be unreadable; they are left out, and `watch` is told.
      most: how many pictures to take, the first ones by name.
      host: number of this process, and of how many; each begins with another part of the pictures.

    Returns:
      The files of each picture, in the order of their names.

    Raises:
      DataError: as `datasets.pairs`; more pictures fail; an input and its target differ in size.
    """
    inputs, targets = None if inputs is None else Path(inputs), Path(targets)
    sources = _sources(inputs, targets, channels)
    folder.mkdir(parents=True, exist_ok=True)
    names = list(sources)[:most]
    begin = len(names) * host[0] // host[1]
    found: dict[str, Files] = {}
    failed = 0
    for name in names[begin:] + names[:begin]:
        held, read = sources[name]
        stats = [file.stat() for file in held]
        picture = _digest(inputs, targets, channels, name, [stat.st_size for stat in stats])
        written = _digest([stat.st_mtime_ns for stat in stats])
        files = [folder / f"{picture}-{written}-{kind}.npy" for kind in KINDS[-len(held) :]]
        try:
            found[name] = _decoded(files, read)
        except DataError:
            raise
        except ImageError as error:
            failed += 1
            if failed > may_fail:
                raise DataError(
                    f"{error} That makes {failed} pictures that cannot be read, and "
                    f"skip_unreadable is {may_fail}."
                ) from None
            watch(f"left out: {error}")
    if not found:
        raise DataError(f"{targets}: none of the pictures can be read.")
    return [found[name] for name in names if name in found]


Read = Callable[[], tuple[np.ndarray, ...]]


def _sources(
    inputs: Path | None, targets: Path, channels: int
) -> dict[str, tuple[list[Path], Read]]:
    """By name of each picture, or pair of them, the files that hold it, and what reads it."""
    if inputs is None:
        return {
            name: ([reader.file], lambda reader=reader: (reader(channels),))
            for name, reader in photographs(targets).items()
        }
    return {
        pair.name: ([pair.input.file, pair.target.file], lambda pair=pair: pair.read(channels))
        for pair in pairs(inputs, targets)
    }


def _decoded(files: list[Path], read: Read) -> Files:
    """A picture in its files, into which it is decoded unless it has been."""
    if not all(file.exists() for file in files):
        for file, array in zip(files, read(), strict=True):
            encoded = io.BytesIO()
            np.save(encoded, np.ascontiguousarray(array))
            try:
                write_atomically(file, encoded.getvalue())  # others may be writing the same
            except OSError as error:
                raise DataError(
                    f"{file.parent}: a decoded picture cannot be written "
                    f"({error.strerror or error}); free some space."
                ) from None
    # Closed at once, as there may be thousands.
    arrays = [(file, np.load(file, mmap_mode="r")) for file in files]
    return tuple(Stored(file, array.dtype, array.shape, array.offset) for file, array in arrays)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def picture_of(stored: Stored) -> str:
    """Which picture a file of `decode` is of, and how large the file was that held it.

    Not when that was written, as the rest of the name: a run may resume with a copy of a data set.
    """
    return stored.file.name.partition("-")[0]


def widest_type(pictures: Sequence[Files], size: int) -> np.dtype:
    """The type that holds the samples of all pictures, none of which may be smaller than a crop.

    Raises:
      DataError: how many are, and how small.
    """
    shapes = [target.shape for *_, target in pictures]  # an input has its target's
    if small := [shape for shape in shapes if min(shape[:2]) < size]:
        h, w, _ = min(small)
        raise DataError(
            f"{len(small)} pictures are smaller than the crops of {size}x{size} pixels, one is "
            f"{w}x{h}; leave them out or take smaller crops."
        )
    types = [file.dtype for files in pictures for file in files]
    return max(types, key=lambda dtype: dtype.itemsize)
