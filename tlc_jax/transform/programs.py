"""A function traced for several sizes of its image, and the equations of all traces side by side.

A size is named by bits, the axes on which the image is cut to the window: 0 for none, ROWS,
COLUMNS, or FULL for both. Equation i is the same one in each trace; where its shapes differ between
traces, they tell which dimensions are rows and which are columns. An axis no longer than the window
has one length in all four; a fifth trace, LONGER * axis, then has an image twice as long on it.
"""

import contextvars
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend import core

ROWS, COLUMNS, FULL = 1, 2, 3
SIZES = range(FULL + 1)
LONGER = 4
NAMES = {ROWS: "rows", COLUMNS: "columns", FULL: "rows and columns"}
LIBRARIES = {"jax", "jaxlib", "flax", "equinox", "tlc_jax"}

ELEMENTWISE = {
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "clz", "complex", "conj",
    "convert_element_type", "copy", "copy_p", "cos", "cosh", "digamma", "div", "eq", "erf",
    "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "igamma", "igammac", "imag",
    "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min",
    "mul", "name", "ne", "neg", "nextafter", "not", "or", "population_count", "pow", "real",
    "reduce_precision", "rem", "round", "rsqrt", "select_n", "shift_left",
    "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square",
    "stop_gradient", "sub", "tan", "tanh", "xor",
}  # fmt: skip
"""Primitives that act on each position by itself."""

Shape = tuple[int, ...]
Shapes = dict[int, Shape]
"""The shape of one array at each size."""


class LocalizeError(ValueError):
    """A function has no local form, or none that is known; the message says where and why."""


@dataclasses.dataclass(frozen=True)
class Equation:
    """One equation of the function, as it is in each trace; None where a trace lacks it."""

    each: dict[int, Any]
    callers: tuple[Any, ...] = ()

    @property
    def any(self) -> Any:
        return next(eqn for eqn in self.each.values() if eqn)

    @property
    def name(self) -> str:
        return self.any.primitive.name

    @property
    def params(self) -> dict[str, Any]:
        return self.any.params

    def param(self, name: str) -> dict[int, Any]:
        return {size: eqn.params[name] for size, eqn in self.each.items() if eqn}

    def fixed(self, *names: str) -> bool:
        """Whether parameters are the same at all sizes."""
        return all(same(*self.param(name).values()) for name in names)

    def operand_shapes(self, i: int) -> Shapes:
        return {size: eqn.invars[i].aval.shape for size, eqn in self.each.items() if eqn}

    def result_shapes(self, i: int = 0) -> Shapes:
        return {
            size: (eqn.outvars[i] if eqn else self.any.invars[0]).aval.shape
            for size, eqn in self.each.items()
        }

    @property
    def resizes(self) -> bool:
        """Whether it is a call of `jax.image.resize`."""
        inner = body(self.any)
        return bool(
            inner and self.params.get("name") == "_resize"
            and _is_library(inner.jaxpr.debug_info.func_filename or "")
        )  # fmt: skip

    def refuse(self, why: str) -> LocalizeError:
        return LocalizeError(f"no local form of {self.name} at {self.place()}: {why}.")

    def place(self) -> str:
        """The line in the user's own code, the innermost that is known."""
        found = "an unknown line"
        for eqn in (*self.callers, self.any):
            frames = eqn.source_info.traceback.frames if eqn.source_info.traceback else []
            ours = [frame for frame in frames if not _is_library(frame.file_name)]
            if ours:
                found = f"{Path(ours[0].file_name).name}:{ours[0].line_num}"
            bodies = list(_bodies(eqn))
            # What a library compiles once keeps the traceback of its first caller.
            if bodies and _is_library(bodies[0].debug_info.func_filename or ""):
                break
        return found


def _is_library(file: str) -> bool:
    return not LIBRARIES.isdisjoint(Path(file).parts) or file.startswith("<frozen")


def _bodies(eqn: Any) -> Iterator[Any]:
    for value in eqn.params.values():
        if isinstance(value, core.Jaxpr | core.ClosedJaxpr):
            yield getattr(value, "jaxpr", value)


def body(eqn: Any) -> Any:
    """The jaxpr that an equation calls; None if it is no plain call."""
    if eqn.primitive.name in ("scan", "while", "cond"):
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        value = eqn.params.get(key)
        if isinstance(value, core.ClosedJaxpr):
            return value
        if isinstance(value, core.Jaxpr):
            return core.ClosedJaxpr(value, ())
    return None


def same(*values: Any) -> bool:
    """Whether parameters of equations are equal."""
    first, *others = values
    try:
        return all(first is other or bool(first == other) for other in others)
    except ValueError:  # arrays
        return False


