"""Settings move every limit of the doctor: a finding appears, vanishes or changes, on a run or on a table."""

import pytest
import torch
from test_doctor_histories import case_of
from trained_cases import drawn

from legolas_metric import diagnose, examine
from legolas_metric.doctor import examination
from legolas_metric.doctor.thresholds import THRESHOLDS

# Of each limit: a run, another value, and the rule whose finding that changes.
OF_RUNS = {
    "collapse_value": ("loss_at_its_margin", 0.0, "collapsed loss"),
    "guessing_loss": ("cross_entropy_on_soft_targets", 0.9, "loss of guessing"),
    "loss_moved": ("rate_of_nought", -1.0, "loss unchanged"),
    "loss_fell": ("learnt_by_heart", 1.0, "overfitting"),
    "ranking_fell": ("pairs_of_wrong_labels", 0.9, "pairs of the loss alone"),
    "worse": ("families_learnt", 0.5, "below untrained"),
    "confident_auc": ("crowd_of_classes", 0.9, "AUC hides Rank@1"),
    "poor_rank": ("weak_ranking", 0.1, "weak ranking"),
    "useless_rank": ("crowd_of_classes", 0.5, "AUC hides Rank@1"),
    "small_rate": ("rate_too_small", 1e-6, "rate too small"),
    "little": ("small_rate_for_small_weights", 0.3, "rate too small"),
    "overfit": ("learnt_by_heart", 0.7, "overfitting"),
    "uniform_attention": ("attention_found", 0.9, "uniform attention"),
    "f1_gap": ("imbalance.csv", 0.6, "class gap"),
    "poor_f1": ("imbalance.csv", 0.2, "class gap"),
    "one_class": ("one_class_predicted.csv", -1.0, "one class predicted"),
    "high_accuracy": ("one_class_predicted.csv", 0.1, "one class predicted"),
    "trend": ("pairs_of_wrong_labels", 1.0, "stopped on another value"),
    "above_chance": ("training_at_chance", 0.0, "training at chance"),
    "few_epochs": ("few_epochs", 2.0, "few epochs"),
    "visible": ("loss_jumps", 0.3, "loss spikes"),
    "level_room": ("levels_off", 0.0, "levels off"),
    "level_part": ("levels_off", 0.9, "levels off"),
    "turn": ("rate_is_lowered", 0.0, "levels off"),
    "lost_of_gain": ("fell_from_its_peak", 9.0, "ranking fell from its peak"),
    "loss_rose": ("loss_diverges", 9.0, "loss diverges"),
    "few_rounds": ("no_negative", 2.0, "mining: no_negative"),
    "accuracy_gap": ("too_few_rows", 1.0, "overfitting"),
    "early": ("stopped_while_improving", 0.1, "stopped while improving"),
    "still_gaining": ("still_improving", 9.0, "still improving"),
    "fallback": ("fell_back", 0.7, "mining: fallback"),
    "starved": ("no_negative", 0.8, "mining: no_negative"),
    "fed": ("not_fed", 0.05, "mining: fed"),
    "hungry": ("not_fed", 0.0, "mining: fed"),
    "rejected": ("guard_rejects_once_in_a_while", 0.05, "guard rejects most"),
    "drift": ("stale_bank", 0.2, "stale bank"),
    "old_bank": ("old_bank", 10.0, "stale bank"),
    "active": ("margin_inactive", 0.0, "margin inactive"),
    "narrow": ("loss_at_its_margin", 1.0, "collapse"),
    "narrowed": ("loss_at_its_margin", 0.0, "collapse"),
    "rank_halved": ("effective_rank_halved", 0.1, "effective rank halved"),
    "hubs_grew": ("hubs_grew", 10.0, "hubs grew"),
    "spike": ("loss_jumps", 10.0, "loss spikes"),
    "solved": ("training_classes_solved", 2.0, "training classes solved"),
    "unseen_far_below": ("training_classes_solved", 0.7, "training classes solved"),
    "flat": ("too_few_inputs", 0.0, "underfitting"),
    "temperature_low": ("too_cold", 1e-4, "temperature"),
    "temperature_high": ("too_warm", 30.0, "temperature"),
    "spread": ("folds_apart", 3.0, "spread larger than the claim"),
    "threshold_moved": ("folds_apart", 0.5, "thresholds move"),
    "saturated": ("fell_back_once_solved", 1.1, "mining: fallback"),
    "deviations": ("interval_wider_than_gain", 0.0, "interval wider than the gain"),
    "duplicates": ("rows_of_the_other_part", 0.3, "near duplicates across parts"),
    "unanswerable": ("queries_without_answers", 0.9, "unanswerable queries"),
    "imbalance": ("rare_class", 100.0, "imbalance without balancing"),
    "few_rows": ("few_rows_for_everyone", 0.0, "the same few rows"),
    "few_rows_least": ("few_rows_for_everyone", 1000.0, "the same few rows"),
    "near_in_batch": ("batches_of_most_classes", 0.9, "near classes in batches"),
    "outweighs": ("auxiliary_outweighs", 5.0, "auxiliary outweighs"),
}

