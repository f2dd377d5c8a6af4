"""The Qwen3-MoE architecture, as small as it can be written, for training.

Weights are kept in the shapes that train fast and are renamed to the usual names on
export.  Experts are computed all at once: at this size one wide product with a mask of
router weights is faster than sorting tokens by expert, and it is the same function.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass
class Config:
    vocab_size: int = 5120
    hidden: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 32
    experts: int = 32
    top_k: int = 4
    expert_hidden: int = 48
    context: int = 1024
    rope_theta: float = 10000.0
    eps: float = 1e-6
    dropout: float = 0.15


def rms_norm(x, weight, eps):
    scaled = x.float()
    scaled = scaled * torch.rsqrt(scaled.pow(2).mean(-1, keepdim=True) + eps)
    return (scaled * weight).to(x.dtype)


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rope_tables(config, device):
    half = torch.arange(0, config.head_dim, 2, device=device).float() / config.head_dim
    angles = torch.outer(torch.arange(config.context, device=device).float(), config.rope_theta**-half)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def weight(*shape, std=0.02):
    return nn.Parameter(torch.randn(*shape) * std)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q = weight(c.heads * c.head_dim, c.hidden)
        self.k = weight(c.kv_heads * c.head_dim, c.hidden)
        self.v = weight(c.kv_heads * c.head_dim, c.hidden)
        self.o = weight(c.hidden, c.heads * c.head_dim, std=0.02 / (2 * c.layers) ** 0.5)
        self.q_norm = nn.Parameter(torch.ones(c.head_dim))
        self.k_norm = nn.Parameter(torch.ones(c.head_dim))

    def forward(self, x, cos, sin):
        c, (batch, length, _) = self.c, x.shape

        def split(y, heads):
            return y.view(batch, length, heads, c.head_dim).transpose(1, 2)

        q = rms_norm(split(F.linear(x, self.q), c.heads), self.q_norm, c.eps)
        k = rms_norm(split(F.linear(x, self.k), c.kv_heads), self.k_norm, c.eps)
        v = split(F.linear(x, self.v), c.kv_heads)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return F.linear(y.transpose(1, 2).reshape(batch, length, -1), self.o)


class Experts(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.router = weight(c.experts, c.hidden)
        self.gate = weight(c.experts * c.expert_hidden, c.hidden)
        self.up = weight(c.experts * c.expert_hidden, c.hidden)
        self.down = weight(c.hidden, c.experts * c.expert_hidden, std=0.02 / (2 * c.layers) ** 0.5)

    def forward(self, x, kinds):
        """The output, and the load-balancing loss.

        The loss is taken over all rows of a kind of text at once (kinds [kinds, rows] averages them):
        experts may specialise within a kind, and none is idle in any.
        """
        c = self.c
        with torch.autocast(x.device.type, enabled=False):
            shares = F.linear(x.float(), self.router.float()).softmax(-1)
        top, chosen = shares.topk(c.top_k, dim=-1)
        top = top / top.sum(-1, keepdim=True)
        mask = torch.zeros_like(shares).scatter(-1, chosen, top)
        hidden = F.silu(F.linear(x, self.gate)) * F.linear(x, self.up)
        hidden = hidden.unflatten(-1, (c.experts, c.expert_hidden)) * mask.unsqueeze(-1).to(hidden.dtype)
        used = ((mask > 0).float() / c.top_k).mean(1)
        balance = c.experts * ((kinds @ used) * (kinds @ shares.mean(1))).sum(-1).mean()
        return F.linear(hidden.flatten(-2), self.down), balance


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.attention_norm = nn.Parameter(torch.ones(c.hidden))
        self.attention = Attention(c)
        self.experts_norm = nn.Parameter(torch.ones(c.hidden))
        self.experts = Experts(c)

    def forward(self, x, cos, sin, kinds):
        c = self.c
        y = self.attention(rms_norm(x, self.attention_norm, c.eps), cos, sin)
        x = x + F.dropout(y, c.dropout, self.training)
        y, balance = self.experts(rms_norm(x, self.experts_norm, c.eps), kinds)
        return x + F.dropout(y, c.dropout, self.training), balance


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embedding = weight(c.vocab_size, c.hidden)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.norm = nn.Parameter(torch.ones(c.hidden))

    def forward(self, tokens, cos, sin, kinds):
        """Logits and the mean load-balancing loss of the layers (1 is perfectly even)."""
        x = F.dropout(F.embedding(tokens, self.embedding), self.c.dropout, self.training)
        balances = []
        for layer in self.layers:
            x, balance = layer(x, cos, sin, kinds)
            balances.append(balance)
        x = rms_norm(x, self.norm, self.c.eps)
        return F.linear(x, self.embedding), torch.stack(balances).mean()


def parameters(config):
    """Parameters in all, and those that one token uses."""
    model = Model(config)
    total = sum(p.numel() for p in model.parameters())
    expert = 3 * config.hidden * config.expert_hidden
    return total, total - config.layers * (config.experts - config.top_k) * expert
