"""The door of the transformation."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tlc_jax.ops.windows import Window, clip_window
from tlc_jax.transform.programs import COLUMNS, FULL, LONGER, ROWS, LocalizeError, trace
from tlc_jax.transform.rules import _evened, walk
from tlc_jax.transform.values import Field, Plain


def localize(
    fn: Callable[..., Any],
    train_size: tuple[int, int],
    *,
    window: Window = None,
    axes: tuple[int, int] = (1, 2),
    argnum: int = -1,
) -> Callable[..., Any]:
    @functools.wraps(fn, updated=())
    def local(*args: Any, **kwargs: Any) -> Any:
        where = range(len(args))[argnum]
        image = jnp.asarray(args[where])

        def of_image(image: jax.Array) -> Any:
            return fn(*args[:where], image, *args[where + 1 :], **kwargs)

        size = image.shape[axes[0]], image.shape[axes[1]]
        k = clip_window(window or tuple(n * 3 // 2 for n in train_size), size)
        if k == size:
            return of_image(image)

        @functools.cache
        def traced(size: tuple[int, int]) -> Any:
            shape = list(image.shape)
            shape[axes[0]], shape[axes[1]] = size
            return trace(of_image, jax.ShapeDtypeStruct(shape, image.dtype))

        (h, w), (k_h, k_w) = size, k
        sizes = {0: size, ROWS: (k_h, w), COLUMNS: (h, k_w), FULL: k}
        if k_h == h:
            sizes[LONGER * ROWS] = 2 * h, w
        if k_w == w:
            sizes[LONGER * COLUMNS] = h, 2 * w
        programs = {name: traced(size)[0] for name, size in sizes.items()}
        tree = jax.tree.structure(traced(size)[1])
        shapes = {name: program.in_avals[0].shape for name, program in programs.items()}
        results = walk(programs, [Field(0, lambda: image, shapes, {})])
        return jax.tree.unflatten(tree, [_returned(one) for one in results])

    return local


def _returned(value: Any) -> jax.Array:
    if isinstance(value, Plain):
        return value.arrays[0]
    if isinstance(value, Field) and value.hidden == value.spread_out:
        (value,), _ = _evened(None, [value])
        return value.array
    raise LocalizeError("the function returns statistics of windows, which have no one place.")
