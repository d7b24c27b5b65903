"""The mathematics of TLC on plain arrays: jax, numpy and chex only, NHWC, any batch."""

from tlc_jax.ops.attention import transposed_attention
from tlc_jax.ops.box import (
    local_mean,
    local_moments,
    local_sum,
    spread,
    window_mean,
    window_moments,
    window_sum,
)
from tlc_jax.ops.conv import depthwise_conv, pointwise
from tlc_jax.ops.parallax import parallax_attention
from tlc_jax.ops.shape import (
    pad_to_multiple,
    pixel_shuffle,
    pixel_unshuffle,
    resize_bilinear,
)
from tlc_jax.ops.spatial import spatial_attention
from tlc_jax.ops.windows import Window, average_windows, extract_windows, site_window

__all__ = [
    "Window", "average_windows", "depthwise_conv", "extract_windows", "local_mean",
    "local_moments", "local_sum", "pad_to_multiple", "parallax_attention", "pixel_shuffle",
    "pixel_unshuffle", "pointwise", "resize_bilinear", "site_window", "spatial_attention",
    "spread", "transposed_attention", "window_mean", "window_moments", "window_sum",
]  # fmt: skip
