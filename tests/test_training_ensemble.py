"""Ensembles: each way against its formula, whole file sets, and the members beside the whole."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, normalize

from legolas_metric import evaluate_ranking
from legolas_metric.training.ensemble import EncoderEnsemble, saliency, vote

D, E, N = 7, 5, 48


def encoders(count=3, width=E):
    return [nn.Sequential(nn.Linear(D, width), nn.BatchNorm1d(width)).eval() for _ in range(count)]


@pytest.fixture
def people():
    labels = torch.arange(12).repeat_interleave(4)
    return torch.randn(12, D)[labels] + torch.randn(N, D), labels


def test_each_way_is_its_formula(people):
    x, _ = people
    members = encoders()
    unit = [normalize(encoder(x), dim=1) for encoder in members]
    mean = EncoderEnsemble(members, "mean")(x)
    torch.testing.assert_close(mean, normalize(sum(unit) / 3, dim=1))
    score = EncoderEnsemble(members, "score")(x)
    of_members = torch.stack([cosine_similarity(u[:, None], u[None], dim=2) for u in unit]).mean(0)
    torch.testing.assert_close(score @ score.T, of_members)
    concat = EncoderEnsemble(members, "concat").fit_pca(x, 4)(x)
    rows = torch.cat(unit, 1).detach()
    from sklearn.decomposition import PCA

    expected = normalize(torch.from_numpy(PCA(4).fit_transform(rows.numpy())), dim=1)
    torch.testing.assert_close(concat @ concat.T, expected @ expected.T, atol=1e-4, rtol=1e-4)


def test_members_of_other_widths_have_scores_and_no_mean(people):
    members = encoders(1) + encoders(1, E + 1)
    with pytest.raises(ValueError, match=r"\[5, 6\] dimensions: their mean needs one, use how='score'"):
        EncoderEnsemble(members)(people[0])
    assert EncoderEnsemble(members, "score")(people[0]).shape == (N, 2 * E + 1)


@pytest.mark.parametrize("how", ["mean", "concat", "score"])
def test_what_is_saved_is_what_is_loaded(how, people, tmp_path):
    x, _ = people
    ensemble = EncoderEnsemble(encoders(), how)
    if how == "concat":
        ensemble.fit_pca(x, 3)
    ensemble.save(tmp_path)
    again = EncoderEnsemble(encoders(), how)
    assert not torch.equal(again(x)[:, :3], ensemble(x)[:, :3])
    assert torch.equal(again.load(tmp_path)(x), ensemble(x))


def test_a_set_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no ensemble"):
        EncoderEnsemble(encoders()).load(tmp_path)
    EncoderEnsemble(encoders()).save(tmp_path)
    with pytest.raises(ValueError, match="holds 3 members, this ensemble 2"):
        EncoderEnsemble(encoders(2)).load(tmp_path)
    with pytest.raises(ValueError, match="how='mean', this one is of how='score'"):
        EncoderEnsemble(encoders(), "score").load(tmp_path)
    (tmp_path / "member_1.safetensors").write_bytes((tmp_path / "member_2.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"member_1\.safetensors does not agree with its digest"):
        EncoderEnsemble(encoders()).load(tmp_path)


def test_the_members_stand_beside_the_whole(people):
    x, labels = people
    members = encoders(2)
    ranking = EncoderEnsemble(members, "score").rank(x, labels)
    for encoder, report in zip(members, ranking.members, strict=True):
        assert report.map_at_r == evaluate_ranking(encoder(x).detach(), labels).map_at_r
    whole = torch.cat([normalize(encoder(x).detach(), dim=1) for encoder in members], 1)
    assert ranking.ensemble.map_at_r == pytest.approx(evaluate_ranking(whole, labels).map_at_r)


def test_votes_are_counted():
    logits = [torch.randn(200, 4) * 2 for _ in range(5)]
    probabilities = [part.softmax(1) for part in logits]
    assert torch.equal(vote(logits), sum(probabilities).argmax(1))
    for row, winner in enumerate(vote(logits, "hard").tolist()):
        ballots = [int(part[row].argmax()) for part in logits]
        most = max(ballots.count(c) for c in range(4))
        tied = [c for c in range(4) if ballots.count(c) == most]
        assert winner == max(tied, key=lambda c: float(sum(p[row, c] for p in probabilities)))


def test_saliency_is_the_gradient_and_leaves_the_encoder_alone(people):
    x, _ = people
    encoder = nn.Linear(D, E)
    seen = saliency(encoder, x)
    expected = (encoder(x) @ encoder.weight).abs().detach()  # d (z . c) / dx = W^T c
    torch.testing.assert_close(seen, expected)
    assert encoder.weight.grad is None
    assert encoder.training
    ensemble = EncoderEnsemble([encoder, nn.Linear(D, E)])
    assert torch.equal(ensemble.ask(lambda member: saliency(member, x), of=0)[0], seen)
    assert len(ensemble.ask(lambda member: saliency(member, x))) == 2
    with pytest.raises(ValueError, match="of=2 is no member"):
        ensemble.ask(lambda member: 0, of=2)
