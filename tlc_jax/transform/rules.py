"""The rules of `localize`: what each equation of a function becomes when it is made local.

Feature maps are computed as in the function. Aggregates over positions become statistics of
windows, computed as the function does for an image of the size of the window. If neither is known
to be right, the function is refused.
"""

import fractions
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend import core

from tlc_jax.transform.maps import (
    are_statistics,
    broadcast,
    elementwise,
    evened_out,
    layout,
    plainly,
    positional,
    reshape,
    tile,
)
from tlc_jax.transform.neighbours import (
    along,
    concatenate,
    convolution,
    dynamic_slice,
    gather,
    identity,
    pad,
    rev,
    slice_,
    stack,
    stencil,
    trim,
)
from tlc_jax.transform.products import dot
from tlc_jax.transform.programs import (
    ELEMENTWISE,
    FULL,
    Equation,
    LocalizeError,
    Shapes,
    axes_of,
    body,
    in_step,
    labels,
)
from tlc_jax.transform.still import in_still_windows
from tlc_jax.transform.sums import reduce_sum, reduce_window_sum
from tlc_jax.transform.values import Field, Misfit, Origin, Plain, Still, Strip, Value, run

CONTROL = {"cond", "scan", "while"}
ON_STRIPS = {"concatenate", "rev", "slice", "broadcast_in_dim", "reshape", "jit", "pjit"}


def walk(
    jaxprs: dict[int, core.ClosedJaxpr],
    inputs: Sequence[Value],
    callers: tuple[Any, ...] = (),
) -> list[Any]:
    """Run all traces of a function in step, on values, and return its results."""
    env: dict[int, dict[core.Var, Value]] = {size: {} for size in jaxprs}
    if len({(len(one.consts), len(one.jaxpr.outvars)) for one in jaxprs.values()}) > 1:
        raise LocalizeError(
            "what the function does depends on the size of the image; give it sizes for which it "
            "does not."
        )
    consts = zip(*(jaxpr.consts for jaxpr in jaxprs.values()), strict=True)
    known = [_constant(dict(zip(jaxprs, arrays, strict=True))) for arrays in consts]
    for size, closed in jaxprs.items():
        env[size].update(zip(closed.jaxpr.constvars, known, strict=True))
        env[size].update(zip(closed.jaxpr.invars, inputs, strict=True))

    def look(equation: Any, atoms: dict[int, Any]) -> Value:
        if all(isinstance(atom, core.Literal) for atom in atoms.values()):
            return _constant({s: np.asarray(a.val, a.aval.dtype) for s, a in atoms.items()})
        found = {id(value): value for value in (env[s][a] for s, a in atoms.items())}
        if len(found) > 1:
            raise equation.refuse("which values it takes depends on the size of the image")
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
            else:  # missing in this trace: its result is its operand
                for var in [var for var, value in env[size].items() if value is operands[0]]:
                    env[size][var] = results[0]
    return [
        look(None, {size: one.jaxpr.outvars[i] for size, one in jaxprs.items()})
        for i in range(len(jaxprs[0].jaxpr.outvars))
    ]


def maps_of(results: Sequence[Any]) -> list[jax.Array]:
    """The arrays that a function returns."""
    arrays = []
    for one in results:
        if isinstance(one, Plain):
            arrays.append(one.arrays[0])
        elif isinstance(one, Field) and one.hidden == one.spread_out and not isinstance(one, Strip):
            arrays.append(evened_out([one])[0][0].array)
        else:
            raise LocalizeError(
                "the function returns statistics of windows, which have no one place; return maps."
            )
    return arrays


def _constant(arrays: dict[int, Any]) -> Plain:
    first, *others = arrays.values()
    equal = all(first is other for other in others)
    if not equal and not any(isinstance(one, Tracer) for one in arrays.values()):
        equal = all(
            np.shape(first) == np.shape(other) and np.array_equal(first, other) for other in others
        )
    return Plain(arrays, equal)


