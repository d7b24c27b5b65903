"""From the state dict of a release to our parameter tree; every tensor and parameter must match.

Each network has a table of rules: which module of ours a module of the release becomes, and how
tensors of its kind are stored. Every tensor has to match a rule, and every parameter to be filled
by one tensor; all mismatches are reported together.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tlc_jax.files.printable import printable
from tlc_jax.layers.network import Params

LISTED = 30  # problems, at most
Shapes = Mapping[str, tuple[int, ...]]
Config = dict[str, Any]  # fields of a network
Transform = Callable[[np.ndarray], np.ndarray]


class ConversionError(ValueError):
    """Weights that cannot be converted. The message says what is wrong, where and what to do."""


def _as_it_is(x: np.ndarray) -> np.ndarray:
    return x


def _from_oihw(x: np.ndarray) -> np.ndarray:
    # To HWIO; a depthwise (C, 1, k, k) to (k, k, 1, C). Other ranks are reported later, by shape.
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x


def _from_iohw(x: np.ndarray) -> np.ndarray:
    # Flax's transposed convolution has its kernel flipped.
    return x.transpose(2, 3, 0, 1)[::-1, ::-1] if x.ndim == 4 else x


def from_mlx(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kernels as PyTorch has them, OIHW, where they are as MLX has them, OHWI."""
    kernels = {name for name, x in tensors.items() if name.endswith(".weight") and x.ndim == 4}
    sides = [tensors[name].shape[1:] for name in kernels]
    # All kernels are square, and few have as many features as rows.
    if all(h == w for h, w, _ in sides) and any(w != c for _, w, c in sides):
        return {
            name: x.transpose(0, 3, 1, 2) if name in kernels else x for name, x in tensors.items()
        }
    return dict(tensors)


# Kinds of module: each tensor of the release -> the parameter it becomes and how.
CONV = {"weight": ("kernel", _from_oihw), "bias": ("bias", _as_it_is)}
NORM = {"weight": ("scale", _as_it_is), "bias": ("bias", _as_it_is)}
UPCONV = {"weight": ("kernel", _from_iohw), "bias": ("bias", _as_it_is)}  # transposed
SLOPE = {"weight": ("slope", _as_it_is)}  # of a PReLU
FLAX = {name: (name, _as_it_is) for name in ("kernel", "scale", "bias")}


def vectors(*names: str) -> dict[str, tuple[str, Transform]]:
    """Bare parameters, one number for each channel or head, whatever their shape in the release."""
    return {name: (name, np.ravel) for name in names}


class Rule(NamedTuple):
    """Modules that match the whole regular expression `source` become `path`.

    Each {} of the path is a group of the expression with its dots as underscores.
    """

    source: str
    path: str
    kind: Mapping[str, tuple[str, Transform]]
    shared: bool = False  # many modules of the release hold this one parameter, all the same


NOWHERE = Rule("", "", {})


class Release(NamedTuple):
    """How the authors of one network publish it."""

    mark: str  # a tensor that only this network has, as a regular expression
    infer_config: Callable[[Shapes], Config]  # from the names and shapes of its tensors
    rules: Sequence[Rule]
    assumed: tuple[str, ...] = ("train_size",)  # fields that shapes cannot tell
    unused: str = ""  # tensors that the result does not need


def count(names: Shapes, pattern: str) -> int:
    """The length of a list of modules; `pattern` begins their names, with the index as group."""
    # Counted, as a name with a huge index must not ask for that many modules.
    found = (re.match(pattern, name) for name in names)
    return len({match[1] for match in found if match})


def fill(
    target: Params, tensors: Mapping[str, np.ndarray], rules: Sequence[Rule], unused: str
) -> Params:
    """Fill a parameter tree, given as shapes by `abstract_params`, with a release's tensors.

    Raises:
      ConversionError: lists every tensor that is unknown, misshapen, not finite, repeated or
        missing, by the release's names where these can be told.
    """
    wanted = jax.tree.map(lambda leaf: leaf.shape, flatten_dict(target, sep="/"))
    filled: dict[str, np.ndarray] = {}
    modules: dict[str, tuple[str, Rule]] = {}  # by our path, how the release's names begin
    problems: list[str] = []
    for name, tensor in tensors.items():
        path, transform, rule = _place(name, rules)
        name = printable(name)
        if path not in wanted:
            if not re.fullmatch(unused, name):
                problems.append(f"{name} {tensor.shape}: the network has no such tensor")
            continue
        modules[path.rpartition("/")[0]] = re.sub(r"\w+$", "", name), rule
        value = transform(np.asarray(tensor, np.float32))
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            problems.append(f"{name}: holds {tensor.dtype}, of which the scale is not known")
        elif path in filled and rule.shared:
            if not np.array_equal(value, filled[path]):
                problems.append(f"{name}: unlike the others that share the parameter {path}")
        elif path in filled:
            problems.append(f"{name}: another tensor is the same parameter, {path}")
        elif value.shape != wanted[path]:
            problems.append(f"{name}: gives shape {value.shape}, {path} has {wanted[path]}")
        elif not np.isfinite(value).all():
            problems.append(f"{name}: holds NaN or infinite numbers")
        filled.setdefault(path, value)
    for path in wanted.keys() - filled.keys():
        module, parameter = path.rpartition("/")[::2]
        name, rule = modules.get(module, ("", None))
        theirs = [key for key, (ours, _) in rule.kind.items() if ours == parameter] if rule else []
        missing = f"{name}{theirs[0]} is missing, " if theirs else ""
        problems.append(f"{missing}{path}: no tensor for this parameter")
    if problems:
        count = f"{len(problems)} tensors do" if len(problems) > 1 else "1 tensor does"
        more = len(problems) - LISTED
        rest = [f"and {more} more"] if more > 0 else []
        raise ConversionError("\n  ".join([f"{count} not fit:", *problems[:LISTED], *rest]))
    return unflatten_dict(filled, sep="/")


def _place(name: str, rules: Sequence[Rule]) -> tuple[str, Transform, Rule]:
    """The path of a tensor in our tree, its transform, and the rule that says so.

    The path is empty for a name that matches no rule.
    """
    parts = re.fullmatch(r"(.*)[./](\w+)", name)
    module_name, tensor = parts.groups() if parts else ("", "")
    for rule in rules:
        module = re.fullmatch(rule.source, module_name)
        if module and tensor in rule.kind:
            parameter, transform = rule.kind[tensor]
            path = rule.path.format(*(group.replace(".", "_") for group in module.groups()))
            return f"{path}/{parameter}".lstrip("/"), transform, rule
    return "", _as_it_is, NOWHERE
