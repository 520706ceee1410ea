"""Arguments as users have them: banks, names, single numbers, words; and one sentence for what can't be."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score

from legolas_metric import EmbeddingBank, RetrievalProtocol, evaluate_ranking, evaluate_verification
from legolas_metric.evaluation import classification
from legolas_metric.evaluation.arguments import as_fars, as_ks
from legolas_metric.evaluation.classification import classification_report, knn_probe, linear_probe
from legolas_metric.evaluation.clustering import evaluate_clustering
from legolas_metric.evaluation.protocol import Episodes
from legolas_metric.report.sections import worst_gallery


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) // 6
    return torch.randn(10, 8, generator=generator)[y] + 0.7 * torch.randn(60, 8, generator=generator), y


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_a_bank_stands_for_what_it_holds(rows, metric):
    x, y = rows
    groups, ids = torch.arange(60) % 3, torch.arange(60) * 7 + 3
    bank = EmbeddingBank(x, y, ids=ids, groups=groups, metric=metric)
    given = {"groups": groups, "metric": metric}
    across = RetrievalProtocol.cross_session()
    assert evaluate_ranking(bank, protocol=across) == evaluate_ranking(x, y, ids=ids, protocol=across, **given)
    assert evaluate_verification(bank).auc == evaluate_verification(x, y, **given).auc
    assert evaluate_clustering(bank) == evaluate_clustering(x, y, metric=metric)
    before = EmbeddingBank(x.flip(0), y.flip(0), ids=ids.flip(0), metric=metric)
    report = evaluate_ranking(bank, baseline=before)
    assert report.baseline.shares() == pytest.approx(report.shares())  # by id, not by row
    if metric != "cosine":
        with pytest.raises(ValueError, match=f"metric='{'dot' if metric == 'euclidean' else 'euclidean'}' of a bank"):
            evaluate_ranking(bank, metric="dot" if metric == "euclidean" else "euclidean")
    with pytest.raises(TypeError, match="labels are missing: pass one for each row, or an EmbeddingBank"):
        evaluate_ranking(x)


def test_names_are_kept_and_missing_ones_counted(rows):
    x, y = rows
    names = [f"person {label:02d}" if i else None for i, label in enumerate(y.tolist())]
    report = evaluate_ranking(x, names)
    assert report.label_names[3] == "person 03"
    assert report.unlabelled == 1
    codes = y.clone()
    codes[0] = -1
    assert report.shares() == evaluate_ranking(x, codes).shares()
    assert evaluate_ranking(x, codes).label_names is None
    assert evaluate_ranking(EmbeddingBank(x, names)).label_names == report.label_names
    assert evaluate_verification(x, names).auc == evaluate_verification(x, codes).auc


def test_probes_number_names_alike_on_both_sides(rows):
    x, y = rows
    names = np.array([f"class {label}" for label in y.tolist()])
    train = torch.arange(60) % 2 == 0
    test = ~train & (y > 0)  # the first name is missing among the tests
    for probe in (knn_probe, linear_probe):
        want = probe(x[train], y[train], x[test], y[test], num_classes=10)
        got = probe(x[train], names[train.numpy()], x[test], names[test.numpy()], num_classes=10)
        assert got.confusion.equal(want.confusion)
        assert got.label_names[4] == "class 4"
    report = classification_report(["b", "b"], ["a", "b"], num_classes=2)
    assert (report.accuracy, report.label_names) == (0.5, ("a", "b"))


def test_one_number_stands_for_itself(rows):
    x, y = rows
    assert evaluate_ranking(x, y, ks=3).rank == evaluate_ranking(x, y, ks=(3,)).rank
    assert evaluate_ranking(x, y, ks=np.array([1, 5])).rank == evaluate_ranking(x, y, ks=torch.tensor([1, 5])).rank
    assert evaluate_verification(x, y, fars=0.1).tar_at_far == evaluate_verification(x, y, fars=[0.1]).tar_at_far


def test_words_for_protocols(rows):
    x, y = rows
    groups = torch.arange(60) % 3
    for word, protocol in (
        ("cross-day", RetrievalProtocol.cross_day()),
        ("cross-session", RetrievalProtocol.cross_session()),
        ("re-identification", RetrievalProtocol.re_identification()),
        ("leave-one-out", RetrievalProtocol()),
    ):
        report = evaluate_ranking(x, y, groups=groups, protocol=word)
        assert report == evaluate_ranking(x, y, groups=groups, protocol=protocol)
        assert report.protocol.name == word


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"ks": (1.5,)}, TypeError, "ks must be an integer, got 1.5"),
        ({"ks": "1"}, TypeError, "ks must be integers, got '1'"),
        ({"ks": (True,)}, TypeError, "ks must be an integer, got True"),
        ({"protocol": "cross-week"}, ValueError, "protocol must be one of .*, got 'cross-week'"),
        (
            {"protocol": RetrievalProtocol(exclude=lambda q, g: torch.zeros(len(g), dtype=torch.bool))},
            ValueError,
            r"exclude must return one value for each of 60 queries \(down\) and 60 gallery rows \(across\), got shape",
        ),
        (
            {"protocol": RetrievalProtocol(exclude=lambda q, g: torch.zeros(len(q), len(g)))},
            TypeError,
            "exclude must return a bool tensor .* got a tensor of torch.float32",
        ),
        ({"protocol": RetrievalProtocol(exclude=lambda q, g: None)}, TypeError, "got NoneType"),
    ],
)
def test_ranking_says_what_is_wrong(rows, change, error, text):
    with pytest.raises(error, match=text):
        evaluate_ranking(*rows, **change)


@pytest.mark.parametrize(
    ("fars", "error", "text"),
    [
        ("0.01", TypeError, r"fars must be numbers in \(0, 1\], got '0.01'"),
        (("0.01",), TypeError, r"fars must be numbers in \(0, 1\], got '0.01'"),
        ((2.0,), ValueError, r"fars must lie in \(0, 1\], got 2.0"),
        (math.nan, ValueError, r"fars must lie in \(0, 1\], got nan"),
    ],
)
def test_verification_says_what_is_wrong(rows, fars, error, text):
    with pytest.raises(error, match=text):
        evaluate_verification(*rows, fars=fars)


def test_what_no_type_checker_lets_pass_gets_a_sentence_too():
    with pytest.raises(TypeError, match="ks must be integers, got None"):
        as_ks(None)
    with pytest.raises(TypeError, match=r"fars must be numbers .*, got None"):
        as_fars(None)
    with pytest.raises(TypeError, match=r"protocol must be a RetrievalProtocol or one of 'leave-one-out'.*, got 3"):
        RetrievalProtocol.named(3)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"episodes": Episodes(ways=2, shots=1, queries=1, count=1), "queries": [0]},
            "episodes draw their own queries",
        ),
        (
            {"episodes": Episodes(ways=2, shots=1, queries=1, count=1), "gallery": [0]},
            "episodes draw their own queries",
        ),
        (
            {"episodes": Episodes(ways=2, shots=2, queries=1, count=1, prototypes=True), "exclude": "same_group"},
            "prototypes have neither group nor row number",
        ),
        (
            {"episodes": Episodes(ways=2, shots=2, queries=1, count=1, prototypes=True), "min_positives": 2},
            "min_positives=2 can't be met: each query has 1",
        ),
        (
            {"episodes": Episodes(ways=2, shots=1, queries=1, count=1), "min_positives": 2},
            "min_positives=2 can't be met",
        ),
        (
            {"episodes": Episodes(ways=2, shots=1, queries=1, count=1, within_group=True), "exclude": "same_group"},
            "episodes within a group have no positives of another group",
        ),
    ],
)
def test_settings_that_exclude_each_other_are_refused_when_the_protocol_is_made(settings, text):
    with pytest.raises(ValueError, match=text):
        RetrievalProtocol(**settings)


def test_market_1501_junk_is_neither_right_nor_wrong():
    """As its own evaluation: -1 is taken out, and so is the own camera's; 0 is a distractor, wrong but never asked."""
    #                          query      mate      junk     own camera  distractor   another
    x = torch.tensor([[1, 0.0], [1, 0.3], [1, 0.1], [1, 0.05], [1, 0.2], [0, 1.0], [0.1, 1.0]])
    pids, cameras = [7, 7, -1, 7, 0, 8, 8], [1, 2, 3, 1, 3, 2, 1]
    protocol = RetrievalProtocol.re_identification(queries=[0, 6], gallery=range(1, 6))
    report = evaluate_ranking(x, pids, groups=cameras, protocol=protocol, ks=(1, 2), full=True)
    # Query 0 finds the distractor first, then its mate: AP = 1/2. Query 6 finds row 5 at once: AP = 1.
    assert (report.rank, report.mean_average_precision) == ({1: 0.5, 2: 1.0}, 0.75)
    assert report.gallery == 4
    kept = RetrievalProtocol.re_identification(queries=[0, 6], gallery=range(1, 6), distractors=True)
    report = evaluate_ranking(x, pids, groups=cameras, protocol=kept, full=True)
    assert report.mean_average_precision == pytest.approx((1 / 3 + 1) / 2)


