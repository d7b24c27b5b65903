"""The values of a function's variables while it is made local."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from tlc_jax.ops import window_moments, window_sum
from tlc_jax.transform.programs import (
    FULL,
    NAMES,
    Equation,
    Shapes,
    axes_of,
    bind,
    labels,
    parts_of,
    unfolded,
)

ADDED = "a sum over positions takes a map to which statistics of windows were joined"

Grid = dict[int, tuple[int, int]]
"""By axis, the length of the map that was aggregated, and the window."""


class Plain:
    """A value that does not depend on the image, except on its size: an array for each size.

    `same`: the arrays are known to be equal, as far as the smaller ones reach.
    """

    def __init__(
        self,
        arrays: dict[int, Any],
        is_same: bool,
        known: Callable[[int], np.ndarray | None] | None = None,
    ) -> None:
        self.arrays, self.same = arrays, is_same
        self.known = functools.cache(known or self._concrete)

    def _concrete(self, size: int) -> np.ndarray | None:
        array = self.arrays[size]
        return None if isinstance(array, Tracer) else np.asarray(array)

    @property
    def shapes(self) -> Shapes:
        return {size: np.shape(array) for size, array in self.arrays.items()}

    def always(self, number: float) -> bool:
        """Whether it is known to be this number at all sizes."""
        known = self.known(0) if self.same else None
        return known is not None and bool((known == number).all())

    def settled(self, size: int) -> bool:
        """Whether it is equal at `size` and in a window; else it depends on the position."""
        if self.same:
            return True
        here, window = self.known(size), self.known(FULL)
        if here is None or window is None or here.ndim != window.ndim:
            return False
        return np.array_equal(here[tuple(map(slice, window.shape))], window, equal_nan=True)


class Field:
    """A value that depends on the image: a feature map, or statistics of windows.

    With an `origin` it can be computed again in a window; without one, windows are cut from it. A
    `taint` is the reason why the map must not be summed over positions.

    `hidden` are the axes over which it was aggregated. Its array has a leading axis for each, with
    an entry for every window inside the map, and then its shape at the size `hidden`; a dimension
    along which the statistics are spread still has length 1.
    """

    def __init__(
        self,
        hidden: int,
        make: Callable[[], jax.Array],
        shapes: Shapes,
        grid: Grid,
        origin: "Origin | None" = None,
        taint: str | None = None,
    ) -> None:
        self.hidden, self.shapes, self.grid = hidden, shapes, grid
        self.origin, self.taint = origin, taint
        self.alias = self  # the first with the same numbers, of any type and layout
        self.square_of: Field | None = None  # the alias of the field that this is the square of
        self.still: Still | None = None  # its values in still windows, which it averages
        self._make = make

    @functools.cached_property
    def array(self) -> jax.Array:
        try:
            return self._make()
        except Misfit as misfit:
            if self.origin:
                raise self.origin.equation.refuse(str(misfit)) from None
            raise

    @functools.cached_property
    def labels(self) -> tuple[int, ...]:
        return labels(self.shapes)

    @property
    def spread_out(self) -> int:
        """The hidden axes along which the statistics are used as a map."""
        return self.hidden & functools.reduce(int.__or__, self.labels, 0)


class Centred(Field):
    """A map minus a statistic of its windows, as x - mean: `base` + `shift`, kept apart.

    A sum over a window takes that window's own statistic. The array has that of the window around
    each position.
    """

    def __init__(self, base: Field, shift: Field, shapes: Shapes, origin: "Origin | None") -> None:
        def make() -> jax.Array:
            return base.array + fit(shift, base.hidden, shapes)

        super().__init__(
            base.hidden, make, shapes, base.grid, origin,
            "the difference of a map and its statistic is summed, but neither as it is nor squared",
        )  # fmt: skip
        self.base, self.shift = base, shift


class Squared(Field):
    """The square of a `Centred`."""

    def __init__(self, of: Centred, origin: "Origin | None") -> None:
        super().__init__(
            of.hidden, lambda: jnp.square(of.array), of.shapes, of.grid, origin, of.taint
        )
        self.of = of


class Partly(Field):
    """A sum of a `Centred` or its square over one axis, before that over the other axis."""

    def __init__(
        self,
        of: "Centred | Squared",
        over: dict[int, int],
        scale: "tuple[Origin, ...]",
        shapes: Shapes,
        origin: "Origin",
    ) -> None:
        def make() -> jax.Array:
            raise Misfit(
                "it takes a map that was centred by a mean over both axes, then summed over one"
            )

        super().__init__(of.hidden | sum(over), make, shapes, {}, origin)
        self.of, self.over, self.scale = of, over, scale

    def then(self, origin: "Origin", shapes: Shapes, scales: bool = False) -> "Partly":
        """The same after one more equation, which scales it or rearranges its dimensions."""
        scale = (*self.scale, origin) if scales else self.scale
        return Partly(self.of, self.over, scale, shapes, origin)


class Strip(Field):
    """A border cut from a map, of the same width at all sizes, to pad the map with."""

    dim: int  # along which it is a border
    side: str  # "begin" or "end"


class Still:
    """A value that exists only in each still window, as in TLC's attention."""

    def __init__(self, origin: "Origin", shapes: Shapes, lost: bool = False) -> None:
        self.origin, self.shapes = origin, shapes
        self.lost = lost  # whether its positions are in another order than those of the image


