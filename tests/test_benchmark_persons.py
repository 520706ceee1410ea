"""What the arena counts by person, and the mistakes that encoders share, against counting by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_benchmark_recipes import trial

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


def test_shares_by_person_against_counting_by_hand():
    from benchmarks.recipes.persons import by_person, error_rates
    from legolas_metric import ScoreNorm

    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 6 + [1] * 6 + [2] * 4 + [3] * 2)
    sessions = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6])  # the last person has one only
    rows = torch.randn(4, 3, generator=generator)[labels] + torch.randn(18, 3, generator=generator)
    cohort = torch.nn.functional.normalize(torch.randn(30, 3, generator=generator))
    unit = torch.nn.functional.normalize(rows)

    def normed(scores: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        left, right = ((side @ cohort.T).sort(descending=True).values[:, :10] for side in (x, y))
        right_mean, right_std = right.mean(1), right.std(1, correction=0)
        return (
            (scores - left.mean(1, keepdim=True)) / left.std(1, correction=0, keepdim=True)
            + (scores - right_mean) / right_std
        ) / 2

    shares = by_person(rows, labels, {"s": sessions}, ScoreNorm(cohort, top=10))
    hits: dict[str, dict[int, list[bool]]] = {}

    def count(how: str, person: int, hit: object) -> None:
        hits.setdefault(how, {}).setdefault(person, []).append(bool(hit))

    for i in range(16):
        person, others = int(labels[i]), [j for j in range(18) if j != i and sessions[j] != sessions[i]]
        y = unit[others]
        plain = unit[i] @ y.T
        count("s", person, labels[others[int(plain.argmax())]] == person)
        count("s, AS-norm", person, labels[others[int(normed(plain[None], unit[i : i + 1], y).argmax())]] == person)
        means = torch.stack([unit[[j for j in others if labels[j] == c]].sum(0) for c in range(4)])
        means = torch.nn.functional.normalize(means)
        probe = unit[sessions == sessions[i]].sum(0)
        count("s, templates", person, (unit[i] @ means.T).argmax() == person)
        scores = normed((unit[i] @ means.T)[None], unit[i : i + 1], means)
        count("s, templates, AS-norm", person, scores.argmax() == person)
        count("s, averaged probe and templates", person, (probe @ means.T).argmax() == person)
    assert shares == {
        how: {str(person): pytest.approx(np.mean(own)) for person, own in people.items()}
        for how, people in hits.items()
    }
    assert len({tuple(own.values()) for own in shares.values()}) > 2
    rates = error_rates(rows, labels, sessions, ScoreNorm(cohort, top=10))
    assert 0 < rates["eer"] < 0.5
    assert 0 < rates["eer_as_norm"] < 0.5
    assert rates["eer"] != rates["eer_as_norm"]


def test_persons_count_once_however_often_they_were_judged():
    from benchmarks.recipes.table import PERSONS, by_person, interval, persons_table

    def line(recipe: str, seed: int, values: dict[str, float]) -> dict:
        told = trial(recipe, seed=seed).plain() | {"rank1": 0.5, "map_at_r": 0.1, "eer": 0.2, "eer_as_norm": 0.1}
        return told | {"persons": dict.fromkeys(PERSONS, values)}

    lines = [line("PK + SupCon", 0, {"1": 0.2, "2": 0.6}), line("PK + SupCon", 1, {"1": 0.4, "3": 1.0})]
    assert by_person(lines, "other day") == pytest.approx({"1": 0.3, "2": 0.6, "3": 1.0})
    low, high = interval([0.0, 1.0] * 50)
    assert 0.4 - 0.01 < low < 0.42 < 0.58 < high < 0.6 + 0.01  # 1.96 * 0.05 on each side
    better = [line("near + SupCon", 0, {"1": 0.5, "2": 0.8, "3": 1.0})]
    shown = persons_table([*lines, *better]).splitlines()
    assert "| +0.133 [+0.000, +0.200] |" in next(row for row in shown if "near" in row)
    assert shown[2].endswith("| 0.200 | 0.100 | 3 | 2 |") or shown[3].endswith("| 0.200 | 0.100 | 3 | 2 |")


def test_mistakes_that_all_encoders_share():
    from benchmarks.recipes.ceiling import shared_mistakes

    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(12) // 3
    members = [torch.nn.functional.normalize(torch.randn(12, 2, generator=generator)) for _ in range(3)]
    nearest = []
    for rows in members:
        own = []
        for i in range(12):
            others = [j for j in range(12) if j != i]
            own.append(int(labels[max(others, key=lambda j: float(rows[i] @ rows[j]))]))
        nearest.append(own)
    wrong = [[own[i] != int(labels[i]) for own in nearest] for i in range(12)]
    alike = [len({own[i] for own in nearest}) == 1 for i in range(12)]
    found = shared_mistakes(members, labels)
    assert found == pytest.approx(
        {
            "missed_by_all": sum(map(all, wrong)) / 12,
            "same_mistake": sum(all(w) and a for w, a in zip(wrong, alike)) / 12,
            "missed_by_one": sum(map(any, wrong)) / 12,
        }
    )
    assert 0 < found["same_mistake"] < found["missed_by_all"] < found["missed_by_one"]
