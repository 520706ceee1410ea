"""The curve over enrolled recordings, and verification by a scorer, against plain loops."""

import numpy as np
import pytest
import torch
from test_decisions_backends import people, unit

from legolas_metric import (
    LDA,
    PLDA,
    KReciprocal,
    ScoreNorm,
    compare_steps,
    diagnose,
    evaluate_ranking,
    evaluate_verification,
    expand,
    template_curve,
    verify_by,
)
from legolas_metric.decisions.step_gains import signed


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
            assert curve.each[count].tolist() == pytest.approx(np.reshape(found, (2, 12)).mean(0).tolist())
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
        if sessions is None:
            continue
        for over in ("identities", "groups"):
            with pytest.warns(UserWarning, match="ten or more are needed"):
                drawn, theirs = (one.intervals(resamples=50, over=over) for one in (found, plain))
            assert drawn["eer"] == pytest.approx(theirs["eer"], abs=1e-6, nan_ok=True)


class Squared(Cosine):
    def compare(self, x, y):
        return (x @ y.T) ** 2


def test_the_eer_of_a_scorer_is_paired_with_the_plain_one():
    x, y = people(20)
    sessions = torch.arange(len(y)) % 2
    plain = evaluate_verification(x, y, groups=sessions)
    found = verify_by(Squared(), x, y, groups=sessions, baseline=plain)
    change = found.difference("eer", resamples=60)
    assert change.value == pytest.approx(found.eer - plain.eer)
    # By hand: the pairs of each drawn person, as often as they were drawn.
    u = torch.nn.functional.normalize(x, dim=1).double()
    same = y[:, None] == y[None]
    later = torch.ones_like(same).triu(1)
    genuine, impostor = same & later & (sessions[:, None] != sessions[None]), ~same & later
    sides = []  # of each scorer: the pairs at or above each level, impostors' and genuine ones'
    for scores in ((u @ u.T) ** 2, u @ u.T):
        levels = scores[genuine | impostor].unique()
        sides.append([(scores[kind][:, None] >= levels).double().T for kind in (impostor, genuine)])
    generator, drawn = torch.Generator().manual_seed(0), []
    for _ in range(60):
        count = torch.bincount(torch.randint(20, (20,), generator=generator), minlength=20)
        weight = (count[y][:, None] + count[y][None]).double()
        rates = []
        for above in sides:
            held = [side @ weight[kind] / weight[kind].sum() for side, kind in zip(above, (impostor, genuine))]
            far, frr = held[0], 1 - held[1]
            place = (far - frr).abs().argmin()
            rates.append(float(far[place] + frr[place]) / 2)
        drawn.append(rates[0] - rates[1])
    low, high = torch.tensor(drawn).quantile(torch.tensor([0.025, 0.975])).tolist()
    assert (change.low, change.high) == pytest.approx((low, high), abs=0.02)
    with pytest.raises(ValueError, match="the baseline is of other pairs"):
        verify_by(Squared(), x, y, baseline=plain).difference("eer")


def test_steps_stand_beside_the_plain_figure_with_their_intervals_and_seconds():
    x, y = people(60, noise=1.0)
    fitted, test, who = LDA(4).fit(x[:120], y[:120]), x[120:], y[120:]
    norm = ScoreNorm(x[:120], top=20, labels=y[:120])
    steps = {"LDA": fitted, "AS-norm": norm, "made": lambda rows: LDA(4).fit(x[:120], y[:120]), "re": KReciprocal}
    found = compare_steps(test, who, steps | {"expanded": expand}, resamples=50)
    plain = evaluate_ranking(test, who)
    assert found.ranking.rank[1] == plain.rank[1]
    by_hand = evaluate_ranking(fitted.transform(test), who, baseline=plain)
    assert found.steps["LDA"].rank_at_1 == by_hand.difference(resamples=50) == found.steps["made"].rank_at_1
    pairs = verify_by(norm, test, who, baseline=evaluate_verification(test, who))
    assert found.steps["AS-norm"].eer == pairs.difference("eer", resamples=50)
    assert found.steps["re"].map_at_r.value == pytest.approx(
        evaluate_ranking(test, who, scorer=KReciprocal(test)).map_at_r - plain.map_at_r
    )
    assert found.steps["expanded"].ranking.map_at_r == evaluate_ranking(expand(test), who).map_at_r
    assert all(one.seconds > 0 for one in found.steps.values())
    lines = found.table().markdown().splitlines()
    assert lines[2].startswith(f"| plain | {plain.rank[1]:.3f} | – |")
    assert lines[3].split(" | ")[2] == signed(by_hand.difference(resamples=50))
    with pytest.raises(ValueError, match="in the cohort"):
        compare_steps(x, y, {"AS-norm": norm})
    with pytest.warns(UserWarning, match="30 .0, 1, 2, 3, 4, ...."):
        compare_steps(x, y, {"LDA": fitted}, resamples=2)
    with pytest.raises(ValueError, match="steps is empty"):
        compare_steps(x, y, {})


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
