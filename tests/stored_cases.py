"""Small banks for what is kept on disk: uneven classes, unlabelled rows, ids out of order, ties and near-ties."""

from pathlib import Path

import torch

from legolas_metric import EmbeddingBank, StoredBank

METRICS = ("cosine", "dot", "euclidean")
STORAGES = ("float32", "float16", "bfloat16", "int8")


def small_bank(metric="cosine", n=150, d=12, seed=0) -> EmbeddingBank:
    """Rows of which some are equal, some of one direction, some near each other, and some unlabelled."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator)
    half, part = n // 2, n // 8
    rows[half : half + part] = rows[:part]
    rows[half + part : half + 2 * part] = 3 * rows[part : 2 * part]
    rows[half + 2 * part : half + 3 * part] = rows[2 * part : 3 * part] * 1.0001
    rows[half + 2 * part : half + 3 * part, 0] += 1e-4
    labels = torch.randint(-1, n // 8, (n,), generator=generator)
    groups = torch.randint(0, 3, (n,), generator=generator)
    ids = torch.randperm(3 * n, generator=generator)[:n]
    return EmbeddingBank(rows, labels, ids=ids, groups=groups, metric=metric, step=3)


def stored(folder: Path, bank: EmbeddingBank, storage, **options) -> StoredBank:
    return StoredBank.write(folder / f"{bank.metric}-{storage}", bank, storage=storage, **options)