def apply(equation: Equation, operands: list[Any]) -> list[Any]:
    """Apply the rule of one equation to values."""
    fields = [one for one in operands if isinstance(one, Field)]
    if None in equation.each.values():
        return [trim(equation, operands)]
    if any(isinstance(one, Strip) for one in fields) and equation.name not in ON_STRIPS:
        raise equation.refuse("it takes a border of the image by itself")
    if body(equation.any) is not None:
        return _call(equation, operands)
    if any(isinstance(one, Still) for one in operands):
        return in_still_windows(equation, operands)
    if not fields:
        return plainly(equation, operands)
    if equation.name in ELEMENTWISE:
        return [elementwise(equation, operands)]
    if equation.name in RULES:
        return RULES[equation.name](equation, operands)
    if equation.name not in CONTROL and are_statistics(fields):
        return positional(equation, operands)
    raise equation.refuse("there is no rule for it")


def _call(equation: Equation, operands: list[Any]) -> list[Any]:
    """A call with its own gradient stays whole if elementwise; else the called jaxpr is walked."""
    bodies = {size: body(eqn) for size, eqn in equation.each.items()}
    if equation.resizes:
        return _resize(equation, operands)
    maps = [one for one in operands if isinstance(one, Field)]
    whole = all(type(one) is Field and not one.hidden for one in maps)
    whole = whole and bool(maps) and not any(isinstance(one, Still) for one in operands)
    if whole and equation.name != "jit" and _is_elementwise(bodies[0].jaxpr):
        return positional(equation, operands, alone=True)
    return walk(bodies, operands, (*equation.callers, equation.any))


def _resize(equation: Equation, operands: list[Any]) -> list[Any]:
    """`jax.image.resize`, as a whole: it takes the longer axis first, so traces may differ."""
    if not isinstance(operands[0], Field):
        return (plainly if isinstance(operands[0], Plain) else in_still_windows)(equation, operands)
    before, after = equation.operand_shapes(0), equation.result_shapes()
    for dim, label in enumerate(labels(before)):
        scales = {fractions.Fraction(after[s][dim], before[s][dim]) for s in after if label}
        if len(scales) > 1:
            raise equation.refuse("its factor depends on the size of the image")
    operand = operands[0]
    if operand.hidden and not any(operand.labels):  # one position becomes many equal ones
        (array,) = run(equation, [operand], FULL, operand.hidden)
        front = len(axes_of(operand.hidden))
        for dim, label in enumerate(labels(after)):
            if label:
                array = lax.slice_in_dim(array, 0, 1, axis=front + dim)
        origin = Origin(equation, operands)
        return [Field(operand.hidden, lambda: array, after, operand.grid, origin, operand.taint)]
    return positional(equation, operands)


def _is_elementwise(jaxpr: core.Jaxpr) -> bool:
    return all(
        _is_elementwise(inner.jaxpr) if (inner := body(eqn)) else eqn.primitive.name in ELEMENTWISE
        for eqn in jaxpr.eqns
    )


def _pack(operands: Sequence[Any]) -> list[Any]:
    return [one.arrays if isinstance(one, Plain) else one.array for one in operands]


def _unpack(trees: Sequence[Any], like: Sequence[Any]) -> list[Any]:
    return [
        Plain(tree, one.same) if isinstance(one, Plain)
        else Field(0, lambda tree=tree: tree, one.shapes, {}, None, one.taint)
        for tree, one in zip(trees, like, strict=True)
    ]  # fmt: skip


def _only_maps(equation: Equation, operands: Sequence[Any]) -> list[Any]:
    evened = []
    for operand in operands:
        if isinstance(operand, Field):
            (operand,), hidden = evened_out([operand])
            if hidden:
                raise equation.refuse("it carries statistics of windows through control flow")
        if isinstance(operand, Still):
            raise equation.refuse("it carries statistics of windows through control flow")
        evened.append(operand)
    return evened


