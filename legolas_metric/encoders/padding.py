"""Sequences of several lengths in one batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def pad_collate(sequences: Sequence[Tensor]) -> tuple[Tensor, Int64[Tensor, " b"]]:
    """A `collate_fn` for sequences [t_i, c]: filled up with zeros to the longest, and their lengths.

    The pair is what `BiLSTM` and `SequenceTransformer` take: `encoder(*pad_collate(batch))`.

    Args:
        sequences: [t_i, c] each.

    Raises:
        ValueError: an empty sequence, or channels that differ.

    Example:
        >>> import torch
        >>> from legolas_metric.encoders import pad_collate
        >>> padded, lengths = pad_collate([torch.ones(3, 2), torch.ones(1, 2)])
        >>> padded.shape, lengths.tolist()
        (torch.Size([2, 3, 2]), [3, 1])

    Source: ours.
    """
    rows = [torch.as_tensor(sequence) for sequence in sequences]
    shapes = {tuple(row.shape[1:]) for row in rows}
    if any(row.ndim != 2 for row in rows) or len(shapes) > 1:
        raise ValueError(
            f"sequences must be [t, c] with one c, got shapes {sorted({tuple(row.shape) for row in rows})}"
        )
    lengths = torch.tensor([len(row) for row in rows])
    if int(lengths.min()) == 0:
        raise ValueError(f"sequence {int(lengths.argmin())} of the batch is empty: leave it out")
    return pad_sequence(rows, batch_first=True), lengths


def valid_steps(x: Float[Tensor, "b t c"], lengths: Int64[Tensor, " b"] | None) -> Bool[Tensor, "b t"]:
    """Which steps are data, and not filling; all of them where no lengths are given.

    Raises:
        ValueError: lengths that are not in 1..t.
    """
    b, t, _ = x.shape
    if lengths is None:
        return torch.ones(b, t, dtype=torch.bool, device=x.device)
    if int(lengths.min()) < 1 or int(lengths.max()) > t:
        raise ValueError(f"lengths must lie in 1..{t}, got {int(lengths.min())}..{int(lengths.max())}")
    return torch.arange(t, device=x.device) < lengths.to(x.device)[:, None]
