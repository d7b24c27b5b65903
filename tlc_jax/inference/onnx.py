"""A function of JAX as a graph of ONNX: a table says what becomes of each primitive.

Convolutions of ONNX take NCHW, those of the networks NHWC. So a tensor here has the axes of its
array in any order, transpositions only change which, and a node is made where an order is needed:
between convolutions the maps stay NCHW. What follows from constants alone is computed here.

The package jax2onnx does this for more functions; its 0.17 asks for an orbax-checkpoint older than
the one that is used here, and transposes maps around each convolution.
"""

import functools
import hashlib
import math
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import onnx
from jax.extend.core import Literal
from onnx import helper, numpy_helper

OPSET, IR_VERSION = 18, 8  # of ONNX 1.13, of 2022
FOLDED = 2**16  # numbers; one value is not made into a larger array of it here
IMAGE, RESTORED = "image", "restored"  # the input and the output

Order = tuple[int, ...]


class Tensor(NamedTuple):
    """An array of the function, whose axis i is axis `order[i]` of the graph's tensor."""

    name: str
    shape: tuple[Any, ...]  # of the array; a batch may be symbolic
    order: Order


Value = Tensor | np.ndarray


class Graph:
    """Nodes, and the constants that they read.

    `images` is how many images there are, perhaps as a symbol of JAX.
    """

    def __init__(self, images: Any) -> None:
        self.images = images
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[Any, onnx.TensorProto] = {}  # equal ones are stored once

    def add(self, kind: str, *inputs: str | np.ndarray, outputs: int = 1, **attributes: Any) -> Any:
        """Append a node; the name of its output, or a list of them if there are several."""
        name = f"{kind}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        given = [*map(self.named, inputs)]
        self.nodes.append(helper.make_node(kind, given, names, name=name, **attributes))
        return name if outputs == 1 else names

    def named(self, x: str | np.ndarray) -> str:
        """The name of a tensor; that of an array, which becomes a constant."""
        if isinstance(x, str):
            return x
        x = np.ascontiguousarray(x).reshape(x.shape)
        key = x.dtype, x.shape, hashlib.sha256(x.data).digest()
        if key not in self.constants:
            name = f"constant_{len(self.constants)}"
            self.constants[key] = numpy_helper.from_array(x, name)
        return self.constants[key].name

    def laid(self, x: Value, order: Order | None = None) -> str | np.ndarray:
        """What holds the axes of x in this order, by default their own."""
        order = order or tuple(range(len(x.shape)))
        if isinstance(x, np.ndarray):
            return np.transpose(x, inverse(order)) if x.ndim else x
        if x.order == order:
            return x.name
        long = [axis for axis, n in enumerate(x.shape) if n != 1]
        if sorted(long, key=x.order.__getitem__) == sorted(long, key=order.__getitem__):
            return self.reshaped(x.name, [x.shape[axis] for axis in inverse(order)])
        moved = [x.order[axis] for axis in inverse(order)]
        return self.add("Transpose", x.name, perm=moved)

    def shape(self, shape: Sequence[Any]) -> str | np.ndarray:
        """A shape as nodes take it; where the batch is open, from that of the image."""
        if all(isinstance(n, int) for n in shape):
            return numbers(shape)
        batch = self.add("Shape", IMAGE, start=0, end=1)
        sides = (
            numbers([n])
            if isinstance(n, int)
            else self.add("Mul", batch, numbers([n // self.images]))
            for n in shape
        )
        return self.add("Concat", *sides, axis=0)

    def reshaped(self, name: str | np.ndarray, shape: Sequence[Any]) -> str:
        return self.add("Reshape", name, numbers(n if isinstance(n, int) else -1 for n in shape))


def numbers(values: Iterable[int]) -> np.ndarray:
    """A list of whole numbers, as nodes take it."""
    return np.array([*values], np.int64)


def inverse(axes: Sequence[int]) -> Order:
    """The axis at each place, from the place of each axis, and the reverse."""
    return tuple(map(int, np.argsort(axes)))


def follow(graph: Graph, jaxpr: Any, constants: Sequence[Any], given: Sequence[Value]) -> list:
    """Append what a jaxpr computes; its results."""
    known: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, constants), strict=True))
    known.update(zip(jaxpr.invars, given, strict=True))

    def value(x: Any) -> Value:
        dtype = x.aval.dtype
        return np.asarray(x.val, dtype) if isinstance(x, Literal) else known[x]

    for step in jaxpr.eqns:
        results = _follow_step(graph, step, [*map(value, step.invars)])
        known.update(zip(step.outvars, results, strict=True))
    return [*map(value, jaxpr.outvars)]


