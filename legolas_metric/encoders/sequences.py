"""Encoders of sequences of any length: a recurrent one with attention pooling, and a transformer."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from legolas_metric.checks import check_choice
from legolas_metric.encoders.padding import valid_steps

Pooling = Literal["mean", "token"]


class AttentionPooling(nn.Module):
    """The mean over time that is weighted by a learnt score of each step.

    z = sum_t a_t h_t,  a = softmax over the valid steps of v . tanh(W h_t)

    Args:
        dim: width of h.
        hidden: width of the scorer.

    Example:
        >>> import torch
        >>> from legolas_metric.encoders import AttentionPooling
        >>> pooled, weights = AttentionPooling(4)(torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool))
        >>> pooled.shape, weights.shape
        (torch.Size([2, 4]), torch.Size([2, 5]))

    Source: Bahdanau et al. (2015), arXiv:1409.0473; for pooling, Yang et al. (2016), Hierarchical Attention Networks.
    """

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))

    def forward(
        self, states: Float[Tensor, "b t d"], valid: Bool[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b t"]]:
        """Pool, and the weights by which it was done."""
        weights = self.score(states)[:, :, 0].masked_fill(~valid, -torch.inf).softmax(1)
        return (weights[:, :, None] * states).sum(1), weights


def attention_entropy(weights: Float[Tensor, "b t"], lengths: Int64[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
    """Entropy of attention weights over that of uniform ones: 1 attends to nothing in particular, 0 to one step.

    H = -sum_t a_t log a_t / log(length); a sequence of one step has no choice and counts as 0

    Args:
        weights: [b, t], of each sequence summing to 1.
        lengths: [b] valid steps (default: t).

    Example:
        >>> import torch
        >>> from legolas_metric.encoders import attention_entropy
        >>> attention_entropy(torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([2, 3])).tolist()
        [1.0, 0.0]

    Source: Shannon (1948), A Mathematical Theory of Communication; as a share of the most there can be, ours.
    """
    b, t = weights.shape
    steps = torch.full((b,), t, device=weights.device) if lengths is None else lengths.to(weights.device)
    entropy = torch.special.entr(weights).sum(1)
    return entropy / steps.clamp_min(2).log()


class BiLSTM(nn.Module):
    """A bidirectional LSTM with attention pooling; maps [b, t, c] to [b, 2 hidden], not normalised.

    What fills up a batch changes nothing: it is neither read nor attended to.

    Args:
        in_channels: c.
        hidden: width of one direction.
        layers: LSTM layers.
        dropout: between layers, and of the states that are pooled.

    Example:
        >>> import torch
        >>> from legolas_metric.encoders import BiLSTM, attention_entropy, pad_collate
        >>> encoder, batch = BiLSTM(3, hidden=8), pad_collate([torch.randn(9, 3), torch.randn(4, 3)])
        >>> encoder(*batch).shape
        torch.Size([2, 16])
        >>> bool((attention_entropy(encoder.attention(*batch), batch[1]) <= 1 + 1e-6).all())
        True

    Source: Graves and Schmidhuber (2005), Framewise phoneme classification with bidirectional LSTM.
    """

    def __init__(self, in_channels: int, *, hidden: int = 64, layers: int = 1, dropout: float | int = 0.0) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(in_channels, hidden, layers, batch_first=True, bidirectional=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.pool = AttentionPooling(2 * hidden)

    def forward(
        self, sequences: Float[Tensor, "b t c"], lengths: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b d"]:
        """Embed a batch of sequences."""
        return self._pooled(sequences, lengths)[0]

    def attention(
        self, sequences: Float[Tensor, "b t c"], lengths: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b t"]:
        """How much each step counts; 0 beyond a sequence's length."""
        return self._pooled(sequences, lengths)[1]

    def _pooled(
        self, sequences: Float[Tensor, "b t c"], lengths: Int64[Tensor, " b"] | None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b t"]]:
        valid = valid_steps(sequences, lengths)
        packed = pack_padded_sequence(sequences, valid.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        states = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=sequences.shape[1])[0]
        return self.pool(self.dropout(states), valid)


class SequenceTransformer(nn.Module):
    """A transformer encoder with padding masks; maps [b, t, c] to [b, dim], not normalised.

    Positions are sinusoids, so that t is free. "mean" averages the valid steps, "token" reads a learnt first step.

    Args:
        in_channels: c.
        dim: width, a multiple of `heads`.
        heads, layers: of the transformer.
        pooling: "mean" or "token".
        dropout: of the transformer.

    Raises:
        ValueError: a width that the heads don't divide, or that is odd.

    Example:
        >>> import torch
        >>> from legolas_metric.encoders import SequenceTransformer, pad_collate
        >>> encoder = SequenceTransformer(3, dim=16, heads=2, layers=1)
        >>> encoder(*pad_collate([torch.randn(9, 3), torch.randn(4, 3)])).shape
        torch.Size([2, 16])

    Source: Vaswani et al. (2017), Attention Is All You Need, arXiv:1706.03762; pre-norm, Xiong et al. (2020).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        dim: int = 64,
        heads: int = 4,
        layers: int = 2,
        pooling: Pooling = "mean",
        dropout: float | int = 0.1,
    ) -> None:
        super().__init__()
        check_choice("pooling", pooling, get_args(Pooling))
        if dim % heads or dim % 2:
            raise ValueError(f"dim must be even and a multiple of heads, got dim={dim}, heads={heads}")
        self.pooling: Pooling = pooling
        self.project = nn.Linear(in_channels, dim)
        self.token = nn.Parameter(0.02 * torch.randn(dim))
        layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim, dropout, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(dim), enable_nested_tensor=False)

    def forward(
        self, sequences: Float[Tensor, "b t c"], lengths: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b d"]:
        """Embed a batch of sequences."""
        valid = valid_steps(sequences, lengths)
        x = self.project(sequences)
        x = x + _sinusoids(x.shape[1], x.shape[2]).to(x)
        if self.pooling == "token":
            x = torch.cat([self.token.expand(len(x), 1, -1), x], 1)
            valid = torch.cat([valid.new_ones(len(x), 1), valid], 1)
        states = self.body(x, src_key_padding_mask=~valid)
        if self.pooling == "token":
            return states[:, 0]
        shown = valid[:, :, None]
        return states.masked_fill(~shown, 0.0).sum(1) / shown.sum(1)


def _sinusoids(t: int, dim: int) -> Float[Tensor, "t d"]:
    rate = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    angle = torch.arange(t)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
