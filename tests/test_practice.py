"""Faults of practice, each shown by a run of seconds, and its cure by the same run."""

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn
from torch.nn.functional import cross_entropy

from legolas_metric import FocalLoss, classification_report, evaluate_ranking
from legolas_metric.datasets.folds import KFold
from legolas_metric.datasets.leakage import find_leakage
from legolas_metric.training.class_balance import balanced_sampler, balancings, check_classes, class_weights
from legolas_metric.training.fold_runs import run_folds
from legolas_metric.training.stopping import RestoringStopper, StoppingRule

Epoch = tuple[dict[str, torch.Tensor], float, float]  # weights, validation loss, Rank@1 of persons unseen
D, SIGNAL, PERSONS = 24, 8, 40


def persons(each, noise, *, seed):
    """Persons that differ in a third of the dimensions; the others are noise, which can be learnt by heart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(PERSONS).repeat_interleave(each)
    x = noise * torch.randn(len(labels), D, generator=generator)
    within = 0.5 * torch.randn(len(labels), SIGNAL, generator=generator)
    x[:, :SIGNAL] = 1.5 * torch.randn(PERSONS, SIGNAL, generator=generator)[labels] + within
    return x, labels


def train(x, labels, taught, unseen, *, lr, epochs, steps) -> tuple[nn.Module, list[Epoch]]:
    """A classifier's training, of whose rows those that are not taught are for validation."""
    encoder, head = nn.Sequential(nn.Linear(D, 64), nn.ReLU(), nn.Linear(64, 16)), nn.Linear(16, PERSONS)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=lr)
    seen = []
    for _ in range(epochs):
        for _ in range(steps):
            loss = cross_entropy(head(encoder(x[taught])), labels[taught])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            rank = evaluate_ranking(encoder(unseen[0]), unseen[1]).rank[1]
            validation = float(cross_entropy(head(encoder(x[~taught])), labels[~taught]))
        seen.append(({name: value.clone() for name, value in encoder.state_dict().items()}, validation, rank))
    return encoder, seen


def test_the_last_epoch_is_worse_than_the_best(tmp_path):
    """Half the labels are wrong, and are learnt by heart in the end."""
    torch.manual_seed(0)
    (x, labels), unseen = persons(10, 0.7, seed=1), persons(5, 0.7, seed=2)
    wrong = torch.rand(len(labels)) < 0.5
    labels[wrong] = torch.randint(PERSONS, (int(wrong.sum()),))
    taught = torch.arange(len(x)) % 10 > 0
    encoder, epochs = train(x, labels, taught, unseen, lr=1e-2, epochs=12, steps=5)
    stopper = RestoringStopper(StoppingRule(patience=len(epochs)), folder=tmp_path)
    for epoch, (weights, _, rank) in enumerate(epochs):
        stopper.update(rank, epoch, weights)
    ranks = [rank for _, _, rank in epochs]
    assert ranks[-1] < max(ranks) - 0.05  # the fault: what is left in memory
    encoder.load_state_dict(stopper.restored().weights)
    assert evaluate_ranking(encoder(unseen[0]).detach(), unseen[1]).rank[1] == max(ranks)


def test_stopping_on_loss_misses_the_best_ranking():
    """The classifier grows too sure of itself while its embedding still improves."""
    torch.manual_seed(0)
    (x, labels), unseen = persons(6, 2.0, seed=1), persons(5, 2.0, seed=2)
    taught = torch.arange(len(x)) % 6 < 4
    _, epochs = train(x, labels, taught, unseen, lr=5e-3, epochs=30, steps=3)
    on_loss, on_rank = StoppingRule(mode="min", patience=5), StoppingRule(patience=5)
    for epoch, (_, validation, rank) in enumerate(epochs):
        if not on_loss.stopped:
            on_loss.update(validation, epoch)
        if not on_rank.stopped:
            on_rank.update(rank, epoch)
    assert epochs[on_loss.best_epoch][2] < epochs[on_rank.best_epoch][2] - 0.05


