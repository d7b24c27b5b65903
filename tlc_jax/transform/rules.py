"""What each equation of a function becomes when it is made local.

A map is computed as the function has it. What is aggregated over positions becomes statistics of
windows, computed as the function has it for a picture of the size of the window. Where neither is
known to be right, the function is refused.
"""

import fractions
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from tlc_jax.transform.programs import (
    FULL,
    NAMES,
    SIZES,
    Equation,
    LocalizeError,
    Shapes,
    axes_of,
    bind,
    body,
    fold,
    grouped,
    in_step,
    labels,
    parts_of,
    same,
)
from tlc_jax.transform.still import land
from tlc_jax.transform.values import (
    Centred,
    Field,
    Misfit,
    Origin,
    Partly,
    Plain,
    Squared,
    Still,
    Value,
    fit,
    joined,
    moments,
    run,
    sums,
    unfolded_field,
    vmapped,
)

ELEMENTWISE = set(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil "
    "clamp clz complex conj convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv "
    "erfc exp exp2 expm1 floor ge gt igamma igammac imag integer_pow is_finite le lgamma log log1p "
    "logistic lt max min mul name ne neg nextafter not or population_count pow real "
    "reduce_precision rem round rsqrt select_n shift_left shift_right_arithmetic "
    "shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor".split()
)
LINEAR = {"neg", "convert_element_type", "copy", "copy_p", "stop_gradient", "mul", "div", "name",
          "reduce_precision"}  # fmt: skip
ADDED = "a sum over positions takes a map to which statistics of windows were joined"
CONTROL = {"cond", "scan", "while"}


def walk(
    jaxprs: dict[int, core.ClosedJaxpr],
    inputs: Sequence[Value],
    callers: tuple[core.JaxprEqn, ...] = (),
) -> list[Value]:
    """Run all traces of a function in step, on values, and return its results."""
    env: dict[int, dict[core.Var, Value]] = {size: {} for size in jaxprs}
    consts = zip(*(jaxpr.consts for jaxpr in jaxprs.values()), strict=True)
    known = [_constant(dict(zip(jaxprs, arrays, strict=True))) for arrays in consts]
    for size, closed in jaxprs.items():
        env[size].update(zip(closed.jaxpr.constvars, known, strict=True))
        env[size].update(zip(closed.jaxpr.invars, inputs, strict=True))

    def look(equation: Equation | None, atoms: dict[int, Any]) -> Value:
        if all(isinstance(atom, core.Literal) for atom in atoms.values()):
            return _constant({s: np.asarray(a.val, a.aval.dtype) for s, a in atoms.items()})
        found = {id(value): value for value in (env[s][a] for s, a in atoms.items())}
        if len(found) > 1:
            raise equation.refuse("it takes other things at other sizes of the picture")
        (value,) = found.values()
        return value

    for equation in in_step({size: one.jaxpr for size, one in jaxprs.items()}, callers):
        operands = [
            look(equation, {s: eqn.invars[i] for s, eqn in equation.each.items() if eqn})
            for i in range(len(equation.any.invars))
        ]
        try:
            results = apply(equation, operands)
        except Misfit as misfit:
            raise equation.refuse(str(misfit)) from None
        for size, eqn in equation.each.items():
            if eqn:
                env[size].update(zip(eqn.outvars, results, strict=True))
            else:  # without it here, what it takes is what it returns
                for var in [var for var, value in env[size].items() if value is operands[0]]:
                    env[size][var] = results[0]
    return [
        look(None, {size: one.jaxpr.outvars[i] for size, one in jaxprs.items()})
        for i in range(len(jaxprs[0].jaxpr.outvars))
    ]


def maps_of(results: Sequence[Value]) -> list[jax.Array]:
    """The arrays that a function returns."""
    arrays = []
    for one in results:
        if isinstance(one, Plain):
            arrays.append(one.arrays[0])
        elif isinstance(one, Field) and one.hidden == one.spread_out and not isinstance(one, Strip):
            arrays.append(_evened([one])[0][0].array)
        else:
            raise LocalizeError(
                "the function returns statistics of windows, which have no one place; return maps."
            )
    return arrays


def _constant(arrays: dict[int, Any]) -> Plain:
    first, *others = arrays.values()
    equal = all(first is other for other in others)
    if not equal and not any(isinstance(one, jax.core.Tracer) for one in arrays.values()):
        equal = all(
            np.shape(first) == np.shape(other) and np.array_equal(first, other) for other in others
        )
    return Plain(arrays, equal)


def apply(equation: Equation, operands: list[Value]) -> list[Value]:
    """One equation on values."""
    fields = [one for one in operands if isinstance(one, Field)]
    if None in equation.each.values():
        return [_trim(equation, operands)]
    if any(isinstance(one, Strip) for one in fields) and equation.name not in ON_STRIPS:
        raise equation.refuse("it takes a border of the picture by itself")
    if body(equation.any) is not None:
        return _call(equation, operands)
    if any(isinstance(one, Still) for one in operands):
        return _still(equation, operands)
    if not fields:
        return _plain(equation, operands)
    if equation.name in ELEMENTWISE:
        return [_elementwise(equation, operands)]
    if equation.name in RULES:
        return RULES[equation.name](equation, operands)
    if equation.name not in CONTROL and _are_statistics(fields, FULL):
        return _positional(equation, operands)
    raise equation.refuse("there is no rule for it")


