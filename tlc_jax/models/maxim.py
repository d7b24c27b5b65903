"""MAXIM: U-Nets of gated multi-layer perceptrons, one after another.

Tu et al., "MAXIM: Multi-Axis MLP for Image Processing" (CVPR 2022, arXiv 2201.02973). Two of its
operations read the whole image. Channel attention averages over it. Grid mixing joins pixels that
lie fixed fractions of the image apart: on a large image farther than in training. TLC runs both in
windows.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype

from tlc_jax.layers import (
    Conv1x1,
    LayerNorm,
    Network,
    SqueezeExcite,
    SupervisedAttention,
    conv3x3,
    transposed_conv2x2,
)
from tlc_jax.ops import Window, resize_bilinear
from tlc_jax.ops.windows import Size, average_side_by_side, clip_window, side_by_side

Layer = Callable[[jax.Array], jax.Array]


class Level(NamedTuple):
    """What the layers of one resolution have in common."""

    features: int
    num_groups: int
    block: Size  # of a block in pixels, and of the grid in cells
    dtype: Dtype | None


class GridMixing(nn.Module):
    """Dense layer across the cells of a grid, for each position in a cell: a site of TLC.

    The map, or each of TLC's windows, is cut into as many cells as the layer has inputs.
    """

    site: ClassVar[str] = "grid"
    size: Size
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, window: Window = None) -> jax.Array:
        g_h, g_w = self.size
        x, kernel, bias = _mixing_params(self, x)

        _, h, w, _ = x.shape
        window = clip_window(window, (h, w))
        x = side_by_side(x, window)
        n, rows, columns, c = x.shape
        rows, columns = rows // window[0], columns // window[1]
        c_h, c_w = window[0] // g_h, window[1] // g_w
        cells = x.reshape(n, rows, g_h, c_h, columns, g_w, c_w, c)
        mixed = jnp.einsum("nriaujbc,ijkl->nrkaulbc", cells, kernel)
        mixed = (mixed + bias.reshape(1, 1, g_h, 1, 1, g_w, 1, 1)).reshape(x.shape)
        return average_side_by_side(mixed, (h, w), window).astype(x.dtype)


class BlockMixing(nn.Module):
    """Dense layer across the pixels of each block."""

    size: Size
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        b_h, b_w = self.size
        x, kernel, bias = _mixing_params(self, x)
        blocks = x.reshape(n, h // b_h, b_h, w // b_w, b_w, c)
        mixed = jnp.einsum("naibjc,ijkl->nakblc", blocks, kernel)
        return (mixed + bias.reshape(1, 1, b_h, 1, b_w, 1)).reshape(n, h, w, c)


def _mixing_params(module: GridMixing | BlockMixing, x: jax.Array) -> list[jax.Array]:
    """x, the kernel of the mixing as (rows, columns, rows, columns), and its bias."""
    count = math.prod(module.size)
    kernel = module.param("kernel", nn.initializers.lecun_normal(), (count, count), jnp.float32)
    bias = module.param("bias", nn.initializers.zeros, (count,), jnp.float32)
    kernel = kernel.reshape(*module.size, *module.size)
    return promote_dtype(x, kernel, bias, dtype=module.dtype)


class GatingUnit(nn.Module):
    """One half of the channels, gated by the other half after mixing its positions."""

    axis: str  # "Grid" or "Block"
    level: Level

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *_, block, dtype = self.level
        mixing = GridMixing if self.axis == "Grid" else BlockMixing
        x, gate = jnp.split(x, 2, axis=-1)
        gate = LayerNorm(1e-6, dtype=dtype, name="intermediate_layernorm")(gate)
        return x * (mixing(block, dtype, name="Dense_0")(gate) + 1)


class GmlpLayer(nn.Module):
    """Gated MLP along one axis.

    TLC could run the whole layer in each window and average the results. Averaging the gates gives
    the same: all but the mixing acts on single positions, and the result is linear in the gate.
    """

    axis: str  # "Grid" or "Block"
    level: Level

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, dtype = x.shape[-1], self.level.dtype
        shortcut = x
        x = LayerNorm(1e-6, dtype=dtype, name="LayerNorm")(x)
        x = jax.nn.gelu(nn.Dense(2 * c, dtype=dtype, name="in_project")(x))
        x = GatingUnit(self.axis, self.level, name=f"{self.axis}GatingUnit")(x)
        return shortcut + nn.Dense(c, dtype=dtype, name="out_project")(x)


class SplitHeadMultiAxisGmlpLayer(nn.Module):
    """The multi-axis gated MLP: half of the channels mix in the grid, half in blocks (figure 3)."""

    level: Level

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        grid = GmlpLayer("Grid", self.level, name="GridGmlpLayer")
        block = GmlpLayer("Block", self.level, name="BlockGmlpLayer")
        return x + _split_heads(x, grid, block, self.level.dtype)


class SplitHeadMultiAxisGating(nn.Module):
    """The gate that one feature map gives another: half mixed in the grid, half in blocks."""

    level: Level

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *_, block, dtype = self.level
        grid = GridMixing(block, dtype, name="Dense_0")
        return _split_heads(x, grid, BlockMixing(block, dtype, name="Dense_1"), dtype)


def _split_heads(x: jax.Array, grid: Layer, block: Layer, dtype: Dtype | None) -> jax.Array:
    """One half of the channels through `grid`, the other through `block`."""
    c = x.shape[-1]
    x = LayerNorm(1e-6, dtype=dtype, name="LayerNorm_in")(x)
    x = jax.nn.gelu(nn.Dense(2 * c, dtype=dtype, name="in_project")(x))
    far, near = jnp.split(x, 2, axis=-1)
    x = jnp.concatenate([grid(far), block(near)], axis=-1)
    return nn.Dense(c, dtype=dtype, name="out_project")(x)


class RCAB(nn.Module):
    """Residual block of two convolutions and channel attention."""

    level: Level

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, dtype = x.shape[-1], self.level.dtype
        shortcut = x
        x = LayerNorm(1e-6, dtype=dtype, name="LayerNorm")(x)
        x = jax.nn.leaky_relu(conv3x3(c, dtype, "conv1")(x), 0.2)
        x = conv3x3(c, dtype, "conv2")(x)
        return shortcut + SqueezeExcite(c // 4, dtype=dtype, name="channel_attention")(x)


class RDCAB(nn.Module):
    """As RCAB, with dense layers in place of the convolutions."""

    level: Level

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, dtype = x.shape[-1], self.level.dtype
        shortcut = x
        x = LayerNorm(1e-6, dtype=dtype, name="LayerNorm")(x)
        x = ChannelMixing(dtype, name="channel_mixing")(x)
        return shortcut + SqueezeExcite(c // 4, dtype=dtype, name="channel_attention")(x)


class ChannelMixing(nn.Module):
    """A two-layer perceptron over the channels of each pixel."""

    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        x = jax.nn.gelu(nn.Dense(c, dtype=self.dtype, name="Dense_0")(x))
        return nn.Dense(c, dtype=self.dtype, name="Dense_1")(x)


class CrossGatingBlock(nn.Module):
    """Two feature maps, each gated by the other, (x, y) -> (x, y) (section 3.3)."""

    level: Level
    upsample_y: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        features, _, _, dtype = self.level

        def embed_and_gate(x: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
            x = LayerNorm(1e-6, dtype=dtype, name=f"LayerNorm_{name}")(x)
            x = jax.nn.gelu(nn.Dense(features, dtype=dtype, name=f"in_project_{name}")(x))
            gating = SplitHeadMultiAxisGating(self.level, name=f"SplitHeadMultiAxisGating_{name}")
            return x, gating(x)

        if self.upsample_y:
            y = transposed_conv2x2(features, dtype, "ConvTranspose_0")(y)
        shortcut_x = Conv1x1(features, dtype=dtype, name="Conv_0")(x)
        shortcut_y = Conv1x1(features, dtype=dtype, name="Conv_1")(y)
        x, gate_x = embed_and_gate(shortcut_x, "x")
        y, gate_y = embed_and_gate(shortcut_y, "y")
        y = shortcut_y + nn.Dense(features, dtype=dtype, name="out_project_y")(y * gate_x)
        x = nn.Dense(features, dtype=dtype, name="out_project_x")(x * gate_y)
        return shortcut_x + y + x, y


class UNetEncoderBlock(nn.Module):
    """The multi-axis layers of one resolution; returns x, and x at half the size if `downsample`.

    From the second stage on, x is gated by the previous stage's features of this resolution.
    """

    level: Level
    downsample: bool = True

    @nn.compact
    def __call__(
        self, x: jax.Array, previous: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        features, num_groups, _, dtype = self.level
        x = shortcut = Conv1x1(features, dtype=dtype, name="Conv_0")(x)
        for i in range(num_groups):
            x = SplitHeadMultiAxisGmlpLayer(self.level, name=f"SplitHeadMultiAxisGmlpLayer_{i}")(x)
            x = RCAB(self.level, name=f"channel_attention_block_1{i}")(x)
        x = x + shortcut
        if previous is not None:
            x, _ = CrossGatingBlock(self.level, name="cross_gating_block")(x, previous)
        if not self.downsample:
            return x, x
        return x, nn.Conv(features, (4, 4), strides=2, dtype=dtype, name="Conv_1")(x)


class UNetDecoderBlock(nn.Module):
    """x at twice its size, concatenated with the skip, and encoded."""

    level: Level

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array) -> jax.Array:
        x = transposed_conv2x2(self.level.features, self.level.dtype, "ConvTranspose_0")(x)
        x = jnp.concatenate([x, skip], axis=-1)
        return UNetEncoderBlock(self.level, downsample=False, name="UNetEncoderBlock_0")(x)[0]


class BottleneckBlock(nn.Module):
    """The multi-axis layers of the lowest resolution."""

    level: Level

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features, num_groups, _, dtype = self.level
        x = shortcut = Conv1x1(features, dtype=dtype, name="input_proj")(x)
        for i in range(num_groups):
            x = SplitHeadMultiAxisGmlpLayer(self.level, name=f"SplitHeadMultiAxisGmlpLayer_{i}")(x)
            x = RDCAB(self.level, name=f"channel_attention_block_1_{i}")(x)
        return x + shortcut


class UpSampleRatio(nn.Module):
    """Bilinear resizing by 2**levels, up or down, and a 1x1 convolution."""

    features: int
    levels: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = Conv1x1(self.features, dtype=self.dtype, name="Conv_0")
        # The two commute, since the weights of the resizing sum to one: convolve the smaller map.
        if self.levels > 0:
            return resize_bilinear(conv(x), self.levels)
        return conv(resize_bilinear(x, self.levels))


class Maxim(Network):
    """MAXIM: U-Nets of multi-axis gated MLPs.

    `local_mode` runs the channel attentions in windows of `window`, and the grid mixing in windows
    of `train_size`, averaged where they overlap. `local_attention=False` or `local_grid=False`
    leaves one of the two global.
    """

    features: int = 32
    depth: int = 3
    num_stages: int = 3
    num_groups: int = 2
    num_bottleneck_blocks: int = 2
    block_size_hr: Size = (16, 16)  # pixels, at the two highest resolutions
    block_size_lr: Size = (8, 8)  # pixels, at the others
    _: KW_ONLY
    padding: str = "both"  # reflection on both sides, as in the release
    local_attention: bool = True
    local_grid: bool = True

    variants: ClassVar = {"2S": {"num_stages": 2}, "3S": {}}

    @property
    def levels(self) -> list[Level]:
        """Of each resolution, the largest first, and of the bottleneck."""
        blocks = [self.block_size_hr] * 2 + [self.block_size_lr] * (self.depth - 1)
        return [
            Level(self.features * 2 ** min(i, self.depth - 1), self.num_groups, block, self.dtype)
            for i, block in enumerate(blocks)
        ]

    @property
    def multiple(self) -> Size:
        """The blocks have to fit at every level: 64 in the published networks."""
        blocks = [(x.block[0] << i, x.block[1] << i) for i, x in enumerate(self.levels)]
        rows, columns = (math.lcm(*sides) for sides in zip(*blocks, strict=True))
        return rows, columns

    @nn.nowrap
    def check_windows(self) -> None:
        super().check_windows()
        fit = tuple(-(-n // m) * m for n, m in zip(self.train_size, self.multiple, strict=True))
        if self.local_grid and fit != self.train_size:
            raise ValueError(
                f"the grid does not divide windows of train_size={self.train_size}: set "
                f"train_size={fit}, the next that it does divide, or local_grid=False."
            )

    @nn.nowrap
    def input_window(self, site: str) -> Window:
        if site == "grid":
            return self.train_size if self.local_grid else None
        return super().input_window(site) if self.local_attention else None

    @nn.compact
    def forward(self, image: jax.Array) -> jax.Array:
        # Nearest-neighbour resizing: the pixel just after the middle of each cell.
        steps = [2**i for i in range(self.depth)]
        images = [image[:, step // 2 :: step, step // 2 :: step] for step in steps]

        encoded, decoded = _stage(self, 0, images)
        for stage in range(1, self.num_stages):
            sams = []
            for i, (x, picture) in enumerate(zip(decoded, images, strict=True)):
                name = f"stage_{stage - 1}_supervised_attention_module_{i}"
                features, _ = SupervisedAttention(dtype=self.dtype, name=name)(x, picture)
                sams.append(features)
            previous = [x + y for x, y in zip(encoded, decoded, strict=True)]
            encoded, decoded = _stage(self, stage, images, sams, previous)
        # In the release the last stage also restores smaller images, for the loss.
        name = f"stage_{self.num_stages - 1}_output_conv_0"
        residual = conv3x3(image.shape[-1], self.dtype, name)(decoded[0])
        return image + residual.astype(image.dtype)


def _stage(
    net: Maxim,
    stage: int,
    images: list[jax.Array],
    sams: list[jax.Array] | None = None,
    previous: list[jax.Array] | None = None,
) -> tuple[list[jax.Array], list[jax.Array]]:
    """One U-Net, from the image at each resolution to the encoders' and the decoders' maps.

    `sams` and `previous` come from the previous stage; the first stage has none.
    """
    levels, down = net.levels, range(net.depth)
    up = down[::-1]
    prefix = f"stage_{stage}_"

    def signal(maps: dict[int, jax.Array], i: int) -> jax.Array:
        """The maps of every resolution j, resized to resolution i."""
        # Flax numbers their names in order of call, through all stages.
        features = levels[i].features
        resized = [UpSampleRatio(features, j - i, net.dtype)(x) for j, x in maps.items()]
        return jnp.concatenate(resized, axis=-1)

    inputs = []
    for i in down:
        conv = conv3x3(levels[i].features, net.dtype, f"{prefix}input_conv_{i}")
        inputs.append(conv(images[i]))
    if sams:
        for i in down:
            fuse = CrossGatingBlock(levels[i], name=f"{prefix}input_fuse_sam_{i}")
            inputs[i], _ = fuse(inputs[i], sams[i])

    encoded, x = {}, inputs[0]
    for i in down:
        encoder = UNetEncoderBlock(levels[i], name=f"{prefix}encoder_block_{i}")
        x = jnp.concatenate([x, inputs[i]], axis=-1)
        encoded[i], x = encoder(x, previous[i] if previous else None)
    for i in range(net.num_bottleneck_blocks):
        x = BottleneckBlock(levels[-1], name=f"{prefix}global_block_{i}")(x)

    gated, y = {}, x
    for i in up:
        gate = CrossGatingBlock(levels[i], upsample_y=True, name=f"{prefix}cross_gating_block_{i}")
        gated[i], y = gate(signal(encoded, i), y)

    decoded = {}
    for i in up:
        decoder = UNetDecoderBlock(levels[i], name=f"{prefix}decoder_block_{i}")
        decoded[i] = x = decoder(x, signal(gated, i))
    return [encoded[i] for i in down], [decoded[i] for i in down]
