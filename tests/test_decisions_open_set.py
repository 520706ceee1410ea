"""Watch lists, templates and answers, against cases worked by hand and plain loops."""

import math

import numpy as np
import pytest
import torch

from legolas_metric import (
    Calibration,
    DecisionRule,
    enrol,
    evaluate_open_set,
    evaluate_verification,
    identify,
    repeat_open_set,
    verification_from_scores,
)


def at(*degrees):
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], 1)


def test_an_open_set_worked_by_hand():
    # Enrolled: ann at 0 and 10 degrees, bob at 90. Probes: ann at 20 (10 from her nearer row), ann at 60 (30 from bob,
    # 50 from herself: rank 1 is bob), bob at 75 (15). Not enrolled: 40 (30 from ann) and 115 (25 from bob).
    rows = at(0, 10, 90, 20, 60, 75, 40, 115)
    names = ["ann", "ann", "bob", "ann", "ann", "bob", "cy", None]
    report = evaluate_open_set(rows, names, enrolled=[0, 1, 2], fpirs=(1.0, 0.5, 0.1))
    assert (report.mated, report.non_mated, report.enrolled, report.unanswerable) == (3, 2, 2, 0)
    # All accepted: two of three find their own person first. At 1/2 one impostor (25 degrees) may pass, what is nearer
    # than 30 degrees is accepted: both of those. At 0.1 none may: nearer than 25 degrees, both still.
    assert report.tpir_at_fpir == pytest.approx({1.0: 2 / 3, 0.5: 2 / 3, 0.1: 2 / 3})
    assert report.threshold_at_fpir[0.5] == pytest.approx(math.cos(math.radians(30)))
    assert report.threshold_at_fpir[0.1] == pytest.approx(math.cos(math.radians(25)))
    assert report.threshold_at_fpir[1.0] == -math.inf
    # The script that was wrong for years left out the rank: ann at 60 is no hit, though 50 degrees from herself.
    assert evaluate_open_set(rows, names, enrolled=[0, 1, 2], fpirs=1.0, rank=2).tpir_at_fpir[1.0] == 1
    assert report.flagged == (1.0, 0.5, 0.1)
    fpir, tpir = report.curve()
    assert fpir.tolist()[0] == 0
    assert (fpir.tolist()[-1], tpir.tolist()[-1]) == pytest.approx((1, 2 / 3))


def oracle(x, y, g, enrolled, rate, rank):
    x = x.double() / x.double().norm(dim=1, keepdim=True)
    probes = [i for i in range(len(x)) if i not in enrolled]
    people = {y[e] for e in enrolled}
    mated, others = [], []
    for i in probes:
        best = {}
        for e in enrolled:
            if y[e] == y[i] and g[e] == g[i]:
                continue
            best[y[e]] = max(best.get(y[e], -9), float(x[i] @ x[e]))
        if y[i] in people:
            if y[i] in best:
                mated.append((best[y[i]], sum(s > best[y[i]] for s in best.values())))
        else:
            others.append(max(best.values()))
    tries = sorted([*others, *(s for s, _ in mated), math.inf])
    fits = [t for t in tries if sum(o >= t for o in others) <= rate * len(others) + 1e-9]
    return np.mean([s >= min(fits) and ahead < rank for s, ahead in mated]), len(mated), len(others)


@pytest.mark.parametrize("rank", [1, 2])
def test_open_sets_equal_a_plain_loop(rank):
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(0, 9, (50,), generator=generator)
        y[:3] = -1
        x = torch.randn(10, 5, generator=generator)[y] + torch.randn(50, 5, generator=generator)
        g = torch.randint(0, 3, (50,), generator=generator)
        listed = [i for i in range(50) if 0 <= y[i] < 5 and i % 2]
        report = evaluate_open_set(x, y, enrolled=listed, groups=g, fpirs=(0.4, 0.11), rank=rank)
        for rate in (0.4, 0.11):
            want, mated, others = oracle(x, y.tolist(), g.tolist(), listed, rate, rank)
            assert report.tpir_at_fpir[rate] == pytest.approx(want)
            assert (report.mated, report.non_mated) == (mated, others)
            assert float((report.best >= report.threshold_at_fpir[rate]).double().mean()) <= rate
        found = report.intervals(resamples=200)
        low, high = found["tpir_at_fpir_0.4"]
        assert low <= report.tpir_at_fpir[0.4] <= high


def test_one_draw_of_everybody_is_the_value_itself(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) // 3
    x = torch.randn(20, 6, generator=generator)[y] + torch.randn(60, 6, generator=generator)
    report = evaluate_open_set(x, y, enrolled=range(0, 30, 3), fpirs=(0.2,))
    monkeypatch.setattr("legolas_metric.decisions.open_set.draws", lambda b, u, _: torch.ones(b, u).double())
    value = report.tpir_at_fpir[0.2]
    assert report.intervals(resamples=3)["tpir_at_fpir_0.2"] == pytest.approx((value, value))


def test_a_collapsed_encoder_finds_a_person_by_chance():
    report = evaluate_open_set(torch.ones(8, 2), [0, 1, 2, 3, 0, 1, 9, 9], enrolled=[0, 1, 2, 3], fpirs=1.0)
    assert report.tpir_at_fpir[1.0] == pytest.approx(1 / 4)


