"""Buckets: images of many sizes through few compiled programs.

Every new image size compiles a program. A bucket is a larger array with the image in its upper left
corner, so that images of several sizes share one program. Convolutions read zeros outside the
corner, as in zero padding, and statistics leave it out. So the result is that of the image alone.

This holds for networks of convolutions, sites of TLC and layers that act on single positions; they
say so in `buckets`. MPRNet and MAXIM also cut the image at places that depend on its size.
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

from tlc_jax.layers import DepthwiseConv3x3, InStrips, Network, PointwiseDepthwise
from tlc_jax.layers.network import Params, Size, is_site
from tlc_jax.ops import pad_to_multiple
from tlc_jax.ops.within import Corner, zero_beyond


def choose_buckets(sizes: Iterable[Size], waste: float) -> dict[Size, Size]:
    """Group image sizes into buckets, greedily, the largest sizes first.

    A size that occurs often gets no bucket: if enlarging all its images may cost more than one
    image, compiling for that size costs less.

    Args:
      sizes: (H, W) of each image, so a size occurs once for every image of it.
      waste: the most pixels that a bucket may add to an image, as a fraction of the image's.

    Returns:
      (height, width) of the bucket by (H, W) of the image, for `restore`; only of shared buckets.

    Examples:
      >>> choose_buckets([(720, 1280), (736, 1240), (480, 640)], waste=0.25)
      {(720, 1280): (736, 1280), (736, 1240): (736, 1280)}
    """
    groups: dict[Size, list[Size]] = {}  # by bucket
    # A bucket saves one compilation, which takes about as long as restoring one image.
    rare = [size for size, count in Counter(sizes).items() if count * waste <= 1]
    for size in sorted(rare, key=math.prod, reverse=True):
        grown = {(max(h, size[0]), max(w, size[1])): (h, w) for h, w in groups}
        best = min(grown, key=math.prod, default=size)
        # The smallest image of a bucket wastes the most, and this is the smallest so far.
        if math.prod(best) > (1 + waste) * math.prod(size):
            best = size
        old = grown.get(best, best)
        groups[best] = [*groups.pop(old, []), *groups.pop(best, []), size]
    return {size: bucket for bucket, group in groups.items() if group[1:] for size in group}


def put_into(model: Network, image: np.ndarray, bucket: Size) -> tuple[np.ndarray, np.ndarray]:
    """Put an image (H, W, C) into the corner of its bucket, for `forward_within`.

    Returns:
      The bucket, padded to the network's multiple, and the extent: (height, width) of the corner
      that holds the image and the network's own padding.

    Raises:
      ValueError: the bucket is too small.
    """
    h, w, c = image.shape
    if bucket[0] < h or bucket[1] < w:
        raise ValueError(
            f"a bucket of {bucket} is too small for an image of {h, w}; give a larger bucket."
        )
    image = pad_to_multiple(image, model.multiple, model.padding)  # also of whole numbers
    h, w, _ = image.shape
    whole = pad_to_multiple(np.zeros((*bucket, c), image.dtype), model.multiple)
    whole[:h, :w] = image
    return whole, np.array((h, w), np.int32)


@functools.partial(jax.jit, static_argnames="model")
def forward_within(
    model: Network, params: Params, image: jax.Array, extent: jax.Array
) -> jax.Array:
    """Run a network that `has_buckets` on what `put_into` makes of an image.

    Returns:
      (H, W, C) as `image`, meaningless outside the corner.
    """
    with nn.intercept_methods(_within(extent, np.array(image.shape[:2], np.int32))):
        return model.apply({"params": params}, image[None])[0]


def _within(extent: jax.Array, bucket: np.ndarray) -> Callable[..., Any]:
    """An interceptor that keeps convolutions and sites from reading outside the corner."""

    def run(call: Any, args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
        layer: Any = context.module
        if isinstance(layer, InStrips):  # which would not know where the picture ends
            function, x, *_ = args
            return function(x)
        depthwise = isinstance(layer, DepthwiseConv3x3)
        convolves = (depthwise or isinstance(layer, nn.Conv)) and context.method_name == "__call__"
        if not (convolves or isinstance(layer, PointwiseDepthwise) or is_site(context)):
            return call(*args, **kwargs)
        x = args[0]
        border = layer.border if depthwise else 0  # zeros around x
        sides = np.array(x.shape[1:3], np.int32) - 2 * border
        here = extent // (bucket // sides)
        if convolves:
            return call(zero_beyond(x, here + border), **kwargs)
        if isinstance(layer, PointwiseDepthwise):
            return call(*args, between=lambda x: zero_beyond(x, here + 1))
        return call(*args, part=Corner(here), **kwargs)

    return run