# Calls, and what knows nothing of the picture.


def _call(equation: Equation, operands: list[Value]) -> list[Value]:
    """What a library gives gradients of its own stays whole; all else is looked into."""
    bodies = {size: body(eqn) for size, eqn in equation.each.items()}
    if equation.resizes:
        return _resize(equation, operands)
    maps = [one for one in operands if isinstance(one, Field)]
    whole = all(type(one) is Field and not one.hidden for one in maps)
    if maps and whole and not any(isinstance(one, Still) for one in operands):
        if _is_elementwise(bodies[0].jaxpr) and equation.name != "jit":
            return [
                _made_of(equation, operands, array, i)
                for i, array in enumerate(run(equation, _settled(equation, operands, 0), 0, 0))
            ]
    return walk(bodies, operands, (*equation.callers, equation.any))


def _resize(equation: Equation, operands: list[Value]) -> list[Value]:
    """`jax.image.resize` goes along the longer axis first: its traces need not be alike."""
    if not isinstance(operands[0], Field):
        return (_plain if isinstance(operands[0], Plain) else _still)(equation, operands)
    before, after = equation.operand_shapes(0), equation.result_shapes()
    for dim, label in enumerate(labels(before)):
        scales = {fractions.Fraction(after[s][dim], before[s][dim]) for s in after if label}
        if len(scales) > 1:
            raise equation.refuse("its factor depends on the size of the picture")
    return list(_positional(equation, operands))


def _is_elementwise(jaxpr: core.Jaxpr) -> bool:
    return all(
        _is_elementwise(inner.jaxpr) if (inner := body(eqn)) else eqn.primitive.name in ELEMENTWISE
        for eqn in jaxpr.eqns
    )


def _plain(equation: Equation, operands: list[Value]) -> list[Value]:
    results = {size: run(equation, operands, size, 0) for size in SIZES}

    def known(i: int) -> Callable[[int], np.ndarray | None]:
        def of_size(size: int) -> np.ndarray | None:
            args = [operand.known(size) for operand in operands]
            if any(arg is None for arg in args):
                return None
            try:
                with jax.ensure_compile_time_eval():
                    return np.asarray(bind(equation.each[size], args)[i])
            except Exception:  # such as a key, which no array of numpy holds
                return None

        return of_size

    # Broadcasting and counting go on in a larger array as they begin in a smaller one.
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


def _settled(equation: Equation, operands: Sequence[Value], size: int) -> Sequence[Value]:
    for operand in operands:
        if isinstance(operand, Plain) and not operand.settled(size):
            raise equation.refuse(
                "it joins the picture with numbers that depend on the picture's size; what is "
                "divided by a count of pixels, for example, is to be summed before"
            )
    return operands


# Maps and statistics, position by position.


def _made_of(equation: Equation, operands: Sequence[Value], array: jax.Array, i: int = 0) -> Field:
    """A map that acts on single positions of its operands, and remembers what they were."""
    fields = [one for one in operands if isinstance(one, Field)]
    pending = any(one.origin for one in fields)
    return Field(
        0, lambda: array, equation.result_shapes(i), {},
        Origin(equation, operands, i) if pending else None,
        next((one.taint for one in fields if one.taint), None),
    )  # fmt: skip


def _elementwise(equation: Equation, operands: list[Value]) -> Field:
    if not equation.fixed(*equation.params):
        raise equation.refuse("what it does depends on the size of the picture")
    shapes = equation.result_shapes()
    if isinstance(operands[0], Partly) and equation.name in ("mul", "div", *LINEAR):
        if all(isinstance(one, Plain) for one in operands[1:]):
            return operands[0].then(Origin(equation, operands), shapes, scales=True)
    if special := _affine(equation, operands):
        return special
    fields = [one for one in operands if isinstance(one, Field)]
    hidden = FULL
    for i, operand in enumerate(operands):
        if isinstance(operand, Field):
            hidden &= operand.hidden
        else:
            for label in labels(equation.operand_shapes(i)):
                hidden &= ~label
    _settled(equation, operands, hidden)
    statistics = [one for one in fields if one.hidden != hidden]
    grid = joined([one.grid for one in fields], FULL)

    def make() -> jax.Array:
        def together(*args: Any) -> jax.Array:
            shape = np.broadcast_shapes(*map(np.shape, args))
            args = [a if np.shape(a) == shape else jnp.broadcast_to(a, shape) for a in args]
            (result,) = bind(equation.each[hidden], args)
            return result

        arrays = [fit(one, hidden, shapes) if isinstance(one, Field) else one for one in operands]
        raw = [one.arrays[hidden] if isinstance(one, Plain) else one for one in arrays]
        return vmapped(together, hidden, [not isinstance(one, Plain) for one in arrays])(*raw)

    taints = [one.taint for one in fields if one.taint and not isinstance(one, Centred)]
    scaled = statistics and not taints and equation.name in ("mul", "div")
    taints += [one.taint for one in fields if one.taint]
    pending = hidden or any(one.origin for one in fields)
    return Field(
        hidden,
        make,
        shapes,
        {axis: grid[axis] for axis in axes_of(hidden)},
        Origin(equation, operands) if pending else None,
        # What statistics scale is a new map; in a sum of what they are added to, each window has
        # its own.
        None if scaled else next(iter(taints), ADDED if statistics else None),
    )


