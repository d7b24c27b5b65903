"""Rules of equations that act on single positions, or only rearrange positions."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlc_jax.transform.programs import (
    ELEMENTWISE,
    FULL,
    NAMES,
    SIZES,
    Equation,
    Shapes,
    axes_of,
    bind,
    fold,
    grouped,
    labels,
    parts_of,
)
from tlc_jax.transform.still import in_still_windows
from tlc_jax.transform.values import (
    ADDED,
    Centred,
    Field,
    Misfit,
    Origin,
    Partly,
    Plain,
    Squared,
    Still,
    Strip,
    fit,
    joined,
    run,
    vmapped,
)

SAME = {"convert_element_type", "copy", "copy_p", "stop_gradient", "name", "reduce_precision"}
LINEAR = {"neg", "mul", "div", *SAME}
JOINING = {"mul", "div", "add", "add_any"}
ADDITIVE = {"add", "sub", "add_any"}


def settled(equation: Equation, operands: Sequence[Any], size: int) -> Sequence[Any]:
    """The operands; refused if one of them depends on the image's size in a way that matters."""
    for operand in operands:
        if isinstance(operand, Plain) and not operand.settled(size):
            raise equation.refuse(
                "it joins the image with numbers that depend on the image's size; to divide by "
                "a count of pixels, for example, sum first"
            )
    return operands


def evened_out(operands: Sequence[Any]) -> tuple[list[Any], int]:
    """Spread statistics that are used as maps; the operands, and the axes hidden in all."""
    evened: list[Any] = []
    for operand in operands:
        if isinstance(operand, Field) and operand.spread_out:
            hidden = operand.hidden & ~operand.spread_out
            array = fit(operand, hidden, operand.shapes)
            shape = (*array.shape[: len(axes_of(hidden))], *operand.shapes[hidden])
            array = jnp.broadcast_to(array, shape)
            operand = Field(
                hidden, lambda array=array: array, operand.shapes, joined([operand.grid], hidden),
                operand.origin, operand.taint,
            )  # fmt: skip
        evened.append(operand)
    hidden = {one.hidden for one in evened if isinstance(one, Field)}
    if len(hidden) > 1:
        raise Misfit("it joins a map with statistics, or statistics of different windows")
    return evened, hidden.pop()


def positional(
    equation: Equation,
    operands: Sequence[Any],
    *,
    check: bool = True,
    new: bool = False,
    alone: bool = False,
) -> list[Any]:
    """Run an equation as it is. The caller has made sure that it aggregates no positions.

    Args:
      equation, operands: the operation and its values.
      check: whether to refuse operands that depend on the size of the image.
      new: whether the result is a new map, to which a taint of the operands does not pass.
      alone: whether it acts on single positions, so that it can be computed again in a window.
    """
    evened, hidden = evened_out(operands)
    if check:
        settled(equation, evened, hidden)
    fields = [one for one in evened if isinstance(one, Field)]
    grid = joined([one.grid for one in fields], hidden)
    arrays = run(equation, evened, hidden, hidden)
    for i in range(len(arrays)):
        if any(label & hidden for label in labels(equation.result_shapes(i))):
            raise equation.refuse("it makes maps out of statistics of windows")
    again = hidden or (alone and any(one.origin for one in fields))
    taint = None if new else next((one.taint for one in fields if one.taint), None)
    return [
        Field(
            hidden, lambda array=array: array, equation.result_shapes(i), grid,
            Origin(equation, operands, i) if again else None, taint,
        )
        for i, array in enumerate(arrays)
    ]  # fmt: skip


def are_statistics(fields: Sequence[Field]) -> bool:
    """Whether all are statistics of whole windows, of which any function is allowed."""
    return all(one.hidden == FULL and not any(one.labels) for one in fields)


def plainly(equation: Equation, operands: list[Any]) -> list[Any]:
    """Run an equation on values that do not depend on the image, at each size."""
    results = {size: run(equation, operands, size, 0) for size in SIZES}

    def known(i: int) -> Callable[[int], np.ndarray | None]:
        def of_size(size: int) -> np.ndarray | None:
            args = [operand.known(size) for operand in operands]
            if any(arg is None for arg in args):
                return None
            try:
                with jax.ensure_compile_time_eval():
                    return np.asarray(bind(equation.each[size], args)[i])
            except Exception:  # such as a random key, which is no NumPy array
                return None

        return of_size

    # The smaller result of a broadcast or an iota is the beginning of the larger one.
    grows = equation.name in ("broadcast_in_dim", "iota")
    names = [name for name in equation.params if not (grows and name == "shape")]
    equal = all(operand.same for operand in operands) and equation.fixed(*names)
    if not grows and equation.name not in ELEMENTWISE:
        shapes = [equation.operand_shapes(i) for i in range(len(operands))]
        shapes += [equation.result_shapes(i) for i in range(len(equation.any.outvars))]
        equal = equal and not any(any(labels(one)) for one in shapes)
    return [
        Plain({size: results[size][i] for size in results}, equal, known(i))
        for i in range(len(equation.any.outvars))
    ]


