"""Rules of equations that read neighbours or borders, or run along other dimensions."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.extend import core

from tlc_jax.transform.maps import positional, strip_of
from tlc_jax.transform.programs import FULL, SIZES, Equation, bind, body, labels, same
from tlc_jax.transform.still import in_still_windows
from tlc_jax.transform.values import Field, Plain, Strip, Value

NOT_A_MULTIPLE = "it pads the window, too; give a window that is a multiple of what it pads to"


def stencil(equation: Equation, operands: list[Any]) -> list[Any]:
    """Pooling over small neighbourhoods."""
    names = ["window_dimensions", "window_strides", "base_dilation", "window_dilation"]
    if not equation.fixed(*(name for name in names if name in equation.params)):
        raise equation.refuse("its windows depend on the size of the image")
    return positional(equation, operands)


def convolution(equation: Equation, operands: list[Any]) -> list[Any]:
    """A convolution with a kernel of fixed size."""
    image, kernel = operands
    if not isinstance(image, Field) or not isinstance(kernel, Plain):
        raise equation.refuse("its kernel depends on the image")
    fixed = ("window_strides", "lhs_dilation", "rhs_dilation", "feature_group_count",
             "batch_group_count")  # fmt: skip
    dims = labels(equation.operand_shapes(0))
    batch, feature = equation.params["dimension_numbers"].lhs_spec[:2]
    if not equation.fixed(*fixed) or any(labels(equation.operand_shapes(1))):
        raise equation.refuse("its kernel depends on the size of the image")
    if dims[batch] or dims[feature]:
        raise equation.refuse("it uses rows or columns as channels or batch")
    return positional(equation, operands, new=True)


def along(
    name: str, why: str, reorders: bool = False
) -> Callable[[Equation, list[Value]], list[Value]]:
    """Make the rule of an operation along given dimensions, which must not be rows or columns."""

    def rule(equation: Equation, operands: list[Any]) -> list[Any]:
        named = equation.params[name]
        named = named if isinstance(named, tuple | list) else [named]
        for i in range(len(operands)):
            shapes = equation.operand_shapes(i)
            dims = labels(shapes)
            # An axis no longer than its window is whole, as in the function.
            if dims and any(shapes[s][dim] != shapes[0][dim] for dim in named for s in SIZES):
                if all(dims[dim] in (0, FULL) for dim in named):  # flattened
                    return in_still_windows(equation, operands, reorders)
                raise equation.refuse(f"it {why}, for which there is no rule")
        return positional(equation, operands, alone=True)

    return rule


def gather(equation: Equation, operands: list[Any]) -> list[Any]:
    """Indexing, if each position reads near its own place only."""
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
        raise equation.refuse("its indices depend on the image")
    if not moving:
        return positional(equation, operands)
    spans = []
    for size in (0, FULL):
        found = index.known(size)
        if found is None or numbers.start_index_map != tuple(moving) or len(moving) != 1:
            raise equation.refuse("its indices are not known while tracing")
        found = found.reshape(-1)
        scale = shapes[size][moving[0]] / len(found)
        spans.append(np.abs(found + 0.5 - (np.arange(len(found)) + 0.5) * scale).max(initial=0))
    if spans[0] > spans[1] + 1:
        raise equation.refuse("its indices reach far away positions")
    return positional(equation, operands, check=False)


def dynamic_slice(equation: Equation, operands: list[Any]) -> list[Any]:
    """A slice that keeps all rows and columns."""
    starts = operands[1:]
    dims, shapes = labels(equation.operand_shapes(0)), equation.operand_shapes(0)
    sizes = equation.param("slice_sizes")
    whole = all(sizes[s][d] == shapes[s][d] for s in sizes for d, n in enumerate(dims) if n)
    if not whole or not all(isinstance(one, Plain) for one in starts):
        raise equation.refuse("it cuts out a part whose place depends on the image")
    return positional(equation, operands)


def concatenate(equation: Equation, operands: list[Any]) -> list[Any]:
    """Concatenate channels; along rows or columns only a map between its own borders."""
    dim = equation.params["dimension"]
    if not labels(equation.result_shapes())[dim]:
        return positional(equation, operands, alone=True)
    whole = [i for i in range(len(operands)) if labels(equation.operand_shapes(i))[dim]]
    if len(whole) > 1:
        raise equation.refuse("it sets parts of the image side by side")
    if not whole:
        raise equation.refuse("it sets borders of the image side by side")
    for i, operand in enumerate(operands):
        side = "begin" if i < whole[0] else "end"
        if isinstance(operand, Strip) and (operand.dim, operand.side) != (dim, side):
            raise equation.refuse("it sets one border of the image beside the other")
    return positional(equation, operands)


def stack(equation: Equation, operands: list[Any]) -> list[Any]:
    """Stack maps along a new dimension."""
    return positional(equation, operands, alone=True)


def slice_(equation: Equation, operands: list[Any]) -> list[Any]:
    """A part at a fixed distance from the borders, or a border."""
    (operand,) = operands
    shapes, results = equation.operand_shapes(0), equation.result_shapes()
    starts, limits = equation.param("start_indices"), equation.param("limit_indices")
    if isinstance(operand, Strip):
        raise equation.refuse("it takes a border of the image by itself")
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
        return [strip_of(equation, operand, *strip)]
    return positional(equation, operands)


def rev(equation: Equation, operands: list[Any]) -> list[Any]:
    """Flip dimensions other than rows and columns, or a border."""
    (operand,) = operands
    dims = labels(equation.operand_shapes(0))
    if any(dims[dim] for dim in equation.params["dimensions"]):
        raise equation.refuse("it flips the image")
    if isinstance(operand, Strip):
        return [strip_of(equation, operand, operand.dim, operand.side)]
    return positional(equation, operands)


def pad(equation: Equation, operands: list[Any]) -> list[Any]:
    """Padding, which may depend on the size only at the end of an axis, up to a multiple."""
    before = [[(low, inner) for low, _, inner in config]
              for config in equation.param("padding_config").values()]  # fmt: skip
    if not same(*before):
        raise equation.refuse("its padding above or to the left depends on the size")
    behind = [[high for _, high, _ in config]
              for config in equation.param("padding_config").values()]  # fmt: skip
    if not same(*behind) and any(
        high for _, high, _ in equation.each[FULL].params["padding_config"]
    ):
        raise equation.refuse(NOT_A_MULTIPLE)
    return positional(equation, operands)


def trim(equation: Equation, operands: list[Any]) -> Value:
    """An equation that pads or crops the end of axes, in some of the traces only."""
    field = operands[0]
    shapes = {
        size: eqn.outvars[0].aval.shape if eqn else field.shapes[size]
        for size, eqn in equation.each.items()
    }
    for eqn in _trimming(equation.any):
        if eqn.primitive.name == "slice" and any(eqn.params["start_indices"]):
            raise equation.refuse("it cuts out a part whose place depends on the size")
        if eqn.primitive.name == "pad" and any(
            low or inner for low, _, inner in eqn.params["padding_config"]
        ):
            raise equation.refuse("its padding above or to the left depends on the size")
    if not isinstance(field, Field) or field.hidden or field.origin:
        raise equation.refuse("the function does it at some sizes of the image only")
    if equation.each[FULL]:
        raise equation.refuse(NOT_A_MULTIPLE)
    eqn = equation.each[0]
    args = [field.array, *(one.arrays[0] for one in operands[1:])]
    array = bind(eqn, args)[0] if eqn else field.array
    return Field(0, lambda: array, shapes, {})


def _trimming(eqn: core.JaxprEqn) -> list[core.JaxprEqn]:
    inner = body(eqn)
    return [one for e in inner.jaxpr.eqns for one in _trimming(e)] if inner else [eqn]


def identity(equation: Equation, operands: list[Any]) -> list[Any]:
    """An optimization barrier, dropped for statistics, where it does not matter."""
    if all(type(one) is Field and not one.hidden for one in operands):
        return positional(equation, operands, alone=True)
    return operands