def _results(values: Sequence[Any], shapes: Sequence[Shapes]) -> list[Any]:
    return [
        Field(0, lambda one=one: one.arrays[0], of, {}) if isinstance(one, Plain) else one
        for one, of in zip(values, shapes, strict=True)
    ]


def _cond(equation: Equation, operands: list[Any]) -> list[Any]:
    index, *others = operands
    platforms = equation.params.get("branches_platforms")
    if platforms and are_statistics([o for o in others if isinstance(o, Field)]):
        return positional(equation, operands)
    others = _only_maps(equation, others)
    if not isinstance(index, Plain) or not (platforms or index.settled(0)):
        raise equation.refuse("which branch it takes depends on the image")
    shapes = [equation.result_shapes(i) for i in range(len(equation.any.outvars))]
    seen: list[Any] = []
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


def _scan(equation: Equation, operands: list[Any]) -> list[Any]:
    operands = _only_maps(equation, operands)
    if not equation.fixed("length", "reverse"):
        raise equation.refuse("its number of steps depends on the size of the image")
    params = equation.params
    # What is scanned has an axis less within a step; JAX's names for these counts change.
    step = params["jaxpr"].jaxpr

    def rank(variables: list[Any]) -> list[int]:
        return [len(variable.aval.shape) for variable in variables]

    scanned = sum(map(operator.ne, rank(equation.any.invars), rank(step.invars)))
    carry_end = len(operands) - scanned
    consts_end = carry_end - sum(map(operator.eq, rank(equation.any.outvars), rank(step.outvars)))
    consts, carry, rows = (
        operands[:consts_end],
        operands[consts_end:carry_end],
        operands[carry_end:],
    )
    for i in range(carry_end, len(operands)):
        if labels(equation.operand_shapes(i))[0]:
            raise equation.refuse("it loops over rows or columns")
    # A carry that begins as zeros, say, comes back as a map of the image.
    carry = [
        Field(0, lambda one=one: one.arrays[0], equation.operand_shapes(consts_end + i), {})
        if isinstance(one, Plain) and any(labels(equation.operand_shapes(consts_end + i))) else one
        for i, one in enumerate(carry)
    ]  # fmt: skip
    jaxprs = equation.param("jaxpr")

    def inner(one: Any) -> Any:
        """One step's slice of a scanned value."""
        shapes = {size: shape[1:] for size, shape in one.shapes.items()}
        if isinstance(one, Plain):
            return Plain(one.arrays, one.same)
        return Field(0, lambda: one.array, shapes, {}, None, one.taint)

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
    seen: list[Any] = []
    for _ in range(len(carry) + 1):  # a plain carry may come back as a map
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
    "reduce_sum": reduce_sum,
    "reduce_window_sum": reduce_window_sum,
    "reduce_window_max": stencil,
    "reduce_window_min": stencil,
    "conv_general_dilated": convolution,
    "dot_general": dot,
    "broadcast_in_dim": broadcast,
    "transpose": layout,
    "squeeze": reshape,
    "reshape": reshape,
    "expand_dims": reshape,
    "concatenate": concatenate,
    "slice": slice_,
    "rev": rev,
    "pad": pad,
    "gather": gather,
    "dynamic_slice": dynamic_slice,
    "optimization_barrier": identity,
    "cond": _cond,
    "scan": _scan,
    "split": along("axis", "splits rows or columns"),
    "stack": stack,
    "tile": tile,
    "unstack": along("axis", "takes rows or columns apart"),
    "top_k": along("axis", "looks for the largest over positions"),
    "sort": along("dimension", "sorts positions", reorders=True),
    "argmax": along("axes", "looks for the maximum over positions"),
    "argmin": along("axes", "looks for the minimum over positions"),
    **{
        f"reduce_{name}": along("axes", f"takes the {word} over positions")
        for name, word in {
            "max": "maximum", "min": "minimum", "prod": "product", "and": "conjunction",
            "or": "disjunction", "xor": "parity",
        }.items()
    },
    **{
        name: along("axis", "accumulates along rows or columns", reorders=True)
        for name in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
    },
}  # fmt: skip
