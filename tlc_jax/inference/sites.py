"""The sites of TLC in a network, which aggregate over positions, and their windows."""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.linen.module import InterceptorContext

from tlc_jax.layers import Network
from tlc_jax.layers.network import check_network, is_site
from tlc_jax.ops.windows import Size, Window, clip_window


class Site(NamedTuple):
    """One place where a network aggregates over positions.

    Attributes:
      name: path of the module.
      kind: what is aggregated: "mean", "moments", "attention", "position attention" or "grid".
      size: (H, W) of its feature map.
      window: (height, width) of the window, in pixels of that map and no larger than it.
      channels: of the feature map.
      parts: (down, across), into how many maps the image is cut, as by MPRNet's first stages.
    """

    name: str
    kind: str
    size: Size
    window: Size
    channels: int
    parts: tuple[int, int] = (1, 1)

    @property
    def slides(self) -> bool:
        """Whether the window slides: each position then has the window around it.

        Attention and grids have still windows instead: the fewest that cover the map, averaged
        where they overlap, see `tlc_jax.ops.extract_windows`.
        """
        return self.kind in ("mean", "moments")


def at_sites(
    see: Callable[[str, Any, tuple, Window], None],
) -> contextlib.AbstractContextManager[None]:
    """Context in which `see` is called for each site that a network runs.

    Args:
      see: takes the site's path, the layer, its inputs, and its window, in pixels of its feature
        map and perhaps larger than it; `None` is the whole map.
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


def sites(model: Network, size: Size) -> list[Site]:
    """Every site of TLC in a network, and its window for an image of `size`.

    Args:
      model: a network; if it is global, every window is the whole feature map.
      size: (H, W) of the image.

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
    image = model.example_input(size)
    whole = jax.eval_shape(model.pad, image).shape[-3:-1]
    found: dict[Site, None] = {}  # a loop over frames is traced more than once

    def note(name: str, layer: Any, args: tuple, window: Window) -> None:
        maps, h, w, channels = args[0].shape
        window = clip_window(window, (h, w))
        parts = _parts(maps, (h, w), whole)
        found[Site(name, layer.site, (h, w), window, channels, parts)] = None

    with at_sites(note):
        jax.eval_shape(model.init, jax.random.key(0), image)
    return list(found)


def _parts(maps: int, size: Size, whole: Size) -> Size:
    """(down, across): how many maps of `size` the image is cut into; they fill it evenly."""
    down = math.isqrt(maps * whole[0] * size[1] // (size[0] * whole[1]))
    across = maps // max(1, down)
    if down * across != maps or down * size[0] * whole[1] != across * size[1] * whole[0]:
        return 1, 1
    return down, across
