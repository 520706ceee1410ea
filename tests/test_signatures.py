"""Arguments of a wrong type: one sentence that names the argument, from every public door."""

import inspect
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import legolas_metric as lm
from legolas_metric.interop.pml import as_knn_func, as_loss
from legolas_metric.signatures import typed
from legolas_metric.training import MiningLoop

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) // 4
G = torch.arange(24) % 2
BANK = lm.EmbeddingBank(X, Y, groups=G)
TRIPLETS = lm.HardMiner().mine(BANK)
INDEX = lm.ExactIndex().fit(X, Y, groups=G)
VERIFIED = lm.evaluate_verification(X, Y)
RULE = lm.DecisionRule.fit(VERIFIED, far=0.1)
IDS = range(24)
SAME = (torch.arange(24) % 2).bool()

WRONG = ("abc", object(), {"a": 1}, np.array([1, 2]), torch.tensor(1.0), lambda: 1)

# Each call with what it must have; the wrong value takes the place of one argument at a time, or comes beside them.
CALLS: dict[str, tuple[Callable, dict]] = {
    "evaluate_ranking": (partial(lm.evaluate_ranking, X, Y, groups=G), {}),
    "evaluate_verification": (partial(lm.evaluate_verification, X, Y), {}),
    "evaluate_clustering": (partial(lm.evaluate_clustering, X, Y), {}),
    "probe_embeddings": (partial(lm.probe_embeddings, X, Y), {}),
    "knn_probe": (partial(lm.knn_probe, X, Y, X, Y), {"num_classes": 6}),
    "linear_probe": (partial(lm.linear_probe, X, Y, X, Y), {"num_classes": 6, "max_iter": 1}),
    "verification_from_scores": (partial(lm.verification_from_scores, X[:, 0], SAME), {}),
    "rates_at": (VERIFIED.rates_at, {}),
    "mean_rank": (VERIFIED.mean_rank, {}),
    "DecisionRule.fit": (lm.DecisionRule.fit, {"report": VERIFIED, "far": 0.1}),
    "DecisionRule.fit, cost": (partial(lm.DecisionRule.fit, VERIFIED), {"cost": lm.Cost()}),
    "rule.apply": (partial(RULE.apply, X, Y), {"resamples": 1}),
    "Cost": (lm.Cost, {}),
    "hubness_of": (lm.hubness_of, {"neighbors": INDEX.self_join(3), "ids": range(24)}),
    "RetrievalProtocol": (lm.RetrievalProtocol, {}),
    "few_shot": (lm.RetrievalProtocol.few_shot, {"ways": 3, "shots": 2}),
    "class_weights": (partial(lm.class_weights, Y), {"num_classes": 6}),
    "balanced_sampler": (partial(lm.balanced_sampler, Y), {"num_classes": 6}),
    "mixup": (partial(lm.mixup, X, Y), {"num_classes": 6, "alpha": 1.0, "seed": 0}),
    "class_disjoint_split": (partial(lm.class_disjoint_split, Y), {}),
    "group_disjoint_folds": (partial(lm.group_disjoint_folds, Y), {"folds": 2}),
    "KFold": (partial(lm.KFold, Y), {"folds": 2}),
    "ExactIndex": (lm.ExactIndex, {}),
    "AutoIndex": (lm.AutoIndex, {}),
    "search": (partial(INDEX.search, X, labels=Y, groups=G), {"k": 2}),
    "self_join": (INDEX.self_join, {"k": 2}),
    "EmbeddingBank": (partial(lm.EmbeddingBank, X, Y), {}),
    "bank.update": (partial(lm.EmbeddingBank(X, Y).update, range(24), X), {"step": 1}),
    "PKSampler": (partial(lm.PKSampler, Y), {"p": 2, "k": 2}),
    "NeighborPKSampler": (lm.NeighborPKSampler, {"bank": BANK, "p": 2, "k": 2}),
    "TripletSampler": (lm.TripletSampler, {"triplets": TRIPLETS, "batch_size": 12}),
    "BankLoss": (lm.BankLoss, {"loss": lm.SupConLoss(), "bank": BANK}),
    "BankLoss.forward": (partial(lm.BankLoss(lm.SupConLoss(), BANK).forward, X, Y), {"ids": range(24), "step": 0}),
    "CollapseGuard.check": (lm.CollapseGuard().check, {"report": lm.probe_embeddings(X), "epoch": 0}),
    "CollapseProbe.compute": (lm.CollapseProbe().update(X).compute, {}),
    "FalseNegativeGuard": (lm.FalseNegativeGuard, {}),
    "SupConLoss": (lm.SupConLoss, {}),
    "MultiSimilarityLoss": (lm.MultiSimilarityLoss, {}),
    "TripletLoss": (lm.TripletLoss, {}),
    "FocalLoss": (lm.FocalLoss, {}),
    "MiningLoop": (partial(MiningLoop, labels=Y), {"dataset": TensorDataset(X), "miner": lm.HardMiner()}),
    "mean_weights": (lm.mean_weights, {"states": [{}]}),
    "as_loss": (as_loss, {"loss": lm.SupConLoss()}),
    "as_knn_func": (as_knn_func, {"index": lm.ExactIndex()}),
    **{m.__name__: (m, {}) for m in (lm.RandomMiner, lm.SemiHardMiner, lm.HardMiner, lm.FullHardMiner)},
    **{m.__name__: (m, {}) for m in (lm.EasyPositiveMiner, lm.DistanceWeightedMiner, lm.MultiSimilarityMiner)},
}
TAKE_ANYTHING = {"exclude", "name", "gallery", "queries", "collate_fn", "detail", "history", "dataset", "embed_dataset"}
CALLED = {"nonzero_loss_cutoff": "cutoff", "embed_batch_size": "batch_size"}


