"""Score normalisation, back ends and re-ranking, against plain loops, scikit-learn and densities."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from legolas_metric import (
    LDA,
    PLDA,
    WCCN,
    KReciprocal,
    RetrievalProtocol,
    ScoreNorm,
    Whitening,
    evaluate_ranking,
    evaluate_verification,
    expand,
    rerank,
    verify_by,
)


def people(persons, per_person=4, noise=0.9, seed=0, d=6):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(persons * per_person) // per_person
    tilt = torch.linspace(0.3, 1.6, d)
    return torch.randn(persons, d, generator=generator)[y] + noise * tilt * torch.randn(
        len(y), d, generator=generator
    ), y


def unit(x):
    return (x.double() / x.double().norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize("how", ["as", "s"])
def test_normalised_scores_equal_a_plain_loop(how):
    x, _ = people(5)
    cohort, _ = people(12, seed=9)
    norm = ScoreNorm(cohort, how=how, top=7)
    u, c = unit(x), unit(cohort)

    def stats(row):
        scores = np.sort(c @ row)[::-1]
        near = scores[:7] if how == "as" else scores
        return near.mean(), near.std()

    got = norm.score(x[:3], x[3:])
    for i in range(3):
        for j in range(3, 20):
            (ma, sa), (mb, sb), s = stats(u[i]), stats(u[j]), u[i] @ u[j]
            assert float(got[i, j - 3]) == pytest.approx(((s - ma) / sa + (s - mb) / sb) / 2, rel=1e-4, abs=1e-4)


def ranked(scores, y, groups=None):
    """Rank@1 and MAP@R of a matrix of scores, by loops."""
    first, precision = [], []
    for i in range(len(y)):
        others = [
            j for j in range(len(y)) if j != i and not (groups is not None and y[j] == y[i] and groups[j] == groups[i])
        ]
        order = sorted(others, key=lambda j: -scores[i][j])
        hits = [y[j] == y[i] for j in order]
        r = sum(hits)
        if r:
            first.append(hits[0])
            precision.append(sum(hits[k] * sum(hits[: k + 1]) / (k + 1) for k in range(r)) / r)
    return np.mean(first), np.mean(precision)


def test_a_ranking_by_a_scorer_is_that_of_its_scores():
    x, y = people(10)
    groups = torch.arange(len(y)) % 2
    cohort, who = people(15, seed=5)
    plain = evaluate_ranking(x, y)
    ways = (ScoreNorm(cohort, top=9), PLDA().fit(cohort, who + 100), KReciprocal(x, k1=6, k2=3))
    for scorer in ways:
        table = scorer.transform(torch.from_numpy(unit(x)).float())
        scores = scorer.compare(table, table)
        report = evaluate_ranking(x, y, scorer=scorer, baseline=plain)
        assert (report.rank[1], report.map_at_r) == pytest.approx(ranked(scores.tolist(), y.tolist()))
        found = report.difference("map_at_r", resamples=50)
        assert found.value == pytest.approx(report.map_at_r - plain.map_at_r)
        protocol = RetrievalProtocol.cross_session()
        crossed = evaluate_ranking(x, y, groups=groups, protocol=protocol, scorer=scorer)
        want = ranked(scores.tolist(), y.tolist(), groups.tolist())
        assert (crossed.rank[1], crossed.map_at_r) == pytest.approx(want)
    episodes = RetrievalProtocol.few_shot(ways=3, shots=1, episodes=2, prototypes=True)
    with pytest.raises(ValueError, match="prototypes are means of rows"):
        evaluate_ranking(x, y, protocol=episodes, scorer=ways[0])


def test_a_cohort_that_shares_people_with_the_test_set_is_refused_by_id():
    x, y = people(10)
    names = np.array([f"p{one}" for one in y.tolist()])
    for labels, told in ((y, r"4 \(0, 1, 2, 3\)"), (names, r"4 \(p0, p1, p2, p3\)")):
        norm = ScoreNorm(x[:16], labels=labels[:16])
        evaluate_ranking(x[16:], labels[16:], scorer=norm)
        with pytest.raises(ValueError, match=f"{told} identities of the test set are in the cohort"):
            evaluate_ranking(x, labels, scorer=norm)
    with pytest.warns(UserWarning, match="where the sets number other people alike, pass names"):
        evaluate_ranking(x, y, scorer=PLDA().fit(x[:16], y[:16]))
    plda = PLDA().fit(x[:16], names[:16])
    with pytest.warns(UserWarning, match=r"4 \(p0, p1, p2, p3\) identities are in both sets"):
        evaluate_ranking(x, names, scorer=plda)


def test_whitening_is_scikit_learns():
    x, _ = people(20)
    u = unit(x)
    want = PCA(whiten=True).fit_transform(u)
    got = Whitening(shrinkage=0).fit(x).transform(x).double().numpy()
    assert np.abs(got) == pytest.approx(np.abs(want), rel=1e-3, abs=1e-3)
    assert Whitening(2, shrinkage=0).fit(x).transform(x).double().numpy() == pytest.approx(got[:, :2], abs=1e-5)


def test_lda_is_scikit_learns():
    x, y = people(20)
    x, y = x[:-2], y[:-2]  # uneven
    model = LinearDiscriminantAnalysis(solver="eigen").fit(unit(x), y)
    want = model.transform(unit(x))
    want = want - want.mean(0)
    got = LDA(shrinkage=0).fit(x, y).transform(x).double().numpy()
    assert np.abs(got) == pytest.approx(np.abs(want[:, : got.shape[1]]), rel=1e-3, abs=1e-3)
    # Shrunk, its directions still make the shrunk W the identity, and B diagonal, greatest first.
    u, fitted = unit(x), LDA(shrinkage=0.3).fit(x, y)
    means = np.array([u[y == one].mean(0) for one in range(20)])
    inner, outer = (u - means[y]), (means[y] - u.mean(0))
    within = inner.T @ inner / len(u)
    shrunk = 0.7 * within + 0.3 * np.trace(within) / 6 * np.eye(6)
    turn = fitted.map.numpy()
    assert turn.T @ shrunk @ turn == pytest.approx(np.eye(6), abs=1e-6)
    between = turn.T @ (outer.T @ outer / len(u)) @ turn
    assert between == pytest.approx(np.diag(fitted.spread.numpy()), abs=1e-6)
    assert (np.diff(fitted.spread.numpy()) <= 0).all()


def test_wccn_makes_what_one_person_varies_the_identity():
    x, y = people(30)
    got = WCCN(shrinkage=0).fit(x, y).transform(x).double()
    inner = torch.cat([got[y == one] - got[y == one].mean(0) for one in range(30)])
    assert (inner.T @ inner / len(y)).numpy() == pytest.approx(np.eye(6), abs=1e-4)
    # Across sessions it is the sessions' means that are spread evenly.
    groups = torch.arange(len(y)) % 4 // 2
    got = WCCN(shrinkage=0).fit(x, y, groups=groups).transform(x).double()
    means = torch.stack([got[(y == one) & (groups == g)].mean(0) for one in range(30) for g in (0, 1)])
    inner = means - means.view(30, 2, 6).mean(1).repeat_interleave(2, 0)
    assert (inner.T @ inner / 60).numpy() == pytest.approx(np.eye(6), abs=1e-4)
    with pytest.raises(ValueError, match="nobody has rows of two groups"):
        WCCN().fit(x, y, groups=y)


def test_plda_scores_are_ratios_of_densities():
    x, y = people(25)
    x, y = x[:-2], y[:-2]
    plda = PLDA(shrinkage=0.2).fit(x, y)
    u = unit(x)
    mean, n, c = u.mean(0), len(y), 25
    inner = sum((u[y == k] - u[y == k].mean(0)).T @ (u[y == k] - u[y == k].mean(0)) for k in range(c))
    sizes = np.bincount(y)
    outer = sum(s * np.outer(m - mean, m - mean) for s, m in zip(sizes, (u[y == k].mean(0) for k in range(c))))
    within = inner / (n - c)
    shrunk = 0.8 * within + 0.2 * np.trace(within) / 6 * np.eye(6)
    between = (outer / (c - 1) - within) / ((n - (sizes**2).sum() / n) / (c - 1))
    # Without its negative part, in the space where the shrunk W is the identity.
    root = np.linalg.cholesky(shrunk)
    inverse = np.linalg.inv(root)
    values, vectors = np.linalg.eigh(inverse @ between @ inverse.T)
    between = root @ (vectors * values.clip(0)) @ vectors.T @ root.T
    total = between + shrunk
    joint = np.block([[total, between], [between, total]])
    got = plda.score(x[:4], x[4:9])
    for i in range(4):
        for j in range(4, 9):
            both = multivariate_normal(np.tile(mean, 2), joint).logpdf(np.concatenate([u[i], u[j]]))
            alone = sum(multivariate_normal(mean, total).logpdf(u[k]) for k in (i, j))
            assert float(got[i, j - 4]) == pytest.approx(both - alone, abs=1e-5)


@pytest.mark.parametrize("kind", [Whitening, LDA, WCCN, PLDA])
def test_back_ends_are_saved_and_refuse_what_they_can_not_do(kind, tmp_path):
    x, y = people(12)
    names = np.array([f"p{one}" for one in y.tolist()])
    fitted = kind(4).fit(x, names)
    fitted.save(tmp_path / "back_end.safetensors")
    again = kind.load(tmp_path / "back_end.safetensors")
    assert again.transform(x).equal(fitted.transform(x))
    assert again.people == fitted.people == frozenset(names)
    other = Whitening if kind is not Whitening else LDA
    with pytest.raises(ValueError, match=f"holds {kind.kind}, not {other.kind}"):
        other.load(tmp_path / "back_end.safetensors")
    with pytest.raises(ValueError, match="is not fitted yet"):
        kind().transform(x)
    with pytest.raises(ValueError, match="dimensions must be at most"):
        kind(7).fit(x, y)
    with pytest.raises(ValueError, match="shrinkage must be a finite number"):
        kind(shrinkage=1.5)
    if kind is not Whitening:
        with pytest.raises(ValueError, match="12 labelled rows of 12 people: two people at least are needed"):
            kind().fit(x[::4], y[::4])


def test_fewer_people_than_dimensions_need_shrinkage():
    x, y = people(3, per_person=2, d=12)
    assert PLDA().fit(x, y).transform(x).isfinite().all()
    with pytest.raises(ValueError, match="pass shrinkage above 0"):
        LDA(shrinkage=0).fit(x, y)


def reciprocal(x, k1, k2, weight):
    """The scores of `KReciprocal`, by loops over sets."""
    u = unit(x)
    n = len(u)
    squared = ((u[:, None] - u[None]) ** 2).sum(2)
    order = [[i, *sorted((j for j in range(n) if j != i), key=lambda j: (squared[i, j], j))] for i in range(n)]

    def mutual(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    v = np.zeros((n, n))
    for i in range(n):
        members = set(mutual(i, k1))
        for j in mutual(i, k1):
            other = mutual(j, round(k1 / 2))
            if len(other & mutual(i, k1)) > 2 / 3 * len(other):
                members |= other
        for j in members:
            v[i, j] = math.exp(-squared[i, j])
        v[i] /= v[i].sum()
    v = np.array([np.mean([v[j] for j in order[i][:k2]], axis=0) for i in range(n)])
    least = np.minimum(v[:, None], v[None]).sum(2)
    most = np.maximum(v[:, None], v[None]).sum(2)
    return -(weight * squared / 4 + (1 - weight) * (1 - least / most))


@pytest.mark.parametrize(("k1", "k2"), [(6, 3), (9, 1), (40, 6)])
def test_k_reciprocal_re_ranking_equals_sets(k1, k2):
    x, _ = people(8)
    want = reciprocal(x, min(k1, 31), k2, 0.3)
    scorer = KReciprocal(x, k1=k1, k2=k2)
    table = scorer.transform(x)
    assert scorer.compare(table[:5], table).numpy() == pytest.approx(want[:5], abs=1e-6)
    found = rerank(x, k=4, k1=k1, k2=k2)
    np.fill_diagonal(want, -np.inf)
    assert found.similarities.numpy() == pytest.approx(-np.sort(-want)[:, :4], abs=1e-6)
    split = rerank(x[:10], x[10:], k=5, k1=k1, k2=k2)
    assert split.ids.tolist() == np.argsort(-want[:10, 10:], kind="stable")[:, :5].tolist()
    with pytest.raises(ValueError, match="1 ids that the table lacks, for 1 rows"):
        scorer.transform(x[:1], torch.tensor([77]))


def test_expansion_draws_rows_to_their_nearest():
    x, _ = people(8)
    u = unit(x)
    got = expand(x, k=3, alpha=2).double().numpy()
    for i in range(len(u)):
        near = sorted((j for j in range(len(u)) if j != i), key=lambda j: -(u[i] @ u[j]))[:3]
        total = u[i] + sum(max(u[i] @ u[j], 0) ** 2 * u[j] for j in near)
        assert got[i] == pytest.approx(total / np.linalg.norm(total), abs=1e-5)
    found = rerank(x, k=2, how="expansion", k1=3, alpha=2)
    assert found.ids[0].tolist() == np.argsort(-(got @ got[0]))[1:3].tolist()


def test_a_scorer_that_ranks_worse_than_the_cosine_is_not_called_training():
    x, y = people(20)
    fitted, shuffled = people(20, seed=9)
    wrong = PLDA().fit(fitted, 100 + shuffled[torch.randperm(80, generator=torch.Generator().manual_seed(0))])
    plain = evaluate_ranking(x, y)
    said = evaluate_ranking(x, y, scorer=wrong, baseline=plain).warnings()
    assert any(line.startswith("rank_at_1 is worse than the baseline's: 0.") for line in said)
    pairs = verify_by(wrong, x, y, baseline=evaluate_verification(x, y)).warnings()
    assert any(line.startswith("AUC is worse than the baseline's: 0.") for line in pairs)
    assert not any("training" in line or "untrained" in line for line in (*said, *pairs))
