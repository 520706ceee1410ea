"""Rules on histories of runs that were trained into a fault, and of sound ones; `doctor_runs.py` trains them."""

import ast
import re
from pathlib import Path

import pytest
from trained_cases import rules, severe

from legolas_metric import examine
from legolas_metric.doctor import examination
from legolas_metric.doctor.thresholds import THRESHOLDS

HISTORIES = Path(__file__).parent / "histories"

# Of each run: its rule, what the finding says in figures, and every other fault or warning that it has in truth.
FELL = {"below untrained", "loss falls, ranking falls"}
FAULTY = {
    "interval_wider_than_gain": ("interval wider than the gain", "of 40 queries a difference is known to", set()),
    "shared_identities": ("shared identities", "20 identities lie in both", set()),
    "weak_ranking": ("weak ranking", "of the queries find another class first", set()),
    "auxiliary_outweighs": ("auxiliary outweighs", "weight 3", set()),
    "margin_inactive": ("margin inactive", "of the triplets lie inside the margin", set()),
    "uniform_attention": ("uniform attention", "still uniform over the 12 steps when the run ended in epoch 10", set()),
    "foreign_constants": ("foreign constants", "handwriting inputs are normalised with ImageNet's", set()),
    "focal_on_soft_targets": ("focal loss on soft targets", "mixup_alpha = 0.4", set()),
    "balanced_twice": ("balanced twice", "rare classes are favoured by", set()),
    "training_at_chance": ("training at chance", "1/10 = 0.100", {"underfitting"}),
    "training_classes_solved": ("training classes solved", "(Rank@1 1.00), the unseen are not", {"below untrained"}),
    "not_fed": ("mining: fed", "of the mined triplets were fed", set()),
    "outside_window": ("mining: outside_window", "of 600 anchors in the last round", set()),
    "effective_rank_halved": ("effective rank halved", "the effective rank fell to", FELL),
    "hubs_grew": ("hubs grew", "hubness rose from", FELL),
}
NOTES = {"interval wider than the gain", "weak ranking"}

# Runs on which a careless rule would cry wolf, and the rule.
SOUND = {
    "large_gain_on_few_queries": "interval wider than the gain",
    "split_by_identity": "shared identities",
    "ranking_dips_and_recovers": "weak ranking",
    "auxiliary_helps": "auxiliary outweighs",
    "margin_inactive_once_solved": "margin inactive",
    "attention_found": "uniform attention",
    "own_constants": "foreign constants",
    "focal_on_hard_targets": "focal loss on soft targets",
    "cross_entropy_on_soft_targets": "focal loss on soft targets",
    "balanced_once": "balanced twice",
    "training_above_chance": "training at chance",
    "all_classes_solved": "training classes solved",
    "mined": "mining: fed",
    "rank_of_few_classes": "",  # its rank halves, as few classes need few directions: a note at most
    "hubs_stay": "hubs grew",
}


@pytest.mark.parametrize("run", FAULTY)
def test_a_run_trained_into_a_fault_has_that_finding_and_no_other(run):
    rule, figures, others = FAULTY[run]
    found = examine(HISTORIES / run)
    assert rule in rules(found)
    assert severe(found) - {rule} <= others
    assert (rule in severe(found)) == (rule not in NOTES)
    finding = next(finding for finding in found.findings if finding.rule == rule)
    assert figures in f"{finding.sentence}; {finding.evidence}"


@pytest.mark.parametrize("run", SOUND)
def test_a_sound_run_on_which_a_careless_rule_would_cry_wolf_has_neither_fault_nor_warning(run):
    found = examine(HISTORIES / run)
    assert severe(found) == set(), found
    assert SOUND[run] not in rules(found)


def test_the_histories_are_small_and_all_are_read_here():
    kept = {path.parent.name: path.stat().st_size for path in HISTORIES.glob("*/history.jsonl")}
    assert set(kept) == {*FAULTY, *SOUND, *RECIPES}
    assert max(kept.values()) < 20_000


RECIPES = ("recipe", "recipe_near", "recipe_pk_supcon", "recipe_mined", "recipe_ecg")


@pytest.mark.parametrize("run", RECIPES)
def test_recipes_on_handwriting_and_on_heartbeats_have_neither_fault_nor_warning(run):
    found = examine(HISTORIES / run)
    assert severe(found) == set(), found


def literal_limits(source: str) -> list[str]:
    """Numbers that may be limits: fractions but for a finding's share, whole ones above 3 in comparisons, constants."""
    found, tree = [], ast.parse(source)
    shares = {
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in NO_LIMITS
        for part in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float) and node.value not in (0.0, 1.0):
            found += [] if node in shares else [ast.unparse(node)]
        if isinstance(node, ast.Compare):
            whole = [
                part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and type(part.value) is int
            ]
            found += [ast.unparse(node)] if any(number > 3 for number in whole) else []
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and type(node.value.value) in (int, float)
        ):
            found.append(ast.unparse(node))
    return found


NO_LIMITS = ("share", "level")  # of a finding, and of an interval
# How many are shown; rates of tables of figures; of a normal variable, its deviation in median ones; ImageNet's means.
DISPLAY = {"_SHOWN = 5", "_SHOWN = 20", "_IN_FULL = 10000", "0.01", "0.001", "0.0001", "1.4826"}
DISPLAY |= {"0.485", "0.456", "0.406"}


def test_every_limit_of_a_rule_stands_in_the_table_and_is_read_from_there():
    assert literal_limits("A = 0\nif a < -0.4 or len(b) > 4: f(share=0.3)") == ["len(b) > 4", "0.4", "A = 0"]
    folder = Path(examination.__file__).parent
    sources = {path.name: path.read_text() for path in folder.glob("*.py") if path.name != "thresholds.py"}
    literal = {name: set(literal_limits(source)) - DISPLAY for name, source in sources.items()}
    assert not any(literal.values()), literal
    read = set(re.findall(r'limits?\["(\w+)"\]', "".join(sources.values())))
    assert read == set(THRESHOLDS)


@pytest.mark.parametrize(
    ("run", "limit", "never", "always"),
    [("not_fed", "fed", 0.0, 1.0), ("margin_inactive", "active", 0.0, 1.0), ("outside_window", "starved", 1.0, 0.0)],
)
def test_settings_move_a_limit_beyond_what_a_run_has(run, limit, never, always):
    said = [
        FAULTY[run][0] in rules(examine(HISTORIES / run, settings={"doctor": {limit: value}}))
        for value in (never, always)
    ]
    assert said == [False, True]
