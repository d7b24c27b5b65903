"""Pictures of many sizes through few compiled programs.

Each size of picture compiles anew. Here a picture lies in the corner of a larger one, a bucket, and
what is beyond it is kept out: it is zero to every convolution, as the padding of the published
networks is, and no statistics count it. So the numbers are those of the picture by itself.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from tlc_jax.layers import DepthwiseConv3x3, LocalAttention, LocalMoments, LocalPool
from tlc_jax.models import Baseline, HINet, NAFNet, Params, Restormer
from tlc_jax.ops import pad_to_multiple
from tlc_jax.ops.attention import attention_of_tiles
from tlc_jax.ops.within import (
    tiles_within,
    window_mean_within,
    window_moments_within,
    zero_beyond,
)

# Made of the layers below and of such as act on each position by itself. MPRNet and MAXIM also cut
# the picture where its size says.
NETWORKS = NAFNet, Baseline, Restormer, HINet

Size = tuple[int, int]


def has_buckets(model: nn.Module) -> bool:
    """Whether a network can restore pictures in buckets; a subclass may look where it likes."""
    return type(model) in NETWORKS


def choose_buckets(sizes: Iterable[Size], waste: float) -> dict[Size, Size]:
    """The bucket of each size that can share one, found greedily, the large ones first.

    A size of so many pictures that enlarging them may cost more than one of them keeps its own.

    Args:
      sizes: (H, W) of pictures, of each as often as there are pictures of it.
      waste: the most pixels that a bucket may add to a picture, as a share of the picture's.

    Returns:
      (height, width) of the bucket by (H, W) of a picture, for `restore`.

    Examples:
      >>> choose_buckets([(720, 1280), (736, 1240), (480, 640)], waste=0.25)
      {(720, 1280): (736, 1280), (736, 1240): (736, 1280)}
    """
    groups: dict[Size, list[Size]] = {}  # by bucket
    # What a bucket spares is a compilation, which takes about as long as a picture.
    rare = [size for size, count in Counter(sizes).items() if count * waste <= 1]
    for size in sorted(rare, key=math.prod, reverse=True):
        grown = {(max(h, size[0]), max(w, size[1])): (h, w) for h, w in groups}
        best = min(grown, key=math.prod, default=size)
        # This picture is the smallest so far, so if it is not wasted on, none is.
        if math.prod(best) > (1 + waste) * math.prod(size):
            best = size
        old = grown.get(best, best)
        groups[best] = [*groups.pop(old, []), *groups.pop(best, []), size]
    return {size: bucket for bucket, group in groups.items() if group[1:] for size in group}


@functools.partial(jax.jit, static_argnames="model")
def forward_within(
    model: nn.Module, params: Params, image: jax.Array, size: jax.Array
) -> jax.Array:
    """A network of which `has_buckets` is true on a picture in the corner of its bucket.

    Args:
      model, params: the network, global or local.
      image: (H, W, C) with zeros beyond `size`.
      size: (height, width) of the picture, int32.

    Returns:
      (H, W, C), without meaning beyond `size`.
    """
    image = pad_to_multiple(image[None], model.multiple)
    extent = -(-size // model.multiple) * model.multiple  # the picture as the network pads it
    with nn.intercept_methods(_within(extent, np.array(image.shape[1:3], np.int32))):
        return model.apply({"params": params}, image)[0]


def _within(extent: jax.Array, bucket: np.ndarray) -> Callable[..., Any]:
    """Makes the layers that look beyond single positions look no further than the picture."""
    tiles: dict[Any, Any] = {}  # blocks of one level have the same

    def run(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        layer = context.module
        inside = isinstance(
            layer, nn.Conv | DepthwiseConv3x3 | LocalPool | LocalMoments | LocalAttention
        )
        if not inside or context.method_name != "__call__":
            return call(*args, **kwargs)
        x = args[0]
        border = getattr(layer, "border", 0)  # zeros that x has around it
        h, w = (length - 2 * border for length in x.shape[1:3])
        here = extent // (bucket // np.array((h, w), np.int32))
        match layer:
            case LocalPool():
                return window_mean_within(x, layer.window, here)
            case LocalMoments():
                return window_moments_within(x, layer.window, here)
            case LocalAttention():
                key = x.shape, layer.window
                if key not in tiles:
                    tiles[key] = tiles_within(here, (h, w), layer.window)
                return attention_of_tiles(*args, *tiles[key])
        return call(zero_beyond(x, here + border))

    return run
