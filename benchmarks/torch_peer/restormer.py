"""Restormer (Zamir et al., CVPR 2022, arXiv 2111.09881), with the published tensors' names."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .nafnet import LayerNorm2d


class BiasFreeNorm2d(nn.Module):
    """Layer norm that divides by the standard deviation but keeps the mean."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        variance = (y - y.mean(1, keepdim=True)).square().mean(1, keepdim=True)
        y = y * torch.rsqrt(variance + self.eps)
        return y.to(x.dtype) * self.weight[:, None, None]


class ChannelAttention(nn.Module):
    """Attention of a head's channels to each other; q, k and v are (B, heads, c, H, W)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
        size = v.shape[-2:]
        q, k, v = (x.flatten(-2) for x in (q, k, v))
        # The norms and the softmax in float32, the products as the model runs: as autocast does.
        q, k = (F.normalize(x.float(), dim=-1).to(v.dtype) for x in (q, k))
        scores = (q @ k.transpose(-2, -1)).float() * temperature.float()
        return (scores.softmax(-1).to(v.dtype) @ v).unflatten(-1, size)


class Attention(nn.Module):
    """Multi-Dconv head transposed attention (section 3.1)."""

    def __init__(self, dim: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim, bias=bias)
        self.attend = ChannelAttention()
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv_dwconv(self.qkv(x)).unflatten(1, (3, self.heads, -1)).unbind(1)
        return self.project_out(self.attend(q, k, v, self.temperature).flatten(1, 2))


class FeedForward(nn.Module):
    """Gated-Dconv feed-forward network (section 3.2)."""

    def __init__(self, dim: int, expansion: float, bias: bool):
        super().__init__()
        hidden = int(dim * expansion)
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, x = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * x)


def named(name: str, module: nn.Module) -> nn.Sequential:
    """Nest a module under `name`, as in the names of the published tensors."""
    return nn.Sequential(OrderedDict([(name, module)]))


class TransformerBlock(nn.Module):
    """Attention, then the feed-forward network, each after a norm and around a skip."""

    def __init__(self, dim: int, heads: int, expansion: float, bias: bool, LayerNorm_type: str):
        super().__init__()
        norm = {"WithBias": LayerNorm2d, "BiasFree": BiasFreeNorm2d}[LayerNorm_type]
        self.norm1 = named("body", norm(dim, eps=1e-5))
        self.attn = Attention(dim, heads, bias)
        self.norm2 = named("body", norm(dim, eps=1e-5))
        self.ffn = FeedForward(dim, expansion, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


def down(c: int) -> nn.Sequential:
    """Half the size, twice the channels."""
    halve = nn.Conv2d(c, c // 2, 3, padding=1, bias=False)
    return named("body", nn.Sequential(halve, nn.PixelUnshuffle(2)))


def up(c: int) -> nn.Sequential:
    """Twice the size, half the channels."""
    double = nn.Conv2d(c, 2 * c, 3, padding=1, bias=False)
    return named("body", nn.Sequential(double, nn.PixelShuffle(2)))


class Restormer(nn.Module):
    """Restormer. Call with (N, inp_channels, H, W) in [0, 1], any size; returns out_channels."""

    multiple = 8

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: str = "WithBias",
        dual_pixel_task: bool = False,
    ):
        super().__init__()

        def blocks(c: int, level: int, count: int) -> nn.Sequential:
            settings = heads[level], ffn_expansion_factor, bias, LayerNorm_type
            return nn.Sequential(*(TransformerBlock(c, *settings) for _ in range(count)))

        self.patch_embed = named("proj", nn.Conv2d(inp_channels, dim, 3, padding=1, bias=False))
        self.encoder_level1 = blocks(dim, 0, num_blocks[0])
        self.down1_2 = down(dim)
        self.encoder_level2 = blocks(2 * dim, 1, num_blocks[1])
        self.down2_3 = down(2 * dim)
        self.encoder_level3 = blocks(4 * dim, 2, num_blocks[2])
        self.down3_4 = down(4 * dim)
        self.latent = blocks(8 * dim, 3, num_blocks[3])

        self.up4_3 = up(8 * dim)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = blocks(4 * dim, 2, num_blocks[2])
        self.up3_2 = up(4 * dim)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = blocks(2 * dim, 1, num_blocks[1])
        self.up2_1 = up(2 * dim)
        self.decoder_level1 = blocks(2 * dim, 0, num_blocks[0])
        self.refinement = blocks(2 * dim, 0, num_refinement_blocks)

        self.skip_conv = nn.Conv2d(dim, 2 * dim, 1, bias=bias) if dual_pixel_task else None
        self.output = nn.Conv2d(2 * dim, out_channels, 3, padding=1, bias=bias)

    def stages(self) -> list[tuple[nn.Module, int]]:
        """The stacks of blocks, each with the number of halvings before it."""
        return [
            *[(self.encoder_level1, 0), (self.encoder_level2, 1), (self.encoder_level3, 2)],
            (self.latent, 3),
            *[(self.decoder_level3, 2), (self.decoder_level2, 1), (self.decoder_level1, 0)],
            (self.refinement, 0),
        ]

    def forward(self, image: Tensor) -> Tensor:
        h, w = image.shape[-2:]
        image = F.pad(image, (0, -w % self.multiple, 0, -h % self.multiple))
        embedded = self.patch_embed(image)
        level1 = self.encoder_level1(embedded)
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        x = self.latent(self.down3_4(level3))

        x = self.reduce_chan_level3(torch.cat([self.up4_3(x), level3], dim=1))
        x = self.decoder_level3(x)
        x = self.reduce_chan_level2(torch.cat([self.up3_2(x), level2], dim=1))
        x = self.decoder_level2(x)
        x = self.decoder_level1(torch.cat([self.up2_1(x), level1], dim=1))
        x = self.refinement(x)

        if self.skip_conv is None:
            x = image + self.output(x)
        else:  # two views come in and one picture goes out
            x = self.output(x + self.skip_conv(embedded))
        return x[..., :h, :w]
