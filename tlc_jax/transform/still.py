"""Parts of a function that run in TLC's still windows, and are averaged where these overlap.

Still windows are the fewest that cover a map, as for attention; other windows slide.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlc_jax.ops.windows import average_windows, axis_starts
from tlc_jax.transform.programs import (
    FULL,
    NAMES,
    Equation,
    Shapes,
    axes_of,
    bind,
    labels,
    unfolded,
)
from tlc_jax.transform.values import ADDED, Field, Misfit, Origin, Plain, Still

AT_ONCE = 2**14  # positions in small windows that run at once


def in_still_windows(
    equation: Equation, operands: Sequence[Any], reordered: bool = False
) -> list[Any]:
    """Run an equation in still windows; average results that have rows and columns.

    Args:
      equation, operands: the operation and its values.
      reordered: whether it puts positions in another order, as sorting does.
    """
    results: list[Any] = []
    fields = [one for one in operands if isinstance(one, Field)]
    lost = reordered or any(isinstance(one, Still) and one.lost for one in operands)
    for i in range(len(equation.any.outvars)):
        shapes = equation.result_shapes(i)
        still = Still(Origin(equation, operands, i), shapes, lost and any(labels(shapes)))
        array = None if still.lost else land(still)
        if array is None:
            results.append(still)
            continue
        # The output of an attention is a new map, and so is a map that statistics scale. All else
        # may still be summed, which is then done in each window.
        new = equation.name in ("reshape", "dot_general", "transpose") or (
            equation.name in ("mul", "div") and not any(one.taint for one in fields)
        )
        origin, taint = (None, None) if new else (still.origin, ADDED)
        landed = Field(0, lambda array=array: array, shapes, {}, origin, taint)
        landed.still = still
        results.append(landed)
    return results


def land(still: Still) -> jax.Array | None:
    """The averaged map of a value in still windows; None while it has no rows and columns."""
    where = places(still.shapes)
    if not where:
        return None
    whole = unfolded(still.shapes)
    shape, window = whole[0], whole[FULL]
    origins, maps = _history(still)
    found = [places(one.shapes) for one in maps]
    if not all(found):
        raise Misfit("it takes windows of what has no rows and columns")
    # Rows merged with the batch, for example, are as many as no map has.
    sides = [unfolded(one.shapes) for one in maps]
    grids = [{axis: (one[0][dim], one[FULL][dim]) for axis, dim in of.items()}
             for one, of in zip(sides, found, strict=True)]  # fmt: skip
    if {axis: (shape[dim], window[dim]) for axis, dim in where.items()} not in grids:
        return None
    starts = {axis: axis_starts(shape[dim], window[dim]) for axis, dim in where.items()}
    corners = [_corners(one, of, starts, {a: shape[d] for a, d in where.items()})
               for one, of in zip(sides, found, strict=True)]  # fmt: skip
    # Computed before the loop: arrays are cached, and would be tracers of the loop.
    arrays = [one.array.reshape(of[0]) for one, of in zip(maps, sides, strict=True)]

    def in_window(number: tuple[jax.Array, ...]) -> jax.Array:
        made: dict[int, list[jax.Array]] = {}

        def found(value: Any) -> jax.Array:
            if isinstance(value, Plain):
                return value.arrays[FULL]
            if id(value) in cut:
                return cut[id(value)]
            return made[id(value.origin.equation)][value.origin.result]

        by_axis = dict(zip(starts, number, strict=True))
        cut = {}
        for one, array, side, corner in zip(maps, arrays, sides, corners, strict=True):
            begin: list[Any] = [0] * array.ndim
            for axis, (dim, of_map) in corner.items():
                begin[dim] = jnp.asarray(of_map)[by_axis[axis]]
            begin = [jnp.asarray(n, jnp.int32) for n in begin]
            part = lax.dynamic_slice(array, begin, side[FULL])
            cut[id(one)] = part.reshape(one.shapes[FULL])
        for origin in origins:
            eqn = origin.equation.each[FULL]
            key = id(origin.equation)
            if key in made:
                continue
            args = [found(operand) for operand in origin.operands]
            made[key] = list(args) if eqn is None else bind(eqn, args)
        return found(still)

    numbers = itertools.product(*(range(len(of_axis)) for of_axis in starts.values()))
    numbers = np.array(list(numbers), np.int32)
    positions = int(np.prod([window[dim] for dim in where.values()]))
    side_by_side = max(1, AT_ONCE // positions)
    windows = lax.map(in_window, tuple(numbers.T), batch_size=side_by_side)
    windows = windows.reshape(-1, *window)
    return _average(windows, shape, list(where.values())).reshape(still.shapes[0])


def places(shapes: Shapes) -> dict[int, int]:
    """By axis, its dimension after unflattening; empty unless each axis has exactly one."""
    found = {}
    dims = labels(unfolded(shapes))
    for axis in axes_of(FULL):
        where = [dim for dim, label in enumerate(dims) if label & axis]
        if len(where) != 1 or dims[where[0]] != axis:
            return {}
        found[axis] = where[0]
    return found


def began_still(field: Field) -> bool:
    """Whether it was made from a value that exists only in still windows."""
    todo: list[Any] = [field]
    while todo:
        one = todo.pop()
        if isinstance(one, Still):
            return True
        todo += one.origin.operands if getattr(one, "origin", None) else []
    return False


def _history(still: Still) -> tuple[list[Origin], list[Field]]:
    """The equations that make a value, in order, and the maps that it is made from."""
    origins: dict[int, Origin] = {}
    maps: dict[int, Field] = {}
    todo: list[Any] = [still]
    while todo:
        value = todo.pop()
        if isinstance(value, Plain):
            continue
        if value.origin is None:
            maps[id(value)] = value
        elif value.origin.number not in origins:
            origins[value.origin.number] = value.origin
            todo += value.origin.operands
    return [origins[number] for number in sorted(origins)], list(maps.values())


def _corners(
    shapes: Shapes,
    where: dict[int, int],
    starts: dict[int, tuple[int, ...]],
    lengths: dict[int, int],
) -> dict[int, tuple[int, tuple[int, ...]]]:
    """By axis, the dimension of a map and where the windows begin on it."""
    corners = {}
    for axis, dim in where.items():
        length, window = shapes[0][dim], shapes[FULL][dim]
        begin = axis_starts(length, window)
        if [n * length for n in starts[axis]] != [n * lengths[axis] for n in begin]:
            raise Misfit(
                f"windows on maps of {length} and {lengths[axis]} {NAMES[axis]} do not lie at the "
                "same places"
            )
        corners[axis] = dim, begin
    return corners


def _average(windows: jax.Array, shape: tuple[int, ...], dims: list[int]) -> jax.Array:
    """(windows, ...) in row-major order, averaged to a map of `shape` with rows and columns."""
    count = [len(axis_starts(shape[dim], windows.shape[dim + 1])) for dim in dims]
    x = jnp.moveaxis(windows, [dim + 1 for dim in dims], (1, 2))
    averaged = average_windows(
        x.reshape(math.prod(count), *x.shape[1:3], -1), (shape[dims[0]], shape[dims[1]])
    )
    averaged = averaged.reshape(*averaged.shape[1:3], *x.shape[3:])
    return jnp.moveaxis(averaged, (0, 1), dims)