def elementwise(equation: Equation, operands: list[Any]) -> Field:
    """An equation that acts on each position by itself."""
    if not equation.fixed(*equation.params):
        raise equation.refuse("what it does depends on the size of the image")
    shapes = equation.result_shapes()
    first, *others = operands
    scales = equation.name in LINEAR and all(isinstance(one, Plain) for one in others)
    if isinstance(first, Partly) and scales:
        return first.then(Origin(equation, operands), shapes, scales=True)
    if special := _kept_apart(equation, operands):
        return special
    fields = [one for one in operands if isinstance(one, Field)]
    landed = [one.still for one in fields if one.still]
    if len(landed) > 1 and len(landed) == len(fields) and equation.name not in ADDITIVE:
        # Such as the two parts of a linear attention, its sums and their normaliser.
        return in_still_windows(equation, [getattr(one, "still", None) or one for one in operands])[
            0
        ]
    hidden = FULL
    for i, operand in enumerate(operands):
        if isinstance(operand, Field):
            hidden &= operand.hidden
        else:
            for label in labels(equation.operand_shapes(i)):
                hidden &= ~label
    settled(equation, operands, hidden)
    statistics = [one for one in fields if one.hidden != hidden]
    grid = joined([one.grid for one in fields], FULL)

    def make() -> jax.Array:
        def together(*args: Any) -> jax.Array:
            shape = np.broadcast_shapes(*map(np.shape, args))
            wide = [a if np.shape(a) == shape else jnp.broadcast_to(a, shape) for a in args]
            (result,) = bind(equation.each[hidden], wide)
            return result

        try:
            arrays = [
                fit(one, hidden, shapes) if isinstance(one, Field) else one for one in operands
            ]
        except Misfit as misfit:
            raise equation.refuse(str(misfit)) from None
        raw = [one.arrays[hidden] if isinstance(one, Plain) else one for one in arrays]
        return vmapped(together, hidden, [not isinstance(one, Plain) for one in arrays])(*raw)

    taints = [one.taint for one in fields if one.taint and not isinstance(one, Centred)]
    scaled = statistics and not taints and equation.name in JOINING
    taints += [one.taint for one in fields if one.taint]
    pending = hidden or any(one.origin for one in fields)
    if statistics and equation.name in JOINING and not _is_cosine(fields):
        pending = False
    result = Field(
        hidden,
        make,
        shapes,
        {axis: grid[axis] for axis in axes_of(hidden)},
        Origin(equation, operands) if pending else None,
        # A map that statistics scale, or are added to, is a new map. If they were subtracted, a
        # later sum over a window subtracts that window's own.
        None if scaled else next(iter(taints), ADDED if statistics else None),
    )
    if len(landed) == len(fields) == 1:
        still = [getattr(one, "still", None) or one for one in operands]
        result.still = Still(Origin(equation, still), shapes)
    if _squares(equation, operands):
        result.square_of = fields[0].alias
    if equation.name in SAME:
        result.alias = fields[0].alias
    return result


def _squares(equation: Equation, operands: Sequence[Any]) -> bool:
    """Whether an equation squares its only operand."""
    first, *others = operands
    return (
        equation.name == "square"
        or (equation.name == "integer_pow" and equation.params["y"] == 2)
        or (equation.name == "mul" and first is others[0])
        or (equation.name == "pow" and isinstance(others[0], Plain) and others[0].always(2))
    )


def _is_cosine(fields: Sequence[Field]) -> bool:
    """Whether a map is divided by its own norm, for the cosine similarity of an attention.

    The attention then takes the norm in each of its windows. Any other scaling makes a new map.
    """
    if len(fields) != 2:
        return False
    image, length = sorted(fields, key=lambda one: one.hidden)
    todo, found = [length], False
    while todo:
        one = todo.pop()
        if isinstance(one, Plain):
            continue
        if one.origin is None or not one.hidden:
            return False
        if one.origin.equation.name == "reduce_sum" and not one.origin.operands[0].hidden:
            found = True
            if one.origin.operands[0].square_of is not image.alias:
                return False
        else:
            todo += one.origin.operands
    return found


