"""What is asked of a card, and of the host beside it, by `card_program`.

Each case is a function of `to`, which puts a tensor where the case is to run.
"""

from tempfile import TemporaryDirectory

import torch

import legolas_metric as lm

N, D = 240, 16
_draw = torch.Generator().manual_seed(0)
X, Q = torch.randn(N, D, generator=_draw), torch.randn(40, D, generator=_draw)
Y, G, QY = torch.arange(N) // 6, torch.arange(N) % 3, torch.arange(40) % 10
UNTRAINED = torch.randn(N, D, generator=_draw)
METRICS = ("cosine", "dot", "euclidean")
CASES = {}


def case(name):
    return lambda function: CASES.setdefault(name, function)


def bank(to, **more):
    return lm.EmbeddingBank(to(X), to(Y), groups=to(G), **more)


def _joins():
    for metric in METRICS:
        for want in ("negative", "positive", "cross_group_positive", "any"):
            for farthest, windowed in ((False, False), (True, True)):

                def join(to, metric=metric, want=want, farthest=farthest, windowed=windowed):
                    window = (to(torch.full((N,), -3.0)), to(torch.full((N,), 0.4))) if windowed else None
                    index = lm.ExactIndex(metric=metric).fit(to(X), to(Y), groups=to(G))
                    return index.self_join(3, want=want, farthest=farthest, window=window)

                case(f"join {metric} {want}{', farthest in a window' * windowed}")(join)


def _miners():
    kinds = [lm.RandomMiner, lm.HardMiner, lm.FullHardMiner, lm.EasyPositiveMiner, lm.MultiSimilarityMiner]
    kinds += [lm.SemiHardMiner, lm.DistanceWeightedMiner]
    for kind in kinds:
        name = kind.__name__
        case(f"{name}.mine")(lambda to, kind=kind: kind().mine(bank(to)))
        case(f"{name}.mine_batch")(lambda to, kind=kind: kind().mine_batch(to(X), to(Y)))
        case(f"{name}()")(lambda to, kind=kind: kind()(to(X), to(Y)))
        case(f"{name}() with references")(lambda to, kind=kind: kind()(to(X), to(Y), to(X[:99]), to(Y[:99])))
    for positive in ("nearest", "farthest", "all"):
        case(f"SemiHardMiner({positive}).mine")(lambda to, p=positive: lm.SemiHardMiner(positive=p).mine(bank(to)))
        case(f"SemiHardMiner({positive})()")(lambda to, p=positive: lm.SemiHardMiner(positive=p)(to(X), to(Y)))
    for kind in (lm.SemiHardMiner, lm.HardMiner, lm.FullHardMiner, lm.EasyPositiveMiner):
        guard = lm.FalseNegativeGuard()
        case(f"{kind.__name__}(guard).mine")(lambda to, kind=kind, guard=guard: kind(guard=guard).mine(bank(to)))


def _losses():
    losses = {
        "SupConLoss": lm.SupConLoss(),
        "MultiSimilarityLoss": lm.MultiSimilarityLoss(),
        "MultiSimilarityLoss(mining)": lm.MultiSimilarityLoss(mining=0.1),
        "TripletLoss": lm.TripletLoss(),
        "TripletLoss(soft)": lm.TripletLoss(soft=True),
        "TripletLoss(all)": lm.TripletLoss(selection="all"),
        "TripletLoss(semihard)": lm.TripletLoss(selection="semihard"),
    }
    rows = [torch.tensor(one) for one in ([0, 1, 6], [1, 2, 7], [0, 1, 6], [10, 20, 30])]
    mined = {"": None, " of triplets": [rows[0], rows[1], rows[3]], " of pairs": rows}
    for name, loss in losses.items():
        for chosen, tuples in mined.items():
            for against in ("", " with references"):

                def step(to, loss=loss, tuples=tuples, against=against):
                    x = to(X).requires_grad_()
                    given = None if tuples is None else tuple(to(one) for one in tuples)
                    references = {"ref_emb": to(Q), "ref_labels": to(QY)} if against else {}
                    value = loss(x, to(Y), given, **references)
                    value.backward()
                    return value, x.grad

                case(f"{name}{chosen}{against}")(step)


