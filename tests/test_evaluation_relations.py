"""Rankings by what a relation takes for positives, negatives and neither, against the oracle and scikit-learn."""

import numpy as np
import pytest
import torch
from evaluation_oracle import evaluate
from sklearn.metrics import label_ranking_average_precision_score
from test_evaluation_ranking import as_rows, table

from legolas_metric import LabelRelation, RetrievalProtocol, ScoreNorm, evaluate_ranking

TAGS = [[1, 1, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1], [1, 0, 0]]
PATHS = [[0, 10], [1, 10], [2, 11], [3, 11], [4, 12]]


def by_tags(a, b):
    both, either = ((np.array(TAGS[a]) * TAGS[b]).sum(), (np.array(TAGS[a]) + TAGS[b] > 0).sum())
    return int(both / either >= 0.5) - int(both == 0)


def by_tree(a, b):
    return 1 if a == b else 0 if PATHS[a][1] == PATHS[b][1] else -1


RELATIONS = {
    "tags": (LabelRelation.multi_label(TAGS), by_tags, "any", "any"),
    "tree": (LabelRelation.hierarchy(PATHS), by_tree, "any", "any"),
    "other": (LabelRelation(positive_group="other"), lambda a, b: 1 if a == b else -1, "other", "any"),
    "both": (LabelRelation(LabelRelation.multi_label(TAGS).compare, "other", "same"), by_tags, "other", "same"),
}


def verdict(query, row, code, positive_group, negative_group):
    """By the book: 1, 0 or -1."""
    found = -1 if row[1] == -1 else code(query[1], row[1])
    same = query[3] == row[3]
    if (found == 1 and positive_group == "other" and same) or (found == -1 and negative_group == "same" and not same):
        return 0
    return found


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("name", RELATIONS)
@pytest.mark.parametrize("protocol", ["self", "same_group", "rule"])
def test_equals_the_oracle(metric, name, protocol):
    relation, code, *by_groups = RELATIONS[name]
    for seed in range(4):
        x, y, ids, groups = table(seed, n=10, classes=5, ties=seed % 2 == 0)
        groups[:4] = 0, 1, 0, 1
        odd = dict(zip(ids.tolist(), range(10)))

        def taken(query, row, protocol=protocol, odd=odd):
            if protocol == "rule":
                return (odd[query[2]] + odd[row[2]]) % 5 == 4
            return protocol == "same_group" and query[3] == row[3] and verdict(query, row, code, "any", "any") == 1

        exclude = protocol if protocol != "rule" else lambda queries, rows: (queries[:, None] + rows) % 5 == 4
        report = evaluate_ranking(
            *(x, y),
            **{"ids": ids, "groups": groups, "metric": metric, "full": True, "ks": (1, 2, 4)},
            protocol=RetrievalProtocol(exclude=exclude),
            relation=relation,
        )
        want, queries, unanswerable = evaluate(
            as_rows(x, y, ids, groups),
            metric,
            allowed=lambda query, row: (
                query[2] != row[2] and not taken(query, row) and verdict(query, row, code, *by_groups) != 0
            ),
            hit=lambda query, row: verdict(query, row, code, *by_groups) == 1,
        )
        assert (report.queries, report.unanswerable) == (queries, unanswerable)
        got = {f"rank{k}": value for k, value in report.rank.items()}
        got |= {"r_precision": report.r_precision, "map_at_r": report.map_at_r, "map": report.mean_average_precision}
        got |= {"mrr": report.mrr, "minp": report.minp, "ndcg": report.ndcg}
        got = {key: value for key, value in got.items() if key in want}  # there are fewer than 4 to be found
        assert got == pytest.approx({key: want[key] for key in got}, abs=1e-12)


