"""Strict arithmetic for every test: no silent promotion of dtypes or ranks."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Parity means float32 products on GPUs and TPUs too, where the default is less.
jax.config.update("jax_default_matmul_precision", "highest")

GOLDEN = Path(__file__).parent / "golden"


class Golden(NamedTuple):
    meta: dict[str, Any]
    image: np.ndarray  # (N, H, W, C)
    expected: dict[str, np.ndarray]  # by mode, "global" and "local": (N, H, W, C) of float64
    tensors: dict[str, np.ndarray]  # by the release's names


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Reads a file of tests/golden of a PyTorch release."""

    def read(name: str) -> Golden:
        with np.load(GOLDEN / f"{name}.npz") as file:
            arrays = dict(file)
        nhwc = {
            key: array.transpose(0, 2, 3, 1)
            for key, array in arrays.items()
            if key == "input" or key.startswith("output_")
        }
        return Golden(
            json.loads(str(arrays["meta"])),
            nhwc["input"],
            {mode: nhwc[f"output_{mode}"].astype(np.float64) for mode in ("global", "local")},
            {
                key.removeprefix("param:"): x
                for key, x in arrays.items()
                if key.startswith("param:")
            },
        )

    return functools.cache(read)
