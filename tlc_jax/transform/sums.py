"""Sums over positions, which become sums over windows."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlc_jax.transform.maps import positional
from tlc_jax.transform.neighbours import stencil
from tlc_jax.transform.programs import FULL, Equation, axes_of, bind, labels, parts_of
from tlc_jax.transform.still import began_still, in_still_windows
from tlc_jax.transform.values import (
    Centred,
    Field,
    Origin,
    Partly,
    Squared,
    joined,
    moments,
    sums,
    unfolded_field,
)


def reduce_sum(equation: Equation, operands: list[Any]) -> list[Any]:
    """A sum over some dimensions."""
    (operand,) = operands
    return [summed(equation, operand, equation.params["axes"], keep=False)]


def reduce_window_sum(equation: Equation, operands: list[Any]) -> list[Any]:
    """Sum pooling, whose window may be the whole image."""
    (operand,) = operands
    dims = labels(equation.operand_shapes(0))
    windows = equation.param("window_dimensions")
    shapes = equation.operand_shapes(0)
    covered = [d for d in range(len(dims)) if all(windows[s][d] == shapes[s][d] for s in windows)]
    if not any(dims[dim] for dim in covered):
        return stencil(equation, operands)
    params = equation.params
    once = {n for dim, n in enumerate(windows[0]) if dim not in covered}
    once |= {*params["base_dilation"], *params["window_dilation"]}
    if once != {1} or any(map(any, params["padding"])):
        raise equation.refuse("its window covers the image and more, such as padding")
    return [summed(equation, operand, covered, keep=True)]


def summed(equation: Equation, operand: Any, axes: Sequence[int], keep: bool) -> Field:
    """A sum over dimensions of which some may be rows or columns."""
    original = operand
    if any(parts_of(operand.shapes)[dim] for dim in axes):
        starts = np.cumsum([0, *(len(part[0]) if part else 1 for part in parts_of(operand.shapes))])
        axes = [n for dim in axes for n in range(starts[dim], starts[dim + 1])]
        operand = unfolded_field(operand)
    shapes = operand.shapes
    dims = labels(shapes)
    over = {axis: dim for dim in axes for axis in axes_of(dims[dim])}
    new = sum(over) & ~operand.hidden
    if not new and not operand.spread_out:
        return positional(equation, [operand], alone=True)[0]
    if sum(map(bool, (dims[dim] for dim in axes))) != len(over):
        raise equation.refuse("it sums over what are no rows or columns any more")
    if any(dims[dim] & new for dim in range(len(dims)) if dim not in axes):
        raise equation.refuse("it sums over some of several dimensions that are rows or columns")
    if operand.taint and not isinstance(operand, Centred | Squared):
        if began_still(original):
            return in_still_windows(equation, [original])[0]
        raise equation.refuse(operand.taint)
    if not jnp.issubdtype(equation.any.invars[0].aval.dtype, jnp.floating):
        raise equation.refuse("it counts; sums over positions are of floats")
    hidden = operand.hidden | sum(over)
    windows = {axis: shapes[hidden][dim] for axis, dim in over.items()}
    origin = Origin(equation, [original])
    if isinstance(operand, Partly):
        return _finished(equation, operand, origin)
    own = _centred_over(operand)
    if own and own != sum(over) and own & sum(over) == sum(over) and len(over) == len(axes):
        return Partly(operand, over, (), equation.result_shapes(), origin)
    array = _sum_of_windows(equation, operand, over, windows)
    others = tuple(dim for dim in axes if dim not in over.values())
    front = len(axes_of(hidden))
    array = array.sum(axis=tuple(front + dim for dim in others), keepdims=True) if others else array
    if not keep:
        array = jnp.squeeze(array, tuple(front + dim for dim in axes))
    array = array.astype(equation.any.outvars[0].aval.dtype)
    grid = operand.grid | {axis: (shapes[0][dim], windows[axis]) for axis, dim in over.items()}
    return Field(hidden, lambda: array, equation.result_shapes(), grid, origin)


def _centred_over(field: Field) -> int:
    """The axes of the statistic that a map is centred by."""
    of = field.of if isinstance(field, Squared) else field
    return of.shift.hidden & ~of.base.hidden if isinstance(of, Centred) else 0


def _finished(equation: Equation, operand: Partly, origin: Origin) -> Field:
    """The second of two sums, over one axis each: compute both at once."""
    of = operand.of
    dims = labels(of.shapes)
    over = {axis: dims.index(axis) for axis in axes_of(_centred_over(of))}
    windows = {axis: of.shapes[FULL][dim] for axis, dim in over.items()}
    array = _sum_of_windows(equation, of, over, windows)
    shape = (*array.shape[:2], *equation.result_shapes()[FULL])
    grid = {axis: (of.shapes[0][dim], windows[axis]) for axis, dim in over.items()}
    for step in operand.scale:
        factors = [one.arrays[FULL] for one in step.operands[1:]]
        (array,) = bind(step.equation.each[FULL], [array, *factors])
    array = array.reshape(shape).astype(equation.any.outvars[0].aval.dtype)
    return Field(FULL, lambda: array, equation.result_shapes(), grid, origin)


def _sum_of_windows(
    equation: Equation, operand: Field, over: dict[int, int], windows: dict[int, int]
) -> jax.Array:
    """Sums over windows, all hidden axes in front, the summed dimensions of length 1."""
    count = math.prod(windows.values())
    constant = operand.hidden & sum(over)
    if constant:  # spread statistics: times the positions of a window
        rest = {axis: dim for axis, dim in over.items() if not axis & constant}
        times = math.prod(windows[axis] for axis in axes_of(constant))
        if rest:
            left = {axis: windows[axis] for axis in rest}
            return sums(operand, rest, left) * np.float32(times)
        return operand.array.astype(jnp.float32) * np.float32(times)
    if isinstance(operand, Centred | Squared):
        of = operand.of if isinstance(operand, Squared) else operand
        if _centred_over(of) != sum(over):
            raise equation.refuse("it sums what was centred over other axes")
        expected = {axis: (operand.shapes[0][dim], windows[axis]) for axis, dim in over.items()}
        if joined([of.shift.grid], sum(over)) != expected:
            raise equation.refuse("it sums what was centred over other windows")
        rank = len(operand.shapes[0])
        fronts = len(axes_of(of.shift.hidden))
        shift = of.shift.array.astype(jnp.float32)
        if shift.ndim == fronts:
            shift = shift.reshape(*shift.shape, *[1] * rank)
        if isinstance(operand, Centred):
            return sums(of.base, over, windows) + np.float32(count) * shift
        # For each window, with its own shift: k (variance + (mean + shift)^2).
        mean, variance = moments(of.base, over, windows)
        return np.float32(count) * (variance + jnp.square(mean + shift))
    return sums(operand, over, windows)
