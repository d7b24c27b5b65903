"""The sites of TLC in a network, and the windows that are in force there."""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.linen.module import InterceptorContext

from tlc_jax.layers import Network
from tlc_jax.layers.network import check_network, is_site
from tlc_jax.ops.windows import Window, clip_window


class Site(NamedTuple):
    """One place where a network aggregates over positions.

    Attributes:
      name: path of the module.
      kind: what is aggregated: "mean", "moments", "attention", "position attention" or "grid".
      size: (H, W) of its feature map.
      window: (height, width) in force there, in feature pixels, no larger than the map.
      channels: of the map.
      parts: how many maps the picture is cut into, down and across; MPRNet's first stages do that.
    """

    name: str
    kind: str
    size: tuple[int, int]
    window: tuple[int, int]
    channels: int
    parts: tuple[int, int] = (1, 1)

    @property
    def slides(self) -> bool:
        """Whether each position has the window around it, rather than a few that lie still.

        Those of attention and of grids are the fewest that cover the map, averaged where they
        overlap: see `tlc_jax.ops.extract_windows`.
        """
        return self.kind in ("mean", "moments")


def at_sites(
    see: Callable[[str, Any, tuple, Window], None],
) -> contextlib.AbstractContextManager[None]:
    """Within it, `see` is shown each site that a network meets.

    Args:
      see: called with the site's path, the layer, its inputs, and the window that it is given, in
        pixels of its map and perhaps larger than it; `None` is the whole map.
    """

    running: list[nn.Module] = []  # networks, the innermost last

    def enter(call: Any, args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
        network = context.module
        if not isinstance(network, Network) or context.method_name != "forward":
            return call(*args, **kwargs)

        def note(call: Any, args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
            if is_site(context) and running[-1] is network:
                see("/".join(context.module.path), context.module, args, kwargs.get("window"))
            return call(*args, **kwargs)

        running.append(network)
        try:
            with nn.intercept_methods(note):  # entered last, it sees what the networks have added
                return call(*args, **kwargs)
        finally:
            running.pop()

    return nn.intercept_methods(enter)


def sites(model: Network, size: tuple[int, int]) -> list[Site]:
    """Every site of TLC in a network and the window in force there for a picture of `size`.

    Args:
      model: a network; of a global one every window is the whole map.
      size: (H, W) of the picture.

    Returns:
      The sites in the order in which they are run.

    Raises:
      TypeError: a module that is no `Network` with a `forward`.

    Examples:
      >>> from tlc_jax import NAFNet
      >>> site = sites(NAFNet.variant("gopro-width32", local_mode=True), (720, 1280))[0]
      >>> site.name, site.size, site.window
      ('encoders_0_0/pool', (720, 1280), (384, 384))
    """
    check_network(model)
    picture = model.example_input(size)
    whole = jax.eval_shape(model.pad, picture).shape[-3:-1]
    found: dict[Site, None] = {}  # a loop over frames is met more than once

    def note(name: str, layer: Any, args: tuple, window: Window) -> None:
        maps, h, w, channels = args[0].shape
        window = clip_window(window, (h, w))
        parts = _parts(maps, (h, w), whole)
        found[Site(name, layer.site, (h, w), window, channels, parts)] = None

    with at_sites(note):
        jax.eval_shape(model.init, jax.random.key(0), picture)
    return list(found)


def _parts(maps: int, size: tuple[int, int], whole: tuple[int, int]) -> tuple[int, int]:
    """Down and across, the maps of `size` that a picture is cut into: they fill its sides alike."""
    down = math.isqrt(maps * whole[0] * size[1] // (size[0] * whole[1]))
    across = maps // max(1, down)
    if down * across != maps or down * size[0] * whole[1] != across * size[1] * whole[0]:
        return 1, 1
    return down, across