def in_step(jaxprs: dict[int, core.Jaxpr], callers: tuple[Any, ...] = ()) -> Iterator[Equation]:
    """The equations of all traces side by side.

    A network that pads to a multiple does not pad, nor crop, where the size fits: such an equation
    may be missing in some traces.
    """
    rest = {size: list(jaxpr.eqns)[::-1] for size, jaxpr in jaxprs.items()}
    while any(rest.values()):
        next_ones = {size: eqns[-1] if eqns else None for size, eqns in rest.items()}
        trims = {size: eqn for size, eqn in next_ones.items() if eqn and _trims(eqn)}
        if trims and len({_kind(eqn) for eqn in next_ones.values()}) > 1:
            next_ones = {size: trims.get(size) for size in jaxprs}
        equation = Equation(next_ones, callers)
        if len({_kind(eqn) for eqn in next_ones.values() if eqn}) > 1 or (
            None in next_ones.values() and not trims
        ):
            raise equation.refuse(
                "what the function does depends on the size of the image; give it sizes for "
                "which it does not, for example by padding the image before"
            )
        for size, eqn in next_ones.items():
            if eqn:
                rest[size].pop()
        yield equation


def _kind(eqn: Any | None) -> Any:
    return eqn and (eqn.primitive.name, eqn.params.get("name"))


def _trims(eqn: Any) -> bool:
    """Whether an equation only pads or crops."""
    if inner := body(eqn):
        return all(_trims(eqn) or eqn.primitive.name == "convert_element_type"
                   for eqn in inner.jaxpr.eqns) and bool(inner.jaxpr.eqns)  # fmt: skip
    return eqn.primitive.name in ("slice", "pad")


def labels(shapes: Shapes) -> tuple[int, ...]:
    """For each dimension the axes with which it grows: 0, ROWS, COLUMNS or both."""
    rank = {len(shape) for shape in shapes.values()}
    if len(rank) > 1:
        raise LocalizeError("the number of dimensions depends on the size of the image.")

    def grows(dim: int, axis: int) -> bool:
        longer = shapes.get(LONGER * axis, shapes[0])
        return shapes[0][dim] != longer[dim] or any(
            shapes[size][dim] != shapes[size | axis][dim] for size in SIZES
        )

    return tuple(
        sum(axis for axis in (ROWS, COLUMNS) if grows(dim, axis)) for dim in range(rank.pop())
    )


# How positions were flattened in the current call: the parts of a dimension, by its lengths.
folds: contextvars.ContextVar[dict[Shape, Shapes | None]] = contextvars.ContextVar("folds")


def _key(shapes: Shapes, dim: int) -> Shape:
    return tuple(shapes[size][dim] for size in sorted(shapes))


def fold(shapes: Shapes, dim: int, parts: Shapes) -> None:
    """Remember from which dimensions a flattened one was made, in row-major order."""
    known = folds.get().setdefault(_key(shapes, dim), parts)
    if known != parts:  # ambiguous: both are equally long
        folds.get()[_key(shapes, dim)] = None


def parts_of(shapes: Shapes) -> list[Shapes | None]:
    """For each dimension, what it was flattened from; None if it was not, or if that is unknown."""
    return [
        folds.get().get(_key(shapes, dim)) if label == FULL else None
        for dim, label in enumerate(labels(shapes))
    ]


def unfolded(shapes: Shapes) -> Shapes:
    """The shapes before flattening."""
    parts = parts_of(shapes)
    return {
        size: tuple(
            n
            for length, part in zip(shape, parts, strict=True)
            for n in (part[size] if part else (length,))
        )
        for size, shape in shapes.items()
    }


def axes_of(size: int) -> list[int]:
    """The single axes in a size or another set of axes."""
    return [axis for axis in (ROWS, COLUMNS) if size & axis]


def bind(eqn: Any, args: Sequence[Any]) -> list[jax.Array]:
    """Run one equation on `args`, in which values for its literals are ignored."""
    given = {
        var: arg for var, arg in zip(eqn.invars, args, strict=True)
        if not isinstance(var, core.Literal)
    }  # fmt: skip
    alone = core.Jaxpr((), list(given), eqn.outvars, [eqn], eqn.effects, _unknown())
    return core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*given.values())


@functools.cache
def _unknown() -> Any:
    return jax.make_jaxpr(lambda: ())().jaxpr.debug_info


def grouped(before: Shapes, after: Shapes) -> list[tuple[list[int], list[int]]]:
    """Match the dimensions of a reshape, none empty, in the smallest groups of equal size."""

    def lengths(shapes: Shapes, dim: int) -> np.ndarray:
        return np.array([shape[dim] for shape in shapes.values()])

    groups = []
    i, j, ranks = 0, 0, (len(before[0]), len(after[0]))
    while i < ranks[0] or j < ranks[1]:
        left, right = [], []
        of_left = of_right = np.ones(len(before), int)  # pixels
        while not (left and right) or (of_left != of_right).any():
            if (
                i < ranks[0]
                and (of_left[0] <= of_right[0] or j == ranks[1])
                and not (left and (of_left == of_right).all())
            ):
                of_left = of_left * lengths(before, i)
                left.append(i)
                i += 1
            elif j < ranks[1]:
                of_right = of_right * lengths(after, j)
                right.append(j)
                j += 1
            else:  # what is left are dimensions of length 1
                break
        groups.append((left, right))
    return groups
