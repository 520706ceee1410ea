"""Folders of folds, as `run_folds` and `legolas-metric kfold` leave them: what their results say together."""

import json
from pathlib import Path

import pytest
import torch
from trained_cases import drawn, encoder, ranked, rows_of, rules, severe, trained

from legolas_metric import evaluate_ranking, evaluate_verification, examine
from legolas_metric.datasets.folds import KFold
from legolas_metric.training.fold_runs import FoldTask, read_folds, run_folds

LABELS = torch.arange(300) % 30
CENTRES = drawn(30, 16)
BLUR = torch.tensor([1.0] * 8 + [3.0] * 8)  # who it is lies in the first directions, which is to be learnt


def trained_folds(folder: Path, folds, *, noise=(0.0,) * 3, scale=(1.0,) * 3, history=True, **given):
    """Train each fold on its rows and judge it on the others, whose recordings may be noisier from fold to fold."""
    inputs, other = (
        rows_of(LABELS, CENTRES, 0.5, seed) + (BLUR - 1) * drawn(300, 16, seed=seed + 6) for seed in (2, 3)
    )

    def train(task: FoldTask):
        rows = other[task.validation] + noise[task.number] * drawn(len(task.validation), 16, seed=7)
        network = encoder()
        asked = ranked(rows, LABELS[task.validation])
        lines = trained(inputs[task.train], LABELS[task.train], asked, epochs=5, network=network)
        if history:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (task.folder / "history.jsonl").write_text(text)
            (task.folder / "csv" / "version_0").mkdir(parents=True)  # as Lightning's logger leaves it beside
            (task.folder / "csv" / "version_0" / "metrics.csv").write_text("epoch,train_loss\n0,1.0\n")
        unit = torch.nn.functional.normalize(network(rows).detach())
        offset = scale[task.number] * torch.eye(16)[0]
        pairs = evaluate_verification(unit + offset, LABELS[task.validation])
        return evaluate_ranking(unit, LABELS[task.validation]), {"eer_threshold": pairs.eer_threshold}

    return run_folds(folds, train, folder=folder, **given)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    return folder, trained_folds(folder, KFold(LABELS, 3, test_share=0))


def test_sound_folds_are_read_together_and_have_neither_fault_nor_warning(sound):
    folder, result = sound
    found = examine(folder)
    assert severe(found) == set(), found
    assert f"3 parts came to rank_at_1 {result.mean():.3f}, spread {result.spread():.3f}" in found.summary
    low, high = result.interval()
    assert f"pooled {result.pooled():.3f} [{low:.3f}, {high:.3f}]" in found.summary
    assert len(found.curves["rank_at_1"]) == 6
    assert read_folds(folder).table() == result.table()
    assert [fold.shared for fold in read_folds(folder).folds] == [{"rows": 0, "identities": 0}] * 3


def test_folds_that_spread_more_than_was_gained_and_whose_thresholds_move(tmp_path):
    folds = KFold(LABELS, 3, test_share=0)
    result = trained_folds(tmp_path, folds, noise=(0.0, 3.0, 5.0), scale=(0.0, 0.5, 2.0))
    found = examine(tmp_path)
    assert {"spread larger than the claim", "thresholds move"} <= severe(found)
    said = next(finding for finding in found.findings if finding.rule == "thresholds move")
    moved = [fold.values["eer_threshold"] for fold in result.folds]
    assert f"moves by {max(moved) - min(moved):.3f}" in said.sentence
    assert f"fold_2 {moved[2]:.3f}" in said.evidence
    claimed = examine(tmp_path, settings={"claimed_gain": 5.0})
    assert "spread larger than the claim" not in rules(claimed)


def test_what_both_sides_of_a_fold_hold_is_read_from_the_split(tmp_path, sound):
    rows, turn = torch.arange(300), torch.arange(300) // 30 % 2
    by_row = [(rows[turn != part], rows[turn == part]) for part in range(2)]  # every class on both sides
    trained_folds(tmp_path / "rows", by_row, history=False, labels=LABELS)
    found = examine(tmp_path / "rows")
    assert severe(found) == {"shared identities"}
    assert "30 identities lie in both the training and the validation part of fold_0" in found.findings[0].sentence
    assert "shared identities" not in rules(examine(tmp_path / "rows", settings={"closed_set": True}))
    both = [(rows, rows[:40]), (rows[:250], rows[250:])]
    trained_folds(tmp_path / "same", both, history=False)
    assert "40 rows lie in both the training and the validation part of fold_0" in examine(tmp_path / "same").summary
    closed = KFold(LABELS, 2, how="stratified", test_share=0)  # shares identities by design
    trained_folds(tmp_path / "closed", closed, history=False)
    assert "shared identities" not in rules(examine(tmp_path / "closed"))


def test_a_gain_that_other_people_would_turn(tmp_path, sound):
    """Folds of two people each, of whom one is told and the other is not, gain little beside their interval."""
    folder, _ = sound
    assert "interval wider than the gain" not in rules(examine(folder))
    x, labels = torch.eye(8).repeat_interleave(10, 0), torch.arange(8).repeat_interleave(10)
    x[labels % 2 == 1] = drawn(40, 8)
    folds = KFold(labels, 2, test_share=0)
    result = run_folds(folds, lambda t: evaluate_ranking(x[t.validation], labels[t.validation]), folder=tmp_path)
    pooled = result.pooled()
    for number in range(2):
        lines = [{"epoch": epoch, "values": {"rank_at_1": pooled - 0.02 + 0.01 * epoch}} for epoch in range(3)]
        text = "".join(json.dumps({"kind": "epoch", **line}) + "\n" for line in lines)
        (tmp_path / f"fold_{number}" / "history.jsonl").write_text(text)
    found = examine(tmp_path)
    assert "interval wider than the gain" in severe(found)
    assert "the gain of 0.0200 in rank_at_1 over all folds" in found.text()


def test_folds_that_are_not_done_are_told(tmp_path):
    result = trained_folds(tmp_path, KFold(LABELS, 3, test_share=0), history=True)
    (tmp_path / "fold_2" / "result.safetensors").unlink()
    found = examine(tmp_path)
    assert "fold_2: its result, as it isn't done" in found.missing
    assert f"2 parts came to rank_at_1 {sum(f.values['rank_at_1'] for f in result.folds[:2]) / 2:.3f}" in found.summary
