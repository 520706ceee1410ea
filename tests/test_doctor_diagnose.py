from dataclasses import replace

import pytest
import torch

from legolas_metric import EmbeddingBank
from legolas_metric.doctor.diagnosis import diagnose
from legolas_metric.doctor.noise import label_noise
from legolas_metric.doctor.table_rules import findings
from legolas_metric.doctor.thresholds import limits
from legolas_metric.rows import fitted_rows


def clustered(n=400, per_class=10, noise=0.5, d=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) // per_class
    x = torch.randn(n // per_class, d, generator=generator)[y] + noise * torch.randn(n, d, generator=generator)
    return x, y


def sentences(found):
    return [finding.sentence for finding in found.findings]


def test_a_good_table_has_no_fault():
    x, y = clustered()
    found = diagnose(x, y, untrained=torch.randn(400, 8))
    assert found.healthy
    assert found.verdict == "healthy"
    assert found.ranking.rank[1] > 0.95
    assert found.ranking.baseline is not None
    assert "untrained" in found.text()


def test_worse_than_untrained_comes_first():
    x, y = clustered()
    found = diagnose(x + 6 * torch.randn(400, 32), y, untrained=x)
    assert found.findings[0].severity == "fault"
    assert any(line.startswith("worse than untrained: Rank@1 0.") for line in sentences(found))


def test_a_class_split_in_two_is_worse_than_untrained_though_rank_one_is_not():
    x, y = clustered()
    halves = torch.randn(200, 32, generator=torch.Generator().manual_seed(1))[torch.arange(400) // 2]
    found = diagnose(halves + 0.01 * x, y, untrained=x)
    assert found.ranking.rank[1] >= found.ranking.baseline.rank[1] == 1
    assert not found.healthy
    assert found.findings[0].severity == "fault"
    assert found.verdict.startswith("worse than untrained: MAP@R 0.1")
    assert found.findings[0].evidence.startswith("Rank@1 1.000 against 1.000, MAP@R 0.1")
    assert not any(line.startswith("training made") for line in sentences(found))


def test_pairs_alone_worse_than_untrained_is_a_warning():
    x, y = clustered()
    facts = diagnose(x, y, untrained=x).facts
    pairs = facts.verification
    for fall, severities in ((0.009, set()), (0.011, {"warning"})):
        worse = replace(pairs, baseline=replace(pairs, auc=pairs.auc + fall))
        said = findings(replace(facts, verification=worse))
        assert {f.severity for f in said if f.sentence.startswith("worse than untrained: AUC")} == severities


def test_one_error_in_a_thousand_is_no_fault():
    x, y = clustered(noise=0.2)
    one = x.clone()
    one[5] = one[77] + 0.001
    found = diagnose(one, y, untrained=x)
    assert 0.99 < found.ranking.rank[1] < found.ranking.baseline.rank[1]
    assert not any(line.startswith("worse than") for line in sentences(found))
    assert found.healthy


def test_classes_that_are_points_and_rank_well_are_a_note():
    x, y = clustered(noise=0.01)
    found = diagnose(x, y)
    assert found.collapse.verdict == "over-clustered"
    assert found.healthy
    assert found.findings[0].severity == "note"
    assert "no alarm" in found.findings[0].remedy
    assert diagnose(x, y[torch.randperm(400)]).findings[0].severity == "fault"


def test_an_offset_of_all_rows_is_a_note_that_says_what_to_subtract():
    x, y = clustered(noise=0.3)
    found = diagnose(30 * torch.ones(32) + x, y)
    assert found.collapse.verdict == "healthy"
    assert found.healthy
    assert found.findings[0].severity == "note"
    assert "narrow cone" in found.findings[0].sentence
    assert "subtract the mean" in found.findings[0].remedy
    assert diagnose(x - x.mean(0), y).healthy


def test_auc_hides_rank_one():
    """A crowd of classes along a line: classes are told apart from most others, never from the next."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(1500) // 3
    angle = y / 500 * 3 + 0.25 * torch.randn(1500, generator=generator)
    found = diagnose(torch.stack([angle.cos(), angle.sin()], 1), y)
    mean = found.verification.mean_rank(1500)
    line = next(line for line in sentences(found) if line.startswith("AUC"))
    assert line == (
        f"AUC {found.verification.auc:.2f} but Rank@1 {found.ranking.rank[1]:.2f}: "
        f"in a gallery of 1,500 that AUC means a mean rank of {mean:,.0f}"
    )
    assert found.verification.auc > 0.8
    assert found.ranking.rank[1] < 0.1


def test_a_collapsed_table_is_a_fault():
    x, y = clustered(noise=2.0)
    found = diagnose(torch.ones(400, 32) + 1e-3 * x, y)
    assert found.findings[0].severity == "fault"
    assert any(line.startswith("the embeddings show") for line in sentences(found))
    assert found.verdict == found.findings[0].sentence


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_that_rank_well_are_no_guessing(classes):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(210) % classes
    x = 0.5 * torch.randn(210, 8, generator=generator)
    x[torch.arange(210), y] += 2.5
    assert diagnose(x, y).healthy
    guessed = diagnose(torch.randn(210, 8, generator=generator), y)
    assert any("hardly better than guessing" in line for line in sentences(guessed))


def test_a_class_of_three_is_judged_by_the_two_places_that_it_can_fill():
    """A row with both its mates beside it is no suspect, though eight of its ten neighbours have another label."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(2, 16, generator=generator)
    y = torch.tensor([0] * 20 + [1] * 3)
    x = centre[y] + 0.1 * torch.randn(23, 16, generator=generator)
    x[20:] = x[0] + 0.3 * centre[1] + 0.01 * torch.randn(3, 16, generator=generator)
    assert len(label_noise(fitted_rows(x, y, ids=None, groups=None, metric="cosine"), limits({})).suspects) == 0


def test_a_weak_ranking_is_named_where_nothing_else_names_it():
    x, y = clustered(noise=2.0)
    found = diagnose(x, y, untrained=x + 5 * torch.randn(400, 32, generator=torch.Generator().manual_seed(1)))
    assert 0.15 < found.ranking.rank[1] < 0.5
    assert found.verification.auc < 0.8
    assert found.verdict == f"a weak ranking: {1 - found.ranking.rank[1]:.0%} of the queries find another class first"
    assert f"untrained Rank@1 {found.ranking.baseline.rank[1]:.2f}" in found.findings[0].evidence


def test_notes_do_not_spoil_health():
    x, y = clustered()
    y = torch.cat([y, torch.arange(100, 106)])
    found = diagnose(torch.cat([x, 5 * torch.randn(6, 32)]), y)
    assert found.findings
    assert {finding.severity for finding in found.findings} == {"note"}
    assert found.healthy
    assert any("6 of 406 queries have no positive" in line for line in sentences(found))


def test_findings_are_worst_first_each_with_remedy():
    x, y = clustered(n=60)
    found = diagnose(x + 8 * torch.randn(60, 32), y, untrained=x)
    order = ["fault", "warning", "note"]
    places = [(order.index(finding.severity), -finding.share) for finding in found.findings]
    assert places == sorted(places)
    assert all(0 <= finding.share <= 1 for finding in found.findings)
    assert all(finding.evidence and finding.remedy for finding in found.findings)
    assert len(found.text().splitlines()) < 60


def test_of_one_severity_the_finding_that_concerns_more_comes_first():
    """Pairs that lost a third of their AUC before 5 % of suspects, and the other way round."""
    x, y = clustered()
    facts = diagnose(x, y, untrained=x).facts
    worse = replace(facts.verification, auc=facts.verification.baseline.auc - 0.33)
    suspects = torch.arange(200)

    def suspecting(n):
        told = {"suspects": suspects[:n], "suggested": suspects[:n], "labels": suspects[:n]}
        return replace(facts.noise, **told, shares=torch.ones(n, dtype=torch.float64))

    noisy = replace(facts, verification=worse, noise=suspecting(20))
    first, second, *_ = findings(noisy)
    assert (first.rule, second.rule) == ("worse than untrained", "suspects")
    assert second.sentence == "20 of 400 rows are worth a look: most neighbours have another label"
    assert (first.share, second.share) == (pytest.approx(0.33), 0.05)
    noisier = replace(noisy, noise=suspecting(200))
    assert [finding.rule for finding in findings(noisier)[:2]] == ["suspects", "worse than untrained"]


def test_one_misplaced_row_is_the_finding_and_no_share():
    """Five of six nearest negatives are that one row: 83 % of nothing."""
    x, y = clustered(n=800, per_class=20, noise=0.1, d=64)
    x[0] = x[25] + 0.01
    found = diagnose(x, y)
    assert [finding.rule for finding in found.findings if finding.severity != "note"] == []
    assert [(suspect.id, suspect.label, suspect.suggestion) for suspect in found.suspects] == [(0, 0, 1)]
    assert "1 of 800 rows is worth a look: most neighbours have another label" in sentences(found)


def test_worse_than_guessing_without_groups_is_not_the_order_of_labels():
    """Each row's nearest neighbour is its twin, of another class: something else than the class draws it."""
    generator = torch.Generator().manual_seed(0)
    twins = torch.randn(200, 16, generator=generator).repeat_interleave(2, 0)
    y = torch.arange(400) % 2
    found = diagnose(twins + 0.01 * torch.randn(400, 16, generator=generator), y)
    assert found.ranking.rank[1] < 0.2
    assert any("worse than a random ranking's 0.49" in line for line in sentences(found))
    for words in ("same order", "belong together"):
        assert not any(words in finding.remedy for finding in found.findings)


def test_a_ranking_that_gained_while_the_pairs_lost_is_told():
    """Training pulls half of the classes together at one scale and half at another: each ranks, one threshold fails."""
    x, y = clustered(n=800, per_class=20, noise=1.2)
    generator = torch.Generator().manual_seed(5)
    centre = torch.randn(40, 32, generator=generator)[y]
    loose = (y % 2 == 0)[:, None]
    close = torch.randn(2, 32, generator=generator)[y % 2] * 4
    after = torch.where(loose, centre * 1.5 + 0.9 * torch.randn(800, 32, generator=generator), close + 0.3 * centre)
    found = diagnose(after, y, untrained=x)
    ranking, pairs = found.ranking, found.verification
    assert ranking.rank[1] > ranking.baseline.rank[1] + 0.01
    assert pairs.eer > pairs.baseline.eer + 0.01
    told = next(finding for finding in found.findings if finding.rule == "worse than untrained")
    assert told.severity in ("warning", "fault")
    assert "EER" in told.evidence
    assert "TAR@FAR 0.01" in told.evidence


def test_held_out_data_get_no_advice_on_balancing_batches():
    x, y = clustered(n=400, per_class=10)
    y = torch.where(y < 12, 0, y)
    said = " ".join(str(finding) for finding in diagnose(x, y).findings)
    assert "times the rows of the smallest" in said
    assert "balance" not in said
    assert "PKSampler" not in said


def test_a_bank_is_diagnosed_with_its_own_labels_ids_and_groups():
    x, y = clustered()
    ids, groups = torch.arange(400).flip(0) + 7, torch.arange(400) % 3
    bank, before = EmbeddingBank(x, y, ids=ids, groups=groups), EmbeddingBank(x.flip(0), y.flip(0), ids=ids.flip(0))
    found, same = diagnose(bank, untrained=before), diagnose(x, y, ids=ids, groups=groups, untrained=x)
    assert found.text() == same.text()
    with pytest.raises(ValueError, match="given beside a bank"):
        diagnose(bank, y)
    with pytest.raises(TypeError, match="labels are missing"):
        diagnose(x)


def test_notes_say_what_they_rest_on():
    x, y = clustered()
    x, y = torch.cat([x, 5 * torch.randn(6, 32)]), torch.cat([y, torch.arange(100, 106)])
    evidence = {finding.sentence[:7]: finding.evidence for finding in diagnose(x, y).findings}
    assert evidence["6 of 40"] == "their classes have no second row"
    assert evidence["6 of 46"] == "46 classes of 1 to 10 rows, median 10"
    assert evidence["FAR 0.0"] == "a rate of 0.0001 is 8.0 pairs"
    groups = torch.cat([torch.arange(400) % 2, torch.zeros(6).long()])
    across = [f.evidence for f in diagnose(x, y, groups=groups).findings if "left out" in f.sentence]
    assert across == ["their classes have no second row in another group"]


def test_says_what_is_wrong():
    x, y = clustered(n=60)
    with pytest.raises(ValueError, match="labels has 60 entries for 50 rows of untrained"):
        diagnose(x, y, untrained=x[:50])
