"""Pictures of many sizes through few compiled programs.

Each size of picture compiles anew. Here a picture lies in the corner of a larger one, a bucket, and
what is beyond it is kept out: it is zero to every convolution, as what is beyond a picture is, and
no statistics count it. So the numbers are those of the picture by itself.

That holds for networks of convolutions, sites of TLC and such layers as act on each position by
itself, which say so in `buckets`. MPRNet and MAXIM also cut the picture where its size says.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen.module import InterceptorContext

from tlc_jax.layers import DepthwiseConv3x3, Network
from tlc_jax.layers.network import Params, is_site
from tlc_jax.ops import pad_to_multiple
from tlc_jax.ops.within import zero_beyond

Size = tuple[int, int]


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


def put_into(model: Network, image: np.ndarray, bucket: Size) -> tuple[np.ndarray, np.ndarray]:
    """The picture in the corner of its bucket, as `forward_within` takes it.

    Args:
      model: a network that `has_buckets`.
      image: (H, W, C) floats.
      bucket: (height, width).

    Returns:
      The bucket, padded to the network's multiple, and the (height, width) in it that are the
      picture and the network's own padding.

    Raises:
      ValueError: the bucket is too small.
    """
    h, w, _ = image.shape
    below, right = bucket[0] - h, bucket[1] - w
    if below < 0 or right < 0:
        raise ValueError(f"a bucket of {bucket} is too small for a picture of {h, w}.")
    image = model.pad(image)
    size = np.array(image.shape[:2], np.int32)
    whole = pad_to_multiple(np.empty((*bucket, 0)), model.multiple).shape
    below, right = whole[0] - size[0], whole[1] - size[1]
    return np.pad(image, ((0, below), (0, right), (0, 0))), size


@functools.partial(jax.jit, static_argnames="model")
def forward_within(model: Network, params: Params, image: jax.Array, size: jax.Array) -> jax.Array:
    """A network that `has_buckets` on a picture in the corner of its bucket.

    Args:
      model, params: the network, global or local.
      image, size: as `put_into` makes them.

    Returns:
      (H, W, C) as `image`, without meaning beyond `size`.
    """
    with nn.intercept_methods(_within(size, np.array(image.shape[:2], np.int32))):
        return model.apply({"params": params}, image[None])[0]


def _within(extent: jax.Array, bucket: np.ndarray) -> Callable[..., Any]:
    """Makes the layers that look beyond single positions look no further than the picture."""

    def run(call: Any, args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
        layer: Any = context.module
        convolves = isinstance(layer, nn.Conv | DepthwiseConv3x3)
        convolves = convolves and context.method_name == "__call__"
        if not convolves and not is_site(context):
            return call(*args, **kwargs)
        x = args[0]
        border = layer.border if isinstance(layer, DepthwiseConv3x3) else 0  # zeros around x
        sides = np.array(x.shape[1:3], np.int32) - 2 * border
        here = extent // (bucket // sides)
        if convolves:
            return call(zero_beyond(x, here + border), **kwargs)
        return call(*args, extent=here, **kwargs)

    return run
