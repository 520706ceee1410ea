"""Rules on histories of runs that were trained into a fault, and of sound ones; `doctor_runs.py` trains them."""

import ast
import re
from pathlib import Path

import pytest
from trained_cases import rules, severe

from legolas_metric import examine
from legolas_metric.doctor import examination
from legolas_metric.doctor.history_reader import read_history, read_settings
from legolas_metric.doctor.run_case import RunCase
from legolas_metric.doctor.thresholds import THRESHOLDS, limits

HISTORIES, STORIES = (Path(__file__).parent / name for name in ("histories", "stories"))

# Of each run: its rule, what the finding says in figures, and every other fault or warning that it has in truth.
FELL = {"below untrained", "loss falls, ranking falls"}
PEAK = {"ranking fell from its peak"}
LOST = {"collapse", "verdict of the probes"}
FAULTY = {
    "attention_cut_short": ("stopped before attention converged", "in epoch 4 of 60 while the entropy", set()),
    "auxiliary_outweighs": ("auxiliary outweighs", "weight 3", set()),
    "balanced_twice": ("balanced twice", "rare classes are favoured by", set()),
    "batches_of_most_classes": ("near classes in batches", "(p - 1)/(C - 1) with p = 16 of C = 20", set()),
    "best_not_kept": ("best not kept", "settings: restored = None", set()),
    "crowd_of_classes": ("AUC hides Rank@1", "in a gallery of 600", set()),
    "effective_rank_halved": ("effective rank halved", "the effective rank fell to", FELL),
    "exhausted": ("mining: exhausted", "of 300 anchors in the last round", {"guard rejects most"}),
    "families_learnt": ("pair statistics alone", "auc gets better, rank_at_1 does not", FELL),
    "fell_back": ("mining: fallback", "of the anchors were served by another rule", {"mining: outside_window"}),
    "fell_from_its_peak": ("ranking fell from its peak", "of the peak is lost", {"loss spikes"}),
    "few_epochs": ("few epochs", "3 epochs are too few", set()),
    "few_rows_for_everyone": ("the same few rows", "rows are the negatives of 300 triplets", set()),
    "focal_on_soft_targets": ("focal loss on soft targets", "mixup_alpha = 0.4", set()),
    "folds_apart": ("spread larger than the claim", "3 parts spread by", {"thresholds move"}),
    "foreign_constants": ("foreign constants", "handwriting inputs are normalised with ImageNet's", set()),
    "guard_rejects_most": ("guard rejects most", "of 600 pairs in the last round (near_duplicate", set()),
    "hubs_grew": ("hubs grew", "hubness rose from", FELL),
    "interval_wider_than_gain": ("interval wider than the gain", "of 40 queries a difference is known to", set()),
    "learnt_by_heart": ("overfitting", "the validation loss rises", set()),
    "levels_off": ("levels off", "rank_at_1 levels off from epoch", set()),
    "loss_diverges": ("loss diverges", "the training loss rises from epoch 1 on", {"below untrained"}),
    "loss_at_its_margin": ("collapsed loss", "rests at the margin = 1.000", LOST),
    "loss_jumps": (
        "loss spikes",
        "jumped in epoch 7; 5 times its usual change, to 4.533; rate 3",
        {"ranking fell from its peak"},
    ),
    "margin_inactive": ("margin inactive", "of the triplets lie inside the margin", set()),
    "negatives_were_random": ("negatives were random", "though the strategy says hard", set()),
    "no_negative": ("mining: no_negative", "70% of the anchors have no negative; no_negative 210 of 300", set()),
    "not_fed": ("mining: fed", "of the mined triplets were fed", set()),
    "old_bank": ("stale bank", "its oldest row was written 5.9 epochs before", set()),
    "one_class_called": ("one class predicted", "val rows of epoch 8 were called 0", {"class gap"}),
    "outside_window": ("mining: outside_window", "of 600 anchors in the last round", set()),
    "pairs_of_wrong_labels": (
        "pairs of the loss alone",
        "intra falls and inter holds",
        FELL | {"stopped on another value"},
    ),
    "proxies_left_out": ("parameters missing", "no optimiser holds the loss’s own parameters: loss.proxies", set()),
    "queries_without_answers": ("unanswerable queries", "60 of 300 queries have no positive", set()),
    "rare_class": ("imbalance without balancing", "2 classes of 20 to 600 rows", {"class gap", "one class predicted"}),
    "rate_of_nought": ("weights never changed", "the same in every epoch", {"loss unchanged"}),
    "rate_stays": ("rate never changed", "the rate stayed at 0.003", set()),
    "rate_too_small": ("rate too small", "so small (4e-06) that little moves", set()),
    "root_of_nought": ("not finite", "train_loss is NaN or infinite from epoch 1 on", set()),
    "rows_of_the_other_part": ("near duplicates across parts", "20 validation rows (14%) are near duplicates", set()),
    "sessions_learnt": ("flattering protocol", "improves under leave-one-out only", set()),
    "shared_identities": ("shared identities", "20 identities lie in both", set()),
    "stale_bank": ("stale bank", "rows and their rewrites have a mean cosine of", set()),
    "still_improving": ("still improving", "in the last 4 epochs", set()),
    "stopped_in_warm_up": ("stopped in warm-up", "before the 10 epochs of warm-up", {"stopped while improving"}),
    "stopped_while_improving": ("stopped while improving", "in epoch 8 of 60 while rank_at_1 still rose", set()),
    "too_cold": ("temperature", "only the nearest row of a batch counts", set()),
    "too_few_inputs": ("underfitting", "train_accuracy is low and flat", set()),
    "too_few_rows": ("overfitting", "accuracy 1.00, of validation rows", set()),
    "too_warm": ("temperature", "all rows of a batch count almost alike", set()),
    "training_at_chance": ("training at chance", "1/10 = 0.100", {"underfitting", "loss of guessing"}),
    "training_classes_solved": ("training classes solved", "(Rank@1 1.00), the unseen are not", {"below untrained"}),
    "uniform_attention": ("uniform attention", "still uniform over the 12 steps when the run ended in epoch 10", set()),
    "weak_ranking": ("weak ranking", "of the queries find another class first", set()),
}
NOTES = {
    *("interval wider than the gain", "weak ranking", "near classes in batches", "few epochs", "still improving"),
    *("levels off", "rate never changed"),
}

