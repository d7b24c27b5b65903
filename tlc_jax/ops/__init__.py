"""The mathematics of TLC on plain arrays: jax and numpy only, NHWC, any batch."""

from tlc_jax.ops.attention import attention_of_tiles, transposed_attention
from tlc_jax.ops.box import (
    local_mean,
    local_moments,
    local_sum,
    spread,
    window_mean,
    window_moments,
    window_sum,
)
from tlc_jax.ops.conv import depthwise_conv, pointwise, pointwise_padded
from tlc_jax.ops.fusion import stored
from tlc_jax.ops.parallax import parallax_attention
from tlc_jax.ops.resize import resize_bilinear
from tlc_jax.ops.shape import pad_to_multiple, pixel_shuffle, pixel_unshuffle, reflection
from tlc_jax.ops.spatial import spatial_attention
from tlc_jax.ops.windows import (
    Window,
    average_windows,
    axis_cells,
    axis_starts,
    axis_tiles,
    clip_window,
    extract_windows,
    site_window,
    tile_size,
)
from tlc_jax.ops.within import (
    tiles_within,
    window_mean_within,
    window_moments_within,
    zero_beyond,
)

__all__ = [
    "Window",
    "attention_of_tiles",
    "average_windows",
    "axis_cells",
    "axis_starts",
    "axis_tiles",
    "clip_window",
    "depthwise_conv",
    "extract_windows",
    "local_mean",
    "local_moments",
    "local_sum",
    "pad_to_multiple",
    "parallax_attention",
    "pixel_shuffle",
    "pixel_unshuffle",
    "pointwise",
    "pointwise_padded",
    "reflection",
    "resize_bilinear",
    "site_window",
    "spatial_attention",
    "spread",
    "stored",
    "tile_size",
    "tiles_within",
    "transposed_attention",
    "window_mean",
    "window_mean_within",
    "window_moments",
    "window_moments_within",
    "window_sum",
    "zero_beyond",
]