def _affine(equation: Equation, operands: list[Value]) -> Field | None:
    """Sums and differences of maps and statistics, kept apart; None of all else."""
    shapes, name = equation.result_shapes(), equation.name
    fields = [one for one in operands if isinstance(one, Field)]
    origin = Origin(equation, operands)
    centred = [one for one in fields if isinstance(one, Centred)]
    if name in ("square", "integer_pow", "mul", "pow") and len(centred) == len(fields):
        twice = {
            "square": lambda: True,
            "mul": lambda: len(fields) == 2 and fields[0] is fields[1],
            "integer_pow": lambda: equation.params["y"] == 2,
            "pow": lambda: isinstance(operands[1], Plain) and operands[1].same
            and operands[1].known(0) is not None and (operands[1].known(0) == 2).all(),
        }  # fmt: skip
        if twice[name]():
            return Squared(centred[0], origin)
    if name in LINEAR and len(centred) == 1 == len(fields) and isinstance(operands[0], Field):
        factors = operands[1:]
        if any(any(labels(equation.operand_shapes(i + 1))) for i in range(len(factors))):
            return None
        _settled(equation, factors, 0)
        return Centred(
            _elementwise(equation, [centred[0].base, *factors]),
            _elementwise(equation, [centred[0].shift, *factors]),
            shapes, origin,
        )  # fmt: skip
    if name not in ("add", "sub", "add_any") or len(fields) < 2:
        if name in ("add", "sub", "add_any") and len(centred) == 1:
            i = operands.index(centred[0])
            both = [*operands]
            both[i] = centred[0].base
            _settled(equation, operands, 0)
            shift = centred[0].shift
            if i == 1 and name == "sub":
                shift = _negative(shift)
            return Centred(_elementwise(equation, both), shift, shapes, origin)
        return None
    hidden = min(one.hidden for one in fields)
    parts = [(one.base, one.shift) if isinstance(one, Centred) else
             (None, one) if one.hidden != hidden else (one, None) for one in fields]  # fmt: skip
    if not any(shift for _, shift in parts) or any(
        isinstance(one, Squared) or (one.taint and not isinstance(one, Centred)) for one in fields
    ):
        return None
    if len({one.hidden for one in fields}) > 2:
        return None

    def combine(pair: list[Field | None]) -> Field | None:
        first, second = pair
        if first is not None and second is not None:
            return _elementwise(equation, [first, second])
        if second is None:
            return first
        return _negative(second) if name == "sub" else second

    base, shift = combine([a for a, _ in parts]), combine([b for _, b in parts])
    if base is None or shift is None or base.hidden == shift.hidden:
        return None
    return Centred(_broadcast_to(base, shapes), shift, shapes, origin)


def _negative(field: Field) -> Field:
    return Field(field.hidden, lambda: -field.array, field.shapes, field.grid, field.origin)


def _broadcast_to(field: Field, shapes: Shapes) -> Field:
    """A map as large as what it is added to makes it."""
    if field.shapes == shapes:
        return field
    front = field.array.shape[: len(axes_of(field.hidden))]
    array = jnp.broadcast_to(field.array, (*front, *shapes[field.hidden]))
    return Field(field.hidden, lambda: array, shapes, field.grid, field.origin, field.taint)


def _evened(operands: Sequence[Value]) -> tuple[list[Value], int]:
    """Operands with their statistics spread where they are used as maps, and what is hidden."""
    evened: list[Value] = []
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


def _positional(
    equation: Equation,
    operands: Sequence[Value],
    *,
    settled: bool = True,
    new: bool = False,
    alone: bool = False,
) -> list[Field]:
    """As the function has it, whose rule has seen to it that no positions are aggregated.

    Args:
      equation, operands: what is done to what.
      settled: whether to see to it that nothing tells the picture's size.
      new: whether it makes a new map, of which it does not matter what was joined to it before.
      alone: whether each position is by itself, so that it can be done again in a window.
    """
    evened, hidden = _evened(operands)
    if settled:
        _settled(equation, evened, hidden)
    fields = [one for one in evened if isinstance(one, Field)]
    grid = joined([one.grid for one in fields], hidden)
    arrays = run(equation, evened, hidden, hidden)
    again = hidden or (alone and any(one.origin for one in fields))
    taint = None if new else next((one.taint for one in fields if one.taint), None)
    return [
        Field(
            hidden, lambda array=array: array, equation.result_shapes(i), grid,
            Origin(equation, operands, i) if again else None, taint,
        )
        for i, array in enumerate(arrays)
    ]  # fmt: skip


