import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from legolas_metric.evaluation.classification import classification_report, knn_probe, linear_probe
from legolas_metric.evaluation.clustering import evaluate_clustering
from legolas_metric.evaluation.distribution import class_distribution
from legolas_metric.evaluation.protocol import RetrievalProtocol


def blobs(n=120, classes=4, d=5, noise=0.8, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return (rng.normal(size=(classes, d))[y] + noise * rng.normal(size=(n, d))).astype(np.float32), y


def test_equals_scikit_learn_with_empty_classes_left_out():
    rng = np.random.default_rng(0)
    truth, called = rng.choice([0, 1, 3], 50), rng.integers(0, 5, 50)
    report = classification_report(called, truth, num_classes=5)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert report.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, called))
    assert report.mpca == report.balanced_accuracy
    assert report.confusion.tolist() == confusion_matrix(truth, called, labels=range(5)).tolist()
    there = [0, 1, 3]
    assert report.f1[there].tolist() == pytest.approx(f1_score(truth, called, labels=there, average=None))
    assert report.macro_f1 == pytest.approx(f1_score(truth, called, labels=there, average="macro"))
    assert report.f1[[2, 4]].isnan().all()
    assert report.class_accuracy[[2, 4]].isnan().all()
    assert report.empty == 2
    assert report.accuracy == np.mean(truth == called)


def test_knn_probe_equals_scikit_learn_without_tied_votes():
    x, y = blobs(classes=2)
    model = KNeighborsClassifier(5).fit(x[:80], y[:80])
    want = classification_report(model.predict(x[80:]), y[80:], num_classes=2)
    got = knn_probe(x[:80], y[:80], x[80:], y[80:], num_classes=2, k=5, metric="euclidean")
    assert got.confusion.equal(want.confusion)


def test_tied_votes_go_to_the_nearest():
    train = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    report = knn_probe(train, [0, 1, 1, 0], torch.tensor([[0.9]]), [1], num_classes=2, k=2, metric="euclidean")
    assert report.accuracy == 1.0
    report = knn_probe(train, [0, 1, 1, 0], torch.tensor([[-5.0]]), [0], num_classes=2, k=4, metric="euclidean")
    assert report.accuracy == 1.0


def test_tied_votes_go_to_the_nearest_however_far_its_other_rows_are():
    angle = torch.tensor([0.0, 50, 10, 20, 30, 40]).deg2rad()
    train = torch.stack([angle.cos(), angle.sin()], 1)
    query = torch.tensor([[1.0, 0.0]])
    for labels in ([1, 1, 0, 0, 2, 3], [3, 3, 0, 0, 2, 1]):  # places 1 and 6 against 2 and 3
        assert knn_probe(train, labels, query, [labels[0]], num_classes=4, k=6).accuracy == 1.0


def test_linear_probe_separates_what_is_linear():
    x, y = blobs(noise=0.1)
    assert linear_probe(x[:80], y[:80], x[80:], y[80:], num_classes=4).accuracy == 1.0


@pytest.mark.parametrize("probe", [knn_probe, linear_probe])
def test_the_untrained_encoder_stands_beside_a_probe(probe):
    x, y = blobs(noise=0.1)
    noise = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    split = (x[:80], y[:80], x[80:], y[80:])
    good, bad = probe(*split, num_classes=4), probe(noise[:80], y[:80], noise[80:], y[80:], num_classes=4)
    worse = probe(noise[:80], y[:80], noise[80:], y[80:], num_classes=4, baseline=(x[:80], x[80:]))
    assert worse.baseline.confusion.equal(good.confusion)
    assert (
        worse.warnings()[0]
        == f"accuracy is worse than the baseline's: {bad.accuracy:.3f}, baseline {good.accuracy:.3f}"
    )
    assert [said.split()[0] for said in worse.warnings()] == ["accuracy", "balanced_accuracy", "macro_f1"]
    assert probe(*split, num_classes=4, baseline=bad).warnings() == ()


def test_predictions_of_the_untrained_encoder_and_empty_classes():
    report = classification_report([0, 1, 1], [0, 0, 1], num_classes=3, baseline=[0, 0, 1])
    assert report.baseline.accuracy == 1.0
    assert report.warnings()[0] == "accuracy is worse than the baseline's: 0.667, baseline 1.000"
    assert report.warnings()[-1] == "1 of 3 classes have no rows and are left out of the means"
    with pytest.raises(ValueError, match="predicted has 2 entries"):
        classification_report([0, 1, 1], [0, 0, 1], num_classes=3, baseline=[0, 1])