def _follow_step(graph: Graph, step: Any, given: list[Value]) -> list[Value]:
    name, outs = step.primitive.name, [x.aval for x in step.outvars]
    if name in CALLS:
        called = next(step.params[key] for key in CALLED if key in step.params)
        inner = getattr(called, "jaxpr", called)
        return follow(graph, inner, getattr(called, "consts", ()), given)
    if name in UNCHANGED:
        return given
    if all(isinstance(x, np.ndarray) for x in given) and not _spreads(step):
        made = step.primitive.bind(*given, **step.params)
        return [*map(np.asarray, made if step.primitive.multiple_results else [made])]
    if name in ALIKE:
        given = [given[i] for i in (0, 2, 1)] if name == "select_n" else given
        return [_alike(graph, ALIKE[name], given, outs[0].shape)]
    if name not in RULES:
        raise NotImplementedError(f"ONNX has no rule here for JAX's {name}")
    made = RULES[name](graph, step, *given)
    return made if isinstance(made, list) else [made]


def _spreads(step: Any) -> bool:
    """Whether the result repeats few values very often, or an unknown number of times."""
    shape = step.outvars[0].aval.shape
    if not all(isinstance(n, int) for n in shape):
        return True
    return step.primitive.name == "broadcast_in_dim" and math.prod(shape) > FOLDED


CALLS = {"jit", "pjit", "closed_call", "checkpoint", "custom_jvp_call", "custom_vjp_call"}
CALLED = "jaxpr", "call_jaxpr", "fun_jaxpr"
UNCHANGED = {"copy", "copy_p", "stop_gradient", "optimization_barrier"}
# What acts on each number by itself.
ALIKE = {
    "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max",
    "min": "Min", "neg": "Neg", "abs": "Abs", "exp": "Exp", "log": "Log", "tanh": "Tanh",
    "logistic": "Sigmoid", "sqrt": "Sqrt", "erf": "Erf", "ge": "GreaterOrEqual", "gt": "Greater",
    "le": "LessOrEqual", "lt": "Less", "eq": "Equal", "and": "And", "or": "Or", "not": "Not",
    "select_n": "Where",
}  # fmt: skip


def _alike(
    graph: Graph, kind: str, given: Sequence[Value], shape: Any, **attributes: Any
) -> Tensor:
    """A node whose inputs have one order, that of the largest of them, and its output, too."""
    order = _largest(given).order
    names = [graph.laid(x, order) if len(x.shape) else graph.laid(x) for x in given]
    return Tensor(graph.add(kind, *names, **attributes), shape, order)


def _largest(given: Sequence[Value]) -> Tensor:
    tensors = [x for x in given if isinstance(x, Tensor)]
    if not tensors:
        return Tensor("", (), tuple(range(max(len(x.shape) for x in given))))
    return max(tensors, key=lambda x: (sum(n != 1 for n in x.shape), len(x.shape)))


def _rsqrt(graph: Graph, step: Any, x: Tensor) -> Tensor:
    return _alike(graph, "Reciprocal", [_alike(graph, "Sqrt", [x], x.shape)], x.shape)


def _erfc(graph: Graph, step: Any, x: Tensor) -> Tensor:
    one = np.array(1, np.float32)
    return _alike(graph, "Sub", [one, _alike(graph, "Erf", [x], x.shape)], x.shape)


def _square(graph: Graph, step: Any, x: Tensor) -> Tensor:
    return _alike(graph, "Mul", [x, x], x.shape)


def _power(graph: Graph, step: Any, x: Tensor) -> Tensor:
    return _alike(graph, "Pow", [x, np.array(step.params["y"], np.float32)], x.shape)


def _convert(graph: Graph, step: Any, x: Value) -> Value:
    before, after = (np.dtype(v.aval.dtype) for v in (step.invars[0], step.outvars[0]))
    if before == after:
        return x
    return _alike(graph, "Cast", [x], x.shape, to=helper.np_dtype_to_tensor_dtype(after))


def _transpose(graph: Graph, step: Any, x: Tensor) -> Tensor:
    order = tuple(x.order[axis] for axis in step.params["permutation"])
    return Tensor(x.name, step.outvars[0].aval.shape, order)