def _are_statistics(fields: Sequence[Field], full: int) -> bool:
    """Whether nothing but statistics of whole windows comes in: functions of them are free."""
    return all(one.hidden == full and not any(one.labels) for one in fields)


def _layout(equation: Equation, operands: list[Value]) -> list[Value]:
    """Pixels in another order of dimensions."""
    (operand,) = operands
    if isinstance(operand, Centred):
        return [
            Centred(*(_layout(equation, [one])[0] for one in (operand.base, operand.shift)),
                    equation.result_shapes(), Origin(equation, operands))
        ]  # fmt: skip
    hidden = operand.hidden
    array = run(equation, [operand], hidden, hidden)[0]
    return [
        Field(
            hidden, lambda: array, equation.result_shapes(), operand.grid,
            Origin(equation, operands) if operand.origin else None, operand.taint,
        )
    ]  # fmt: skip


def _broadcast(equation: Equation, operands: list[Value]) -> list[Value]:
    operand, *_ = operands
    shapes, dims = equation.result_shapes(), equation.params["broadcast_dimensions"]
    if isinstance(operand, Strip):
        if sum(map(bool, labels(shapes))) != sum(map(bool, operand.labels)):
            raise equation.refuse("it repeats a border of the picture")
        return [_strip(equation, operand, dims[operand.dim], operand.side)]
    before, after = labels(equation.operand_shapes(0)), labels(shapes)
    kept = {dim: label for dim, label in zip(dims, before, strict=True)}
    new = 0
    for dim, label in enumerate(after):
        new |= label & ~kept.get(dim, 0)
    if new & ~operand.hidden:
        raise equation.refuse(
            f"it repeats what does not vary along {NAMES[new & ~operand.hidden]} but depends on "
            "the picture"
        )
    if isinstance(operand, Partly):
        return [operand.then(Origin(equation, operands), shapes)]
    hidden = operand.hidden
    # What is repeated along hidden axes is not, for now.
    shape = [1 if label & hidden else n for n, label in zip(shapes[hidden], after, strict=True)]
    array = vmapped(
        lambda x: lax.broadcast_in_dim(x, shape, dims), hidden, [True]
    )(operand.array)  # fmt: skip
    origin = Origin(equation, operands) if operand.origin else None
    return [Field(hidden, lambda: array, shapes, operand.grid, origin, operand.taint)]


def _reshape(equation: Equation, operands: list[Value]) -> list[Value]:
    (operand,) = operands
    if isinstance(operand, Partly):
        return [operand.then(Origin(equation, operands), equation.result_shapes())]
    if operand.spread_out:
        (operand,), _ = _evened(operands)
    before, after = equation.operand_shapes(0), equation.result_shapes()
    dims = labels(before), labels(after)
    if 0 in before[0]:
        return list(_positional(equation, operands))
    if isinstance(operand, Strip):
        (to,) = (right for left, right in grouped(before, after) if operand.dim in left)
        if len(to) != 1 or any(dims[1][dim] for dim in to):
            raise equation.refuse("it takes a border of the picture by itself")
        return [_strip(equation, operand, to[0], operand.side)]
    moved = False
    for left, right in grouped(before, after):
        # Dimensions of length 1 tell nothing.
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
                f"it cuts the {NAMES[max(old)]} of the picture into a fixed number of parts"
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
            return _still(equation, operands)
    if moved and isinstance(operand, Centred | Squared):
        raise equation.refuse("it flattens the difference of a map and its statistic")
    if type(operand) is Centred or type(operand) is Squared:
        operand = Field(operand.hidden, lambda: operand.array, operand.shapes, operand.grid,
                        operand.origin, operand.taint)  # fmt: skip
    return _layout(equation, [operand])


# Sums over positions.


def _reduce_sum(equation: Equation, operands: list[Value]) -> list[Value]:
    (operand,) = operands
    return [_summed(equation, operand, equation.params["axes"], keep=False)]


def _summed(equation: Equation, operand: Field, axes: Sequence[int], keep: bool) -> Field:
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
        return _positional(equation, [operand], alone=True)[0]
    if sum(map(bool, (dims[dim] for dim in axes))) != len(over):
        raise equation.refuse("it sums over what are no rows or columns any more")
    if any(dims[dim] & new for dim in range(len(dims)) if dim not in axes):
        raise equation.refuse("it sums over some of several dimensions that are rows or columns")
    if operand.taint and not isinstance(operand, Centred | Squared):
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
    """The second of two sums, each over an axis: both are done now."""
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
    if constant:  # statistics that were spread: as often as a window has positions
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
        # Of each window, with its own shift: k (variance + (mean + shift)^2).
        mean, variance = moments(of.base, over, windows)
        return np.float32(count) * (variance + jnp.square(mean + shift))
    return sums(operand, over, windows)


