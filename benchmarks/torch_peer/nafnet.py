"""NAFNet (Chen et al., ECCV 2022, arXiv 2204.04676), with the published tensors' names."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of NCHW, its statistics in float32."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y - y.mean(1, keepdim=True)
        # Not torch.var, which takes twice as long along this axis on a CPU.
        y = y * torch.rsqrt(y.square().mean(1, keepdim=True) + self.eps)
        return y.to(x.dtype) * self.weight[:, None, None] + self.bias[:, None, None]


class SimpleGate(nn.Module):
    """One half of the channels times the other."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return a * b


class NAFBlock(nn.Module):
    """Gated depthwise convolution with channel attention, then a gated feed-forward layer."""

    def __init__(self, c: int):
        super().__init__()
        self.norm1 = LayerNorm2d(c)
        self.conv1 = nn.Conv2d(c, 2 * c, 1)
        self.conv2 = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.gate = SimpleGate()
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1))
        self.conv3 = nn.Conv2d(c, c, 1)
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))

        self.norm2 = LayerNorm2d(c)
        self.conv4 = nn.Conv2d(c, 2 * c, 1)
        self.conv5 = nn.Conv2d(c, c, 1)
        self.gamma = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.beta * self.conv3(y * self.sca(y))
        y = self.gate(self.conv4(self.norm2(x)))
        return x + self.gamma * self.conv5(y)


class NAFNet(nn.Module):
    """NAFNet. Call with (N, C, H, W) RGB in [0, 1], any size; returns the same shape."""

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 32,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (1, 1, 1, 28),
        dec_blk_nums: Sequence[int] = (1, 1, 1, 1),
    ):
        super().__init__()

        def blocks(c: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(NAFBlock(c) for _ in range(count)))

        def up(c: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.PixelShuffle(2))

        depth = len(enc_blk_nums)
        down_widths = [width * 2**level for level in range(depth)]
        up_widths = down_widths[::-1]
        self.multiple = 2**depth
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.encoders = nn.ModuleList(map(blocks, down_widths, enc_blk_nums))
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in down_widths)
        self.middle_blks = blocks(width * 2**depth, middle_blk_num)
        self.ups = nn.ModuleList(up(2 * c) for c in up_widths)
        self.decoders = nn.ModuleList(map(blocks, up_widths, dec_blk_nums))
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)

    def stages(self) -> list[tuple[nn.Module, int]]:
        """The stacks of blocks, each with the number of halvings before it."""
        levels = range(len(self.encoders))
        return [
            *zip(self.encoders, levels, strict=True),
            (self.middle_blks, len(levels)),
            *zip(self.decoders, reversed(levels), strict=True),
        ]

    def forward(self, image: Tensor) -> Tensor:
        h, w = image.shape[-2:]
        image = F.pad(image, (0, -w % self.multiple, 0, -h % self.multiple))
        x = self.intro(image)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(up(x) + skips.pop())
        return (image + self.ending(x))[..., :h, :w]