def _reshape(graph: Graph, step: Any, x: Value) -> Tensor:
    """Axes are split and merged where they lie; those to be merged are brought together first."""
    shape = step.outvars[0].aval.shape
    if isinstance(x, np.ndarray):
        return Tensor(graph.reshaped(x, shape), shape, tuple(range(len(shape))))
    parts = _parts(x.shape, shape)
    # Parts lie as the first of their axes did, and each of them together.
    places = [min((x.order[axis] for axis in old), default=-1) for old, _ in parts]
    parts = [parts[i] for i in sorted(range(len(parts)), key=places.__getitem__)]
    old, new = ([axis for part in parts for axis in part[side]] for side in (0, 1))
    name = graph.laid(x, inverse(old))
    name = graph.reshaped(name, [shape[axis] for axis in new])
    return Tensor(name, shape, inverse(new))


def _parts(old: Any, new: Any) -> list[tuple[list[int], list[int]]]:
    """Which axes become which, in parts as small as can be."""
    parts, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        here, there, before, after = [], [], 1, 1
        while True:
            if i < len(old) and (
                (before == after and not here) or (before != after and before < after)
            ):
                here, before, i = [*here, i], before * old[i], i + 1
            elif j < len(new) and (before != after or not there):
                there, after, j = [*there, j], after * new[j], j + 1
            else:
                break
        parts.append((here, there))
    return parts


def _broadcast(graph: Graph, step: Any, x: Value) -> Tensor:
    shape, kept = step.params["shape"], step.params["broadcast_dimensions"]
    added = [axis for axis in range(len(shape)) if axis not in kept]
    if isinstance(x, np.ndarray):
        x = Tensor(graph.add("Identity", x), x.shape, tuple(range(x.ndim)))
    aligned, order = [1] * len(shape), [0] * len(shape)
    for axis, n, place in zip(kept, x.shape, x.order, strict=True):
        aligned[axis], order[axis] = n, place
    for place, axis in enumerate(added, len(kept)):
        order[axis] = place
    name = x.name
    if added:
        name = graph.reshaped(name, [aligned[axis] for axis in inverse(order)])
    if aligned != [*shape]:
        grown = [1 if a == n else n for a, n in zip(aligned, shape, strict=True)]
        name = graph.add("Expand", name, graph.shape([grown[axis] for axis in inverse(order)]))
    return Tensor(name, shape, tuple(order))


def _without(x: Tensor, axes: Sequence[int], name: str) -> Tensor:
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    return Tensor(
        name, tuple(x.shape[a] for a in kept), inverse(inverse([x.order[a] for a in kept]))
    )


def _reduce(graph: Graph, step: Any, x: Tensor, kind: str) -> Tensor:
    axes = step.params["axes"]
    places = numbers(x.order[axis] for axis in axes)
    name = graph.add(kind, x.name, places, keepdims=0)
    return _without(x, axes, name)


def _squeeze(graph: Graph, step: Any, x: Tensor) -> Tensor:
    return _dropped(graph, x, step.params["dimensions"])


def _dropped(graph: Graph, x: Tensor, axes: Sequence[int]) -> Tensor:
    """Without these axes of length 1."""
    if not axes:
        return x
    return _without(x, axes, graph.add("Squeeze", x.name, numbers(x.order[axis] for axis in axes)))


def _slice(graph: Graph, step: Any, x: Tensor) -> Tensor:
    p, shape = step.params, step.outvars[0].aval.shape
    strides = p["strides"] or (1,) * len(shape)
    cuts = zip(x.order, p["start_indices"], p["limit_indices"], strides, x.shape, strict=True)
    cuts = [cut[:4] for cut in cuts if cut[1:4] != (0, cut[4], 1)]
    return _cut(graph, x, cuts, shape) if cuts else x


def _reverse(graph: Graph, step: Any, x: Tensor) -> Tensor:
    cuts = [(x.order[axis], -1, -(2**31), -1) for axis in step.params["dimensions"]]
    return _cut(graph, x, cuts, x.shape)


def _cut(graph: Graph, x: Tensor, cuts: Sequence[tuple[int, ...]], shape: Any) -> Tensor:
    axes, starts, ends, steps = map(numbers, zip(*cuts, strict=True))
    return Tensor(graph.add("Slice", x.name, starts, ends, axes, steps), shape, x.order)


def _split(graph: Graph, step: Any, x: Tensor) -> list[Value]:
    parts, axis = step.params["sizes"], x.order[step.params["axis"]]
    if len(parts) == 1:
        return [x]
    names = graph.add("Split", x.name, numbers(parts), outputs=len(parts), axis=axis)
    outs = zip(names, step.outvars, strict=True)
    return [Tensor(name, out.aval.shape, x.order) for name, out in outs]