def test_clusters_that_training_undid():
    x, y = blobs(noise=0.1)
    noise = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    worse = evaluate_clustering(noise, y, baseline=x)
    assert [said[:33] for said in worse.warnings()] == [
        f"{name} is worse than the baseline's:" for name in ("NMI", "AMI")
    ]
    assert evaluate_clustering(x, y, baseline=noise).warnings() == evaluate_clustering(x, y).warnings() == ()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: classification_report([0], [5], num_classes=3), r"labels must lie in 0 .. 2 \(num_classes=3\)"),
        (lambda: classification_report([4], [0], num_classes=3), r"predicted must lie in 0 .. 2"),
        (
            lambda: knn_probe(torch.eye(2), [0, 2], torch.eye(2), [0, 1], num_classes=2, k=1),
            "^train_labels must lie in",
        ),
        (
            lambda: knn_probe(torch.eye(2), [0, 1], torch.eye(2), [0, -1], num_classes=2, k=1),
            "^test_labels must lie in",
        ),
        (lambda: linear_probe(torch.eye(2), [-1, 1], torch.eye(2), [0, 1], num_classes=2), "^train_labels must lie in"),
        (lambda: linear_probe(torch.eye(2), [0, 1], torch.eye(2), [0, 2], num_classes=2), "^test_labels must lie in"),
        (lambda: classification_report([], [], num_classes=3), "labels are empty"),
        (lambda: classification_report([0, 1], [0], num_classes=3), "predicted has 2 entries for 1 rows of labels"),
        (lambda: knn_probe(torch.eye(2), [0, 1], torch.eye(2), [0, 1], num_classes=2), "k=20 neighbours of 2 training"),
        (
            lambda: linear_probe(torch.eye(2), [1, 1], torch.eye(2), [0, 1], num_classes=2),
            "train_labels hold one class",
        ),
        (lambda: class_distribution([-1, -1]), "no labelled row"),
        (lambda: class_distribution([0, 7], num_classes=5), "labels must lie below num_classes=5, got 7"),
        (lambda: evaluate_clustering(torch.eye(3), [0, 1, 2]), "more rows than classes, got 3 of 3 rows"),
        (lambda: evaluate_clustering(torch.eye(3), [0, 0, 0]), "clustering needs 2 or more classes"),
    ],
)
def test_says_what_is_wrong(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_clustering_equals_scikit_learn_on_the_protocols_gallery():
    x, y = blobs(noise=0.4)
    y[:7] = -1
    report = evaluate_clustering(x, y, metric="euclidean", protocol=RetrievalProtocol(gallery=range(60)))
    kept = np.arange(7, 60)
    assert (report.rows, report.classes) == (53, len(set(y[kept])))
    assert report.silhouette == pytest.approx(silhouette_score(x[kept], y[kept]))
    assert evaluate_clustering(x, y, seed=3) == evaluate_clustering(x, y, seed=3)


def test_clustering_carries_the_untrained_encoders_values():
    x, y = torch.randn(60, 4), torch.arange(60) // 6
    trained = torch.nn.functional.one_hot(y) + 0.01 * torch.randn(60, 10)
    report = evaluate_clustering(trained, y, baseline=x)
    assert report.baseline == evaluate_clustering(x, y)
    assert evaluate_clustering(trained, y, baseline=report.baseline) == report
    assert report.ami == pytest.approx(1)
    assert report.baseline.ami < 0.9


def test_clustering_of_clear_clusters_is_perfect():
    y = torch.arange(40) // 10
    report = evaluate_clustering(torch.eye(4)[y] + 0.01 * torch.randn(40, 4), y)
    assert (report.nmi, report.ami) == pytest.approx((1.0, 1.0))
    assert report.silhouette > 0.9
    assert report.davies_bouldin < 0.1
    assert report.calinski_harabasz > 1000


def test_distribution_counts_and_warns():
    found = class_distribution([0] * 30 + [1] * 3 + [2, 4, -1], num_classes=6)
    assert (found.rows, found.unlabelled, found.classes, found.empty, found.singletons) == (35, 1, 4, 2, 2)
    assert (found.smallest, found.median, found.largest, found.imbalance) == (1, 2.0, 30, 30.0)
    assert found.dominant == pytest.approx(30 / 35)
    share = np.array([30, 3, 1, 1]) / 35
    assert found.effective_classes == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert len(found.warnings) == 4
    assert class_distribution([0, 0, 1, 1]).warnings == ()
