"""What a network is measured on: a data set, two folders, or clean pictures under noise."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tlc_jax.evaluation.evaluating import EvaluationError
from tlc_jax.files.datasets import DataError, Pair, dataset, pairs, photographs, under_noise
from tlc_jax.files.limits import open_file
from tlc_jax.files.paths import real_path
from tlc_jax.files.views import view_dataset, view_pairs
from tlc_jax.layers import Network

MOST_NOISE = 100.0  # sigma, of 255: more than any publication measures
LISTED = 2**20  # bytes of a list of pictures


class Source(NamedTuple):
    """Pictures and their ground truth.

    Attributes:
      data: a data set as it is distributed; in place of the folders.
      input, target: a folder of pictures, and one of their ground truth.
      noise: sigma, of 255; the pictures of the target are measured under it, without an input.
      seed: of the noise.
    """

    data: Path | None = None
    input: Path | None = None
    target: Path | None = None
    noise: float | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """A short name, for the column of a table and the file of a report."""
        folder = real_path(self.data or self.input or self.target or Path())
        return folder.stem if self.noise is None else f"{folder.stem}-sigma{self.noise:g}"

    def settings(self) -> dict[str, Any]:
        """What a report says of it."""
        paths = {"data": self.data, "input": self.input, "target": self.target}
        said: dict[str, Any] = {key: str(real_path(x)) for key, x in paths.items() if x is not None}
        return said if self.noise is None else said | {"noise": self.noise, "seed": self.seed}

    def pairs(self, model: Network) -> list[Pair]:
        """The pictures for a network, or both views of each pair as one, not read yet.

        Raises:
          DataError: files that are missing, have no partner, or are not what the network takes.
        """
        views, one_target = model.takes == "pairs", model.out_channels != model.inp_channels
        if self.noise is not None and self.target is not None:
            if model.takes != "pictures":
                raise DataError(
                    f"{self.target}: noise is put on single pictures, and the network takes "
                    f"{model.takes}; choose another, or leave --noise out."
                )
            return [
                Pair(name, under_noise(clean, self.noise, self.seed), clean)
                for name, clean in photographs(self.target).items()
            ]
        if self.data is not None:
            if views:
                return view_dataset(self.data, scale=model.scale, one_target=one_target)
            return dataset(self.data)
        if self.input is None or self.target is None:
            raise DataError("a source has an input and a target, or noise and a target.")
        if views:
            return view_pairs(self.input, self.target, one_target=one_target)
        return pairs(self.input, self.target)


def parse_sigmas(text: str) -> list[float]:
    """Split a list of sigmas, of 255, at its commas.

    Raises:
      EvaluationError: one is no number above 0 and up to 100, or named twice.

    Examples:
      >>> parse_sigmas("15,25,50")
      [15.0, 25.0, 50.0]
    """
    sigmas = []
    for part in text.split(","):
        number = float(part) if re.fullmatch(r" *[0-9]{1,9}(\.[0-9]{1,9})? *", part) else 0.0
        if not 0 < number <= MOST_NOISE:
            raise EvaluationError(
                f"noise {text!r}: sigmas are numbers above 0 and up to {MOST_NOISE:g}, of 255, as "
                "in 15,25,50."
            )
        sigmas.append(number)
    if len({*sigmas}) < len(sigmas):
        raise EvaluationError(f"noise {text}: name each sigma once.")
    return sigmas


def read_subset(file: Path, names: list[str]) -> list[str]:
    """The pictures that a list names: by their names or by their numbers in the order of names.

    Args:
      file: text, one name or number a line, or a .npy file of numbers, as DPDD's authors give the
        test pictures that are indoors. Numbers begin with 1.
      names: of all pictures, in their order.

    Returns:
      Some of the names, in their order.

    Raises:
      EvaluationError: the file cannot be read, names nothing, or what is not there.
    """
    try:
        with open_file(file) as stream:
            if file.stat().st_size > LISTED:
                raise ValueError(f"it has more than {LISTED:,} bytes")
            if file.suffix.lower() == ".npy":
                array = np.load(stream, allow_pickle=False, max_header_size=10_000)
                if array.dtype.kind not in "iuf":
                    raise ValueError("it holds no list of numbers")
                lines = [f"{number:g}" for number in array.ravel().tolist()]
            else:
                text = stream.read().decode()
                lines = [line.strip() for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, MemoryError) as error:  # the last of a header that lies
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise EvaluationError(f"{file}: cannot be read as a list of pictures ({reason}).") from None
    by_line = {str(number): name for number, name in enumerate(names, 1)}
    by_line |= {Path(name).name: name for name in names} | {name: name for name in names}
    wanted = {by_line.get(line, by_line.get(re.sub(r"\.[A-Za-z]\w*$", "", line))) for line in lines}
    if None in wanted or not wanted:
        line = next((x for x in lines if x not in by_line), "")
        what = f"{line} is none of the {len(names)} pictures" if line else "it names none"
        raise EvaluationError(
            f"{file}: {what}; a list has a picture's name, or its number from 1 on, in each line."
        )
    return [name for name in names if name in wanted]