def _concatenate(graph: Graph, step: Any, *parts: Value) -> Tensor:
    axis = _largest(parts).order[step.params["dimension"]]
    return _alike(graph, "Concat", parts, step.outvars[0].aval.shape, axis=axis)


def _stack(graph: Graph, step: Any, *parts: Value) -> Tensor:
    return _stacked(graph, parts, step.params["axis"], step.outvars[0].aval.shape)


def _stacked(graph: Graph, parts: Sequence[Value], axis: int, shape: Any) -> Tensor:
    whole = [graph.add("Unsqueeze", graph.laid(x), numbers([axis])) for x in parts]
    return Tensor(graph.add("Concat", *whole, axis=axis), shape, tuple(range(len(shape))))


def _pad(graph: Graph, step: Any, x: Tensor, value: np.ndarray) -> Tensor:
    low, high, inner = zip(*step.params["padding_config"], strict=True)
    if any(inner):
        raise NotImplementedError("ONNX has no padding between positions")
    if not any(low + high):
        return x
    stored = inverse(x.order)
    around = numbers([*(low[axis] for axis in stored), *(high[axis] for axis in stored)])
    return Tensor(graph.add("Pad", x.name, around, value), step.outvars[0].aval.shape, x.order)


def _gather(graph: Graph, step: Any, x: Tensor, where: np.ndarray) -> Tensor:
    """Positions along one axis, as `jnp.take` reads them, or one part of an array."""
    how, out = step.params["dimension_numbers"], step.outvars[0].aval.shape
    axes, sizes = how.start_index_map, step.params["slice_sizes"]
    others = tuple(axis for axis in range(len(x.shape)) if axis not in axes)
    if isinstance(where, np.ndarray) and where.ndim == 1:
        places = zip(axes, map(int, where), strict=True)
        cuts = [(x.order[axis], start, start + sizes[axis], 1) for axis, start in places]
        return _dropped(graph, _cut(graph, x, cuts, sizes), how.collapsed_slice_dims)
    taken = len(axes) == 1 and how.collapsed_slice_dims == axes and how.offset_dims == others
    if not (taken and isinstance(where, np.ndarray) and where.ndim == 2):
        raise NotImplementedError("ONNX has no rule here for this way to index an array")
    places = np.clip(where[:, 0].astype(np.int64), 0, x.shape[axes[0]] - 1)
    return Tensor(graph.add("Gather", x.name, places, axis=x.order[axes[0]]), out, x.order)


def _dot(graph: Graph, step: Any, x: Value, y: Value) -> Tensor:
    (of_x, of_y), (batch_x, batch_y) = step.params["dimension_numbers"]
    for one, other, mine, its in ((x, y, of_x, of_y), (y, x, of_y, of_x)):
        if not (isinstance(one, Tensor) and isinstance(other, np.ndarray)):
            continue
        if other.ndim == 2 and len(mine) == 1 and not batch_x:
            matrix = other if its == (0,) else other.T
            return _by_matrix(graph, step, one, mine[0], matrix, one is x)
    letters = iter(string.ascii_letters)
    names_x, names_y = ([next(letters) for _ in v.shape] for v in (x, y))
    for i, j in zip((*of_x, *batch_x), (*of_y, *batch_y), strict=True):
        names_y[j] = names_x[i]
    out = [names_x[i] for i in batch_x]
    out += [n for i, n in enumerate(names_x) if i not in (*of_x, *batch_x)]
    out += [n for i, n in enumerate(names_y) if i not in (*of_y, *batch_y)]
    terms = []
    for value, names in ((x, names_x), (y, names_y)):
        order = value.order if isinstance(value, Tensor) else range(value.ndim)
        terms.append("".join(names[axis] for axis in inverse(order)))
    stored = [v.name if isinstance(v, Tensor) else v for v in (x, y)]
    name = graph.add("Einsum", *stored, equation=f"{terms[0]},{terms[1]}->{''.join(out)}")
    shape = step.outvars[0].aval.shape
    return Tensor(name, shape, tuple(range(len(shape))))


def _by_matrix(
    graph: Graph, step: Any, x: Tensor, axis: int, matrix: np.ndarray, first: bool
) -> Tensor:
    """One axis multiplied by a constant matrix (before, after), where it lies."""
    place, last = x.order[axis], len(x.shape) - 1
    if place == last:
        name = graph.add("MatMul", x.name, matrix)
    elif place == last - 1:
        name = graph.add("MatMul", matrix.T, x.name)
    elif place == 1 and last == 3:
        name = graph.add("Conv", x.name, matrix.T[..., None, None])
    else:
        raise NotImplementedError("ONNX has no product along this axis")
    others = [x.order[i] for i in range(last + 1) if i != axis]
    order = (*others, place) if first else (place, *others)
    return Tensor(name, step.outvars[0].aval.shape, order)


