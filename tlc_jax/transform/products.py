"""Rules of matrix products: at single positions, along rows or columns, and attention."""

from typing import Any

import numpy as np

from tlc_jax.transform.maps import positional
from tlc_jax.transform.programs import FULL, Equation, labels
from tlc_jax.transform.still import in_still_windows
from tlc_jax.transform.values import Field, Plain


def dot(equation: Equation, operands: list[Any]) -> list[Any]:
    """A product of matrices; the dimensions that it sums over decide what becomes of it."""
    contracting, batch = equation.params["dimension_numbers"]
    dims = [labels(equation.operand_shapes(i)) for i in range(2)]
    summed = [dims[i][dim] for i in range(2) for dim in contracting[i]]
    maps = [one for one in operands if isinstance(one, Field)]
    if len(maps) == 1:
        plain = next(i for i in range(2) if isinstance(operands[i], Plain))
        if not any(summed):
            if any(dims[plain]):
                raise equation.refuse("it multiplies with a matrix as large as the image")
            return positional(equation, operands, new=True)
        _check_resize(equation, operands[plain], plain, dims)
        return positional(equation, operands, check=False, new=True)
    pointwise = all(dims[0][a] == dims[1][b] for a, b in zip(*batch, strict=True)) and all(
        not label or dim in batch[i] for i in range(2) for dim, label in enumerate(dims[i])
    )
    if pointwise and maps[0].hidden == maps[1].hidden and not any(summed):
        return positional(equation, operands, new=True)
    return in_still_windows(equation, operands)


def _check_resize(
    equation: Equation, matrix: Plain, which: int, dims: list[tuple[int, ...]]
) -> None:
    """Refuse a product along rows or columns unless its matrix is a band at the diagonal."""
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
    """How far from its own place an output reads, in input pixels; `holds` is (from, to)."""
    source, target = np.nonzero(holds)
    scale = holds.shape[0] / holds.shape[1]
    return float(np.abs(source + 0.5 - (target + 0.5) * scale).max(initial=0))
