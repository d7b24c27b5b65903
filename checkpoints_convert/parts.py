"""Find a network's tensors among all that training code keeps in a file.

They may lie in dictionaries, and their names begin with those of the modules around the network; so
each place is looked at where a name ends like one that only this network has.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from checkpoints_convert.engine import ConversionError, Release
from checkpoints_convert.pth import ADVICE, Tensor

DEEPEST = 24  # dictionaries in one another; modules that are saved whole have two for each
MOST = 2**17  # names, of which networks and optimizers have thousands
# What is put between names by torch.compile, FSDP, checkpoints of activations, and MLX.
BETWEEN = re.compile(
    r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|layers(?=\.\d))\."
)
# Of modules that were saved whole: what their attributes would add to a name.
OF_MODULES = {"_parameters", "_modules", "_buffers"}
AVERAGED = {"ema", "avg", "average", "averaged", "swa"}  # in names of what training averages


class Part(NamedTuple):
    """Tensors that lie together, and seem to be of a network."""

    name: str  # of the place, "" for the whole file
    network: str
    tensors: dict[str, Any]  # by the release's names

    @property
    def averaged(self) -> bool:
        """Whether these are averages of weights, which restore better than the last ones."""
        return not AVERAGED.isdisjoint(re.split(r"[._/]", self.name.lower()))


def find_parts(content: Any, releases: Mapping[str, Release]) -> list[Part]:
    """The places in a file where a network may be, averaged weights first.

    Raises:
      ConversionError: there are no tensors, or none of a known network.
    """
    flat: dict[str, Any] = {}
    for count, (name, tensor) in enumerate(_flat(content)):
        if count == MOST:
            raise ConversionError(f"refused, it names more than {MOST:,} things.")
        if not name:
            continue
        if name in flat:
            raise ConversionError(f"names two tensors {name}; leave one of them out.")
        flat[name] = tensor
    if not flat:
        raise ConversionError(f"holds no tensors with names of a network; {ADVICE}")
    places = {
        (found[1], network)
        for network, release in releases.items()
        for name in flat
        if (found := re.fullmatch(rf"((?:[^./]+[./])*?)(?:{release.mark})", name))
    }
    if not places:
        first = ", ".join(list(flat)[:3])
        raise ConversionError(
            f"weights of no known network (first tensors: {first}); known are "
            f"{', '.join(releases)}. For a network of your own, see tlc_jax.localize."
        )
    prefixes = {prefix for prefix, _ in places}
    parts = [
        Part(prefix.rstrip("./"), network, _below(flat, prefix, prefixes))
        for prefix, network in sorted(places)
    ]
    return sorted(parts, key=lambda part: not part.averaged)


def is_tensor(x: Any) -> bool:
    """Whether x is an array of real numbers; releases keep texts and others beside them."""
    kinds = (jnp.floating, jnp.integer)  # of JAX, which knows bfloat16
    array = isinstance(x, np.ndarray) and any(jnp.issubdtype(x.dtype, kind) for kind in kinds)
    return array or isinstance(x, Tensor)


def _flat(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str | None, Any]]:
    """All tensors, by the names on the way to them with dots between; what is not one has none."""
    if is_tensor(content):
        yield BETWEEN.sub("", name), content
    elif isinstance(content, Mapping | list | tuple) and depth < DEEPEST:
        yield None, content
        inside = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, inner in inside:
            if isinstance(key, str | int):
                below = name if key in OF_MODULES else f"{name}.{key}".lstrip(".")
                yield from _flat(inner, below, depth + 1)


def _below(flat: Mapping[str, Any], prefix: str, prefixes: set[str]) -> dict[str, Any]:
    """The tensors below a prefix, but for a network that lies below it once more.

    Counters of training are left out, too.
    """
    found = {
        name.removeprefix(prefix): tensor
        for name, tensor in flat.items()
        if name.startswith(prefix) and tensor.shape != ()
    }
    for other in prefixes:
        inner = other.removeprefix(prefix)
        if other.startswith(prefix) and inner:
            again = {name for name in found if name.startswith(inner)}
            if {f"{inner}{name}" for name in found.keys() - again} == again:
                found = {name: tensor for name, tensor in found.items() if name not in again}
    return found