def _reduce_window_sum(equation: Equation, operands: list[Value]) -> list[Value]:
    (operand,) = operands
    dims = labels(equation.operand_shapes(0))
    windows = equation.param("window_dimensions")
    shapes = equation.operand_shapes(0)
    covered = [d for d in range(len(dims)) if all(windows[s][d] == shapes[s][d] for s in windows)]
    if not any(dims[dim] for dim in covered):
        return _stencil(equation, operands)
    params = equation.params
    once = {n for dim, n in enumerate(windows[0]) if dim not in covered}
    once |= {*params["base_dilation"], *params["window_dilation"]}
    if once > {1} or any(map(any, params["padding"])):
        raise equation.refuse("its windows cover the picture and more")
    return [_summed(equation, operand, covered, keep=True)]


# What looks at neighbours, or at other dimensions than rows and columns.


def _stencil(equation: Equation, operands: list[Value]) -> list[Value]:
    names = ["window_dimensions", "window_strides", "base_dilation", "window_dilation"]
    if not equation.fixed(*(name for name in names if name in equation.params)):
        raise equation.refuse("its windows depend on the size of the picture")
    return _positional(equation, operands)


def _convolution(equation: Equation, operands: list[Value]) -> list[Value]:
    image, kernel = operands
    if not isinstance(image, Field) or not isinstance(kernel, Plain):
        raise equation.refuse("its kernel depends on the picture")
    fixed = ("window_strides", "lhs_dilation", "rhs_dilation", "feature_group_count",
             "batch_group_count")  # fmt: skip
    dims = labels(equation.operand_shapes(0))
    batch, feature = equation.params["dimension_numbers"].lhs_spec[:2]
    if not equation.fixed(*fixed) or any(labels(equation.operand_shapes(1))):
        raise equation.refuse("its kernel depends on the size of the picture")
    if dims[batch] or dims[feature]:
        raise equation.refuse("it takes rows or columns for channels or pictures")
    return _positional(equation, operands, new=True)


def _along(name: str, why: str) -> Callable[[Equation, list[Value]], list[Value]]:
    """The rule of what goes along some dimensions, which are to be no rows or columns."""

    def rule(equation: Equation, operands: list[Value]) -> list[Value]:
        named = equation.params[name]
        named = named if isinstance(named, tuple | list) else [named]
        for i in range(len(operands)):
            shapes = equation.operand_shapes(i)
            dims = labels(shapes)
            # An axis that its window covers is all there, as in the function.
            if dims and any(shapes[s][dim] != shapes[0][dim] for dim in named for s in SIZES):
                if all(dims[dim] in (0, FULL) for dim in named):  # flattened
                    return _still(equation, operands)
                raise equation.refuse(f"it {why}, for which there is no rule")
        return _positional(equation, operands, alone=True)

    return rule


def _concatenate(equation: Equation, operands: list[Value]) -> list[Value]:
    dim = equation.params["dimension"]
    if not labels(equation.result_shapes())[dim]:
        return _positional(equation, operands, alone=True)
    whole = [i for i in range(len(operands)) if labels(equation.operand_shapes(i))[dim]]
    if len(whole) > 1:
        raise equation.refuse("it sets parts of the picture side by side")
    if not whole:
        raise equation.refuse("it sets borders of the picture side by side")
    for i, operand in enumerate(operands):
        side = "begin" if i < whole[0] else "end"
        if isinstance(operand, Strip) and (operand.dim, operand.side) != (dim, side):
            raise equation.refuse("it sets one border of the picture beside the other")
    return _positional(equation, operands)


class Strip(Field):
    """A border of a map, of the same width at all sizes, to pad the map with."""

    dim: int
    side: str


ON_STRIPS = {"concatenate", "rev", "slice", "broadcast_in_dim", "reshape", "jit", "pjit"}


def _strip(equation: Equation, operand: Field, dim: int, side: str) -> Field:
    (made,) = _positional(equation, [operand])
    strip = Strip(made.hidden, lambda: made.array, made.shapes, made.grid, made.origin)
    strip.dim, strip.side = dim, side
    return strip


def _slice(equation: Equation, operands: list[Value]) -> list[Value]:
    (operand,) = operands
    shapes, results = equation.operand_shapes(0), equation.result_shapes()
    starts, limits = equation.param("start_indices"), equation.param("limit_indices")
    if isinstance(operand, Strip):
        raise equation.refuse("it takes a border of the picture by itself")
    strip = None
    for dim, label in enumerate(labels(shapes)):
        if not label:
            continue
        start = {starts[size][dim] for size in starts}
        end = {shapes[size][dim] - limits[size][dim] for size in starts}
        far = {shapes[size][dim] - starts[size][dim] for size in starts}
        strides = {(equation.param("strides")[s] or [1] * (dim + 1))[dim] for s in starts}
        if labels(results)[dim]:
            if len(start) > 1 or len(strides) > 1 or (len(end) > 1 and start != {0}):
                raise equation.refuse("it cuts out a part whose place depends on the size")
        elif strip is None and (len(start) == 1 or len(far) == 1):
            strip = dim, "begin" if len(start) == 1 else "end"
        else:
            raise equation.refuse("it cuts out a part whose place depends on the size")
    if strip:
        return [_strip(equation, operand, *strip)]
    return _positional(equation, operands)


