"""The curve over enrolled recordings, and verification by a scorer, against plain loops."""

import numpy as np
import pytest
import torch
from test_decisions_backends import people, unit

from legolas_metric import (
    PLDA,
    ScoreNorm,
    diagnose,
    evaluate_ranking,
    evaluate_verification,
    template_curve,
    verify_by,
)


def test_the_curve_over_enrolled_recordings_equals_a_plain_loop():
    x, y = people(12, per_person=5, noise=1.0)
    x, y = x[:-3], y[:-3]  # the last person has two rows
    groups = torch.arange(len(y)) % 3
    for how in ("mean", "max", "score"):
        curve = template_curve(x, y, groups=groups, counts=(1, 3), how=how, repeats=2, seed=4)
        generator, hits, gains = torch.Generator().manual_seed(4), {1: [], 3: []}, 0
        u = unit(x)
        for _ in range(2):
            drawn = []
            for one in range(12):
                rows = (y == one).nonzero().flatten()
                rows = rows[torch.randperm(len(rows), generator=generator)].tolist()
                drawn.append((rows[0], [i for i in rows[1:] if groups[i] != groups[rows[0]]]))
            for count, found in hits.items():
                for one, (probe, _) in enumerate(drawn):
                    scores = []
                    for _, enrolled in drawn:
                        kept = u[enrolled[:count]]
                        mean = kept.sum(0) / np.linalg.norm(kept.sum(0))
                        each = kept @ u[probe]
                        scores.append({"mean": mean @ u[probe], "max": each.max(), "score": each.mean()}[how])
                    found.append(np.argmax(scores) == one)
        for count, found in hits.items():
            assert curve.rank1[count] == pytest.approx(np.mean(found))
        gains = np.mean(hits[3]) - np.mean(hits[1])
        assert curve.gain[3].value == pytest.approx(gains)
        assert curve.gain[1].value == 0
        assert (curve.people, curve.left_out) == (12, 0)
        assert curve.single == {1: 12, 3: 1}
    alone = torch.cat([y, torch.tensor([50])])
    curve = template_curve(torch.cat([x, x[:1]]), alone, repeats=1)
    assert (curve.people, curve.left_out) == (12, 1)
    with pytest.raises(ValueError, match="0 people have a row to enrol beside their probe"):
        template_curve(x, y, groups=y)


class Cosine:
    def transform(self, rows, ids=None):
        return rows.double()

    def compare(self, x, y):
        return x @ y.T

    def check(self, labels, names):
        pass


def test_verification_by_a_scorer_is_that_of_its_scores():
    x, y = people(9)
    y = torch.where(torch.arange(len(y)) % 11 == 0, -1, y)
    groups = torch.arange(len(y)) % 2
    for sessions in (None, groups):
        plain = evaluate_verification(x, y, groups=sessions, fars=0.1)
        found = verify_by(Cosine(), x, y, groups=sessions, fars=0.1)
        assert (found.auc, found.eer) == pytest.approx((plain.auc, plain.eer), abs=1e-6)
        assert (found.genuine, found.impostor) == (plain.genuine, plain.impostor)
    low, high = found.intervals(resamples=50)["auc"] if found.pairs.identities >= 10 else (0, 1)
    assert low <= found.auc <= high


def test_plda_helps_where_one_person_varies_along_few_directions():
    x, y = people(60, noise=1.5)
    plda = PLDA().fit(x[:120], y[:120])
    assert verify_by(plda, x[120:], y[120:]).eer < evaluate_verification(x[120:], y[120:]).eer


def test_diagnose_names_outliers_and_says_what_as_norm_would_gain():
    x, y = people(60, per_person=6, noise=0.15, d=8)
    x[17], x[203] = -x[17], torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1])
    rules = {one.rule: one for one in diagnose(x, y, ids=torch.arange(len(y)) + 1000).findings}
    assert rules["outliers"].severity == "note"
    assert {"1017", "1203"} <= set(rules["outliers"].evidence.split("ids ")[1].split(", "))
    assert "3 of 360 rows" in rules["outliers"].sentence
    kept = torch.isin(torch.arange(len(y)), torch.tensor([17, 203]), invert=True)
    rules = {one.rule: one for one in diagnose(x[kept], y[kept]).findings}
    assert "1 of 358 rows" in rules["outliers"].sentence  # the farthest of 358 that are normal
    x, y = people(60, per_person=6, noise=0.7, d=8)
    found = {one.rule: one for one in diagnose(x, y).findings}["score normalisation"]
    half = y.unique()[torch.randperm(60, generator=torch.Generator().manual_seed(0))[:30]]
    inside = torch.isin(y, half)
    change = sum(
        float(
            (
                evaluate_ranking(x[one], y[one], scorer=ScoreNorm(x[~one])).per_query.rank_at(1)
                - evaluate_ranking(x[one], y[one]).per_query.rank_at(1)
            ).sum()
        )
        for one in (inside, ~inside)
    )
    assert f"{change / len(y):+.3f}" in found.sentence
    assert "gain nothing that is shown" in found.sentence
    assert "score normalisation" not in {one.rule for one in diagnose(x[:90], y[:90]).findings}  # 15 people


def test_diagnose_names_twins_and_says_what_templates_would_gain():
    x, y = people(60, per_person=6, noise=0.7, d=8)
    x[7], x[100] = x[200], 2 * x[50]
    found = diagnose(x, y, ids=torch.arange(len(y)) + 1000)
    rules = {one.rule: one for one in found.findings}
    assert rules["twins"].severity == "warning"
    assert "ids 1007 and 1200, 1050 and 1100" in rules["twins"].evidence
    assert "2 pairs of rows" in rules["twins"].sentence
    assert f"{found.verification.threshold_at_far[0.01]:.3f}" in rules["threshold"].sentence
    assert rules["templates"].share > 0.05
    assert found.findings[0].severity != "note"
    assert "twins" not in {one.rule for one in diagnose(x[210:], y[210:]).findings}
