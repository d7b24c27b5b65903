"""The form that each backend compiles of an operation which they want in different ones.

All forms of an operation compute the same. A program that is lowered for one platform holds one.
`docs/speed.md` has the figures by which they were chosen.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
from jax import lax

Arrays = TypeVar("Arrays", bound=jax.Array | tuple[jax.Array, ...])

ONNX = "onnx"  # what its runtimes want; no platform of XLA's, so that only `forms_of` chooses it

# operation: the name of its form on each platform. CPUs and ONNX were measured; TPUs (v5e) and GPUs
# (H100) by the bytes that XLA plans to move.
FORMS: dict[str, dict[str, str]] = {
    # Sums over a sliding window. A TPU lays strided slices out anew, and has products to spare. The
    # runtimes of ONNX store every part of a merge; products are fast there, and what is not finite
    # in a map may spread in it.
    "window sums": {
        "cpu": "blocks",
        "tpu": "products",
        "onnx": "finite products",
        "default": "edges",
    },
    # The edge of a map replicated. XLA:TPU stores what it gathers, and fuses selections.
    "spread": {"tpu": "selected", "default": "gathered"},
    # 1x1 convolutions. XLA:TPU copies a map to make rows of it; XLA:CPU, for a gradient, if not.
    "pointwise": {"cpu": "rows", "default": "maps"},
    # And one before a larger convolution. XLA:CPU stores a padded map, so the smaller is padded.
    "pointwise, padded": {"cpu": "padded first", "default": "padded last"},
    # 3x3 convolutions of an image's few channels, of which a TPU's own fill 3 of 128 lanes.
    "few channels": {"tpu": "products", "default": "convolution"},
    # 2x2 pixels to one and back, of stride 2; reshaped maps are copies on a TPU.
    "2x2": {"cpu": "product", "default": "convolution"},
    # A map in parts: to cut it is a copy on a TPU; elsewhere x is read once for all of them.
    "parts": {"tpu": "apart", "default": "cut"},
    # Attention between channels in overlapping windows.
    "attention": {"tpu": "masks", "default": "tiles"},
    # Depthwise convolutions. XLA:CPU takes 40 times as long for a grouped one.
    "depthwise": {"onnx": "grouped", "default": "products"},
    # The gradient of a depthwise kernel.
    "depthwise kernel": {"cpu": "image by image", "default": "at once"},
    # XLA:CPU fuses cheap operations into each of their readers, and computes them again.
    "stored": {"cpu": "once", "default": "as fused"},
}


_only: list[str] = []  # the platform whose forms alone are traced


def by_backend(operation: str, forms: Mapping[str, Callable[..., Any]], *arrays: Any) -> Any:
    """Applies the form of an operation that `FORMS` names for the platform it is compiled for."""
    named = FORMS[operation]
    if _only:
        return forms[named.get(_only[-1], named["default"])](*arrays)
    named = {name: form for name, form in named.items() if name != ONNX}
    if len(named) == 1:
        return forms[named["default"]](*arrays)
    return lax.platform_dependent(*arrays, **{name: forms[form] for name, form in named.items()})


@contextlib.contextmanager
def forms_of(platform: str) -> Iterator[None]:
    """Traces the forms of one platform alone, whatever compiles them.

    For "onnx", whose graphs know no choice, and "cpu", "tpu" or "cuda" in tests. It drops what JAX
    has compiled.
    """
    jax.clear_caches()
    _only.append(platform)
    try:
        yield
    finally:
        _only.pop()
        jax.clear_caches()


def stored(x: Arrays) -> Arrays:
    """The same array, or arrays, computed once.

    XLA:CPU fuses cheap operations into their readers, and a matrix product or a concatenation then
    computes them again for each of its parts. Other backends may fuse.
    """
    return by_backend("stored", {"once": lax.optimization_barrier, "as fused": lambda x: x}, x)