def _rev(equation: Equation, operands: list[Value]) -> list[Value]:
    (operand,) = operands
    dims = labels(equation.operand_shapes(0))
    if any(dims[dim] for dim in equation.params["dimensions"]):
        raise equation.refuse("it turns the picture around")
    if isinstance(operand, Strip):
        return [_strip(equation, operand, operand.dim, operand.side)]
    return _positional(equation, operands)


def _pad(equation: Equation, operands: list[Value]) -> list[Value]:
    """Padding may depend on the size at the end of an axis, where it fills up to a multiple."""
    before = [[(low, inner) for low, _, inner in config]
              for config in equation.param("padding_config").values()]  # fmt: skip
    if not same(*before):
        raise equation.refuse("its padding above or to the left depends on the size")
    return _positional(equation, operands)


def _trim(equation: Equation, operands: list[Value]) -> Value:
    """What pads or cuts at some sizes only, at the end of axes."""
    (field,) = (one for one in operands[:1] if isinstance(one, Field)) or (None,)
    eqn = equation.each[0]
    shapes = {s: (e or equation.any).outvars[0].aval.shape if e else equation.any.invars[0].aval.shape
              for s, e in equation.each.items()}  # fmt: skip
    shapes = {s: e.outvars[0].aval.shape if e else operands[0].shapes[s]
              for s, e in equation.each.items()}  # fmt: skip
    for eqn in _trimming(equation.any):
        if eqn.primitive.name == "slice" and any(eqn.params["start_indices"]):
            raise equation.refuse("it cuts out a part whose place depends on the size")
        if eqn.primitive.name == "pad" and any(l or i for l, _, i in eqn.params["padding_config"]):
            raise equation.refuse("its padding above or to the left depends on the size")
    if not isinstance(field, Field) or field.hidden or field.origin:
        raise equation.refuse("it is there at some sizes of the picture only")
    eqn = equation.each[0]
    args = [field.array, *(one.arrays[0] for one in operands[1:])]
    array = bind(eqn, args)[0] if eqn else field.array
    return Field(0, lambda: array, shapes, {})


def _trimming(eqn: core.JaxprEqn) -> list[core.JaxprEqn]:
    inner = body(eqn)
    return [one for e in inner.jaxpr.eqns for one in _trimming(e)] if inner else [eqn]


def _identity(equation: Equation, operands: list[Value]) -> list[Value]:
    """A barrier keeps the compiler from moving things; of statistics it does not matter."""
    if all(type(one) is Field and not one.hidden for one in operands):
        arrays = run(equation, operands, 0, 0)
        return [_made_of(equation, operands, array, i) for i, array in enumerate(arrays)]
    return operands


# Products.


def _dot(equation: Equation, operands: list[Value]) -> list[Value]:
    contracting, batch = equation.params["dimension_numbers"]
    dims = [labels(equation.operand_shapes(i)) for i in range(2)]
    summed = [dims[i][dim] for i in range(2) for dim in contracting[i]]
    maps = [one for one in operands if isinstance(one, Field)]
    if len(maps) == 1:
        plain = next(i for i in range(2) if isinstance(operands[i], Plain))
        if not any(summed):
            if any(dims[plain]):
                raise equation.refuse("it multiplies with a matrix as large as the picture")
            return _positional(equation, operands, new=True)
        _check_resize(equation, operands[plain], plain, dims)
        return _positional(equation, operands, settled=False, new=True)
    pointwise = all(dims[0][a] == dims[1][b] for a, b in zip(*batch, strict=True)) and all(
        not label or dim in batch[i] for i in range(2) for dim, label in enumerate(dims[i])
    )
    if pointwise and maps[0].hidden == maps[1].hidden and not any(summed):
        return _positional(equation, operands, new=True)
    return _still(equation, operands)


def _check_resize(
    equation: Equation, matrix: Plain, which: int, dims: list[tuple[int, ...]]
) -> None:
    """A product along rows or columns is local if its matrix, near the diagonal, is a band."""
    contracting, batch = equation.params["dimension_numbers"]
    axes = [dim for dim, label in enumerate(dims[which]) if label]
    refusal = equation.refuse("it sums over positions with weights that differ from place to place")
    if len(contracting[which]) != 1 or len(axes) != 2 or len(dims[which]) != 2 or batch[which]:
        raise refusal
    if (
        dims[which][0] != dims[which][1]
        or dims[1 - which][contracting[1 - which][0]] != dims[which][0]
    ):
        raise refusal
    spans = []
    for size in (0, FULL):
        weights = matrix.known(size)
        if weights is None:
            raise refusal
        weights = weights if contracting[which][0] == 0 else weights.T  # (from, to)
        spans.append(_reach(weights != 0))
    if spans[0] > spans[1] + 1:
        raise refusal


