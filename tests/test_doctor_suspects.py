"""Rows whose labels the examination suspects, and those that it must not suspect."""

import pytest
import torch
from test_doctor_diagnose import clustered, sentences

from legolas_metric.doctor.diagnosis import diagnose
from legolas_metric.doctor.noise import label_noise
from legolas_metric.doctor.thresholds import limits
from legolas_metric.rows import fitted_rows


def test_labels_of_other_rows_are_guessing():
    x, y = clustered()
    found = diagnose(x, y[torch.randperm(400)])
    assert any("hardly better than guessing" in line for line in sentences(found))


def test_the_own_group_flatters():
    generator = torch.Generator().manual_seed(0)
    y, group = torch.arange(40).repeat_interleave(10), torch.arange(2).repeat_interleave(5).repeat(40)
    x = torch.randn(40, 2, 32, generator=generator)[y, group] + 0.1 * torch.randn(400, 32, generator=generator)
    found = diagnose(x, y, groups=group)
    assert any(line.startswith("Rank@1 falls from 1.00 to 0.") for line in sentences(found))
    assert found.ranking.protocol.exclude == "same_group"


def test_wrong_labels_are_found():
    x, y = clustered(per_class=20)
    wrong = torch.arange(0, 400, 16)
    right = y[wrong].clone()
    y[wrong] = (y[wrong] + 7) % 20
    noise = label_noise(fitted_rows(x, y, ids=torch.arange(400) + 1000, groups=None, metric="cosine"), limits({}))
    assert sorted(noise.suspects.tolist()) == (wrong + 1000).tolist()
    place = {id: row for row, id in enumerate((wrong + 1000).tolist())}
    assert noise.suggested.tolist() == [right[place[id]].item() for id in noise.suspects.tolist()]
    found = diagnose(x, y)
    assert f"{len(wrong)} of 400 rows are worth a look: most neighbours have another label" in sentences(found)
    assert not any("mislabelled" in line for line in sentences(found))
    named = diagnose(x, [f"class {label:02}" for label in y.tolist()], ids=torch.arange(400) + 1000)
    assert {(suspect.id, suspect.label, suspect.suggestion) for suspect in named.suspects} == {
        (1000 + row, f"class {label:02}", f"class {other:02}")
        for row, label, other in zip(wrong.tolist(), y[wrong].tolist(), right.tolist())
    }
    shares = [suspect.share for suspect in named.suspects]
    assert shares == sorted(shares, reverse=True)
    first = ", ".join(str(suspect.id) for suspect in named.suspects[:5])
    assert any(f"ids {first}, ..." in finding.evidence for finding in named.findings)
    line = next(finding for finding in found.findings if finding.rule == "false negatives")
    told = found.facts.noise
    assert line.sentence.startswith(f"{told.contradicted} of {told.negatives} nearest negatives")
    assert f"{told.contradicted_rows} different rows" in line.evidence
    assert told.contradicted_rows == 25


@pytest.mark.parametrize("per_class", [4, 5, 7])
def test_wrong_labels_of_small_classes_are_found(per_class):
    """A class of four fills at most three of the ten places beside a row that was taken out of it."""
    generator = torch.Generator().manual_seed(0)
    right = torch.arange(50 * per_class) // per_class
    x = 3 * torch.randn(50, 32, generator=generator)[right] + 0.5 * torch.randn(len(right), 32, generator=generator)
    wrong = torch.arange(0, len(right), 3 * per_class)  # one of every third class
    y = right.clone()
    y[wrong] = (y[wrong] + 1) % 50
    noise = label_noise(fitted_rows(x, y, ids=None, groups=None, metric="cosine"), limits({}))
    found = noise.suspects.tolist()
    assert set(found) <= set(wrong.tolist())
    assert len(found) > 0.6 * len(wrong)
    assert noise.suggested.tolist() == right[noise.suspects].tolist()
    assert noise.contradicted >= len(found)
    clean = label_noise(fitted_rows(x, right, ids=None, groups=None, metric="cosine"), limits({}))
    assert len(clean.suspects) == clean.contradicted == 0


def test_distractors_neither_vote_nor_are_suspects():
    x, y = clustered(per_class=20)
    y[::10] = -1
    noise = label_noise(fitted_rows(x, y, ids=None, groups=None, metric="cosine"), limits({}))
    assert len(noise.suspects) == 0
    assert noise.contradicted == 0


def across_sessions(spread: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ten classes in two sessions, which lie `spread` apart."""
    generator = torch.Generator().manual_seed(0)
    y, s = torch.arange(10).repeat(40), torch.arange(400) // 200
    x = 0.7 * torch.randn(10, 32, generator=generator)[y] + spread * torch.randn(2, 32, generator=generator)[s]
    return x + 0.3 * torch.randn(400, 32, generator=generator), y, s


def test_sessions_that_outweigh_classes_are_named_and_labels_are_not_suspected():
    x, y, s = across_sessions(3.0)
    moved = (y + 3) % 10  # in the second session the rows of a class lie where another class lies in the first
    centres = torch.randn(10, 32, generator=torch.Generator().manual_seed(1))
    x = centres[torch.where(s == 0, y, moved)] + 0.3 * (x - x.mean(0))
    found = diagnose(x, y, groups=s)
    assert found.ranking.rank[1] < 0.02
    assert found.findings[0].rule == "group outweighs class"
    assert (
        "Rank@1 is 1.00 within groups, and across them 0.000, worse than a random ranking (0.0" in sentences(found)[0]
    )
    rules = {finding.rule for finding in found.findings}
    assert not rules & {"guessing", "groups flatter", "weak ranking", "suspects", "false negatives"}
    milder = diagnose(*across_sessions(1.0)[:2], groups=across_sessions(1.0)[2])
    assert not {"suspects", "false negatives"} & {f.rule for f in milder.findings if "groups flatter" in rules}
