"""Batches, for engines that give many machines their work, such as Ray Data.

Nothing of such an engine is imported here: what it needs is a class that its workers make, and call
with dictionaries of arrays.
"""

import os
import tempfile
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np

from tlc_jax import published
from tlc_jax.files.datasets import PICTURES
from tlc_jax.files.pictures import RAW, ImageError
from tlc_jax.files.printable import printable
from tlc_jax.files.video import VIDEOS, VideoError
from tlc_jax.files.whole import is_done
from tlc_jax.inference.programs import is_out_of_memory
from tlc_jax.inference.timed import restore_timed
from tlc_jax.jobs import Job, JobError, Options, plan, run
from tlc_jax.ops.pixels import like, to_float

Batch = dict[str, np.ndarray]


class Restorer:
    """Restores batches: dictionaries of arrays of one length, in which each entry is a picture.

    What a batch holds says what is done with it; its other columns stay.

    - `image`: (N, H, W, C) uint8, uint16 or floats in [0, 1], or N such arrays of sizes of their
      own. The restored ones take their place.
    - `bytes` and `path`: encoded pictures, and what their files are called. The restored ones take
      their place, encoded as `tlc-jax restore` would.
    - `path` and `target`: files, and those to be written, which are those of `tlc-jax restore`.
      They appear once they are whole, and what is there already is kept; so a batch may be done
      twice, or by two workers. Paths are texts, or bytes for names that are not UTF-8.

    With paths there is a column `error` in what is returned: a sentence about each picture that
    could not be restored, whose `bytes` are empty then, or nothing.

    Args:
      checkpoint: as of `tlc_jax.load`, of a network for single pictures.
      mode: statistics over windows (TLC) or over the picture.
      dtype: the type to compute in: "float32", "bfloat16" or "float16".
      quality: of JPEG and other files that lose something, 1 to 100; `None` for that of the source.
      overwrite: whether targets that are there are made again.

    Raises:
      CheckpointError: there is no such checkpoint.
      JobError: its network restores pairs or clips.
      ValueError: a mode or type that there is not; when it is called, a batch without the columns
        above, or images that the network does not take.

    Examples:
      >>> restore = Restorer("denoise")
      >>> batch = {"image": np.zeros((2, 32, 48, 3), np.uint8), "label": np.array([7, 8])}
      >>> restored = restore(batch)
      >>> restored["image"].shape, restored["label"].tolist()
      ((2, 32, 48, 3), [7, 8])
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] = "denoise",
        *,
        mode: Literal["local", "global"] = "local",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        quality: int | None = None,
        overwrite: bool = False,
    ):
        if mode not in ("local", "global"):
            raise ValueError(f"mode is local or global, got {mode!r}.")
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype is float32, bfloat16 or float16, got {dtype!r}.")
        if quality not in (None, *range(1, 101)):
            raise ValueError(f"quality is 1 to 100, got {quality!r}.")
        model, params = published.load(checkpoint)
        if model.takes != "pictures":
            raise JobError(f"{checkpoint}: {type(model).__name__} takes no single pictures.")
        computed = None if dtype == "float32" else jnp.dtype(dtype)
        self._networks = [(model.clone(local_mode=mode == "local", dtype=computed), params)]
        self._options = Options(quality=quality, overwrite=overwrite)

    def __call__(self, batch: Batch) -> Batch:
        """The batch, restored."""
        if batch.keys() >= {"path", "target"}:
            pairs = zip(_paths(batch["path"]), _paths(batch["target"]), strict=True)
            return batch | {"error": _column([self._file(*pair) for pair in pairs])}
        if batch.keys() >= {"path", "bytes"}:
            pairs = zip(batch["bytes"], _paths(batch["path"]), strict=True)
            made = [self._bytes(*pair) for pair in pairs]
            return batch | {
                "bytes": _column([encoded for encoded, _ in made]),
                "error": _column([error for _, error in made]),
            }
        if "image" in batch:
            return batch | {"image": _stacked([self._image(image) for image in batch["image"]])}
        raise ValueError(
            "a batch has the columns path and target, path and bytes, or image; got "
            f"{', '.join(sorted(batch)) or 'none'}."
        )

    def _image(self, image: np.ndarray) -> np.ndarray:
        model, params = self._networks[0]
        return like(image, restore_timed(model, params, to_float(image), fit=True).pixels)

    def _bytes(self, encoded: bytes, path: Path) -> tuple[bytes, str]:
        """A picture by way of files, as nothing else knows all of its format; or what is wrong."""
        with tempfile.TemporaryDirectory(prefix="tlc-jax-") as folder:
            suffix = path.suffix if path.suffix.lower() in (*PICTURES, *VIDEOS, *RAW) else ""
            source = Path(folder, f"picture{suffix}")
            source.write_bytes(encoded)
            (job,) = plan(self._networks[0][0], [source], Path(folder, "restored"))
            if error := self._file(source, job.targets[0]):
                return b"", error.replace(str(source), printable(str(path)))
            return job.targets[0].read_bytes(), ""

    def _file(self, source: Path, target: Path) -> str:
        """Write the target, or tell in a sentence why that could not be done."""
        if target.exists() and source.exists() and target.samefile(source):
            return printable(f"{target}: this would replace an input; choose another output.")
        if is_done(target) and not self._options.overwrite:
            return ""
        try:
            outcome = run(Job((source,), (target,)), self._networks, self._options)
        except (JobError, ImageError, VideoError, OSError) as error:
            return printable(str(error))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return printable(f"{source}: not enough memory; try bfloat16 or cut the picture.")
        return printable(outcome.problem or "")


def _paths(column: np.ndarray) -> list[Path]:
    return [Path(os.fsdecode(path)) for path in column]


def _column(entries: list) -> np.ndarray:
    """Entries one by one, whatever they are."""
    column = np.empty(len(entries), object)
    for i, entry in enumerate(entries):  # at once, arrays would be taken apart
        column[i] = entry
    return column


def _stacked(images: list[np.ndarray]) -> np.ndarray:
    """Images of one size as one array, others one by one."""
    return np.stack(images) if len({x.shape for x in images}) == 1 else _column(images)