def _kept_apart(equation: Equation, operands: list[Any]) -> Field | None:
    """A map and the statistic added to it, kept apart (or squared so); None for all else."""
    fields = [one for one in operands if isinstance(one, Field)]
    centred = [one for one in fields if isinstance(one, Centred)]
    plain = [one for one in operands if isinstance(one, Plain)]
    if len(centred) == len(fields) and _squares(equation, operands):
        return Squared(centred[0], Origin(equation, operands))
    if equation.name in LINEAR and len(centred) == len(fields) == 1:
        varies = any(
            any(labels(equation.operand_shapes(i)))
            for i, one in enumerate(operands)
            if isinstance(one, Plain)
        )
        if varies or (equation.name == "div" and operands[0] in plain):
            return None
        base, shift = (
            elementwise(equation, [part if one is centred[0] else one for one in operands])
            for part in (centred[0].base, centred[0].shift)
        )
    elif equation.name in ADDITIVE:
        signs = (1, -1 if equation.name == "sub" else 1)
        hidden = functools.reduce(int.__and__, (one.hidden for one in fields))
        bases: list[Any] = [None, None]
        shifts: list[Any] = [None, None]
        for i, one in enumerate(operands):
            if isinstance(one, Centred):
                bases[i], shifts[i] = one.base, one.shift
            elif isinstance(one, Plain) or one.hidden == hidden:
                bases[i] = one
            else:
                shifts[i] = one
        if not any(shifts) or not any(isinstance(one, Field) for one in bases):
            return None
        if equation.name != "sub" and not centred:
            return None
        base = _joined(equation, bases, signs)
        shift = _joined(equation, shifts, signs)
    else:
        return None
    # A sum can treat these two apart, but not a third part that is still to be joined.
    if base.taint or base.hidden | shift.hidden == base.hidden:
        return None
    shapes = equation.result_shapes()
    return Centred(broadcast_to(base, shapes), shift, shapes, Origin(equation, operands))


def _joined(equation: Equation, parts: list[Any], signs: tuple[int, int]) -> Field:
    """The sum or difference of two parts, of which one may be missing."""
    if None not in parts:
        return elementwise(equation, parts)
    (part,) = (one for one in parts if one is not None)
    return part if signs[parts.index(part)] > 0 else _negative(part)


def _negative(field: Field) -> Field:
    return Field(field.hidden, lambda: -field.array, field.shapes, field.grid, field.origin)


def broadcast_to(field: Field, shapes: Shapes) -> Field:
    """Broadcast a map to the shapes of the sum that it is a part of."""
    if field.shapes == shapes:
        return field
    front = field.array.shape[: len(axes_of(field.hidden))]
    array = jnp.broadcast_to(field.array, (*front, *shapes[field.hidden]))
    return Field(field.hidden, lambda: array, shapes, field.grid, field.origin, field.taint)


def strip_of(equation: Equation, operand: Field, dim: int, side: str) -> Field:
    """The result of an equation that cuts a border off a map, or rearranges a border."""
    (made,) = positional(equation, [operand])
    strip = Strip(made.hidden, lambda: made.array, made.shapes, made.grid, made.origin)
    strip.dim, strip.side = dim, side
    return strip


def layout(equation: Equation, operands: list[Any]) -> list[Any]:
    """The same values in another order or shape of dimensions."""
    (operand,) = operands
    if isinstance(operand, Centred):
        base, shift = (
            layout(equation, [one])[0] if one.shapes[0] else one  # a scalar stays one
            for one in (operand.base, operand.shift)
        )
        return [Centred(base, shift, equation.result_shapes(), Origin(equation, operands))]
    hidden = operand.hidden
    array = run(equation, [operand], hidden, hidden)[0]
    origin = Origin(equation, operands) if operand.origin else None
    shapes = equation.result_shapes()
    result = Field(hidden, lambda: array, shapes, operand.grid, origin, operand.taint)
    result.alias = operand.alias
    if operand.still:
        result.still = Still(Origin(equation, [operand.still]), shapes)
    return [result]


