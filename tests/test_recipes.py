"""Recipes: what each sets, which one the data asks for, and that a loop follows it."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from legolas_metric import FalseNegativeGuard, HardMiner, NeighborPKSampler, PKSampler, recipes
from legolas_metric.distributed import World
from legolas_metric.training import GlobalMining, MetricLearner, MiningLoop
from legolas_metric.training.settings import asked

C, N = 12, 6
LABELS = torch.arange(C).repeat_interleave(N)
GROUPS = torch.arange(N).repeat(C)


@pytest.fixture
def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(C, 5, generator=generator)
    return centres[LABELS] + 0.3 * torch.randn(C * N, 5, generator=generator)


def loop_of(rows, recipe, **settings) -> tuple[MiningLoop, torch.nn.Module]:
    torch.manual_seed(1)
    settings = {"batch_size": 12, "progress": False, **settings}
    return MiningLoop(rows, LABELS, recipe=recipe, **settings), torch.nn.Linear(5, 4)


def ids_of(loop, encoder, epochs: int) -> list[list[list[int]]]:
    return [[ids.tolist() for _, _, ids in loop.epoch(encoder)] for _ in range(epochs)]


def test_near_warms_up_on_random_classes_and_then_takes_near_ones_without_mining(rows):
    loop, encoder = loop_of(rows, replace(recipes.near(pool=3), k=3, warm_up=2))
    seen = ids_of(loop, encoder, 3)
    random = PKSampler(LABELS, 4, 3, batches_per_epoch=6, seed=0)
    for epoch in (0, 1):
        random.set_epoch(epoch)
        assert seen[epoch] == list(random)
    near = NeighborPKSampler(loop.bank, 4, 3, pool=3, batches_per_epoch=6, seed=0)
    near.set_epoch(2)
    assert seen[2] == list(near)
    assert [(r.miner, len(r.triplets), r.fed) for r in loop.rounds] == [("NoMiner", 0, 0.0)] * 3
    assert "triplets" not in loop.last.values()
    assert loop.last.values()["drift"] == 1.0
    assert "near classes by a new bank, drift 1.0000" in loop.last.summary()


def test_near_shows_classes_of_few_examples_too(rows):
    labels = LABELS.clone()
    labels[:4] = torch.arange(4) + 100  # four classes of one example each
    loop = MiningLoop(rows, labels, recipe=replace(recipes.near(), k=3), batch_size=12, progress=False)
    seen = ids_of(loop, torch.nn.Linear(5, 4), 4)
    assert {0, 1, 2, 3} <= {i for epoch in seen for ids in epoch for i in ids}


def test_mined_feeds_triplets_of_the_ranks_that_it_names(rows):
    recipe = replace(recipes.mined(), ranks=(2, 3))
    loop, encoder = loop_of(rows, recipe, seed=3)
    seen = ids_of(loop, encoder, 2)
    assert loop.rounds[0].fed == 0.0  # the warm-up
    assert loop.rounds[1].fed > 0
    expected = HardMiner(ranks=(2, 3), seed=3)
    for mined in loop.rounds:
        found = expected.mine(loop.bank)
        assert torch.equal(mined.triplets.negative, found.negative)
    assert all(len(loop.last.triplets.locate(ids)[0]) >= 3 for ids in seen[1])


def test_positives_of_other_groups_reach_batches_and_miners(rows):
    few = torch.arange(3).repeat_interleave(2).repeat(C)  # three groups of two rows
    recipe = replace(recipes.near(distinct_groups=True), k=3, warm_up=1)
    loop, encoder = loop_of(rows, recipe, groups=few)
    for epoch in ids_of(loop, encoder, 2):
        for ids in epoch:
            for label in LABELS[ids].unique():
                own = [i for i in ids if LABELS[i] == label]
                assert len(few[own].unique()) == 3
    loop, encoder = loop_of(rows, recipes.mined(distinct_groups=True), groups=few)
    next(iter(loop.epoch(encoder)))
    triplets = loop.last.triplets
    assert len(triplets) == C * N
    assert (few[triplets.anchor] != few[triplets.positive]).all()
    with pytest.raises(ValueError, match="takes positives from other groups: pass groups"):
        loop_of(rows, recipe)


def test_a_recipe_goes_on_where_it_was_interrupted(rows):
    recipe = replace(recipes.near(pool=3), k=3, warm_up=1, every=2)
    whole, encoder = loop_of(rows, recipe)
    expected = ids_of(whole, encoder, 4)
    for stop in (1, 2, 3):
        first, encoder = loop_of(rows, recipe)
        ids_of(first, encoder, stop)
        begun = [ids.tolist() for _, _, ids in islice(first.epoch(encoder), 2)]
        state = first.state_dict()
        second, encoder = loop_of(rows, recipe)
        second.load_state_dict(state)
        assert begun + ids_of(second, encoder, 1)[0] == expected[stop]


def test_lightning_takes_a_recipe_without_a_schedule(rows):
    import lightning as L

    recipe = replace(recipes.near(pool=3), k=3)
    mining = GlobalMining(rows, LABELS, recipe=recipe, batch_size=12, progress=False, history=False)
    learner = MetricLearner(torch.nn.Linear(5, 4), recipe.build_loss())
    L.Trainer(
        max_epochs=2, callbacks=[mining], logger=False, enable_checkpointing=False, enable_progress_bar=False
    ).fit(learner, mining.loader())
    assert [r.miner for r in mining.rounds] == ["NoMiner", "NoMiner"]
    assert mining.recorded_settings()["warm_up"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"miner": HardMiner()}, "recipe='near' sets miner itself: leave it out"),
        ({"k": 8}, "recipe='near' sets k itself"),
        ({"turns": ("mined",)}, "recipe='near' sets turns itself"),
    ],
)
def test_a_recipe_stands_alone(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        loop_of(rows, recipes.near(), **settings)


def test_what_is_no_recipe_for_a_loop_is_said(rows):
    with pytest.raises(ValueError, match=r"'pk-batch-hard' never looks at the whole training set: .*recipe.sampler"):
        loop_of(rows, recipes.pk_batch_hard())
    with pytest.raises(TypeError, match=r"recipe must be a Recipe such as recipes.near\(\), got 'near'"):
        asked.__wrapped__("near", schedule=None, miner=None, turns=None, k=None, every=None, seed=0)
    with pytest.raises(ValueError, match=r"'near' looks at the whole training set: pass it to GlobalMining"):
        recipes.near().sampler(LABELS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"turns": ()}, "turns is empty"),
        ({"k": 1}, "k must be at least 2, got 1"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature"),
        ({"guard": FalseNegativeGuard()}, "guard belongs to mined triplets"),
        ({"hard": 0.5}, "hard belongs to batches of near classes"),
        ({"pool": 5}, "pool belongs to batches of near classes"),
        ({"pool": -3, "turns": ("neighbors",)}, "pool must be at least 1, got -3"),
        ({"ranks": (10, 1)}, r"ranks must be \(first, last\)"),
        ({"ranks": (0, 3)}, "ranks must be at least 1, got 0"),
        ({"hard": 0, "turns": ("neighbors",)}, r"hard must lie in \(0, 1\]"),
        ({"loss": "magic"}, "loss must be one of"),
    ],
)
def test_a_recipe_checks_itself(settings, message):
    with pytest.raises(ValueError, match=message):
        recipes.Recipe(name="mine", **settings)


@pytest.mark.parametrize("settings", [{"ranks": (1, "a")}, {"ranks": 3}, {"ranks": (1.5, 3)}, {"pool": 2.5}])
def test_a_recipe_checks_the_types_of_its_settings(settings):
    with pytest.raises(TypeError, match=next(iter(settings))):
        recipes.Recipe(name="mine", turns=("neighbors", "mined"), **settings)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize(
    "recipe",
    [recipes.pk_supcon(), recipes.pk_supcon(distinct_groups=True), recipes.pk_batch_hard(), None],
    ids=["supcon", "across", "batch-hard", "chosen"],
)
def test_batches_hold_as_many_classes_as_there_are(classes, recipe):
    labels, groups = torch.arange(classes).repeat_interleave(9), torch.arange(9).repeat(classes)
    recipe = recipe or recipes.choose(labels, groups=groups)
    for batch in recipe.sampler(labels, groups=groups, batches_per_epoch=3):
        assert torch.equal(labels[batch].unique(return_counts=True)[1], torch.full((classes,), 4))
    assert len(next(iter(recipe.sampler(labels, batch_size=8, groups=groups)))) == 8
    with pytest.raises(ValueError, match="at least 2 classes to tell apart, got 1"):
        recipe.sampler(torch.zeros(40, dtype=torch.long), groups=torch.arange(40))


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize(
    "recipe", [recipes.near(), recipes.near(pool=40), recipes.mined()], ids=["near", "pool", "mined"]
)
@pytest.mark.parametrize("kind", [MiningLoop, GlobalMining])
def test_a_loop_holds_as_many_classes_as_there_are(classes, recipe, kind):
    torch.manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(9)
    mining = kind(torch.randn(len(labels), 5), labels, recipe=recipe, batch_size=128, progress=False)
    loop = mining if kind is MiningLoop else mining.loop
    encoder = torch.nn.Linear(5, 4)
    for epoch, batches in enumerate(ids_of(loop, encoder, 2)):
        for ids in batches:
            if epoch == 0 or "mined" not in recipe.turns:
                assert torch.equal(labels[ids].unique(return_counts=True)[1], torch.full((classes,), 4))
    settings = loop.feeder.settings
    assert settings.batch_size == (128 if "mined" in recipe.turns else 4 * classes)  # as it is recorded


def test_processes_share_the_classes_there_are(rows):
    loop, _ = loop_of(rows, recipes.near(), batch_size=128)
    loop.join(World(rank=1, size=5))
    assert loop.feeder._p == 10  # of 12: two for each
    with pytest.raises(ValueError, match="at least 2 classes to tell apart on each of 7 processes, got 12"):
        loop.join(World(rank=1, size=7))


def test_a_loop_without_a_recipe_takes_the_classes_it_is_told(rows):
    with pytest.raises(ValueError, match="p=32 needs 32 classes"):
        MiningLoop(rows, LABELS, miner=HardMiner(), turns=("mined", "random"), progress=False)


@pytest.mark.parametrize("classes", [2, 10, 400])
def test_the_page_begins_with_code_for_any_number_of_classes(classes):
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    assert "arange(400)" in code
    names: dict = {}
    exec(code.replace("arange(400)", f"arange({classes})"), names)
    fed = names["loop"].epoch(torch.nn.Linear(8, 4)) if names["recipe"].looks else names["batches"]
    x, labels = next(iter(fed))[:2]
    assert torch.isfinite(names["loss"](x, labels))


def test_batch_hard_is_semi_hard_while_it_warms_up():
    recipe = recipes.pk_batch_hard(margin=0.3, warm_up=2)
    assert [recipe.build_loss(epoch).selection for epoch in (0, 1, 2, None)] == ["semihard", "semihard", "hard", "hard"]
    assert recipe.build_loss().margin == 0.3


def test_the_sampler_of_a_recipe_is_the_one_that_it_describes():
    recipe = replace(recipes.pk_supcon(distinct_groups=True), k=3)
    sampler = recipe.sampler(LABELS, batch_size=12, groups=GROUPS, batches_per_epoch=5, seed=2)
    expected = PKSampler(LABELS, 4, 3, groups=GROUPS, distinct_groups=True, batches_per_epoch=5, seed=2)
    assert list(sampler) == list(expected)


@pytest.mark.parametrize("name", ["near", "mined", "pk-supcon", "pk-batch-hard", "pk-multi-similarity"])
def test_every_recipe_has_its_name(name):
    recipe = recipes.named(name)
    assert recipe.name == name
    assert recipe.looks == (name in ("near", "mined"))
    assert torch.isfinite(recipe.build_loss()(torch.randn(8, 3), torch.arange(8) // 2))


@pytest.mark.parametrize(
    ("classes", "groups", "noise", "name", "temperature", "why"),
    [
        (400, False, 0.0, "near", 0.02, "with chance 0.08 only: near classes are looked for"),
        (400, True, 0.0, "near", 0.02, "near classes are looked for; most classes have several groups"),
        (400, False, 0.1, "pk-supcon", 0.1, "10% of the labels are wrong"),
        (400, False, 0.04, "near", 0.02, "near classes are looked for"),
        (105, False, 0.0, "near", 0.02, "chance 0.298 only"),
        (104, False, 0.0, "pk-supcon", 0.05, "chance 0.30: it shows what a look would show"),
        (90, False, 0.1, "pk-supcon", 0.1, "10% of the labels are wrong"),
        (90, False, 0.0, "pk-supcon", 0.05, "chance 0.35: it shows what a look would show"),
        (10, True, 0.0, "pk-supcon", 0.05, "10 of 10 classes holds the nearest class with chance 1.00"),
        (10, True, 0.05, "pk-supcon", 0.1, "5% of the labels are wrong"),
        (2, False, 0.3, "pk-supcon", 0.1, "30% of the labels are wrong"),
    ],
)
def test_the_data_choose_a_recipe(classes, groups, noise, name, temperature, why):
    labels = torch.arange(classes).repeat_interleave(4)
    recipe = recipes.choose(labels, groups=torch.arange(4).repeat(classes) if groups else None, noise=noise)
    assert (recipe.name, recipe.temperature, recipe.distinct_groups) == (name, temperature, groups)
    assert why in recipe.why
    assert "one example" not in recipe.why


@pytest.mark.parametrize(("batch_size", "classes", "shown"), [(1200, 998, "0.2999"), (16, 11, "0.30")])
def test_a_chance_has_as_many_digits_as_tell_the_side(batch_size, classes, shown):
    recipe = recipes.choose(torch.arange(classes).repeat(4), batch_size=batch_size)
    assert f"with chance {shown}{' only' if recipe.looks else ':'}" in recipe.why


def test_without_positive_pairs_there_is_no_choice():
    for labels in (torch.arange(500), torch.tensor([0, 1, -1, -1]), ["ann", "bob", "eve"]):
        with pytest.raises(ValueError, match="no class has two examples, so there is no positive pair: got"):
            recipes.choose(labels)
    few = torch.cat([torch.arange(400), torch.arange(160)])
    assert "beware: 60% of the classes have one example" in recipes.choose(few).why
    half = torch.cat([torch.arange(400), torch.arange(200)])
    assert "beware" not in recipes.choose(half).why


def test_a_choice_is_by_labelled_rows_and_names_will_do():
    names = [f"person {i // 4}" for i in range(1600)]
    assert recipes.choose(names, k=8, batch_size=64).k == 8
    labels = torch.full((100,), -1)
    with pytest.raises(ValueError, match="at least 2 classes to tell apart, got 0"):
        recipes.choose(labels)
    with pytest.raises(ValueError, match=r"noise must lie in \[0, 1\), got 1.5"):
        recipes.choose(names, noise=1.5)


def test_groups_count_where_most_classes_have_several():
    labels = torch.arange(400).repeat_interleave(4)
    one = torch.arange(400).repeat_interleave(4)
    one[: 4 * 150] = torch.arange(4 * 150)  # 150 of 400 classes have several
    assert not recipes.choose(labels, groups=one).distinct_groups
    one[: 4 * 250] = torch.arange(4 * 250)
    assert recipes.choose(labels, groups=one).distinct_groups