def test_equals_scikit_learn():
    """Its label ranking average precision is the mAP of a ranking whose rows are all found or missed."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(80, 6, generator=generator)
    tags = torch.randint(2, (80, 5), generator=generator)
    tags[:, 0] = 1
    relation = LabelRelation.multi_label(tags, positive=0.6, negative=0.59)
    positive = (relation.compare(torch.arange(80), torch.arange(80)) > 0).fill_diagonal_(False).numpy()
    asking, others = positive.any(1), ~np.eye(80, dtype=bool)
    theirs = label_ranking_average_precision_score(
        positive[others].reshape(80, 79)[asking], (x.double() @ x.T.double()).numpy()[others].reshape(80, 79)[asking]
    )
    report = evaluate_ranking(x, range(80), metric="dot", relation=relation, full=True)
    assert report.mean_average_precision == pytest.approx(theirs, abs=1e-9)
    assert report.unanswerable == int((~asking).sum())


def test_equality_by_another_word_changes_nothing():
    x, y, ids, groups = (torch.as_tensor(part) for part in table(3, n=60, classes=9, d=3))
    equal = LabelRelation(lambda a, b: (a[:, None] == b).int() * 2 - 1)
    norm = ScoreNorm(torch.randn(30, 3), top=5)
    for more in ({}, {"protocol": RetrievalProtocol(queries=ids[:20], gallery=ids[10:])}, {"scorer": norm}):
        plain = evaluate_ranking(x, y, ids=ids, groups=groups, full=True, **more)
        assert evaluate_ranking(x, y, ids=ids, groups=groups, full=True, **more, relation=LabelRelation()) == plain
        found = evaluate_ranking(x, y, ids=ids, groups=groups, full=True, **more, relation=equal)
        assert (found.rank, found.map_at_r, found.mean_average_precision) == (
            *(plain.rank, plain.map_at_r),
            plain.mean_average_precision,
        )
        assert found.worst == plain.worst


def test_a_baseline_is_ranked_by_the_same_relation():
    x, y, ids, _ = table(5, n=40, classes=5)
    given = {"ids": ids, "relation": LabelRelation.multi_label(TAGS)}
    report = evaluate_ranking(x, y, **given, baseline=x[:, ::-1].copy())
    assert report.baseline.map_at_r == evaluate_ranking(x[:, ::-1].copy(), y, **given).map_at_r
    with pytest.warns(UserWarning, match="5 identities"):
        assert report.difference("rank_at_1", resamples=10).identities == 5


@pytest.mark.parametrize(
    ("relation", "protocol", "told"),
    [
        (LabelRelation(positive_group="other"), "leave-one-out", "the relation compares groups .*: pass groups"),
        (
            LabelRelation.hierarchy(PATHS),
            RetrievalProtocol.few_shot(ways=2, shots=1),
            "draws by class: leave",
        ),
        (LabelRelation.hierarchy(PATHS), "single-gallery-shot", "draws by class: leave out the relation"),
        (LabelRelation.multi_label(TAGS[:2]), "leave-one-out", "label 4 has no row in the relation's table of 2"),
        (LabelRelation(lambda a, b: a[:, None] * 0), "leave-one-out", "a value for each of 12 anchors"),
        (
            LabelRelation(lambda a, b: -torch.ones(len(a), len(b))),
            "leave-one-out",
            "and the relation: give",
        ),
        (LabelRelation(lambda a, b: torch.ones(len(a), len(b))), "leave-one-out", "needs negatives of the relation"),
    ],
)
def test_says_what_is_wrong(relation, protocol, told):
    x, y, _, groups = table(1, n=12, classes=5, distractors=False)
    y[-1] = 4
    with pytest.raises(ValueError, match=told):
        evaluate_ranking(x, y, groups=None if "groups" in told else groups, protocol=protocol, relation=relation)


@pytest.mark.parametrize(
    ("compare", "error", "told"),
    [
        (lambda a, b: None, TypeError, "compare must return a tensor of .*, got a NoneType"),
        (lambda a, b: a[:, None] == b, TypeError, "got a tensor of torch.bool"),
        (lambda a, b: torch.full((len(a), len(b)), torch.nan), ValueError, "compare returned NaN"),
    ],
)
def test_says_what_a_comparison_must_return(compare, error, told):
    x, y, _, _ = table(1, n=12, classes=5)
    with pytest.raises(error, match=told):
        evaluate_ranking(x, y, relation=LabelRelation(compare))


def test_no_difference_between_rankings_by_different_relations():
    x, y = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40) // 4
    paths = torch.stack([torch.arange(10), torch.arange(10) // 2], 1)
    report = evaluate_ranking(
        x, y, relation=LabelRelation.hierarchy(paths, positive=1), baseline=evaluate_ranking(x.flip(1), y)
    )
    with pytest.raises(ValueError, match="other positives or negatives"):
        report.difference(resamples=10)
