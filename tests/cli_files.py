"""Files of embeddings for the tests of the command line, good and bad."""

from pathlib import Path

import numpy as np
import torch


def embeddings(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ten classes of four rows around random centres."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(10), 4)
    centres = generator.normal(size=(10, 8))
    return (centres[labels] + noise * generator.normal(size=(40, 8))).astype(np.float32), labels


def write_files(folder: Path) -> None:
    """Checkpoints epoch-1, 2 and 10 (best: 2), one untrained, and files of no use."""
    for epoch, noise in ((1, 1.0), (2, 0.4), (10, 0.8)):
        x, y = embeddings(noise)
        np.savez(folder / f"epoch-{epoch}.npz", embeddings=x, labels=y, ids=np.arange(40) + 100, groups=y * 0)
    x, y = embeddings(0.6)
    np.savez(folder / "untrained.npz", embeddings=x, labels=y)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    np.save(folder / "short.npy", y[:7])
    np.save(folder / "first.npy", np.arange(100, 108))
    np.savez(folder / "even.npz", ids=np.arange(100, 140, 2))
    np.save(folder / "floats.npy", y / 2)
    np.savez(folder / "nan.npz", embeddings=np.where(x > 2, np.nan, x), labels=y)
    np.savez(folder / "zero.npz", embeddings=x * (y > 0)[:, None], labels=y)
    np.savez(folder / "one.npz", embeddings=x, labels=y * 0)
    np.savez(folder / "singles.npz", embeddings=x, labels=np.arange(40))
    np.savez(folder / "twice.npz", embeddings=x, labels=y, ids=y)
    np.savez(folder / "negative.npz", embeddings=x, labels=y, ids=np.arange(40) - 1)
    np.savez(folder / "fewer.npz", embeddings=x, labels=y, ids=np.arange(7))
    np.savez(folder / "scalar.npz", embeddings=x[0, 0], labels=y)
    np.savez(folder / "scalar_ids.npz", embeddings=x[0, 0], labels=y, ids=np.arange(40))
    np.savez(folder / "empty.npz", embeddings=x[:0], labels=y[:0])
    (folder / "cut.npz").write_bytes((folder / "epoch-1.npz").read_bytes()[:200])
    torch.save({"embeddings": torch.nn.Linear(2, 2)}, folder / "pickled.pt")
    (folder / "x.csv").write_text("1,2\n")
    (folder / "x.xls").write_text("1,2\n")