def test_open_sets_are_repeated_over_who_is_enrolled():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) // 3
    x = torch.randn(20, 6, generator=generator)[y] + 0.7 * torch.randn(60, 6, generator=generator)
    found = repeat_open_set(x, y, repeats=4, fpirs=0.2, seed=3)
    rates = [one.tpir_at_fpir[0.2] for one in found.reports]
    assert len(set(rates)) > 1
    assert found.tpir_at_fpir[0.2] == pytest.approx(np.mean(rates))
    assert (found.low[0.2], found.high[0.2]) == (min(rates), max(rates))
    assert all(one.enrolled == 10 and one.mated == 20 and one.non_mated == 30 for one in found.reports)
    with pytest.raises(ValueError, match="enrols 20 of 20 people"):
        repeat_open_set(x, y, share=0.99)


@pytest.mark.parametrize(
    ("enrolled", "text"),
    [
        ([0, 99], r"enrolled names 1 unknown ids: \[99\]"),
        ([4], r"enrolled names 1 rows without a label: \[4\]"),
        ([0, 2], "1 mated and 1 non-mated|2 mated and 1 non-mated"),
        ([0, 1, 2, 3], "0 mated and 1 non-mated probes: an open set needs both"),
    ],
)
def test_open_sets_that_can_not_be(enrolled, text):
    rows, names = at(0, 10, 90, 100, 50), [0, 0, 1, 1, -1]
    if "2 mated" in text:
        assert evaluate_open_set(rows, names, enrolled=enrolled).mated == 2
        return
    with pytest.raises(ValueError, match=text):
        evaluate_open_set(rows, names, enrolled=enrolled)


def test_templates_are_means_of_unit_rows():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(9, 4, generator=generator), torch.rand(9, generator=generator)
    by = [3, 1, 3, -1, 1, 7, 3, 1, 7]
    for weights in (None, weight):
        templates, names = enrol(x, by=by, weights=weights)
        assert names.tolist() == [1, 3, 7]
        for template, one in zip(templates, names.tolist()):
            rows = [i for i, other in enumerate(by) if other == one]
            mean = sum((1 if weights is None else weights[i]) * x[i] / x[i].norm() for i in rows)
            assert template.tolist() == pytest.approx((mean / mean.norm()).tolist(), abs=1e-6)
    with pytest.warns(UserWarning, match="1 of 3 templates rest on one row"):
        enrol(x[:-1], by=by[:-1])
    enrol(x[:3], by=[1, 2, 3])  # all alike: nothing to say
    kept, names = enrol(x, by=by, how="all")
    assert names.tolist() == [1, 1, 1, 3, 3, 3, 7, 7]
    assert kept[3].tolist() == pytest.approx((x[0] / x[0].norm()).tolist(), abs=1e-6)
    with pytest.raises(ValueError, match=r"1 templates have no direction \(first: \[7\]\)"):
        enrol(x, by=by, weights=[1, 1, 1, 1, 1, 0, 1, 1, 0])
    with pytest.raises(ValueError, match="weights must be 9 finite numbers of at least 0"):
        enrol(x, by=by, weights=-weight)


def test_scores_of_several_templates_are_fused():
    generator = torch.Generator().manual_seed(1)
    x, by = torch.randn(8, 4, generator=generator), ["c", "a", "c", "b", "a", "b", "c", "a"]
    probes = torch.randn(5, 4, generator=generator)
    kept, names = enrol(x, by=by, how="all")
    for fuse, of in (("max", max), ("mean", np.mean)):
        found = identify(probes, kept, names, k=3, fuse=fuse)
        for row, called, scores in zip(probes, found.names, found.scores.tolist()):
            want = {}
            for one in "abc":
                cosines = [float(torch.cosine_similarity(row, x[i], dim=0)) for i in range(8) if by[i] == one]
                want[one] = of(cosines)
            order = sorted(want, key=want.get, reverse=True)
            assert called == tuple(order)
            assert scores == pytest.approx([want[one] for one in order], abs=1e-6)


def test_a_new_sample_is_somebody_or_nobody():
    generator = torch.Generator().manual_seed(2)
    y = torch.arange(80) // 4
    x = torch.randn(20, 8, generator=generator)[y] + 0.25 * torch.randn(80, 8, generator=generator)
    report = evaluate_verification(x[:48], y[:48], fars=0.01)
    rule = DecisionRule.fit(report, far=0.01)
    templates, names = enrol(x[48::4], by=y[48::4])
    probes = torch.cat([x[49:80:4], torch.randn(6, 8, generator=generator)])
    calibration = Calibration.fit(report)
    found = identify(probes, templates, names, rule=rule, k=2, calibration=calibration)
    assert found.who[:8] == tuple(range(12, 20))
    assert [one is None for one in found.who] == (found.scores[:, 0] < rule.threshold).tolist()
    assert found.who[8:].count(None) >= 5
    assert found.llr.tolist() == calibration.llr(found.scores[:, 0]).tolist()
    assert identify(probes, templates[:1], names[:1], k=2).names[0] == (12, None)
    with pytest.raises(ValueError, match="the rule's threshold is of metric 'cosine', not 'dot'"):
        identify(probes, templates, names, rule=rule, metric="dot")
    given = DecisionRule.fit(verification_from_scores([0.3, 0.1], [1, 0]), far=0.5)
    assert identify(probes, templates, names, rule=given).who[:8] == tuple(range(12, 20))
