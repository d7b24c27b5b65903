"""Test-time Local Converter (Chu et al., ECCV 2022, arXiv 2112.04491): statistics in windows."""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .nafnet import NAFNet
from .restormer import ChannelAttention, Restormer

Size = tuple[int, int]  # height, width
Network = TypeVar("Network", NAFNet, Restormer)


class LocalAvgPool2d(nn.Module):
    """Mean over the window around each position, moved inside near the edges."""

    def __init__(self, kernel: Size):
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        kh, kw = min(self.kernel[0], h), min(self.kernel[1], w)
        if (kh, kw) == (h, w):
            return F.adaptive_avg_pool2d(x, 1)
        total = F.pad(x.float().cumsum(-1).cumsum(-2), (1, 0, 1, 0))
        total = total[..., kh:, :] - total[..., :-kh, :]
        mean = (total[..., kw:] - total[..., :-kw]) / (kh * kw)
        top, left = (kh - 1) // 2, (kw - 1) // 2  # the rest of the k - 1 goes below and right
        return F.pad(mean.to(x.dtype), (left, kw - 1 - left, top, kh - 1 - top), mode="replicate")


class LocalChannelAttention(ChannelAttention):
    """Attention within each of the overlapping windows, averaged where they overlap."""

    def __init__(self, kernel: Size):
        super().__init__()
        self.kernel = kernel

    def forward(self, q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
        h, w = v.shape[-2:]
        kh, kw = self.kernel
        if kh >= h and kw >= w:
            return super().forward(q, k, v, temperature)
        total, count = torch.zeros_like(v), v.new_zeros(h, w)
        for top in window_starts(h, kh):
            for left in window_starts(w, kw):
                at = (..., slice(top, top + kh), slice(left, left + kw))
                total[at] += super().forward(q[at], k[at], v[at], temperature)
                count[at] += 1
        return total / count


def window_starts(length: int, window: int) -> list[int]:
    """Starts of the fewest windows, evenly spaced, that cover an axis."""
    if length <= window:
        return [0]
    step = math.ceil((length - window) / ((length - 1) // window) - 1e-8)
    return [*range(0, length - window, step), length - window]


LOCAL = {nn.AdaptiveAvgPool2d: LocalAvgPool2d, ChannelAttention: LocalChannelAttention}


def make_local(model: Network, train_size: Size = (256, 256)) -> Network:
    """Make a model local, in place. The window, in input pixels, is 1.5 x `train_size`.

    The window of a site is in proportion to its feature map for a training crop.
    """

    def along(train: int, level: int) -> int:
        padded = -(-train // model.multiple) * model.multiple
        return max(1, padded // 2**level * (train * 3 // 2) // train)

    for stage, level in model.stages():
        kernel = tuple(along(train, level) for train in train_size)
        for module in list(stage.modules()):
            for name, site in list(module.named_children()):
                if type(site) in LOCAL:
                    setattr(module, name, LOCAL[type(site)](kernel))
    return model