_joins()
_miners()
_losses()


@case("search")
def _(to):
    index = lm.ExactIndex().fit(to(X), to(Y), groups=to(G))
    return index.search(to(Q), 3, labels=to(QY), want="negative", ids=to(torch.arange(40)))


@case("search, names on the host")
def _(to):
    window = (torch.full((40,), -1.0), torch.full((40,), 0.9))
    index = lm.ExactIndex().fit(to(X), Y, groups=G, ids=torch.arange(N).flip(0))
    return index.search(to(Q), 3, labels=QY.tolist(), want="negative", ids=list(range(40)), window=window)


@case("search of several blocks")
def _(to):
    index = lm.ExactIndex(workspace_mb=1).fit(to(X.repeat(6, 1)), to(Y.repeat(6)))
    return index.self_join(3, window=(to(torch.full((6 * N,), -1.0)), to(torch.full((6 * N,), 0.3))))


@case("search of large classes")
def _(to):
    return lm.ExactIndex().fit(to(X), to(Y % 2)).self_join(3, want="positive")


@case("AutoIndex past its budget")
def _(to):
    index = lm.AutoIndex(budget_s=0.0).fit(to(X.repeat(3, 1)), to(Y.repeat(3)))
    found = index.self_join(2, window=(to(torch.full((3 * N,), -1.0)), to(torch.full((3 * N,), 0.3))))
    return found.ids, found.similarities


case("FaissIndex")(lambda to: lm.FaissIndex().fit(to(X), to(Y)).self_join(2))


@case("bank, rewritten")
def _(to):
    own = bank(to)
    own.update(to(torch.tensor([3, 5])), to(Q[:2]), step=4)
    own.update([4, 6], Q[:2], step=5)
    return own.embeddings, own.labels


@case("bank, encoded")
def _(to):
    device = to(Y).device
    return lm.EmbeddingBank.encode(torch.nn.Identity(), X, labels=Y, device=device, progress=False).embeddings


@case("bank, written to disk and mined there")
def _(to):
    with TemporaryDirectory() as folder:
        return lm.HardMiner().mine(lm.StoredBank.write(f"{folder}/bank", bank(to), storage="int8"))


case("group_disjoint_folds")(lambda to: lm.group_disjoint_folds(to(G), 3))
case("mine_pairs")(lambda to: lm.mine_pairs(to(X[:100]), to(X[100:200])))
case("mine, candidates")(
    lambda to: lm.HardMiner().mine(bank(to), to(torch.arange(50)), candidates=to(torch.arange(40, 200)))
)


@case("mine by several labels")
def _(to):
    tags = torch.nn.functional.one_hot(torch.stack([Y, 40 + Y % 3]), 43).sum(0)
    return lm.HardMiner(relation=lm.LabelRelation.multi_label(tags, positive=0.6)).mine(bank(to))


@case("triplets, located")
def _(to):
    mined = lm.HardMiner().mine(bank(to))
    return mined.locate(to(torch.arange(100))), mined.locate(torch.arange(100)), len(mined.records())


case("TripletSampler")(lambda to: list(lm.TripletSampler(lm.HardMiner().mine(bank(to)), 24)))
case("NeighborPKSampler")(lambda to: list(lm.NeighborPKSampler(bank(to), 4, 3)))
case("PKSampler")(lambda to: list(lm.PKSampler(to(Y), 4, 3)))


@case("MiningLoop")
def _(to):
    loop = lm.MiningLoop(X, Y, miner=lm.HardMiner(), batch_size=60, progress=False)
    weight, loss = to(torch.eye(D)).requires_grad_(), lm.SupConLoss()

    class Encoder(torch.nn.Module):
        def forward(self, x):
            return to(x) @ weight

    for inputs, labels, ids in loop.epoch(Encoder()):
        loss(Encoder()(inputs), to(labels), loop.indices(ids)).backward()
    return weight.grad