def _reach(holds: np.ndarray) -> float:
    """How far from its own place, in input pixels, an output pixel sees: (from, to) of bool."""
    source, target = np.nonzero(holds)
    scale = holds.shape[0] / holds.shape[1]
    return float(np.abs(source + 0.5 - (target + 0.5) * scale).max(initial=0))


def _gather(equation: Equation, operands: list[Value]) -> list[Value]:
    image, index = operands
    numbers = equation.params["dimension_numbers"]
    dims = labels(equation.operand_shapes(0))
    moving = [dim for dim in numbers.start_index_map if dims[dim]]
    shapes = equation.operand_shapes(0)
    sliced = equation.param("slice_sizes")
    whole = all(
        sliced[s][d] == shapes[s][d]
        for s in sliced
        for d, n in enumerate(dims)
        if n and d not in moving
    )
    if not isinstance(image, Field) or not isinstance(index, Plain) or not whole:
        raise equation.refuse("it looks up places that depend on the picture")
    if not moving:
        return _positional(equation, operands)
    spans = []
    for size in (0, FULL):
        places_ = index.known(size)
        if places_ is None or numbers.start_index_map != tuple(moving) or len(moving) != 1:
            raise equation.refuse("it looks up places that are not known")
        places_ = places_.reshape(-1)
        scale = shapes[size][moving[0]] / len(places_)
        spans.append(np.abs(places_ + 0.5 - (np.arange(len(places_)) + 0.5) * scale).max(initial=0))
    if spans[0] > spans[1] + 1:
        raise equation.refuse("it looks up places far away")
    return _positional(equation, operands, settled=False)


def _dynamic_slice(equation: Equation, operands: list[Value]) -> list[Value]:
    image, *starts = operands
    dims, shapes = labels(equation.operand_shapes(0)), equation.operand_shapes(0)
    sizes = equation.param("slice_sizes")
    whole = all(sizes[s][d] == shapes[s][d] for s in sizes for d, n in enumerate(dims) if n)
    if not whole or not all(isinstance(one, Plain) for one in starts):
        raise equation.refuse("it cuts out a part whose place depends on the picture")
    return _positional(equation, operands)


# Windows that lie still.


def _still(equation: Equation, operands: Sequence[Value]) -> list[Value]:
    results: list[Value] = []
    for i in range(len(equation.any.outvars)):
        shapes = equation.result_shapes(i)
        origin = Origin(equation, operands, i)
        still = Still(origin, shapes)
        array = land(still)
        if array is None:
            results.append(still)
            continue
        # What comes out of an attention is a new map. All else may still be on its way to one,
        # and is then made anew in each window.
        new = equation.name in ("reshape", "dot_general", "transpose")
        joined_ = None if new or equation.name in ("mul", "div") else ADDED
        results.append(
            Field(0, lambda array=array: array, shapes, {}, None if new else origin, joined_)
        )
    return results


# Control flow, through which maps may go.


def _pack(operands: Sequence[Value]) -> list[Any]:
    return [one.arrays if isinstance(one, Plain) else one.array for one in operands]


def _unpack(trees: Sequence[Any], like: Sequence[Value]) -> list[Value]:
    return [
        Plain(tree, one.same) if isinstance(one, Plain)
        else Field(0, lambda tree=tree: tree, one.shapes, {}, None, one.taint)
        for tree, one in zip(trees, like, strict=True)
    ]  # fmt: skip


def _only_maps(equation: Equation, operands: Sequence[Value]) -> list[Value]:
    evened = []
    for operand in operands:
        if isinstance(operand, Field):
            (operand,), hidden = _evened([operand])
            if hidden:
                raise equation.refuse("it carries statistics of windows through control flow")
        if isinstance(operand, Still):
            raise equation.refuse("it carries statistics of windows through control flow")
        evened.append(operand)
    return evened


def _results(values: Sequence[Value], shapes: Sequence[Shapes]) -> list[Value]:
    return [
        Field(0, lambda one=one: one.arrays[0], of, {}) if isinstance(one, Plain) else one
        for one, of in zip(values, shapes, strict=True)
    ]


def _cond(equation: Equation, operands: list[Value]) -> list[Value]:
    index, *others = operands
    platforms = equation.params.get("branches_platforms")
    if platforms and _are_statistics([o for o in others if isinstance(o, Field)], FULL):
        return _positional(equation, operands)
    others = _only_maps(equation, others)
    if not isinstance(index, Plain) or not (platforms or index.settled(0)):
        raise equation.refuse("which way it takes depends on the picture")
    shapes = [equation.result_shapes(i) for i in range(len(equation.any.outvars))]
    seen: list[Value] = []
    count = len(equation.params["branches"])

    def branch(number: int) -> Callable[..., list[Any]]:
        def run_branch(*trees: Any) -> list[Any]:
            jaxprs = {s: branches[number] for s, branches in equation.param("branches").items()}
            values = walk(jaxprs, _unpack(trees, others), (*equation.callers, equation.any))
            seen[:] = _results(_only_maps(equation, values), shapes)
            return [one.array for one in seen]

        return run_branch

    branches = [branch(number) for number in range(count)]
    trees = _pack(others)
    if platforms:
        by_name = {
            name: one
            for names, one in zip(platforms, branches, strict=True)
            for name in names or ["default"]
        }
        results = lax.platform_dependent(*trees, **by_name)
    else:
        results = lax.switch(index.arrays[0], branches, *trees)
    return [
        Field(0, lambda array=array: array, of, {}, None, one.taint)
        for array, of, one in zip(results, shapes, seen, strict=True)
    ]


