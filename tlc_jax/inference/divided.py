"""One image restored by several devices, each of which holds some of its rows.

An image or a network's maps may be too large for one device. Convolutions then take the rows next to
a cut from the neighbours, and the sites of TLC add up what the devices have, see `ops.divided`. The
result is that of one device, but for rounding.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen.module import InterceptorContext
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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


def mesh_of(devices: int) -> Mesh:
    """The first so many devices.

    Raises:
      ValueError: there are fewer.
    """
    there_are = jax.devices()
    if not 1 <= devices <= len(there_are):
        raise ValueError(f"there are {len(there_are)} devices, got devices={devices}.")
    return Mesh(np.array(there_are[:devices]), (ROWS,))


def divided_shape(
    model: Network, size: Size, devices: int
) -> tuple[jax.ShapeDtypeStruct, int, Mesh]:
    """What `divide` makes of an image of `size`, without the image; its errors."""
    mesh = mesh_of(devices)
    if not model.divides:
        raise ValueError(
            f"{type(model).__name__} mixes rows from all over a picture, or frames, so a picture is "
            "not divided over devices; restore it on one, or in tiles."
        )
    one = jax.eval_shape(model.pad, model.example_input(size))
    _, height, width, channels = one.shape
    multiple = model.multiple if isinstance(model.multiple, int) else model.multiple[0]
    rows = -(-height // (multiple * devices)) * multiple
    shape, sharding = (rows * devices, width, channels), NamedSharding(mesh, PartitionSpec(ROWS))
    return jax.ShapeDtypeStruct(shape, one.dtype, sharding=sharding), height, mesh


def divide(model: Network, image: np.ndarray, devices: int) -> tuple[jax.Array, int, Mesh]:
    """Divide an image (H, W, C) over devices, with the network's padding, for `forward_divided`.

    Raises:
      ValueError: there are fewer devices, or the network cannot be divided.
    """
    whole, height, mesh = divided_shape(model, image.shape[:2], devices)
    image = np.pad(model.pad(image), [(0, whole.shape[0] - height), (0, 0), (0, 0)])
    return jax.device_put(image, whole.sharding), height, mesh


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
        if not isinstance(layer, SEES) and not is_site(context):
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
            case Conv1x1():
                if not layer.border:
                    return call(x)
                n = layer.border
                around = here.with_neighbours(here.zero_beyond(x), n, n)
                # In place of its zeros above and below stands what it makes of the rows there.
                return call(around, inside=here.inside(around, n))[:, n:-n]
            case PointwiseDepthwise():
                around = here.with_neighbours(x, 1, 1)
                between = functools.partial(here.zero_beyond, border=2)
                return tuple(y[:, 1:-1] for y in call(around, *args[1:], between=between))
            case DepthwiseConv3x3() if border:
                return call(x)
            case DepthwiseConv3x3():
                above = below = stride = 1
            case nn.Conv():
                above, below, stride = _reach(layer)
            case _:
                return call(*args, part=here, **kwargs)
        if above == below == 0:
            return call(x)
        around = here.with_neighbours(here.zero_beyond(x), above, below)
        return call(around)[:, above // stride : (above + x.shape[1]) // stride]

    return run


# Layers, besides sites, that see other rows than their own.
SEES = nn.Conv, Conv1x1, DepthwiseConv3x3, PointwiseDepthwise, ResizeBilinear, CutRows, JoinRows


def _reach(layer: nn.Conv) -> tuple[int, int, int]:
    """Rows that a convolution sees above and below, multiples of its stride, and that stride.

    Raises:
      ValueError: one whose result has not H / stride rows, or that goes round.
    """

    def of_rows(setting: Any) -> Any:
        return setting[0] if isinstance(setting, Sequence) else setting

    stride = of_rows(layer.strides) or 1
    sees = (of_rows(layer.kernel_size) - 1) * (of_rows(layer.kernel_dilation) or 1) + 1
    same = max(sees - stride, 0)
    named = {"SAME": (same // 2, same - same // 2), "VALID": (0, 0)}
    padding = layer.padding
    padding = named.get(padding) if isinstance(padding, str) else of_rows(padding)
    above, below = padding if isinstance(padding, Sequence) else (padding, padding)
    if above is None or not 0 <= above + below - (sees - stride) < stride:
        raise ValueError(
            f"{'/'.join(layer.path)}: a convolution with padding={layer.padding!r} is not divided "
            "over devices; restore on one."
        )
    return (
        -(-above // stride) * stride,
        -(-max(sees - stride - above, 0) // stride) * stride,
        stride,
    )