# Runs on which a careless rule would cry wolf, and the rule.
SOUND = {
    "a_query_without_answer": "",  # a note of one of a hundred
    "all_classes_solved": "training classes solved",
    "as_warm_as_usual": "temperature",
    "attention_found": "uniform attention",
    "attention_settled": "stopped before attention converged",
    "auxiliary_helps": "auxiliary outweighs",
    "balanced_once": "balanced twice",
    "bank_in_turn": "stale bank",
    "bank_that_settles": "stale bank",
    "batches_of_few_classes": "near classes in batches",
    "best_kept": "best not kept",
    "classes_across_sessions": "flattering protocol",
    "classes_of_families_learnt": "pair statistics alone",
    "cone_that_ranks": "collapse",
    "cross_entropy_on_soft_targets": "loss of guessing",
    "fell_back_once_solved": "mining: fallback",
    "focal_on_hard_targets": "focal loss on soft targets",
    "folds_alike": "spread larger than the claim",
    "guard_finds_the_next": "mining: exhausted",
    "guard_rejects_once_in_a_while": "guard rejects most",
    "harder_from_an_epoch_on": "loss spikes",
    "hubs_stay": "hubs grew",
    "judged_every_fourth_epoch": "few epochs",
    "large_gain_on_few_queries": "interval wider than the gain",
    "loss_about_its_margin": "collapsed loss",
    "loss_that_adapts": "loss unchanged",
    "margin_inactive_once_solved": "margin inactive",
    "measure_of_an_empty_class": "not finite",
    "mined": "mining: fed",
    "negatives_of_a_session": "mining: no_negative",
    "negatives_random_at_first": "negatives were random",
    "not_by_heart": "overfitting",
    "one_class_called_at_first": "one class predicted",
    "own_constants": "foreign constants",
    "pairs_of_the_classes": "pairs of the loss alone",
    "proxies_held": "parameters missing",
    "rank_of_few_classes": "",  # its rank halves, as few classes need few directions: a note at most
    "ranking_dips_and_recovers": "weak ranking",
    "rare_class_weighed": "imbalance without balancing",
    "rate_is_lowered": "rate never changed",
    "rows_of_its_own": "near duplicates across parts",
    "rows_of_ones_own": "the same few rows",
    "slow_and_rising": "underfitting",
    "slow_enough_for_its_bank": "stale bank",
    "small_rate_for_small_weights": "rate too small",
    "split_by_identity": "shared identities",
    "stopped_on_a_plateau": "stopped while improving",
    "training_above_chance": "training at chance",
    "warm_up_was_all_that_was_planned": "stopped in warm-up",
    "window_empty_once_solved": "mining: outside_window",
}
RECIPES = ("recipe", "recipe_near", "recipe_pk_supcon", "recipe_mined", "recipe_ecg")

