"""VidRD's UNet in plain torch on 5-D tensors, `[B, C, F, H, W]`, as its paper (arXiv 2309.03549) and released code
describe it: an oracle of the tests. Its state dict has the keys of the released checkpoint.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class FrameConv(nn.Conv2d):
    """A convolution of every frame on its own."""

    def forward(self, x: Tensor) -> Tensor:
        stride, padding = (1, *self.stride), (0, *self.padding)
        return functional.conv3d(x, self.weight[:, :, None], self.bias, stride, padding)


class TimeConvs(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.convs = nn.ModuleList()
        for _ in range(4):
            conv = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))
            self.convs.extend([nn.GroupNorm(32, width), nn.SiLU(), nn.Dropout(0.1), conv])

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.convs:
            y = layer(y)
        return x + y if x.shape[2] > 1 else x


class Resnet(nn.Module):
    def __init__(self, width_in: int, width: int, embedding: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(32, width_in)
        self.conv1 = FrameConv(width_in, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, width)
        self.norm2 = nn.GroupNorm(32, width)
        self.conv2 = FrameConv(width, width, 3, padding=1)
        self.conv_shortcut = FrameConv(width_in, width, 1) if width_in != width else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.conv1(functional.silu(self.norm1(x)))
        y = y + self.time_emb_proj(functional.silu(embedding))[:, :, None, None, None]
        return self.conv_shortcut(x) + self.conv2(functional.silu(self.norm2(y)))


class Attention(nn.Module):
    """From the last but one dimension of x to that of the context."""

    def __init__(self, width: int, heads: int, context: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(0.0)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for layer, tokens in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
        return self.to_out[0]((weights @ v).transpose(-3, -2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        gate = nn.Module()
        gate.proj = nn.Linear(width, 8 * width)
        self.net = nn.ModuleList([gate, nn.Dropout(0.0), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.net[0].proj(x).chunk(2, dim=-1)
        return self.net[2](value * functional.gelu(gate))


class Block(nn.Module):
    """`[B, F, H * W, C]`; `text` is `[B, L, D]`."""

    def __init__(self, width: int, heads: int, text: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.temp_norm = (nn.LayerNorm(width) for _ in range(4))
        self.attn1 = Attention(width, heads, width)
        self.attn2 = Attention(width, heads, text)
        self.temp_attn = Attention(width, heads, width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        n = self.norm1(x)
        x = x + self.attn1(n, n)
        x = x + self.attn2(self.norm2(x), text[:, None])
        if x.shape[1] > 1:
            x = x + positions(x.shape[1], x.shape[-1])[:, None]
            n = self.temp_norm(x).transpose(1, 2)
            x = x + self.temp_attn(n, n).transpose(1, 2)
        return x + self.ff(self.norm3(x))


def positions(frames: int, width: int) -> Tensor:
    """`[F, C]`: sines at even places and cosines at odd ones."""

    def at(frame: int, place: int) -> float:
        angle = frame / 10000 ** ((place - place % 2) / width)
        return math.cos(angle) if place % 2 else math.sin(angle)

    return torch.tensor([[at(frame, place) for place in range(width)] for frame in range(frames)])


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, text: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([Block(width, heads, text)])

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        frames = [self.norm(frame) for frame in x.unbind(2)]
        y = self.proj_in(torch.stack(frames, dim=1).flatten(3).transpose(2, 3))
        y = self.proj_out(self.transformer_blocks[0](y, text))
        return x + y.transpose(2, 3).unflatten(3, x.shape[3:]).transpose(1, 2)


class Level(nn.Module):
    """Residual blocks of one size, each with its layers along time, a transformer behind each or between them."""

    def __init__(self, widths: list[tuple[int, int]], heads: int, text: int, embedding: int, transformers: int):
        super().__init__()
        width = widths[-1][1]
        self.resnets = nn.ModuleList(Resnet(*pair, embedding) for pair in widths)
        self.temp_convs = nn.ModuleList(TimeConvs(width) for _ in widths)
        self.attentions = nn.ModuleList(Transformer(width, heads, text) for _ in range(transformers))

    def step(self, i: int, x: Tensor, embedding: Tensor, text: Tensor) -> Tensor:
        x = self.temp_convs[i](self.resnets[i](x, embedding))
        return self.attentions[i](x, text) if i < len(self.attentions) else x


class VidRD(nn.Module):
    """Two levels, the lower one without transformers, one residual block each: Stable Diffusion 2.1's shape but for
    its size, with VidRD's layers."""

    def __init__(self, widths=(64, 128), heads=(1, 2), text=32):
        super().__init__()
        fine, coarse = widths
        embedding = 4 * fine
        common = {"text": text, "embedding": embedding}
        self.width = fine
        self.conv_in = FrameConv(4, fine, 3, padding=1)
        self.time_embedding = nn.Module()
        self.time_embedding.linear_1 = nn.Linear(fine, embedding)
        self.time_embedding.linear_2 = nn.Linear(embedding, embedding)
        down = [
            Level([(fine, fine)], heads[0], **common, transformers=1),
            Level([(fine, coarse)], heads[1], **common, transformers=0),
        ]
        up = [
            Level([(2 * coarse, coarse), (coarse + fine, coarse)], heads[1], **common, transformers=0),
            Level([(coarse + fine, fine), (2 * fine, fine)], heads[0], **common, transformers=2),
        ]
        down[0].downsamplers, up[0].upsamplers = nn.ModuleList([nn.Module()]), nn.ModuleList([nn.Module()])
        down[0].downsamplers[0].conv = FrameConv(fine, fine, 3, stride=2, padding=1)
        up[0].upsamplers[0].conv = FrameConv(coarse, coarse, 3, padding=1)
        self.down_blocks, self.up_blocks = nn.ModuleList(down), nn.ModuleList(up)
        self.mid_block = Level([(coarse, coarse), (coarse, coarse)], heads[1], **common, transformers=1)
        self.conv_norm_out = nn.GroupNorm(32, fine)
        self.conv_out = FrameConv(fine, 4, 3, padding=1)

    def forward(self, x: Tensor, t: float, text: Tensor) -> Tensor:
        angles = t * torch.tensor([10000 ** (-2 * i / self.width) for i in range(self.width // 2)])
        embedding = self.time_embedding.linear_1(torch.cat([angles.cos(), angles.sin()])[None])
        inputs = self.time_embedding.linear_2(functional.silu(embedding)), text

        skips = [self.conv_in(x)]
        skips.append(self.down_blocks[0].step(0, skips[-1], *inputs))
        skips.append(self.down_blocks[0].downsamplers[0].conv(skips[-1]))
        skips.append(self.down_blocks[1].step(0, skips[-1], *inputs))
        x = self.mid_block.step(0, skips[-1], *inputs)
        x = self.mid_block.step(1, x, *inputs)
        for level in self.up_blocks:
            for i in range(2):
                x = level.step(i, torch.cat([x, skips.pop()], dim=1), *inputs)
            if level is self.up_blocks[0]:
                x = level.upsamplers[0].conv(x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4))
        return self.conv_out(functional.silu(self.conv_norm_out(x)))