@case("BankLoss")
def _(to):
    loss, x = lm.BankLoss(lm.SupConLoss(), bank(to)), to(X[:24]).requires_grad_()
    value = loss(x, to(Y[:24]), ids=torch.arange(24), step=1)
    value.backward()
    return value, x.grad


@case("BankLoss of mined triplets")
def _(to):
    own = bank(to)
    loss, x = lm.BankLoss(lm.TripletLoss(), own, rows=50), to(X[:24]).requires_grad_()
    value = loss(x, to(Y[:24]), lm.HardMiner().mine(own), ids=to(torch.arange(24)), step=1)
    value.backward()
    return value, x.grad


@case("FocalLoss")
def _(to):
    logits, weights = to(X).requires_grad_(), torch.linspace(1, 2, D)
    loss = lm.FocalLoss(class_weights=weights)
    loss.class_weights = to(weights)
    value = loss(logits, to(Y % D))
    value.backward()
    return value, logits.grad


case("loss, weights and detail")(lambda to: lm.SupConLoss()(to(X), to(Y), weights=torch.rand(N), detail=True))
case("probe")(lambda to: lm.probe_embeddings(to(X), to(Y)))
case("probe, labels on the host")(lambda to: lm.probe_embeddings(to(X), Y))
case("probe without labels")(lambda to: lm.probe_embeddings(to(X)))
case("CollapseProbe")(lambda to: lm.CollapseProbe().update(to(X), to(Y)).update(to(X), to(Y)).compute())
case("hubness")(lambda to: lm.hubness_of(lm.ExactIndex().fit(to(X)).self_join(3, want="any"), to(torch.arange(N))))
for _metric in METRICS:
    case(f"ranking {_metric}")(lambda to, m=_metric: lm.evaluate_ranking(to(X), to(Y), metric=m))
    case(f"verification {_metric}")(lambda to, m=_metric: lm.evaluate_verification(to(X), to(Y), metric=m))


@case("ranking, in full, against the untrained")
def _(to):
    report = lm.evaluate_ranking(to(X), to(Y), groups=to(G), full=True, baseline=to(UNTRAINED))
    return report, report.difference("rank_at_1")


case("ranking by a relation")(
    lambda to: lm.evaluate_ranking(
        to(X), to(Y), groups=to(G), full=True, relation=lm.LabelRelation(positive_group="other")
    )
)
case("ranking of a bank")(lambda to: lm.evaluate_ranking(bank(to)))
case("ranking across groups")(
    lambda to: lm.evaluate_ranking(to(X), Y, groups=G, protocol=lm.RetrievalProtocol.re_identification())
)
_protocols = {
    "single shot": lm.RetrievalProtocol.single_gallery_shot(repeats=3),
    "few shot": lm.RetrievalProtocol.few_shot(ways=5, shots=1, episodes=4),
    "cross session": lm.RetrievalProtocol.cross_session(),
    "fixed parts": lm.RetrievalProtocol.fixed(torch.arange(0, N, 3), torch.arange(1, N, 3)),
    "a rule of one's own": lm.RetrievalProtocol(exclude=lambda query, row: query[:, None] % 3 == row % 3),
}
for _name, _protocol in _protocols.items():
    case(f"ranking, {_name}")(
        lambda to, protocol=_protocol: lm.evaluate_ranking(to(X), to(Y), groups=to(G), protocol=protocol)
    )


@case("verification, intervals")
def _(to):
    report = lm.evaluate_verification(to(X), to(Y), groups=to(G))
    rule = lm.DecisionRule.fit(report, far=0.01)
    return report.intervals(), rule.apply(to(X), to(Y))


