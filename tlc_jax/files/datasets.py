"""Pairs of pictures, input and ground truth, from wherever data sets keep them.

A source is a folder of pictures, an LMDB folder as BasicSR writes it, or a .mat file of blocks as
the SIDD benchmark has it; pictures of two sources pair by name. Only the blocks of a .mat file are
read before they are asked for. `files.views` has data sets of two views.
"""

import importlib.util
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from tlc_jax.files.limits import open_file
from tlc_jax.files.paths import real_path
from tlc_jax.files.pictures import ImageError, read_picture
from tlc_jax.ops.pixels import to_float

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif")
PICTURES += (".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
MOST_PACKED = 100  # times that the blocks of a .mat file are larger than it

WITH_TRAINING = "../GT"  # holds the targets of the training pictures, too
# Where the inputs lie below the root of a data set, and from their parent, where the targets do.
LAYOUTS = {
    "test/*/blur": "sharp",  # GoPro of its authors; the inputs of blur_gamma are other ones
    "test/test-*": WITH_TRAINING,  # HIDE of its authors: test-close-ups and test-long-shot
    "test/input": "target",  # GoPro and HIDE of MPRNet
    "test/input.lmdb": "target.lmdb",  # GoPro of NAFNet
    "val/val_blur_jpeg": "val_sharp",  # REDS of its authors, 3000 pictures
    "val/blur_300.lmdb": "sharp_300.lmdb",  # REDS of NAFNet, the 300 that it publishes results for
    "val/input_crops.lmdb": "gt_crops.lmdb",  # SIDD of NAFNet
    "ValidationNoisyBlocksSrgb.mat": "ValidationGtBlocksSrgb.mat",  # SIDD of its authors
    "test_c/source": "target",  # DPDD of its authors, the combined view
    "test/inputC": "target",  # DPDD of Restormer
    "inputC": "target",
    "input": "target",
}
# Those in which a picture and its target are two photographs, numbered by the camera.
IN_ORDER = ("test_c/source", "test/inputC", "inputC")

T = TypeVar("T")


class DataError(ImageError):
    """Pictures that are missing or have no partner; the message is a sentence for the user."""


class Reader(NamedTuple):
    """A picture that is not read yet; called with 1 or 3 channels, (H, W, C) uint8 or uint16.

    Two views in one, of 6 channels, are float32 where the depths of their files differ, and so is
    what noise was added to.
    """

    file: Path  # that holds it, maybe among others
    read: Callable[[int], np.ndarray]

    def __call__(self, channels: int) -> np.ndarray:
        return self.read(channels)


class Pair(NamedTuple):
    """One picture to restore and its ground truth, not read yet."""

    name: str
    input: Reader
    target: Reader

    def read(
        self, channels: int, *, of_target: int | None = None, scale: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Input and target.

        Args:
          channels: of the input.
          of_target: channels of the target; `None` for as many.
          scale: how many times the target's sides are the input's.

        Returns:
          (H, W, channels) and (scale H, scale W, of_target), as their readers give them.

        Raises:
          ImageError: if one cannot be read, or their sizes do not fit.
        """
        image = self.input(channels)
        target = self.target(channels if of_target is None else of_target)
        (h, w, c), (height, width, _) = image.shape, target.shape
        if (scale * h, scale * w) != (height, width):
            times = f", and the network makes {scale * w}x{scale * h} of it" if scale > 1 else ""
            raise DataError(
                f"picture {self.name}: is {w}x{h}{times}, but its target is {width}x{height}; "
                "mend one."
            )
        if c != channels:
            raise DataError(f"picture {self.name}: has {c} channels, the network takes {channels}.")
        return image, target


def under_noise(clean: Reader, sigma: float, seed: int = 0) -> Reader:
    """A clean picture under Gaussian noise as the authors of denoisers test with: not clipped.

    The numbers are those of NumPy's generator of old, Mersenne Twister, which those authors use,
    begun anew for each picture; NumPy promises never to change them. So pictures of one size have
    the same noise.

    Args:
      clean: the picture.
      sigma: standard deviation, of a full scale of 255.
      seed: of the generator; theirs is 0.

    Returns:
      A reader of float32.
    """

    def read(channels: int) -> np.ndarray:
        pixels = to_float(clean(channels))
        noise = np.random.RandomState(seed).normal(0, sigma / 255, pixels.shape)
        return (pixels + noise).astype(np.float32)

    return Reader(clean.file, read)


def pairs(inputs: Path, targets: Path, *, spare_targets: bool = False) -> list[Pair]:
    """The pictures of two sources, paired by name.

    Args:
      inputs, targets: each a folder (searched below, too), an LMDB folder or a .mat file. A name
        is the path in the folder, the key, or the indices of the block, without a suffix.
      spare_targets: whether targets without an input are left out rather than refused.

    Returns:
      The pairs in the order of their names.

    Raises:
      DataError: a source that is not there, is empty or cannot be read, or names without partner.
    """
    return [Pair(*pair) for pair in paired(inputs, targets, _readers, spare=spare_targets)]


def photographs(source: Path) -> dict[str, Reader]:
    """The pictures of one source by their names, as of `pairs`.

    Raises:
      DataError: a source that is not there, is empty or cannot be read.
    """
    return _listed(source, _readers)


def file_pairs(left: Path, right: Path) -> list[tuple[Path, Path]]:
    """The files of two folders of pictures, paired by name; otherwise as `pairs`."""
    return [(one, other) for _, one, other in paired(left, right, _files)]


def in_order(*folders: Path) -> list[tuple[str, tuple[Reader, ...]]]:
    """Pictures of several folders that belong together by their place in the order of names.

    Returns:
      Of each place the name in the first folder, and the picture of each folder.

    Raises:
      DataError: a folder that is not there or empty, or one with more pictures than another.
    """
    found = [photographs(folder) for folder in folders]
    if len({len(pictures) for pictures in found}) > 1:
        counts = ", ".join(
            f"{len(x)} in {folder}" for x, folder in zip(found, folders, strict=True)
        )
        raise DataError(f"{folders[0]}: pictures belong together in their order: {counts}.")
    return list(zip(found[0], zip(*(x.values() for x in found), strict=True), strict=True))


def clips(found: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Frames by the clips that they belong to, in the order of the numbers that end their names.

    The clip is what comes before the number: a folder, or the beginning of the name.

    Raises:
      DataError: a name that does not end with a number.

    Examples:
      >>> frames = [Pair(name, None, None) for name in ("walk-10", "walk-9", "run/000001")]
      >>> {clip: [pair.name for pair in frames] for clip, frames in clips(frames).items()}
      {'run': ['run/000001'], 'walk': ['walk-9', 'walk-10']}
    """
    numbered: dict[str, list[tuple[int, Pair]]] = {}
    for pair in found:
        match = re.fullmatch(r"(.*?)[/_.-]?([0-9]{1,18})", pair.name, re.DOTALL)
        if match is None:
            raise DataError(f"{pair.name}: a frame of a clip has a number at the end of its name.")
        numbered.setdefault(match[1], []).append((int(match[2]), pair))
    return {
        clip: [pair for _, pair in sorted(frames, key=lambda one: one[0])]
        for clip, frames in sorted(numbered.items())
    }


def paired(
    here: Path, there: Path, find: Callable[[Path], dict[str, T]], *, spare: bool = False
) -> list[tuple[str, T, T]]:
    """What `find` gives of the same name in two sources; with `spare`, `there` may hold more.

    A restored picture, photo.denoise.png, pairs with photo.png, too.

    Raises:
      DataError: as `pairs`.
    """
    ours, theirs = _listed(here, find), _listed(there, find)
    ours, theirs = _without_labels(ours, theirs), _without_labels(theirs, ours)
    alone = [(here, there, ours.keys() - theirs.keys())]
    if not spare:
        alone.append((there, here, theirs.keys() - ours.keys()))
    for source, other, names in alone:
        if names:
            raise DataError(
                f"{source}: pictures without one of the same name in {other}: {len(names)} "
                f"({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''}); add the "
                "missing ones or remove these."
            )
    return [(name, one, theirs[name]) for name, one in ours.items()]


def _without_labels(found: dict[str, T], others: dict[str, T]) -> dict[str, T]:
    """Under the names of others, where those are the same but for what stands behind a last dot."""
    short = {name: name.rpartition(".")[0] for name in found if name not in others}
    unique = {name for name, count in Counter(short.values()).items() if count == 1} - found.keys()
    return {
        short[name] if short.get(name) in unique & others.keys() else name: one
        for name, one in found.items()
    }


def _listed(source: Path, find: Callable[[Path], dict[str, T]]) -> dict[str, T]:
    """What `find` gives of a source, in the order of the names."""
    found = find(source)
    if not found:
        raise DataError(f"{source}: no pictures in this folder ({', '.join(PICTURES)}).")
    return dict(sorted(found.items()))


def dataset(root: Path) -> list[Pair]:
    """The test pictures of a data set that lies below `root` as it is distributed.

    Raises:
      DataError: none of `LAYOUTS`, or as `pairs`.
    """
    for layout, beside in LAYOUTS.items():
        if layout in IN_ORDER and (root / layout).is_dir():
            folders = root / layout, (root / layout).parent / beside
            return [Pair(name, *both) for name, both in in_order(*folders)]
        found = [
            (source.relative_to(root), pair)
            for source in sorted(root.glob(layout))
            for pair in pairs(source, source.parent / beside, spare_targets=beside == WITH_TRAINING)
        ]
        if len({source for source, _ in found}) > 1:  # which may use the same names
            return [pair._replace(name=f"{source}/{pair.name}") for source, pair in found]
        if found:
            return [pair for _, pair in found]
    raise DataError(
        f"{root}: no data set of a known layout ({', '.join(LAYOUTS)}); name the folders with "
        "--input and --target."
    )


def _readers(source: Path) -> dict[str, Reader]:
    if (source / "data.mdb").is_file():
        return _in_lmdb(source)
    if source.suffix == ".mat":
        return _in_mat(source)
    if not source.is_dir():
        raise DataError(f"{source}: there is no such folder of pictures.")
    return {
        name: Reader(file, lambda channels, file=file: read_picture(file, channels=channels).pixels)
        for name, file in _files(source).items()
    }


def is_visible_file(path: Path) -> bool:
    """Whether it is a file, and none that macOS hides beside pictures."""
    return path.is_file() and not path.name.startswith(".")


def _files(folder: Path) -> dict[str, Path]:
    """The pictures in a folder, and below it, by their paths without suffix."""
    files: dict[str, Path] = {}
    for file in sorted(_below(folder)):
        if file.suffix.lower() not in PICTURES or not is_visible_file(file):
            continue
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise DataError(f"{file}: {files[name].name} has the same name but for the suffix.")
        files[name] = file
    return files


def _below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """What is in a folder and in those below it, through links, but not in hidden ones."""
    real = real_path(folder)
    if real in above:  # a link to a folder that holds it
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith("."):
            yield from _below(path, (*above, real))
        else:
            yield path


def _in_lmdb(folder: Path) -> dict[str, Reader]:
    """BasicSR, docs/DatasetPreparation.md: encoded files by their names without suffix.

    A line of meta_info.txt is like "0001_s001.png (480,480,3) 1".
    """
    if importlib.util.find_spec("lmdb") is None:
        raise DataError(f"{folder}: needs the package lmdb; install the extra [data].")
    try:
        lines = (folder / "meta_info.txt").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{folder}: no meta_info.txt that can be read; copy it again.") from None
    found = [re.fullmatch(r"(.+)\.\w+ \([\d, ]+\) \d+", line) for line in lines if line.strip()]
    if None in found:
        raise DataError(f"{folder / 'meta_info.txt'}: not the list of names that BasicSR writes.")
    keys = [match[1] for match in found if match]
    return {key: Reader(folder / "data.mdb", partial(_read_lmdb, folder, key)) for key in keys}


def _read_lmdb(folder: Path, key: str, channels: int) -> np.ndarray:
    import lmdb

    try:
        # Opened anew, which takes no time, so that nobody has to close it; nobody writes, either.
        with lmdb.open(str(folder), readonly=True, lock=False) as env, env.begin() as transaction:
            encoded = transaction.get(key.encode())
    except lmdb.Error as error:
        raise DataError(f"{folder}: cannot be read ({error}); copy it again.") from None
    if encoded is None:
        raise DataError(f"{folder}: holds no {key}, which its meta_info.txt names.")
    file = io.BytesIO(encoded)
    return read_picture(f"{key} in {folder}", channels=channels, file=file).pixels


def _in_mat(file: Path) -> dict[str, Reader]:
    """The one variable (M, N, H, W, C) uint8 of a MATLAB file; other classes are never read."""
    import scipy.io

    try:
        open_file(file).close()  # no pipe, which might never end
        kinds = scipy.io.whosmat(file)
        blocks = [name for name, shape, kind in kinds if (len(shape), kind) == (5, "uint8")]
        if len(blocks) != 1:
            raise ValueError("it holds no uint8 blocks of 5 axes")
        size = math.prod(next(shape for name, shape, _ in kinds if name == blocks[0]))
        if size > MOST_PACKED * file.stat().st_size:
            raise ValueError("it says far more than there is in the file")
        array = scipy.io.loadmat(file, variable_names=blocks)[blocks[0]]
    except Exception as error:  # SciPy meets damaged files with almost any exception
        raise DataError(
            f"{file}: cannot be read ({str(error) or type(error).__name__}); give a file like "
            "ValidationNoisyBlocksSrgb.mat, or download it again."
        ) from None
    return {
        f"{i:02}_{j:02}": Reader(file, lambda channels, block=array[i, j]: block)
        for i, j in np.ndindex(array.shape[:2])
    }
