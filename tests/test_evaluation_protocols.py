import numpy as np
import pytest
import torch
from evaluation_oracle import evaluate, expected, ranked_levels
from processes import python
from test_evaluation_ranking import as_rows, table

from legolas_metric import RetrievalProtocol, evaluate_ranking
from legolas_metric.evaluation.trials import trials
from legolas_metric.rows import fitted_rows

NAMES = {
    "r_precision": "r_precision",
    "map_at_r": "map_at_r",
    "mean_average_precision": "map",
    "minp": "minp",
    "ndcg": "ndcg",
    "rank_at_1": "rank1",
    "rank_at_3": "rank3",
}


def check(report, want):
    got = report.shares()
    assert {name: got[name] for name in NAMES} == pytest.approx({n: want[o] for n, o in NAMES.items()}, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_minp_and_ndcg_are_expected_values(ties):
    for seed in range(8):
        x, y, ids, groups = table(seed, ties=ties)
        report = evaluate_ranking(x, y, ids=ids, ks=(1, 3), full=True)
        check(report, evaluate(as_rows(x, y, ids, groups), "cosine")[0])


def test_queries_and_gallery_are_lists_of_ids():
    x, y, ids, groups = table(3, n=14)
    queries, gallery = ids[[0, 2, 5, 6, 7, 9]], ids[[13, 1, 3, 2, 5, 8, 10, 11]]
    report = evaluate_ranking(x, y, ids=ids, ks=(1, 3), full=True, protocol=RetrievalProtocol.fixed(queries, gallery))
    rows = as_rows(x, y, ids, groups)
    found = []
    for query in rows:
        if query[2] in queries and query[1] != -1:
            levels = ranked_levels(
                [row for row in rows if row[2] in gallery], query, "cosine", allowed=lambda q, r: q[2] != r[2]
            )
            if sum(positives for positives, _ in levels):
                found.append(expected(levels))
    assert report.queries == len(found) > 0
    assert report.gallery == 8
    check(report, {name: np.mean([one[name] for one in found]) for name in NAMES.values()})


def test_distractors_may_be_dropped():
    x, y, ids, _ = table(5, n=14)
    kept = y != -1
    assert 0 < kept.sum() < 14
    dropped = evaluate_ranking(x, y, ids=ids, full=True, protocol=RetrievalProtocol(distractors=False))
    without = evaluate_ranking(x[kept], y[kept], ids=ids[kept], full=True)
    assert dropped.shares() == without.shares()
    assert dropped.shares() != evaluate_ranking(x, y, ids=ids, full=True).shares()


def test_queries_with_too_few_positives_are_counted():
    x = torch.randn(9, 4)
    y = [0, 0, 0, 0, 1, 1, 1, 2, 2]
    report = evaluate_ranking(x, y, protocol=RetrievalProtocol(min_positives=2))
    assert (report.queries, report.unanswerable) == (7, 2)
    assert report.per_query.positives.tolist() == [3, 3, 3, 3, 2, 2, 2]


def test_a_rule_of_ones_own():
    """A rule that says what exclude="same_group" says gives the same report; it may take out negatives too."""
    x, y, ids, groups = table(2, n=16)
    groups[:4] = 0, 1, 0, 1
    labels, sessions = torch.from_numpy(y), torch.from_numpy(groups)

    def same_session(query, row):
        return (labels[query, None] == labels[row]) & (sessions[query, None] == sessions[row])

    own = evaluate_ranking(x, y, ids=ids, full=True, protocol=RetrievalProtocol(exclude=same_session))
    named = evaluate_ranking(x, y, ids=ids, groups=groups, full=True, protocol=RetrievalProtocol(exclude="same_group"))
    assert own.shares() == named.shares()
    alone = RetrievalProtocol(exclude=lambda query, row: labels[query, None] != labels[row])
    report = evaluate_ranking(x, y, ids=ids, full=True, protocol=alone)
    assert report.rank[1] == report.mean_average_precision == report.ndcg == 1
    assert report.per_query.negatives.tolist() == [0] * report.queries


@pytest.mark.parametrize("preset", ["re_identification", "cross_session", "cross_day"])
def test_presets_take_out_the_same_group(preset):
    x, y, _, groups = table(1, n=20)
    protocol = getattr(RetrievalProtocol, preset)()
    same = RetrievalProtocol(exclude="same_group", distractors=preset != "re_identification")
    plain = evaluate_ranking(x, y, groups=groups, protocol=same)
    assert evaluate_ranking(x, y, groups=groups, protocol=protocol).shares() == plain.shares()


def test_the_own_recording_flatters():
    """Each class has two recordings, far apart: leave-one-out finds the own one, across recordings nothing is near."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(20).repeat_interleave(10)
    recording = torch.arange(2).repeat_interleave(5).repeat(20)
    centre = torch.randn(20, 2, 16, generator=generator)
    x = centre[y, recording] + 0.1 * torch.randn(200, 16, generator=generator)
    assert evaluate_ranking(x, y).rank[1] == 1.0
    across = evaluate_ranking(x, y, groups=recording, protocol=RetrievalProtocol.cross_session())
    assert across.rank[1] < 0.2


def test_episodes_hold_what_they_promise():
    y = torch.arange(12).repeat_interleave(6)
    alphabet = y // 6
    rows = fitted_rows(torch.randn(72, 3), y, ids=None, groups=alphabet, metric="cosine")
    protocol = RetrievalProtocol.few_shot(ways=4, shots=2, queries=3, episodes=30, within_group=True, seed=5)
    drawn = list(trials(rows, protocol, "cosine"))
    assert len(drawn) == 30
    for trial in drawn:
        assert (len(trial), len(trial.gallery)) == (12, 8)
        assert set(trial.asker.tolist()).isdisjoint(trial.found.tolist())
        assert trial.gallery.labels.unique(return_counts=True)[1].tolist() == [2] * 4
        assert trial.queries.labels.unique(return_counts=True)[1].tolist() == [3] * 4
        assert len(alphabet[torch.cat([trial.asker, trial.found])].unique()) == 1
    assert {int(alphabet[trial.asker[0]]) for trial in drawn} == {0, 1}
    again = list(trials(rows, protocol, "cosine"))
    assert all(a.asker.equal(b.asker) and a.found.equal(b.found) for a, b in zip(drawn, again))


def test_one_shot_accuracy_is_that_of_the_nearest_shot():
    x, y = torch.randn(60, 4), torch.arange(60) // 6
    protocol = RetrievalProtocol.few_shot(ways=5, shots=1, queries=2, episodes=40, seed=1)
    rows = fitted_rows(x, y, ids=None, groups=None, metric="euclidean")
    right = []
    for trial in trials(rows, protocol, "euclidean"):
        nearest = torch.cdist(x[trial.asker], x[trial.found]).argmin(1)
        right += (y[trial.found[nearest]] == y[trial.asker]).tolist()
    report = evaluate_ranking(x, y, metric="euclidean", protocol=protocol)
    assert report.rank[1] == np.mean(right)
    assert report.queries == len(report.per_query) == 400
    assert report.worst == ()


def test_prototypes_are_means_of_the_shots():
    x, y = torch.randn(60, 4), torch.arange(60) // 6
    protocol = RetrievalProtocol.few_shot(ways=5, shots=3, queries=2, episodes=40, prototypes=True, seed=1)
    shots = RetrievalProtocol.few_shot(ways=5, shots=3, queries=2, episodes=40, seed=1)
    rows = fitted_rows(x, y, ids=None, groups=None, metric="euclidean")
    right = []
    for trial in trials(rows, shots, "euclidean"):
        classes = y[trial.found].unique()
        means = torch.stack([x[trial.found[y[trial.found] == c]].mean(0) for c in classes])
        nearest = torch.cdist(x[trial.asker], means).argmin(1)
        right += (classes[nearest] == y[trial.asker]).tolist()
    assert evaluate_ranking(x, y, metric="euclidean", protocol=protocol).rank[1] == np.mean(right)


@pytest.mark.parametrize(
    ("protocol", "text"),
    [
        (lambda: RetrievalProtocol(min_positives=0), "min_positives must be at least 1"),
        (lambda: RetrievalProtocol(queries=[]), "queries is an empty list of ids"),
        (lambda: RetrievalProtocol(gallery=[3, 3]), "gallery must be unique"),
        (lambda: RetrievalProtocol.few_shot(ways=1, shots=1), "ways must be at least 2"),
        (
            lambda: RetrievalProtocol.fixed([0], [99, 1]),
            "the protocol's gallery names 1 ids that the table lacks: .99.",
        ),
        (lambda: RetrievalProtocol.few_shot(ways=9, shots=1), "no 9 classes with 2 rows each in the table"),
        (lambda: RetrievalProtocol.few_shot(ways=2, shots=1, within_group=True), "episodes within a group need groups"),
        (lambda: RetrievalProtocol.cross_day(), "the protocol 'cross-day' compares groups"),
        (
            lambda: RetrievalProtocol.fixed([0], [2]),
            "none of 1 queries has a positive in its gallery under 'fixed lists'",
        ),
    ],
)
def test_says_what_is_wrong(protocol, text):
    with pytest.raises(ValueError, match=text):
        evaluate_ranking(torch.eye(4), [0, 0, 1, 1], protocol=protocol())


def test_a_class_in_two_groups_cannot_be_drawn_within_one():
    protocol = RetrievalProtocol.few_shot(ways=2, shots=1, within_group=True)
    with pytest.raises(ValueError, match="each class in one group; 1 classes lie in several"):
        evaluate_ranking(torch.eye(4), [0, 0, 1, 1], groups=[0, 0, 0, 1], protocol=protocol)


def test_protocols_compare_and_print():
    assert RetrievalProtocol(queries=np.array([1, 2])) == RetrievalProtocol(queries=[1, 2])
    assert "queries" not in repr(RetrievalProtocol(queries=range(1000)))


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"gallery": "all"}, TypeError, "gallery must be numbers, got strings"),
        ({"queries": torch.ones(3, dtype=torch.bool)}, TypeError, "queries must be integers, got a mask of booleans"),
        ({"queries": [1, 1]}, ValueError, "unique"),
    ],
)
def test_lists_that_hold_no_ids_are_refused_by_name(given, error, text):
    with pytest.raises(error, match=text):
        RetrievalProtocol(**given)


SETTINGS = """
from legolas_metric import RetrievalProtocol
for given in ({"distractors": "no"}, {"episodes": 5}, {"seed": 1.5}, {"gallery": 3}):
    try:
        RetrievalProtocol(**given)
    except (TypeError, ValueError) as error:
        print(error)
"""


def test_settings_of_the_wrong_type_are_refused_when_the_protocol_is_made():
    """In a process of its own, where no checker of types stands before ours."""
    said = python("-c", SETTINGS, check=True).stdout
    names = [line.split()[0] for line in said.splitlines()]
    assert names == ["distractors", "episodes", "seed", "gallery"]


def test_queries_with_too_few_positives_are_named_as_such():
    with pytest.raises(ValueError, match="none of 12 queries has min_positives=9 positives"):
        evaluate_ranking(torch.randn(12, 3), torch.arange(12) // 3, protocol=RetrievalProtocol(min_positives=9))


@pytest.mark.parametrize("seed", range(8))
def test_re_identification_is_market_1501s_own_evaluation(seed):
    """Query by query, as its Python code has it: junk out, then CMC and the mean of the precisions at the hits."""
    draw = np.random.default_rng(seed)
    person, camera = draw.integers(-1, 9, 80), draw.integers(0, 3, 80)
    x = draw.standard_normal((80, 5)) + 0.8 * draw.standard_normal((10, 5))[person]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    rows = draw.permutation(80)
    queries, gallery = [int(i) for i in rows[:30] if person[i] > 0], rows[30:]  # 0: distractors, no query has them
    first, precision = [], []
    for i in queries:
        honest = gallery[(person[gallery] != -1) & ((person[gallery] != person[i]) | (camera[gallery] != camera[i]))]
        hit = person[honest][np.argsort(-(x[honest] @ x[i]))] == person[i]
        if hit.any():
            first.append([hit[:k].any() for k in (1, 5, 10)])
            precision.append(np.mean(np.cumsum(hit)[hit] / (np.flatnonzero(hit) + 1)))
    protocol = RetrievalProtocol.re_identification(queries=queries, gallery=gallery)
    report = evaluate_ranking(x, person, groups=camera, protocol=protocol, full=True)
    assert [report.rank[k] for k in (1, 5, 10)] == pytest.approx(np.mean(first, 0))
    assert report.mean_average_precision == pytest.approx(np.mean(precision))
    assert report.unanswerable == len(queries) - len(first)