def broadcast(equation: Equation, operands: list[Any]) -> list[Any]:
    """Repeat values along new dimensions, as when statistics are combined with a map."""
    operand, *_ = operands
    shapes, dims = equation.result_shapes(), equation.params["broadcast_dimensions"]
    if isinstance(operand, Strip):
        if sum(map(bool, labels(shapes))) != sum(map(bool, operand.labels)):
            raise equation.refuse("it repeats a border of the image")
        return [strip_of(equation, operand, dims[operand.dim], operand.side)]
    before, after = labels(equation.operand_shapes(0)), labels(shapes)
    kept = {dim: label for dim, label in zip(dims, before, strict=True)}
    new = 0
    for dim, label in enumerate(after):
        if shapes[FULL][dim] != shapes[0][dim]:  # else its window covers it
            new |= label & ~kept.get(dim, 0)
    if new & ~operand.hidden:
        raise equation.refuse(
            f"it repeats what does not vary along {NAMES[new & ~operand.hidden]} but depends on "
            "the image"
        )
    if isinstance(operand, Partly):
        return [operand.then(Origin(equation, operands), shapes)]
    hidden = operand.hidden
    # Along hidden axes the repetition is postponed: length 1 for now.
    shape = [1 if label & hidden else n for n, label in zip(shapes[hidden], after, strict=True)]
    array = vmapped(
        lambda x: lax.broadcast_in_dim(x, shape, dims), hidden, [True]
    )(operand.array)  # fmt: skip
    origin = Origin(equation, operands) if operand.origin else None
    result = Field(hidden, lambda: array, shapes, operand.grid, origin, operand.taint)
    if operand.still:
        result.still = Still(Origin(equation, [operand.still]), shapes)
    return [result]


def tile(equation: Equation, operands: list[Any]) -> list[Any]:
    """`jnp.tile`: as `broadcast`, along dimensions that exist already."""
    (operand,), reps = operands, equation.params["reps"]
    shapes = equation.result_shapes()
    before, after = operand.labels, labels(shapes)
    if any(label & operand.hidden & ~old for old, label in zip(before, after, strict=True)):
        reps = [1 if label & operand.hidden else n for n, label in zip(reps, after, strict=True)]
    if any(n > 1 and label for n, label in zip(reps, after, strict=True)):
        raise equation.refuse("it repeats the image side by side")
    array = vmapped(lambda x: jnp.tile(x, reps), operand.hidden, [True])(operand.array)
    origin = Origin(equation, operands) if operand.origin else None
    return [Field(operand.hidden, lambda: array, shapes, operand.grid, origin, operand.taint)]


def reshape(equation: Equation, operands: list[Any]) -> list[Any]:
    """A reshape that keeps rows and columns, flattens them to one dimension, or undoes that."""
    (operand,) = operands
    if isinstance(operand, Partly):
        return [operand.then(Origin(equation, operands), equation.result_shapes())]
    if operand.spread_out:
        (operand,), _ = evened_out(operands)
    before, after = equation.operand_shapes(0), equation.result_shapes()
    dims = labels(before), labels(after)
    if 0 in before[0]:
        return list(positional(equation, operands))
    if isinstance(operand, Strip):
        (to,) = (right for left, right in grouped(before, after) if operand.dim in left)
        if len(to) != 1 or any(dims[1][dim] for dim in to):
            raise equation.refuse("it takes a border of the image by itself")
        return [strip_of(equation, operand, to[0], operand.side)]
    moved = False
    for left, right in grouped(before, after):
        # Dimensions of length 1 do not matter.
        left = [dim for dim in left if dims[0][dim] or before[0][dim] != 1]
        right = [dim for dim in right if dims[1][dim] or after[0][dim] != 1]
        old, new = ([of[dim] for dim in some] for of, some in zip(dims, (left, right), strict=True))
        if not any(old) and not any(new):
            continue
        simple = sum(map(bool, old)) == 1 == sum(map(bool, new)) and max(old) == max(new) != FULL
        majors = []
        for some, of, shapes in ((left, dims[0], before), (right, dims[1], after)):
            position = next((n for n, dim in enumerate(some) if of[dim]), 0)
            majors.append(math.prod(shapes[0][dim] for dim in some[:position]))
        if simple and majors == [1, 1]:
            continue
        if simple and majors[0] == 1:
            raise equation.refuse(
                f"it cuts the {NAMES[max(old)]} of the image into a fixed number of parts"
            )
        parts = [{s: tuple(of[s][dim] for dim in some) for s in of}
                 for of, some in ((before, left), (after, right))]  # fmt: skip
        if len(right) == 1 and new == [FULL] and FULL not in old:
            fold(after, right[0], parts[0])
            moved = True
        elif len(left) == 1 and old == [FULL] and parts_of(before)[left[0]] == parts[1]:
            moved = True
        elif old == [FULL] == new:
            continue
        else:
            return in_still_windows(equation, operands)
    if moved and isinstance(operand, Centred | Squared):
        raise equation.refuse("it flattens the difference of a map and its statistic")
    if type(operand) is Centred or type(operand) is Squared:
        once = operand
        operand = Field(operand.hidden, lambda: once.array, operand.shapes, operand.grid,
                        operand.origin, operand.taint)  # fmt: skip
    return layout(equation, [operand])