def test_cross_session_takes_the_own_recording_out_and_unlabelled_rows_stay_wrong():
    # Persons 0 and 1, two recordings each; row 4 is unlabelled and nearest to row 0.
    x = torch.tensor([[0.0], [0.1], [2.0], [9.0], [0.5], [9.5]])
    person, recording = [0, 0, 0, 1, -1, 1], [0, 0, 1, 0, 0, 1]
    report = evaluate_ranking(x, person, groups=recording, metric="euclidean", protocol="cross-session", full=True)
    # 0: (4), 2 -> place 2. 1: 4, 2 -> 2. 2: 4 at 1.5, 1 at 1.9, 0 at 2 -> places 2, 3. 3: 5 -> 1. 5: 3 -> 1.
    assert report.rank[1] == 2 / 5
    assert report.mean_average_precision == pytest.approx((1 / 2 + 1 / 2 + (1 / 2 + 2 / 3) / 2 + 1 + 1) / 5)


def test_a_clustering_of_one_point_is_undefined():
    y = torch.arange(20) // 5
    report = evaluate_clustering(torch.ones(20, 3), y)
    assert all(math.isnan(v) for v in (report.davies_bouldin, report.calinski_harabasz, report.silhouette))
    assert report.ami == pytest.approx(0)
    assert report.warnings() == (
        "only 1 distinct rows for 4 classes: k-means can't tell them apart",
        "calinski_harabasz, davies_bouldin, silhouette: undefined, as all rows are one point",
    )