# Of each rule: a run that has the fault, and one that looks like it. Stories end in .csv.
RUNS_OF = {
    "negatives_were_random": ("negatives_were_random", "negatives_random_at_first"),
    "starved": ("no_negative", "window_empty_once_solved"),
    "not_fed": ("not_fed", "mined"),
    "stale": ("stale_bank", "slow_enough_for_its_bank"),
    "margin_inactive": ("margin_inactive", "margin_inactive_once_solved"),
    "guard_rejects_most": ("guard_rejects_most", "guard_rejects_once_in_a_while"),
    "same_rows_again": ("few_rows_for_everyone", "rows_of_ones_own"),
    "near_classes_in_batches": ("batches_of_most_classes", "batches_of_few_classes"),
    "not_finite": ("root_of_nought", "measure_of_an_empty_class"),
    "loss_spikes": ("loss_jumps", "harder_from_an_epoch_on"),
    "collapsed_loss": ("loss_at_its_margin", "loss_about_its_margin"),
    "nothing_moves": ("rate_of_nought", "too_warm"),
    "rate_too_small": ("rate_too_small", "small_rate_for_small_weights"),
    "loss_falls_ranking_falls": ("pairs_of_wrong_labels", "ranking_dips_and_recovers"),
    "below_untrained": ("families_learnt", "ranking_dips_and_recovers"),
    "pairs_of_the_loss_alone": ("pairs_of_wrong_labels", "pairs_of_the_classes"),
    "auc_hides_rank": ("crowd_of_classes", "classes_of_families_learnt"),
    "overfitting": ("learnt_by_heart", "not_by_heart"),
    "learnt_by_heart": ("too_few_rows", "not_by_heart"),
    "uniform_attention": ("uniform_attention", "attention_found"),
    "auxiliary_outweighs": ("auxiliary_outweighs", "auxiliary_helps"),
    "best_not_kept": ("best_not_kept", "best_kept"),
    "stopped_on_another_value": ("pairs_of_wrong_labels", "pairs_of_the_classes"),
    "stopped_while_improving": ("stopped_while_improving", "stopped_on_a_plateau"),
    "stopped_in_warm_up": ("stopped_in_warm_up", "judged_every_fourth_epoch"),
    "stopped_before_attention": ("attention_cut_short", "attention_settled"),
    "still_improving": ("still_improving", "rate_is_lowered"),
    "levels_off": ("levels_off", "all_classes_solved"),
    "fell_from_peak": ("fell_from_its_peak", "ranking_dips_and_recovers"),
    "loss_diverges": ("loss_diverges", "harder_from_an_epoch_on"),
    "weak_ranking": ("weak_ranking", "ranking_dips_and_recovers"),
    "too_few_epochs": ("few_epochs", "judged_every_fourth_epoch"),
    "interval_wider_than_gain": ("interval_wider_than_gain", "large_gain_on_few_queries"),
    "spread_of_parts": ("folds_apart", "folds_alike"),
    "thresholds_move": ("folds_apart", "folds_alike"),
    "pair_statistics_alone": ("families_learnt", "classes_of_families_learnt"),
    "flattering_protocol": ("sessions_learnt", "classes_across_sessions"),
    "one_class_called": ("one_class_called", "one_class_called_at_first"),
    "one_class_predicted": ("one_class_predicted.csv", "rare_class_weighed"),
    "class_gap": ("imbalance.csv", "rare_class_weighed"),
    "balanced_twice": ("balanced_twice", "balanced_once"),
    "soft_targets": ("focal_on_soft_targets", "focal_on_hard_targets"),
    "empty_classes": ("double_balancing.csv", "not_by_heart"),
    "foreign_constants": ("foreign_constants", "own_constants"),
    "training_at_chance": ("training_at_chance", "slow_and_rising"),
    "solved": ("training_classes_solved", "all_classes_solved"),
    "collapse_over_time": ("loss_at_its_margin", "cone_that_ranks"),
    "verdicts": ("loss_at_its_margin", "cone_that_ranks"),
    "rate_never_changed": ("rate_stays", "rate_is_lowered"),
    "weights_never_changed": ("rate_of_nought", "all_classes_solved"),
    "parameters_missing": ("proxies_left_out", "proxies_held"),
    "temperature_out_of_range": ("too_warm", "as_warm_as_usual"),
    "underfitting": ("too_few_inputs", "slow_and_rising"),
    "shared_identities": ("shared_identities", "split_by_identity"),
    "near_duplicates": ("rows_of_the_other_part", "rows_of_its_own"),
    "unanswerable_queries": ("queries_without_answers", "a_query_without_answer"),
    "rare_classes": ("rare_class", "rare_class_weighed"),
}
ELSEWHERE = {"pooled_interval_wider_than_gain"}  # of folders with results: tests/test_doctor_folds.py