# The same of tables, by name of the table.
OF_TABLES = {
    "good_rank": ("points", 2.0, "collapse"),
    "times_chance": ("shuffled", 0.0, "guessing"),
    "guessing_rank": ("shuffled", -1.0, "guessing"),
    "deviations_of_chance": ("shuffled", -1000.0, "guessing"),
    "group_gap": ("sessions", 2.0, "groups flatter"),
    "trusted_rank": ("people", 1.1, "suspects"),
    "trusted_of_negatives": ("people", 1.1, "false negatives"),
    "noisy": ("people", 0.9, "suspects"),
    "neighbours": ("people", 2.0, "suspects"),
    "majority": ("people", 1.1, "suspects"),
    "few_of_own": ("people", -1.0, "suspects"),
    "fewest_votes": ("people", 50.0, "suspects"),
    "contradicted": ("people", 1.0, "false negatives"),
    "fewest_contradicted": ("people", 1000.0, "false negatives"),
    "twin_distance": ("people", 0.0, "twins"),
    "far_deviations": ("people", 1e9, "outliers"),
    "accepted": ("people", 1e-7, "threshold"),
    "enrolled": ("people", 2.0, "templates"),
    "template_people": ("people", 3.0, "templates"),
    "norm_rows": ("people", 10.0, "score normalisation"),
}
OF_BOTH_PARTS = {"same_row": -1.0, "drawn_together": -1.0}


def test_each_limit_stands_here():
    assert {*OF_RUNS, *OF_TABLES, *OF_BOTH_PARTS} == set(THRESHOLDS)


@pytest.mark.parametrize("limit", OF_RUNS)
def test_a_limit_of_runs_changes_what_is_found(limit):
    run, value, rule = OF_RUNS[limit]
    usual, changed = (
        {(f.severity, f.sentence) for apply in examination.RULES for f in apply(case) if f.rule == rule}
        for case in (case_of(run), case_of(run, **{limit: value}))
    )
    assert usual != changed


def people() -> tuple[torch.Tensor, torch.Tensor, None]:
    """People of whom some recordings bear another's name, one lies twice, and one is of nothing."""
    labels = torch.arange(240) % 24
    rows = drawn(24, 16)[labels] + 0.35 * drawn(240, 16, seed=2)
    wrong = torch.arange(0, 240, 13)
    labels[wrong] = (labels[wrong] + 7) % 24
    rows[1] = rows[2] + 5e-4 * drawn(16)
    rows[3] = -4 * drawn(24, 16).mean(0)
    return rows, labels, None


def sessions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Recordings of four sessions, which are told apart as well as people are."""
    labels, session = torch.arange(160) % 20, torch.arange(160) // 40
    rows = drawn(20, 16)[labels] + 1.2 * drawn(80, 16, seed=5)[labels * 4 + session] + 0.2 * drawn(160, 16, seed=2)
    return rows, labels, session


def table(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    if name == "people":
        return people()
    if name == "sessions":
        return sessions()
    labels = torch.arange(160) % 20
    if name == "points":
        return drawn(20, 16)[labels] + 0.01 * drawn(160, 16, seed=2), labels, None
    return drawn(160, 16), labels, None  # rows that know nothing of their labels


USUAL: dict[str, set[tuple[str, str, str]]] = {}


def told(name: str, **changed: float) -> set[tuple[str, str, str]]:
    rows, labels, groups = table(name)
    found = diagnose(rows, labels, groups=groups, settings={"doctor": changed}).findings
    return {(f.rule, f.severity, f.sentence) for f in found}


@pytest.mark.parametrize("limit", OF_TABLES)
def test_a_limit_of_tables_changes_what_is_found(limit):
    name, value, rule = OF_TABLES[limit]
    if name not in USUAL:
        USUAL[name] = told(name)
    usual, changed = ({each for each in of if each[0] == rule} for of in (USUAL[name], told(name, **{limit: value})))
    assert usual
    assert usual != changed


@pytest.mark.parametrize("limit", OF_BOTH_PARTS)
def test_a_limit_of_both_parts_changes_what_is_found(limit):
    training = drawn(100, 16), torch.arange(100) % 10
    held = torch.cat([drawn(90, 16, seed=2), training[0][:10]]), 10 + torch.arange(100) % 10
    run = {"epoch": [1, 2], "train_loss": [1.0, 0.5]}
    usual, changed = (
        {f.rule for f in examine(run, embeddings=held, trained_on=training, settings={"doctor": limits}).findings}
        for limits in ({}, {limit: OF_BOTH_PARTS[limit]})
    )
    assert usual ^ changed == {"near duplicates across parts"}
