"""Pairs of views and their ground truth: stereo pairs, and the two views of dual pixels.

The views of a scene are X/lr0 and X/lr1 or X/hr0 and X/hr1 (iPASSR, whose data sets NAFSSR takes),
X_L and X_R (Flickr1024, NTIRE), or left/X and right/X.
"""

import re
from pathlib import Path

import numpy as np

from tlc_jax.files.datasets import DataError, Pair, Reader, in_order, paired, photographs
from tlc_jax.ops.pixels import to_float

VIEWS = (
    r"(?P<scene>.+)/[hl]r(?P<view>[01])",
    r"(?P<scene>.+)_(?P<view>[LR])",
    r"(?P<view>left|right)/(?P<scene>.+)",
)
LEFT = ("0", "L", "left")
# Folders of low resolution, and those of their ground truth.
STEREO = {"lr_x{}": "hr", "LR_x{}": "HR"}
# Folders of left and right views and of their ground truth.
DUAL_PIXEL = (
    ("test_l/source", "test_r/source", "test_c/target"),  # DPDD of its authors
    ("test/inputL", "test/inputR", "test/target"),  # DPDD of Restormer
    ("inputL", "inputR", "target"),
)


def view_pairs(inputs: Path, targets: Path, *, one_target: bool = False) -> list[Pair]:
    """The pairs of views in a folder and their ground truth in another, paired by scene.

    Args:
      inputs: a folder of both views of each scene.
      targets: likewise, or with `one_target` a folder of one picture for each scene.

    Returns:
      The pairs in the order of the scenes; both views are read as one picture, the channels of the
      right one after the left one's.

    Raises:
      DataError: a name that is none of a view, a view or a scene without the other.
    """
    if not one_target:
        return [Pair(*pair) for pair in paired(inputs, targets, _views)]
    # The same function finds both, so it is told which by the folder.
    return [
        Pair(*pair)
        for pair in paired(inputs, targets, lambda x: _views(x) if x == inputs else photographs(x))
    ]


def view_dataset(root: Path, *, scale: int = 1, one_target: bool = False) -> list[Pair]:
    """The test pairs of a data set that lies below `root` as it is distributed.

    Args:
      root: its folder.
      scale: of the network: the inputs of x4 are in lr_x4.
      one_target: whether the two views have one ground truth, as of dual pixels.

    Raises:
      DataError: none of `STEREO` or of `DUAL_PIXEL`, or as `view_pairs`.
    """
    if one_target:
        layouts = [*map(", ".join, DUAL_PIXEL)]
        for folders in DUAL_PIXEL:
            left, right, target = (root / folder for folder in folders)
            if left.is_dir():
                return [
                    Pair(name, _both(one, other), truth)
                    for name, (one, other, truth) in in_order(left, right, target)
                ]
    else:
        layouts = [f"{low.format(scale)}, {high}" for low, high in STEREO.items()]
        for low, high in STEREO.items():
            if (root / low.format(scale)).is_dir():
                return view_pairs(root / low.format(scale), root / high)
    raise DataError(
        f"{root}: no data set of pairs of a known layout ({'; '.join(layouts)}); name the folders "
        "with --input and --target."
    )


def _views(folder: Path) -> dict[str, Reader]:
    """Both views of each scene in a folder, as one picture."""
    scenes: dict[str, dict[bool, Reader]] = {}
    for name, reader in photographs(folder).items():
        match = next((m for form in VIEWS if (m := re.fullmatch(form, name))), None)
        if match is None:
            raise DataError(
                f"{folder}: {name} is not called like a view; views are X_L and X_R, X/lr0 and "
                "X/lr1, X/hr0 and X/hr1, or left/X and right/X."
            )
        views = scenes.setdefault(match["scene"], {})
        is_left = match["view"] in LEFT
        if is_left in views:
            raise DataError(f"{folder}: there are two of the same view of {match['scene']}.")
        views[is_left] = reader
    if alone := next((scene for scene, views in scenes.items() if len(views) < 2), None):
        raise DataError(f"{folder}: {alone} has one view; add the other.")
    return {scene: _both(views[True], views[False]) for scene, views in scenes.items()}


def _both(left: Reader, right: Reader) -> Reader:
    """Two views as one picture, side by side in the channels."""

    def read(channels: int) -> np.ndarray:
        views = [view(channels // 2) for view in (left, right)]
        (h, w, _), (height, width, _) = (view.shape for view in views)
        if (h, w) != (height, width):
            raise DataError(
                f"{right.file}: is {width}x{height}, but the other view, {left.file}, is {w}x{h}."
            )
        if len({view.dtype for view in views}) > 1:
            views = [to_float(view) for view in views]
        return np.concatenate(views, axis=-1)

    return Reader(left.file, read)
