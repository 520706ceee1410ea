"""What losses refuse, each in one sentence with a remedy that works."""

import math
import warnings

import numpy as np
import pytest
import torch

from legolas_metric import (
    EmbeddingBank,
    FocalLoss,
    FullHardMiner,
    MultiSimilarityLoss,
    MultiSimilarityMiner,
    SupConLoss,
    TripletLoss,
)
from legolas_metric.losses import supcon_loss, triplet_loss

PAIR_LOSSES = [SupConLoss, MultiSimilarityLoss, TripletLoss]
X, Y = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)), torch.arange(8) // 2


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda bad: SupConLoss(bad), ValueError, "temperature must be"),
        (lambda bad: supcon_loss(X, Y, temperature=bad), ValueError, "temperature must be"),
        (lambda bad: SupConLoss(bad, learnable=True), ValueError, "temperature must be"),
        (lambda bad: TripletLoss(bad), ValueError, "margin must be a finite number, at least 0"),
        (lambda bad: triplet_loss(X, Y, margin=bad), ValueError, "margin must be a finite number, at least 0"),
        (lambda bad: TripletLoss(soft=True, soft_margin=bad), ValueError, "soft_margin must be a finite number"),
        (lambda bad: MultiSimilarityLoss(alpha=bad), ValueError, "alpha must be a finite number"),
        (lambda bad: MultiSimilarityLoss(beta=bad), ValueError, "beta must be a finite number"),
        (lambda bad: MultiSimilarityLoss(base=bad), ValueError, "base must be a finite number"),
        (lambda bad: MultiSimilarityLoss(mining=bad), ValueError, "mining must be a finite number"),
        (lambda bad: FocalLoss(bad), ValueError, "gamma must be a finite number"),
        (lambda bad: FocalLoss(class_weights=[1.0, bad]), ValueError, "class_weights must be finite"),
    ],
)
@pytest.mark.parametrize("bad", [math.inf, math.nan, -math.inf])
def test_settings_are_finite_numbers(make, error, text, bad):
    with pytest.raises(error, match=text):
        make(bad)


def test_settings_lie_in_their_range():
    for temperature in (1e-40, 1e40):
        with pytest.raises(ValueError, match=r"temperature must be a finite number, at least 1e-06 and at most 1e\+06"):
            SupConLoss(temperature)
    with pytest.raises(ValueError, match=r"margin must be a finite number, at least 0, got -0.1"):
        TripletLoss(-0.1)
    with pytest.raises(ValueError, match="choose one"):
        TripletLoss(squared=True, cosine=True)
    with pytest.raises(ValueError, match="soft_margin belongs to soft=True"):
        TripletLoss(soft_margin=0.1)


@pytest.mark.parametrize("kind", PAIR_LOSSES)
@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        ("distance", r"squared=True .*cosine=True"),
        ("reducer", r"reduction='active' .*as_loss\(loss, reducer="),
        ("type_of_triplets", r"selection='all', 'violating', 'semihard' or 'hard'"),
        ("swap", "there is no swap"),
        ("smooth_loss", r"soft=True, and soft_margin="),
    ],
)
def test_arguments_as_pml_users_type_them(kind, argument, remedy):
    with pytest.raises(TypeError, match=rf"{kind.__name__} takes no {argument}=: .*{remedy}"):
        kind(**{argument: "all"})


def test_other_arguments_are_refused_as_ever():
    with pytest.raises(TypeError, match="unexpected keyword argument 'margins'"):
        TripletLoss(margins=0.2)


@pytest.mark.parametrize("kind", PAIR_LOSSES)
@pytest.mark.parametrize("miner", [FullHardMiner(), MultiSimilarityMiner()])
def test_a_record_needs_ids(kind, miner):
    bank = EmbeddingBank(X, Y, ids=torch.arange(8) + 100)
    record = miner.mine(bank)
    with pytest.raises(ValueError, match=r"a (Triplets|Pairs) record holds ids, .*: pass ids=, the data set's ids"):
        kind()(X, Y, record)
    with pytest.raises(ValueError, match="pass ref_ids="):
        kind()(X, Y, record, X.flip(0), Y.flip(0), ids=bank.ids)
    assert kind()(X, Y, record, ids=bank.ids) > 0  # the remedy
    assert torch.equal(kind()(X, Y, record, X, Y, ids=bank.ids), kind()(X, Y, record, ids=bank.ids))


@pytest.mark.parametrize("kind", PAIR_LOSSES)
def test_lists_of_rows(kind):
    x = X.clone().requires_grad_()
    value = kind()(list(x), Y)
    value.backward()
    assert torch.equal(value, kind()(X, Y))
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r"embeddings has rows of several shapes, \(2,\) and \(3,\)"):
        kind()([X[0], X[1, :2]], [0, 0])
    with pytest.raises(ValueError, match="embeddings must be a table of numbers, with rows of one length"):
        kind()([[1.0, 2.0], [1.0]], [0, 0])


@pytest.mark.parametrize("names", [["a", "a", "b", "b"], np.array(["a", "a", "b", "b"]), np.array(["x"] * 4, object)])
def test_labels_as_names(names):
    for call in (lambda y: SupConLoss()(X[:4], y), lambda y: FocalLoss()(X[:4], y)):
        with pytest.raises(TypeError, match=r"labels must be integers in a loss, got names .*return_inverse=True"):
            call(names)
        assert call(np.unique(names, return_inverse=True)[1]).isfinite()


@pytest.mark.parametrize("kind", PAIR_LOSSES)
def test_pairs_that_the_labels_contradict_are_left_out(kind):
    """Said once, and the rest counts as if the others had not been listed."""
    triplets = tuple(torch.tensor(part) for part in ([0, 2, 4], [1, 5, 5], [2, 4, 0]))  # 2 and 5 are of two classes
    with pytest.warns(UserWarning, match=r"contradicts the labels .*give the miner to the memory"):
        got = kind()(X, Y, triplets)
    assert torch.equal(got, kind()(X, Y, tuple(part[[0, 2]] for part in triplets)))
    pairs = tuple(torch.tensor(part) for part in ([0, 2, 4], [1, 5, 5], [0, 1, 3], [2, 0, 6]))  # 1 and 0 are of one
    with pytest.warns(UserWarning, match="contradicts the labels"):
        got = kind()(X, Y, pairs)
    keep = torch.tensor([0, 2])
    assert torch.equal(got, kind()(X, Y, tuple(part[keep] for part in pairs)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind()(X, None, triplets)
        kind()(
            X,
            torch.tensor([0, 0, 1, -1, 2, 2, 3, 3]),
            (torch.tensor([3, 0]), torch.tensor([2, 3]), torch.tensor([0, 2])),
        )


def test_a_record_that_has_nothing_in_the_batch_is_told():
    embeddings, labels = torch.randn(8, 4), torch.arange(8) // 2
    mined = FullHardMiner().mine(EmbeddingBank(embeddings, labels, ids=torch.arange(8) + 100))
    with pytest.warns(UserWarning, match="none of the 8 entries of a Triplets record lies wholly in this batch"):
        assert TripletLoss()(embeddings, labels, mined, ids=torch.arange(8)).item() == 0
    TripletLoss()(embeddings, labels, mined, ids=torch.arange(8) + 100)