def _scan(equation: Equation, operands: list[Value]) -> list[Value]:
    operands = _only_maps(equation, operands)
    if not equation.fixed("length", "num_consts", "num_carry", "reverse"):
        raise equation.refuse("how often it goes round depends on the size of the picture")
    params = equation.params
    consts_end = params["num_consts"]
    carry_end = consts_end + params["num_carry"]
    consts, carry, rows = (
        operands[:consts_end],
        operands[consts_end:carry_end],
        operands[carry_end:],
    )
    for i in range(carry_end, len(operands)):
        if labels(equation.operand_shapes(i))[0]:
            raise equation.refuse("it goes along rows or columns")
    # What begins as a plain map of zeros, say, comes back as a map of the picture.
    carry = [
        Field(0, lambda one=one: one.arrays[0], equation.operand_shapes(consts_end + i), {})
        if isinstance(one, Plain) and any(labels(equation.operand_shapes(consts_end + i))) else one
        for i, one in enumerate(carry)
    ]  # fmt: skip
    jaxprs = equation.param("jaxpr")

    def inner(one: Value) -> Value:
        """One step's part of what is scanned."""
        shapes = {size: shape[1:] for size, shape in one.shapes.items()}
        if isinstance(one, Plain):
            return Plain(one.arrays, one.same)
        return Field(0, lambda: None, shapes, {}, None, one.taint)

    slices = [inner(one) for one in rows]

    def step(state: list[Any], trees: list[Any]) -> tuple[list[Any], list[Any]]:
        values = _unpack(fixed, consts) + _unpack(state, carry) + _unpack(trees, slices)
        results = walk(jaxprs, values, (*equation.callers, equation.any))
        results = _only_maps(equation, results)
        seen[:] = results
        new, out = results[: len(carry)], results[len(carry) :]
        as_carried = [
            one.arrays if isinstance(old, Plain) and isinstance(one, Plain)
            else one.array if isinstance(one, Field) else one.arrays[0]
            for one, old in zip(new, carry, strict=True)
        ]  # fmt: skip
        return as_carried, _pack(out)

    fixed = _pack(consts)
    seen: list[Value] = []
    for _ in range(len(carry) + 1):  # what begins plain may come back as a map
        first = [jax.tree.map(lambda x: x[0], tree) for tree in _pack(rows)]
        jax.eval_shape(step, _pack(carry), first)
        grown = [
            Field(0, lambda one=one: one.arrays[0], one.shapes, {})
            if isinstance(one, Plain) and isinstance(new, Field) else one
            for one, new in zip(carry, seen, strict=False)
        ]  # fmt: skip
        if grown == carry:
            break
        carry = grown
    state, out = lax.scan(
        step, _pack(carry), _pack(rows), length=params["length"], reverse=params["reverse"]
    )
    results = []
    for i, tree in enumerate([*state, *out]):
        one = (carry + seen[len(carry) :])[i]
        shapes = equation.result_shapes(i)
        if isinstance(one, Plain):
            results.append(Plain(tree, False))
        else:
            results.append(Field(0, lambda tree=tree: tree, shapes, {}, None, one.taint))
    return results


RULES: dict[str, Callable[[Equation, list[Value]], list[Value]]] = {
    "reduce_sum": _reduce_sum,
    "reduce_window_sum": _reduce_window_sum,
    "reduce_window_max": _stencil,
    "reduce_window_min": _stencil,
    "conv_general_dilated": _convolution,
    "dot_general": _dot,
    "broadcast_in_dim": _broadcast,
    "transpose": _layout,
    "squeeze": _reshape,
    "reshape": _reshape,
    "expand_dims": _reshape,
    "concatenate": _concatenate,
    "slice": _slice,
    "rev": _rev,
    "pad": _pad,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "optimization_barrier": _identity,
    "cond": _cond,
    "scan": _scan,
    "split": _along("axis", "splits rows or columns"),
    "sort": _along("dimension", "sorts positions"),
    **{
        f"reduce_{name}": _along("axes", "takes the extreme over positions")
        for name in ("max", "min", "prod", "and", "or", "xor")
    },
    **{name: _along("axes", "takes the extreme over positions") for name in ("argmax", "argmin")},
    **{
        name: _along("axis", "accumulates along rows or columns")
        for name in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
    },
}
