"""MAXIM as a graph model of TensorFlow.js: its weights, under the names that Google gives them.

jax2tf made the graph, and folded each weight into a constant that is named for the layer and for
the operation that last reshaped it. Only the kernels of dense layers are named by a number: their
layer is that of the one operation that they go into.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from checkpoints_convert.engine import ConversionError

T = TypeVar("T")

BACKBONE = "StatefulPartitionedCall/jax2tf_apply_/Wrapper/backbone/"
NUMBERED = r"StatefulPartitionedCall/jax2tf_arg_\d+/ReadVariableOp"
DENSE = re.escape(BACKBONE) + r"(.+)/(?:jit__einsum_|einsum)/.+"
AXES = 4  # of a weight, at most
LARGEST = 2**31  # a side of a weight


def _unflipped(x: np.ndarray) -> np.ndarray:
    # Other ranks are reported later, by shape.
    return x[::-1, ::-1].swapaxes(2, 3) if x.ndim == AXES else x


# The last part of a constant's name: the parameter of the layer that it is named for, and how.
FOLDED: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "Reshape": ("bias", np.ravel),
    "Reshape_2": ("scale", np.ravel),  # of a norm, as the next
    "Reshape_3": ("bias", np.ravel),
    "transpose_3": ("kernel", np.asarray),
    "transpose_4": ("kernel", _unflipped),  # of a transposed convolution
}


class Node(NamedTuple):
    """An operation of the graph."""

    name: str
    op: str


def graph_tensors(model: Any, shards: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """The weights of a graph, in its order, by the names of MAXIM's release.

    Args:
      model: the contents of a model.json, of whatever form.
      shards: the files of weights by name.

    Raises:
      ConversionError: not a graph model, not MAXIM's, not float32, or a weight does not fit in its
        shards or is not used exactly once.
    """
    form = model.get("format") if isinstance(model, dict) else None
    if form != "graph-model":
        raise ConversionError(
            f"its model.json is of the format {str(form)[:40]!r}; only a graph-model is read."
        )
    users = _users(model)
    tensors: dict[str, np.ndarray] = {}
    for name, weight in _weights(model, shards):
        used = users.get(name, [])
        if len(used) != 1:
            raise ConversionError(f"{name[:200]}: the graph uses this weight {len(used)} times.")
        path, transform = _place(name, used[0])
        if path in tensors:
            raise ConversionError(f"{name[:200]}: another weight is {path[:200]}, too.")
        tensors[path] = transform(weight)
    return tensors


def _place(name: str, user: Node) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """MAXIM's name of a weight that goes into `user`, and how it gets its shape there."""
    layer, _, last = name.removeprefix(BACKBONE).rpartition("/")
    if name.startswith(BACKBONE) and last in FOLDED:
        parameter, transform = FOLDED[last]
        return f"{layer}/{parameter}", transform
    dense = re.fullmatch(DENSE, user.name)
    if re.fullmatch(NUMBERED, name) and user.op == "Einsum" and dense:
        return f"{dense[1]}/kernel", np.asarray
    raise ConversionError(f"{name[:200]}: no weight of MAXIM's, the only network read from graphs.")


def _users(model: dict) -> dict[str, list[Node]]:
    """The operations that each constant of the graph goes into."""
    users: dict[str, list[Node]] = {}
    for entry in _get(_get(model, "modelTopology", dict), "node", list):
        node = Node(_get(entry, "name", str), _get(entry, "op", str))
        for source in _get(entry, "input", list) if "input" in entry else []:
            if type(source) is not str:
                raise ConversionError(f"its model.json has inputs of {node.name[:200]} unnamed.")
            users.setdefault(source, []).append(node)
    return users


def _weights(model: dict, shards: Mapping[str, bytes]) -> Iterator[tuple[str, np.ndarray]]:
    """Each weight by its name in the graph, as it is stored; not the graph's numbers and sizes."""
    names, paths = set(), set()
    for group in _get(model, "weightsManifest", list):
        listed = _get(group, "paths", list)
        for path in listed:
            if type(path) is not str or path not in shards:
                raise ConversionError(f"the shard {str(path)[:200]!a} is not there.")
            if path in paths:  # or a short list of them could ask for any memory
                raise ConversionError(f"the shard {path} is listed twice.")
            paths.add(path)
        content, start = b"".join(shards[path] for path in listed), 0
        for entry in _get(group, "weights", list):
            name, dtype, shape = _described(entry)
            if name in names:
                raise ConversionError(f"{name[:200]}: there are two weights of this name.")
            names.add(name)
            count = math.prod(shape)
            if start + 4 * count > len(content):
                raise ConversionError(f"{name[:200]}: the shards end before this weight does.")
            if dtype == "float32" and count > 1:
                yield name, np.frombuffer(content, "<f4", count, start).reshape(shape)
            start += 4 * count
        if start < len(content):
            raise ConversionError("the shards are longer than their weights.")


def _described(entry: Any) -> tuple[str, str, list[int]]:
    """Name, type and shape of an entry of the manifest."""
    name, dtype = _get(entry, "name", str), _get(entry, "dtype", str)
    shape = _get(entry, "shape", list)
    if "quantization" in entry or dtype not in ("float32", "int32"):
        raise ConversionError(
            f"{name[:200]}: of {dtype[:40]}{', quantised' if 'quantization' in entry else ''}; "
            "only float32 is read."
        )
    sides = all(type(side) is int and 0 <= side < LARGEST for side in shape)
    if not sides or len(shape) > AXES:
        raise ConversionError(f"{name[:200]}: {str(shape[:9])[:40]} is not the shape of a weight.")
    return name, dtype, shape


def _get(entry: Any, key: str, kind: type[T]) -> T:
    """An entry of a JSON object, which has to be of that kind; a text may go into sentences."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not kind or (isinstance(value, str) and not value.isprintable()):
        raise ConversionError(
            f"its model.json has no {key} where a graph-model has a {kind.__name__}."
        )
    return value