def test_classes_of_one_centre_are_not_called_best():
    """scikit-learn's Davies-Bouldin is 0, the best, where classes lie about the same point."""
    x = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert davies_bouldin_score(x, [0, 0, 1, 1]) == 0
    assert evaluate_clustering(x, [0, 0, 1, 1], metric="euclidean").davies_bouldin == math.inf


def test_classes_that_are_points_are_not_called_worst():
    y = torch.arange(12) // 3
    assert calinski_harabasz_score(torch.eye(4)[y], y) == 1
    report = evaluate_clustering(torch.eye(4)[y], y)
    assert (report.calinski_harabasz, report.davies_bouldin, report.silhouette) == (math.inf, 0, 1)
    twins = evaluate_clustering(torch.eye(4)[y // 2 * 2], y)
    assert math.isnan(twins.davies_bouldin)  # two classes that are one point


@pytest.mark.parametrize("scale", [1e-17, 1.0, 1e17])
def test_clusterings_know_no_scale(rows, scale):
    x, y = rows
    report = evaluate_clustering(x * scale, y, metric="euclidean")
    assert report.davies_bouldin == pytest.approx(davies_bouldin_score(x, y), rel=1e-4)
    assert report.calinski_harabasz == pytest.approx(calinski_harabasz_score(x, y), rel=1e-4)


def test_clusterings_of_a_narrow_cone(rows):
    """scikit-learn takes distances below 1e-8 for none; ours are about the centre, and of one size."""
    x, y = rows
    wide = evaluate_clustering(x, y, metric="euclidean")
    tight = evaluate_clustering((x.double() * 1e-9), y, metric="euclidean")
    assert tight.davies_bouldin == pytest.approx(wide.davies_bouldin, rel=1e-4)


def test_votes_over_many_classes_stay_small(monkeypatch):
    """Blocks of test rows: the table of votes never holds them all, and the answer is that of one block."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 50
    x = torch.randn(50, 6, generator=generator)[y] + 0.5 * torch.randn(400, 6, generator=generator)
    split = (x[:300], y[:300], x[300:], y[300:])
    whole = knn_probe(*split, num_classes=50, k=7)
    sizes = []
    voted = classification._voted
    monkeypatch.setattr(classification, "_voted", lambda near, c: sizes.append(len(near)) or voted(near, c))
    monkeypatch.setattr(classification, "BLOCK", 24 * 50 * 9)
    assert knn_probe(*split, num_classes=50, k=7).confusion.equal(whole.confusion)
    assert max(sizes) == 9
    assert sum(sizes) == 100


def test_breakdowns_and_worst_queries_show_names():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9], [0.95, 0.05]])
    names, days = ["bob", "bob", "ann", "ann", None], ["mon", "tue", "mon", "tue", "mon"]
    bank = EmbeddingBank(x, names, groups=days)
    for report in (
        evaluate_ranking(x, names, groups=days),
        evaluate_ranking(bank),
        evaluate_ranking(bank, ids=range(5)),
    ):
        classes, groups = report.by_class(), report.by_group()
        assert classes.names == tuple(report.label_names[key] for key in classes.keys)
        assert sorted(groups.names) == ["mon", "tue"]
        worst = report.worst[0]
        assert worst.label_name == report.label_names[worst.label]
        assert worst.wrong_names == tuple(
            "(none)" if label == -1 else report.label_names[label] for label in worst.wrong_labels
        )
        assert any("(none)" in found.wrong_names for found in report.worst)
        captions = [caption for caption, _ in worst_gallery(report.worst, lambda _: np.zeros((8, 8))).cards[0].pictures]
        assert captions[0] == f"query, class {worst.label_name}"
        assert captions[2].startswith(f"wrong: class {worst.wrong_names[0]}, ")
    numbered = evaluate_ranking(x, [0, 0, 1, 1, -1])
    assert numbered.by_class().names is numbered.worst[0].label_name is numbered.worst[0].wrong_names is None