def case_of(run: str, **changed: float) -> RunCase:
    """A run as the rules see it, a story with its settings."""
    path = STORIES / run if run.endswith(".csv") else HISTORIES / run
    told = read_history(path)
    settings = read_settings(told.settings) | read_settings(path.with_suffix(".json") if path.is_file() else None)
    return RunCase(told, settings, limits({"doctor": changed}))


@pytest.mark.parametrize("rule", examination.RULES, ids=lambda rule: rule.__name__)
def test_every_rule_finds_a_trained_fault_and_lets_sound_runs_be(rule):
    if rule.__name__ in ELSEWHERE:
        return
    fault, trap = RUNS_OF[rule.__name__]
    assert list(rule(case_of(fault)))
    for sound in (trap, "mined", "recipe"):
        assert [finding for finding in rule(case_of(sound)) if finding.severity != "note"] == []


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
    kept = {path.relative_to(HISTORIES).parts[0]: path.stat().st_size for path in HISTORIES.rglob("history.jsonl")}
    assert set(kept) == {*FAULTY, *SOUND, *RECIPES}
    assert max(kept.values()) < 24_000


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
DISPLAY = {"_SHOWN = 5", "_MOST = 500", "_SHOWN = 20", "_IN_FULL = 10000", "0.01", "0.001", "0.0001", "1.4826"}
DISPLAY |= {"0.485", "0.456", "0.406"}


def test_every_limit_of_a_rule_stands_in_the_table_and_is_read_from_there():
    assert literal_limits("A = 0\nif a < -0.4 or len(b) > 4: f(share=0.3)") == ["len(b) > 4", "0.4", "A = 0"]
    folder = Path(examination.__file__).parent
    sources = {path.name: path.read_text() for path in folder.glob("*.py") if path.name != "thresholds.py"}
    literal = {name: set(literal_limits(source)) - DISPLAY for name, source in sources.items()}
    assert not any(literal.values()), literal
    read = set(re.findall(r'limits?\["(\w+)"\]', "".join(sources.values())))
    assert read == set(THRESHOLDS)
