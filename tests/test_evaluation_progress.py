"""Bars of long passes: on a terminal, after a while; nothing else on the screen changes."""

import io
import sys

import pytest
import torch
from tqdm import tqdm

from legolas_metric import EmbeddingBank, evaluate_ranking, evaluate_verification
from legolas_metric.evaluation import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("threads", [1, 2])
def test_long_passes_are_seen_on_a_terminal_alone(monkeypatch, threads):
    y = torch.arange(300) // 3
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    calls = {
        "verify": lambda: evaluate_verification(x, y, exact=False),
        "pairs by identity": lambda: evaluate_verification(x, y).intervals(resamples=2),
        "rank": lambda: evaluate_ranking(x, y),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for what, call in calls.items():
            seen = []
            for screen, delay in ((Terminal(), 0.0), (Terminal(), 60.0), (io.StringIO(), 0.0)):
                monkeypatch.setattr(sys, "stderr", screen)
                monkeypatch.setattr(progress, "_DELAY", delay)
                call()
                seen.append(screen.getvalue())
            assert f"{what}:" in seen[0]
            assert seen[1:] == ["", ""]
    finally:
        torch.set_num_threads(before)


def test_a_bar_that_is_not_shown_waits_for_nobody(monkeypatch):
    """tqdm's lock is shared with forked processes: one that is killed while it holds it stops all others for ever."""

    def refuse(*_):
        raise AssertionError("taken")

    monkeypatch.setattr(tqdm, "get_lock", refuse)
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    bank = EmbeddingBank.encode(torch.nn.Identity(), x, labels=torch.arange(30) // 3, progress=False)
    evaluate_ranking(bank.embeddings, bank.labels)
