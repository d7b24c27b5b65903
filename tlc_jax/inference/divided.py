"""One image restored by several devices, each of which holds some of its rows.

An image or a network's maps may be too large for one device. Convolutions take the rows next to a
cut from the neighbours, and the sites of TLC add up what the devices have, see `ops.divided`. The
result is that of one device, but for rounding.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen.module import InterceptorContext
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tlc_jax.inference.machine import Devices, count_devices
from tlc_jax.layers import (
    Conv1x1,
    CutRows,
    DepthwiseConv3x3,
    InStrips,
    JoinRows,
    Network,
    PointwiseDepthwise,
    ResizeBilinear,
)
from tlc_jax.layers.network import Params, is_site
from tlc_jax.ops.divided import ROWS, Rows
from tlc_jax.ops.windows import Size


def mesh_of(model: Network, devices: Devices) -> Mesh:
    """The devices over which an image is divided.

    Raises:
      ValueError: there are fewer, or the network cannot be divided.
    """
    count = count_devices(devices)
    if count > 1 and not model.divides:
        raise ValueError(
            f"{type(model).__name__} mixes rows from all over a picture, or frames, so nothing is "
            "divided over devices; restore on one, or in tiles."
        )
    return Mesh(np.array(jax.local_devices()[:count]), (ROWS,))


def divided_shape(model: Network, size: Size, mesh: Mesh) -> tuple[jax.ShapeDtypeStruct, int]:
    """What `divide` makes of an image of `size`, without the image."""
    one = jax.eval_shape(model.pad, model.example_input(size))
    _, height, width, channels = one.shape
    multiple = model.multiple if isinstance(model.multiple, int) else model.multiple[0]
    shape = (-(-height // (multiple * mesh.size)) * multiple * mesh.size, width, channels)
    sharding = NamedSharding(mesh, PartitionSpec(ROWS))
    return jax.ShapeDtypeStruct(shape, one.dtype, sharding=sharding), height


def divide(model: Network, image: np.ndarray, mesh: Mesh) -> tuple[jax.Array, int]:
    """An image (H, W, C) divided over devices, and its height with the network's padding."""
    whole, height = divided_shape(model, image.shape[:2], mesh)
    image = np.pad(model.pad(image), [(0, whole.shape[0] - height), (0, 0), (0, 0)])
    return jax.device_put(image, whole.sharding), height


def replicated(params: Params, mesh: Mesh) -> Params:
    """The parameters on all devices of a mesh."""
    return jax.device_put(params, NamedSharding(mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnames=("model", "height", "mesh"))
def forward_divided(
    model: Network, params: Params, image: jax.Array, height: int, mesh: Mesh
) -> jax.Array:
    """Run a network on what `divide` makes of an image, which has `height` rows with its padding.

    Returns:
      (H, W, C) as `image`, divided likewise, and meaningless in the rows that were added below.
    """

    def own(params: Params, image: jax.Array) -> jax.Array:
        with nn.intercept_methods(_divided(height, len(image), mesh.size)):
            return model.apply({"params": params}, image[None])[0]

    rows = PartitionSpec(ROWS)
    return jax.shard_map(
        own, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows, check_vma=False
    )(params, image)


def _divided(height: int, rows: int, devices: int) -> Callable[..., Any]:
    """An interceptor that lets layers see the rows beyond those of a device."""

    def run(call: Any, args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
        layer: Any = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if isinstance(layer, InStrips):  # which would not know where the picture ends
            function, x, *_ = args
            return function(x)
        # A layer without a path is one that has the rows around it already, see below.
        if not layer.path or not (isinstance(layer, SEES) or is_site(context)):
            return call(*args, **kwargs)
        x = args[0]
        border = layer.border if isinstance(layer, DepthwiseConv3x3) else 0
        here = Rows(height * (x.shape[1] - 2 * border) // rows, devices)
        match layer:
            case ResizeBilinear():
                return here.resize_bilinear(*args)
            case CutRows():
                return here.halves(x)
            case JoinRows():
                return here.joined(x)
            case Conv1x1() | PointwiseDepthwise():
                border = layer.border if isinstance(layer, Conv1x1) else 1
                if border == 0:
                    return call(x)
                around = here.with_neighbours(here.zero_beyond(x), border, border)
                return call(around, *args[1:], inside=here.inside(around, border))
            case DepthwiseConv3x3() if border:
                return call(x)
            case DepthwiseConv3x3():
                return call(here.with_neighbours(here.zero_beyond(x), 1, 1))[:, 1:-1]
            case nn.Conv():
                above, below, columns = _reach(layer, x.shape[2])
                around = here.with_neighbours(here.zero_beyond(x), above, below)
                padded = layer.clone(padding=((0, 0), columns))
                return padded.apply({"params": layer.variables["params"]}, around)
            case _:
                return call(*args, part=here, **kwargs)

    return run


# Layers, besides sites, that see other rows than their own.
SEES = nn.Conv, Conv1x1, DepthwiseConv3x3, PointwiseDepthwise, ResizeBilinear, CutRows, JoinRows


def _reach(layer: nn.Conv, width: int) -> tuple[int, int, tuple[int, int]]:
    """Rows that a convolution sees above and below each part, and its padding of the columns.

    Raises:
      ValueError: one whose result has not H / stride rows, or that goes round.
    """

    def pair(setting: Any) -> Sequence[Any]:
        return (setting,) * 2 if isinstance(setting, int | None) else setting

    strides, dilations = (
        [n or 1 for n in pair(setting)] for setting in (layer.strides, layer.kernel_dilation)
    )
    sees = [(k - 1) * n + 1 for k, n in zip(pair(layer.kernel_size), dilations, strict=True)]
    padding: Any = layer.padding
    if padding in ("SAME", "VALID"):  # of a part's rows, which are multiples of the stride
        padding = lax.padtype_to_pads((strides[0], width), sees, strides, padding)
    beyond = sees[0] - strides[0]
    (above, below), (left, right) = map(pair, pair(-1 if isinstance(padding, str) else padding))
    if above < 0 or not 0 <= above + below - beyond < strides[0]:
        raise ValueError(
            f"{'/'.join(layer.path)}: a convolution with padding={layer.padding!r} is not divided "
            "over devices; restore on one."
        )
    return above, max(beyond - above, 0), (left, right)