def test_folds_that_share_persons_flatter(tmp_path):
    """Discriminant analysis as encoder: it knows what sets apart the persons that it was fitted on, and no others."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(30).repeat_interleave(8)
    own = torch.randn(30, 60, generator=generator)  # in as many dimensions as there are, so that few are learnt
    x = torch.randn(240, 60, generator=generator) + own[labels] / 2

    def rank(task):
        encoder = LinearDiscriminantAnalysis().fit(x[task.train].numpy(), labels[task.train].numpy())
        z = torch.from_numpy(encoder.transform(x[task.validation].numpy())).float()
        return evaluate_ranking(z, labels[task.validation])

    # The same rows are ranked in both: half of those of a fold's persons. Of the others the encoder learns, or not.
    honest = KFold(labels, 5, test_share=0)
    shared = [(torch.cat([train, part[::2]]), part[1::2]) for train, part in honest]
    apart = [(train, part[1::2]) for train, part in honest]
    flattering = run_folds(shared, rank, folder=tmp_path / "shared").pooled()
    true = run_folds(apart, rank, folder=tmp_path / "apart").pooled()
    assert flattering > true + 0.1
    assert find_leakage({"train": shared[0][0], "validation": shared[0][1]}, labels=labels).identities
    assert not honest.leakage().found


def test_double_balancing_costs_the_majority_its_recall():
    generator = torch.Generator().manual_seed(4)
    labels = torch.cat([torch.zeros(950), torch.ones(50)]).long()
    x = torch.randn(1000, 2, generator=generator) + labels[:, None] * 1.2
    weights = class_weights(labels, 2)

    def majority_recall(*, weighted, sampled):
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        loss = nn.CrossEntropyLoss(weight=weights if weighted else None)
        sampler = balanced_sampler(labels, 2, size=4000) if sampled else None
        rows = torch.arange(1000) if sampler is None else torch.tensor(list(sampler))
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=50)

        def closure():
            optimizer.zero_grad()
            value = loss(model(x[rows]), labels[rows])
            value.backward()
            return value.detach()

        optimizer.step(closure)
        report = classification_report(model(x).argmax(1), labels, num_classes=2)
        ways = balancings(loss, [] if sampler is None else [sampler])
        return float(report.class_accuracy[0]), report.balanced_accuracy, len(ways)

    weighted, sampled = majority_recall(weighted=True, sampled=False), majority_recall(weighted=False, sampled=True)
    both = majority_recall(weighted=True, sampled=True)
    assert both[0] < 0.3 < 0.7 < min(weighted[0], sampled[0])
    assert both[1] < min(weighted[1], sampled[1]) - 0.1
    assert (weighted[2], sampled[2], both[2]) == (1, 1, 2)  # and it is said so


def blobs(counts, *, seed, spread=0.6):
    """Classes around points of a circle, with as many rows as asked."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    angle = labels * (2 * torch.pi / len(counts))
    return torch.stack([angle.cos(), angle.sin()], 1) + spread * torch.randn(
        len(labels), 2, generator=generator
    ), labels


def fit(loss, classes):
    """A linear classifier, trained to the end."""
    torch.manual_seed(0)
    model = nn.Linear(2, classes)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100)

    def closure():
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        return value.detach()

    optimizer.step(closure)
    return model.requires_grad_(False)


def test_empty_classes_are_no_failures():
    """Two of eight classes have no row to validate on: with zeros for them the same classifier looks far worse."""
    x, labels = blobs([30] * 8, seed=5, spread=0.2)
    held, truth = blobs([20, 20, 0, 20, 20, 20, 0, 20], seed=6, spread=0.2)
    model = fit(lambda net: cross_entropy(net(x), labels), 8)
    report = classification_report(model(held).argmax(1), truth, num_classes=8)
    as_zero = float(report.class_accuracy.nan_to_num(0.0).mean())
    assert as_zero < 0.75 < 0.9 < report.mpca  # the fault, and the cure
    assert report.mpca == pytest.approx(as_zero * 8 / 6)
    assert report.empty == 2


def test_focal_loss_of_soft_targets_teaches_the_wrong_probabilities():
    """Targets that a linear model can meet: cross-entropy meets them, focal loss written for them asks for less."""
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(5))
    sure = torch.sigmoid(2 * x[:, 0])
    targets = torch.stack([1 - sure, sure], 1)

    def naive(net):
        logits = net(x)
        return -(targets * (1 - logits.softmax(1)) ** 2 * logits.log_softmax(1)).sum(1).mean()

    wrong = (fit(naive, 2)(x).softmax(1) - targets).abs().mean()
    right = (fit(lambda net: cross_entropy(net(x), targets), 2)(x).softmax(1) - targets).abs().mean()
    assert wrong > 0.1  # the fault
    assert right < 1e-3
    with pytest.raises(TypeError, match="hard targets"):
        fit(lambda net: FocalLoss()(net(x), targets), 2)


def test_num_classes_from_the_largest_label_breaks_on_the_first_class_beyond():
    """The last of five classes is not in the training part."""
    x, labels = blobs([30, 30, 30, 30, 0], seed=7)
    held, truth = blobs([5] * 5, seed=8)
    guessed = int(labels.max()) + 1
    model = fit(lambda net: cross_entropy(net(x), labels), guessed)
    with pytest.raises(IndexError):
        cross_entropy(model(held), truth)  # the fault, after training
    with pytest.raises(ValueError, match="labels go up to 4 with num_classes=4: declare"):
        check_classes(truth, guessed)  # before it
    model = fit(lambda net: cross_entropy(net(x), labels), 5)
    check_classes(truth, 5)
    assert cross_entropy(model(held), truth).isfinite()
    report = classification_report(model(held).argmax(1), truth, num_classes=5)
    assert float(report.class_accuracy[4]) == 0  # never taught, and counted as what it is
    assert report.empty == 0