def free_parameters(call: Callable) -> list[str]:
    return [
        name
        for name, parameter in inspect.signature(call).parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and name not in (getattr(call, "keywords", None) or {})
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_each_argument_of_a_wrong_type_is_named(name):
    call, needed = CALLS[name]
    for argument in free_parameters(call):
        if argument in TAKE_ANYTHING:
            continue
        for wrong in WRONG:
            try:
                call(**(needed | {argument: wrong}))
            except (TypeError, ValueError) as error:
                said = str(error)
                assert CALLED.get(argument, argument) in said, f"{argument}={wrong!r}: {said}"
                assert "truth value" not in said, said
            # Anything else that is raised is a crash; what is accepted is judged where its part is tested.


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: lm.evaluate_ranking(X, Y, full="yes"), TypeError, "full must be True or False, got 'yes'"),
        (
            lambda: lm.DecisionRule.fit("report", far=0.1),
            TypeError,
            "report must be a VerificationReport, got 'report'",
        ),
        (lambda: lm.BankLoss(lm.SupConLoss(), X), TypeError, "bank must be an EmbeddingBank, got a Tensor"),
        (lambda: lm.SemiHardMiner(margin=10**400), ValueError, r"margin must be below 2\^63"),
        (lambda: lm.KFold(Y, 2, seed="a"), TypeError, "seed must be an integer, got 'a'"),
        (lambda: lm.SupConLoss(workspace_mb=1.5), TypeError, "workspace_mb must be an integer, got 1.5"),
        (lambda: as_loss(lm.SupConLoss(), reducer=torch.nn.ReLU()), TypeError, "reducer must be one of PML's"),
        (lambda: lm.EmbeddingBank.__init__.__wrapped__(BANK, X, None), TypeError, "labels must be given"),
        (lambda: lm.evaluate_ranking(X.to_sparse(), Y), TypeError, r"sparse one: convert with .to_dense\(\)"),
        (lambda: lm.SupConLoss()(X.to_sparse(), Y), TypeError, r"sparse one: convert with .to_dense\(\)"),
        (lambda: lm.EmbeddingBank(X.to("meta"), Y), TypeError, "meta one: it holds no numbers"),
    ],
)
def test_sentences(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


def test_numbers_of_numpy_are_numbers():
    assert type(lm.SemiHardMiner(margin=np.float32(0.25)).margin) is float
    k = np.int64(2)
    assert lm.FaissIndex().fit(X).search(X, k).ids.shape == (24, 2)
    assert len(lm.HardMiner(per_anchor=np.int64(3)).mine(BANK)) == 72
    assert lm.KFold(Y, 2, how="stratified", seed=np.int32(-3)).folds == 2  # scikit-learn takes no seed below 0
    assert lm.evaluate_clustering(X, Y, seed=-1).classes == 6
    assert lm.evaluate_ranking(X.double().numpy().astype(np.longdouble), Y).rank[1] == lm.evaluate_ranking(X, Y).rank[1]


def test_what_is_no_plain_type_is_left_alone():
    @typed
    def told(first: "int | torch.Tensor", *rest: int, second: float = 1.0, **named: str) -> tuple:
        return first, rest, second, named

    assert told("x", "y", second=2, word=3) == ("x", ("y",), 2, {"word": 3})
    with pytest.raises(TypeError, match="second must be a number, got 'b'"):
        told(1, second="b")
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        told()


NAMES = [f"n{9 - int(label)}" for label in Y]  # in another order than their numbers


@pytest.mark.parametrize(
    "call",
    [
        lambda labels, other: lm.ExactIndex().fit(X, labels).search(X, 2, labels=other, want="positive"),
        lambda labels, other: lm.FaissIndex().fit(X, labels).search(X, 2, labels=other, want="positive"),
        lambda labels, other: lm.ExactIndex().fit(X, Y, groups=labels).search(X, 2, labels=Y, groups=other),
        lambda labels, other: lm.HardMiner()(X, labels, X.clone(), other),
        lambda labels, other: lm.MultiSimilarityMiner()(X, labels, X.clone(), other),
        lambda labels, other: lm.knn_probe(X, labels, X, other, num_classes=6, k=3),
        lambda labels, other: lm.classification_report(other, labels, num_classes=6),
        lambda labels, other: lm.BankLoss(lm.SupConLoss(), lm.EmbeddingBank(X, labels))(
            X, other, ids=range(24), step=0
        ),
    ],
)
def test_names_are_compared_with_names_only(call):
    """Numbered by themselves, names would be compared with integers that stand for others."""
    for labels, other in ((Y, NAMES), (NAMES, Y), (Y, np.array(NAMES, object))):
        with pytest.raises(TypeError, match="give names on both sides"):
            call(labels, other)
    call(Y, Y)
    call(NAMES, NAMES)


def test_a_bank_of_names_numbers_a_batch_as_itself():
    """A batch holds some of the names: its own numbers would be others."""
    rows = torch.arange(8, 20)
    value = lm.BankLoss(lm.SupConLoss(), BANK)(X[rows], Y[rows], ids=rows, step=0)
    named = lm.EmbeddingBank(X, NAMES)
    assert lm.BankLoss(lm.SupConLoss(), named)(X[rows], [NAMES[r] for r in rows], ids=rows, step=0) == value


def test_a_wrong_call_warns_of_nothing_first():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match="labels must be integers or names"):
            lm.PKSampler([1, "a"] * 12, 2, 2)
