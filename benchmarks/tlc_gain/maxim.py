"""TLC on MAXIM with Google's weights, on a frame of GoPro, averaged over alignments.

MAXIM's blocks lie on a lattice of up to 64 pixels, whose alignment with the picture changes the
result by more than TLC does. So each way to restore is measured at several alignments.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.tlc_gain.gain import FACTORS, psnr
from tlc_jax.inference.ways import alignments, moved, restore, tiled
from tlc_jax.models import Maxim

SHIFTS = alignments(3)


def by_way(
    model: Maxim, params: Any, image: np.ndarray, ground_truth: np.ndarray
) -> Iterator[tuple[str, dict[str, Any]]]:
    """By way: "psnr" in dB for each of `SHIFTS`, and the PSNR of the "mean" of the results."""
    model = model.clone(padding="end")  # with it the lattice begins in the upper left corner
    both = model.clone(local_mode=True)
    side = model.train_size[0]
    ways = {
        "global": model,
        "channel attention local": both.clone(local_grid=False),
        "grid mixing local": both.clone(local_attention=False),
        "both local": both,
        **{
            f"both local, channel attention {factor:g}x": both.clone(
                window=(round(factor * side),) * 2
            )
            for factor in FACTORS
            if factor != 1.5  # that is "both local"; the grid's window is fixed
        },
        "tiles": model,
    }
    for way, variant in ways.items():
        of_each, total = [], np.zeros_like(ground_truth)
        for shift in SHIFTS:
            if way == "tiles":
                restored = restore(variant, params, moved(image, shift), way=tiled(side, side // 8))
            else:
                restored = restore(variant, params, moved(image, shift))
            h, w, _ = image.shape
            restored = restored[shift[0] : shift[0] + h, shift[1] : shift[1] + w]
            of_each.append(psnr(restored, ground_truth))
            total += restored / len(SHIFTS)
        yield way, {"psnr": of_each, "mean": psnr(total, ground_truth)}