def _convolve(graph: Graph, step: Any, x: Tensor, kernel: Value) -> Tensor:
    p = step.params
    x_spec, kernel_spec, out_spec = p["dimension_numbers"]
    x_name = graph.laid(x, inverse(x_spec))
    if not isinstance(kernel, np.ndarray):
        raise NotImplementedError("ONNX has no rule here for a kernel that is no parameter")
    kernel = kernel.transpose(kernel_spec)  # (O, I, height, width)
    grown, padding = p["lhs_dilation"], np.array(p["padding"])
    if set(grown) == {1}:
        how = {"strides": p["window_strides"], "group": p["feature_group_count"]}
        how["dilations"] = p["rhs_dilation"]
        name = graph.add("Conv", x_name, kernel, pads=padding.T.ravel(), **how)
    else:  # of a map with zeros between its positions
        padding = np.array(kernel.shape[2:])[:, None] - 1 - padding
        kernel = kernel.swapaxes(0, 1)[:, :, ::-1, ::-1]
        name = graph.add("ConvTranspose", x_name, kernel, pads=padding.T.ravel(), strides=grown)
    return Tensor(name, step.outvars[0].aval.shape, inverse(out_spec))


def _scan(graph: Graph, step: Any, *given: Value) -> list[Value]:
    """A loop, turn by turn."""
    p, inner = step.params, step.params["jaxpr"]
    body, constants = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())

    def alike(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        """How many come first that the turns do not share out; versions of JAX count otherwise."""
        pairs = zip(outside, inside, strict=True)
        return sum(len(x.aval.shape) == len(y.aval.shape) for x, y in pairs)

    count = alike(step.outvars, body.outvars)  # of what each turn hands to the next
    second = alike(step.invars, body.invars)
    same, carry, over = given[: second - count], given[second - count : second], given[second:]
    turns = []
    for i in sorted(range(p["length"]), reverse=p["reverse"]):
        now = [_at(graph, x, i) for x in over]
        made = follow(graph, body, constants, [*same, *carry, *now])
        carry, rest = made[:count], made[count:]
        turns.append(rest)
    turns = turns[:: -1 if p["reverse"] else 1]
    pairs = zip(zip(*turns, strict=True), step.outvars[count:], strict=True)
    return [*carry, *(_stacked(graph, each, 0, out.aval.shape) for each, out in pairs)]


def _at(graph: Graph, x: Value, i: int) -> Value:
    if isinstance(x, np.ndarray):
        return x[i]
    return _without(x, [0], graph.add("Gather", x.name, np.array(i, np.int64), axis=x.order[0]))


RULES: dict[str, Callable[..., Value | list[Value]]] = {
    "rsqrt": _rsqrt, "erfc": _erfc, "square": _square, "integer_pow": _power,
    "convert_element_type": _convert, "transpose": _transpose, "reshape": _reshape,
    "squeeze": _squeeze, "broadcast_in_dim": _broadcast, "slice": _slice, "rev": _reverse,
    "reduce_sum": functools.partial(_reduce, kind="ReduceSum"),
    "reduce_max": functools.partial(_reduce, kind="ReduceMax"),
    "split": _split, "concatenate": _concatenate, "stack": _stack, "pad": _pad,
    "gather": _gather, "dot_general": _dot, "conv_general_dilated": _convolve, "scan": _scan,
}  # fmt: skip


def convert(
    function: Callable[[jax.Array], jax.Array], image: jax.ShapeDtypeStruct
) -> onnx.ModelProto:
    """The model of a function of one array of float32."""
    traced = jax.make_jaxpr(function)(image)
    graph = Graph(image.shape[0])
    given = Tensor(IMAGE, image.shape, tuple(range(len(image.shape))))
    (result,) = follow(graph, traced.jaxpr, traced.consts, [given])
    name = graph.named(graph.laid(result))
    graph.nodes.append(helper.make_node("Identity", [name], [RESTORED], name=RESTORED))

    def described(name: str, shape: Sequence[Any]) -> onnx.ValueInfoProto:
        sides = [n if isinstance(n, int) else str(n) for n in shape]
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sides)

    inputs = [described(IMAGE, image.shape)]
    outputs = [described(RESTORED, result.shape)]
    constants = [*graph.constants.values()]
    whole = helper.make_graph(graph.nodes, "network", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION)