case("open set")(lambda to: lm.evaluate_open_set(to(X), to(Y), enrolled=to(torch.arange(0, N // 2, 3)), groups=to(G)))


@case("identify")
def _(to):
    templates, names = lm.enrol(to(X), by=to(Y))
    return templates, names, lm.identify(to(Q), templates, names, k=3)


case("enrol by names")(lambda to: lm.enrol(to(X), by=[f"p{y}" for y in Y.tolist()], weights=to(torch.rand(N))))
case("enrol all")(lambda to: lm.enrol(to(X), by=Y, how="all"))
for _how in ("mean", "max", "score"):
    case(f"template_curve {_how}")(lambda to, how=_how: lm.template_curve(to(X), to(Y), how=how, repeats=2))
case("template_curve, groups")(lambda to: lm.template_curve(to(X), to(Y), groups=to(G), repeats=2))
case("rerank")(lambda to: lm.rerank(to(Q), to(X)))
case("rerank, expansion")(lambda to: lm.rerank(to(Q), to(X), how="expansion"))
case("expand")(lambda to: lm.expand(to(X)))
case("ScoreNorm")(lambda to: lm.ScoreNorm(to(Q)).score(to(X), to(X[:9])))
for _projection in (lm.Whitening, lm.WCCN, lm.LDA):
    case(_projection.__name__)(lambda to, p=_projection: p().fit(to(X), to(Y)).transform(to(Q)))
case("PLDA")(lambda to: lm.PLDA().fit(to(X), to(Y)).score(to(Q), to(X[:9])))
case("verify_by")(lambda to: lm.verify_by(lm.PLDA().fit(to(X), to(Y)), to(X), to(Y)))
case("repeat_open_set")(lambda to: lm.repeat_open_set(to(X), to(Y), groups=to(G), repeats=2))
case("Calibration")(lambda to: lm.Calibration.fit(lm.evaluate_verification(to(X), to(Y))))
case("Calibration, isotonic, applied")(
    lambda to: lm.Calibration.fit(lm.evaluate_verification(to(X), to(Y)), how="isotonic").llr(to(X[:, 0]))
)
case("cross_fit")(lambda to: lm.DecisionRule.cross_fit(to(X), to(Y), far=0.1, folds=3))
case("accuracy_over_folds")(lambda to: lm.accuracy_over_folds(to(X[:, 0]), to(Y % 2 == 0), folds=5))
case("accuracy_over_folds, given")(lambda to: lm.accuracy_over_folds(to(X[:, 0]), Y % 2 == 0, folds=to(G)))
case("clustering")(lambda to: lm.evaluate_clustering(to(X), to(Y)))
case("knn_probe")(lambda to: lm.knn_probe(to(X), to(Y), to(X[:60]), to(Y[:60]), num_classes=40))
case("linear_probe")(lambda to: lm.linear_probe(to(X), to(Y), to(X[:60]), to(Y[:60]), num_classes=40))
case("diagnose")(lambda to: lm.diagnose(to(X), to(Y), groups=to(G), untrained=to(UNTRAINED)))
case("compare_rows")(lambda to: lm.compare_rows(to(X), to(X + 0.01 * UNTRAINED)))


REFUSED = {
    "tensors of both": lambda to: to(X) + X,
    "places of a card for a tensor of the host": lambda to: X[to(G)],
    "a generator of the host": lambda to: torch.randperm(3, device=to(X).device, generator=torch.Generator()),
    "memory of a card as an array": lambda to: to(X).numpy(),
    "a tensor of the host written by a card": lambda to: torch.zeros(N).index_add_(0, to(G), to(X)[:, 0]),
}
"""What a card refuses, and the pretended one must."""


COUNTED = {
    "a number": lambda to: to(X)[0, 0].item(),
    "numbers": lambda to: to(Y).tolist(),
    "places of what is true": lambda to: (to(G) > 0).nonzero(),
    "rows by a mask": lambda to: to(X)[to(G) > 0],
    "rows written by a mask": lambda to: to(X).__setitem__(to(G) > 0, to(X)[: N * 2 // 3]),
    "a number a row, so often": lambda to: to(Y).repeat_interleave(to(G)),
    "counts": lambda to: to(Y).bincount(),
    "values, once": lambda to: to(Y).unique(),
}
"""What a card waits for once, and the pretended one must count."""