Value = Plain | Field | Still


class Origin:
    """The equation, operands and result number of a value, to compute it again in a window."""

    count = itertools.count()

    def __init__(self, equation: Equation, operands: Sequence[Any], result: int = 0) -> None:
        self.equation, self.operands, self.result = equation, operands, result
        self.number = next(self.count)


def spread_axis(array: jax.Array, front: int, dim: int, length: int) -> jax.Array:
    """Move statistics from axis `front` to `dim`, their edges replicated to `length`."""
    inside = array.shape[front]
    if inside == 1:
        length = 1  # for broadcasting
    index = np.clip(np.arange(length) - (length - inside) // 2, 0, inside - 1)
    array = jnp.take(array, index, axis=front, mode="clip")
    array = jnp.moveaxis(array, front, dim)
    return jax.lax.squeeze(array, (dim + 1,))


def fit(field: Field, hidden: int, result: Shapes) -> jax.Array:
    """The array of a field, for use with fields that are aggregated over `hidden` axes only.

    Args:
      field: aggregated over these and perhaps more axes, along which it is spread.
      hidden: the axes that stay in front.
      result: the shapes of the combined value.

    Returns:
      `hidden` axes in front, then a shape that broadcasts to that of the result.
    """
    array, fronts = field.array, axes_of(field.hidden)
    if field.hidden == hidden:
        return array
    if array.ndim == len(fronts):  # a scalar
        array = array.reshape(*array.shape, *[1] * len(result[hidden]))
    array = unfold_array(array, len(fronts), parts_of(result), result[hidden])
    whole = unfolded(result)
    shape, dims = whole[hidden], labels(whole)
    for axis in axes_of(field.hidden & ~hidden):
        where = [dim for dim, label in enumerate(dims) if label & axis]
        if len(where) != 1 or dims[where[0]] != axis:
            raise Misfit(f"statistics of windows meet what has no {NAMES[axis]} of its own")
        length, _ = field.grid[axis]
        if length != shape[where[0]]:
            raise Misfit(
                f"statistics of a map of {length} {NAMES[axis]} meet a map of {shape[where[0]]}"
            )
        front = fronts.index(axis)
        fronts.pop(front)
        array = spread_axis(array, front, where[0] + len(fronts), length)
    if shape != result[hidden]:
        front = array.shape[: len(fronts)]
        sides = [whole if label else n for n, whole, label in
                 zip(array.shape[len(fronts) :], shape, dims, strict=True)]  # fmt: skip
        array = jnp.broadcast_to(array, (*front, *sides))
        fold = iter(sides)
        array = array.reshape(*front, *(
            int(np.prod([next(fold) for _ in part[hidden]])) if part else next(fold)
            for part in parts_of(result)
        ))  # fmt: skip
    return array


def unfold_array(
    array: jax.Array, front: int, parts: Sequence[Shapes | None], shape: Sequence[int]
) -> jax.Array:
    """Undo flattening in an array of `shape`, whose flattened dimensions may have length 1."""
    sides: list[int] = []
    for n, length, part in zip(array.shape[front:], shape, parts, strict=True):
        if part is None:
            sides.append(n)
        elif n == 1 != length:
            sides += [1] * len(part[0])
        else:
            sides += next(of for of in part.values() if np.prod(of) == n)
    return array.reshape(*array.shape[:front], *sides)


def unfolded_field(field: Any) -> Any:
    """A map with its flattened positions as rows and columns again."""
    parts, shapes = parts_of(field.shapes), unfolded(field.shapes)
    if shapes == field.shapes:
        return field

    def along(one: Field) -> Field:
        def make() -> jax.Array:
            array = one.array
            fronts = len(axes_of(one.hidden))
            if array.ndim == fronts:
                array = array.reshape(*array.shape, *[1] * len(field.shapes[0]))
            return unfold_array(array, fronts, parts, field.shapes[one.hidden])

        return Field(one.hidden, make, shapes, one.grid, one.origin, one.taint)

    if isinstance(field, Squared):
        return Squared(unfolded_field(field.of), field.origin)
    if isinstance(field, Centred):
        return Centred(along(field.base), along(field.shift), shapes, field.origin)
    return along(field)


class Misfit(Exception):
    """Why values cannot be combined; the caller, who knows the equation, adds where."""


def joined(grids: Sequence[Grid], hidden: int) -> Grid:
    """The grid of a value that is made from several fields."""
    found: Grid = {}
    for grid in grids:
        for axis in axes_of(hidden):
            if axis in grid and found.setdefault(axis, grid[axis]) != grid[axis]:
                raise Misfit("statistics of maps of different sizes are joined")
    return found


def vmapped(
    function: Callable[..., Any], hidden: int, batched: Sequence[bool]
) -> Callable[..., Any]:
    """A function of values at one size, for values with hidden axes in front."""
    for _ in axes_of(hidden):
        function = jax.vmap(function, in_axes=[0 if one else None for one in batched])
    return function


def run(equation: Equation, operands: Sequence[Any], size: int, hidden: int) -> list[jax.Array]:
    """Run an equation of the trace at `size`; results have their hidden axes in front.

    `operands` are fields, plain values and arrays with hidden axes.
    """
    eqn = equation.each[size]
    arrays = [one.arrays[size] if isinstance(one, Plain) else one for one in operands]
    arrays = [one.array if isinstance(one, Field) else one for one in arrays]
    batched = [not isinstance(one, Plain) for one in operands]
    return vmapped(lambda *args: bind(eqn, args), hidden, batched)(*arrays)


def sums(field: Field, dims: dict[int, int], windows: dict[int, int]) -> jax.Array:
    """Sums over the windows of a map along some axes.

    Args:
      field: a map along these axes.
      dims: by axis, which of its dimensions is summed.
      windows: by axis, the window.

    Returns:
      float32 with all hidden axes in front, then its shape with 1 for the summed dimensions.
    """
    return _sliding(field, dims, windows, lambda x, window: (window_sum(x, window),))[0]


def moments(field: Field, dims: dict[int, int], windows: dict[int, int]) -> list[jax.Array]:
    """Mean and biased variance; otherwise as `sums`."""
    return _sliding(field, dims, windows, window_moments)


def _sliding(
    field: Field,
    dims: dict[int, int],
    windows: dict[int, int],
    function: Callable[..., tuple[jax.Array, ...]],
) -> list[jax.Array]:
    fronts = axes_of(field.hidden)
    x = field.array
    # The operations take (N, H, W, C), whichever of both axes comes first.
    order = sorted(dims, key=dims.__getitem__)
    where = [dims[axis] + len(fronts) for axis in order]
    window = [windows[axis] for axis in order]
    if len(order) == 2 and where[1] != where[0] + 1:
        x = jnp.moveaxis(x, where[1], where[0] + 1)
    before, after = x.shape[: where[0]], x.shape[where[0] + len(order) :]
    maps = x.shape[where[0] : where[0] + len(order)]
    if len(order) == 1:
        maps, window = (*maps, 1), [*window, 1]
    flat = x.reshape(int(np.prod(before)), *maps, int(np.prod(after)))
    results = []
    for y in function(flat, tuple(window)):
        y = y.reshape(*before, *y.shape[1 : 1 + len(order)], *after)
        if len(order) == 2 and where[1] != where[0] + 1:
            y = jnp.moveaxis(y, where[0] + 1, where[1])
        slid = dict(zip(order, where, strict=True))
        front = [slid.get(a, fronts.index(a) if a in fronts else -1)
                 for a in axes_of(field.hidden | sum(order))]  # fmt: skip
        y = y.transpose(*front, *(dim for dim in range(y.ndim) if dim not in front))
        results.append(jnp.expand_dims(y, [len(front) + dims[axis] for axis in order]))
    return results
