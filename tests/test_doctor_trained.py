"""Rules of the doctor on runs that show the fault because they were trained so, and where a careless rule would err."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from trained_cases import drawn, encoder, ranked, rows_of, rules, severe, trained

from legolas_metric import (
    EmbeddingBank,
    SupConLoss,
    evaluate_ranking,
    examine,
    probe_embeddings,
)


@pytest.fixture(scope="module")
def plain() -> tuple[Tensor, Tensor, Tensor]:
    """Rows to train on, their labels, and other rows of the same classes."""
    labels, centres = torch.arange(300) % 20, drawn(20, 16)
    return rows_of(labels, centres, 1.0, 2), labels, rows_of(labels, centres, 1.0, 3)


@pytest.fixture(scope="module")
def sound(plain) -> list[dict]:
    inputs, labels, other = plain
    return trained(inputs, labels, ranked(other, labels))


def test_a_sound_run_is_called_sound(sound):
    found = examine(sound, settings={"loss": "supcon", "temperature": 0.1, "batch_size": 300, "num_classes": 20})
    assert severe(found) == set(), found
    assert found.summary.startswith("Nothing is wrong")


# Pairs and protocols that flatter


def test_a_run_that_learns_families_gains_in_pairs_alone(sound):
    """Trained on families of classes: pairs of two families part, and a class's own rows are no nearer."""
    labels, session = torch.arange(480) % 40, torch.arange(480) % 160  # four sessions in each class
    family, sessions = torch.arange(40) % 4, 1.2 * drawn(160, 16, seed=5)
    centres = drawn(4, 16, seed=6)[family] + 0.2 * drawn(40, 16)
    inputs, other = (rows_of(labels, centres, 0.5, seed) + sessions[session] for seed in (2, 3))
    lines = trained(inputs, family[labels], ranked(other, labels), epochs=8)
    assert "pair statistics alone" in severe(examine(lines))
    assert "pair statistics alone" not in rules(examine(sound))


def test_a_run_that_learns_sessions_gains_under_the_lenient_protocol_alone(sound):
    labels, groups = torch.arange(480) % 20, torch.arange(480) // 20 % 4
    centres, sessions = drawn(20, 16), 1.5 * drawn(80, 16, seed=5)
    inputs, other = (rows_of(labels, centres, 0.7, seed) + sessions[labels * 4 + groups] for seed in (2, 3))
    lines = trained(inputs, labels * 4 + groups, ranked(other, labels, groups), epochs=10)
    assert "flattering protocol" in severe(examine(lines))
    honest = trained(inputs, labels, ranked(other, labels, groups), epochs=10)  # both gain
    assert "flattering protocol" not in rules(examine(honest))


# Claims


def test_a_gain_on_few_queries_is_within_its_interval(plain, sound):
    inputs, labels, other = plain
    lines = trained(inputs, labels, ranked(other[:24], labels[:24] % 4), epochs=6, rate=1e-4)
    few = examine([{**line, "values": line["values"] | {"rank_at_1": 0.4 + 0.01 * line["epoch"]}} for line in lines])
    assert "interval wider than the gain" in rules(few)
    assert "interval wider than the gain" not in rules(examine(sound))


def folder_of(path: Path, runs: list[list[dict]], name: str = "fold") -> Path:
    for number, lines in enumerate(runs):
        own = path / f"{name}_{number}"
        own.mkdir(parents=True)
        (own / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_folds_that_spread_wider_than_what_is_gained(plain, tmp_path):
    inputs, labels, other = plain
    parts = [torch.arange(300)[labels % 5 == part] for part in range(3)]
    noise = (0.0, 1.5, 4.0)  # folds of people that are recorded well, and less well
    runs = [
        trained(inputs, labels, ranked(other[rows] + level * drawn(len(rows), 16, seed=7), labels[rows]), epochs=6)
        for rows, level in zip(parts, noise)
    ]
    found = examine(folder_of(tmp_path / "uneven", runs))
    assert {"spread larger than the claim", "thresholds move"} <= rules(found)
    alike = [trained(inputs, labels, ranked(other[rows], labels[rows]), epochs=6) for rows in parts]
    found = examine(folder_of(tmp_path / "alike", alike))
    assert not {"spread larger than the claim", "thresholds move"} & rules(found)
    assert len(found.curves["rank_at_1"]) == 7


# The optimiser


def test_a_temperature_at_which_all_rows_count_alike(plain):
    inputs, labels, other = plain
    for temperature, wrong in ((20.0, True), (1e-3, True), (0.1, False)):
        lines = trained(inputs, labels, ranked(other, labels), loss=SupConLoss(temperature), epochs=5)
        found = examine(lines, settings={"loss": "supcon", "temperature": temperature})
        assert ("temperature" in rules(found)) == wrong
    distilled = examine(lines, settings={"loss": "cross_entropy", "temperature": 4.0})
    assert "temperature" not in rules(distilled)


def test_weights_that_never_change_are_named_and_a_solved_task_is_not(plain, sound):
    inputs, labels, other = plain
    assert "weights never changed" in severe(examine(trained(inputs, labels, ranked(other, labels), rate=0.0)))
    solved = [{**line, "values": line["values"] | {"map_at_r": 1.0, "rank_at_1": 1.0}} for line in sound]
    assert "weights never changed" not in rules(examine(solved))


def classified(inputs, labels, other, *, width: int, rate: float, epochs: int = 10, classes: int = 20) -> list[dict]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(inputs.shape[1], width), nn.Linear(width, classes))
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    lines = []
    for epoch in range(1, epochs + 1):
        for _ in range(20):
            loss = cross_entropy(network(inputs), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        said, unseen = network(inputs).argmax(1), network(other).argmax(1)
        values = {"train_loss": loss.item(), "train_accuracy": (said == labels).float().mean().item(), "lr": rate}
        values |= {"val_accuracy": (unseen == labels).float().mean().item()}
        for label in range(classes if classes < 5 else 0):
            right = ((unseen == label) & (labels == label)).sum().item()
            values[f"val_f1_class_{label}"] = 2 * right / ((unseen == label).sum() + (labels == label).sum()).item()
        lines.append({"epoch": epoch, **values})
    return lines


def test_a_model_too_small_for_its_training_rows(plain):
    inputs, labels, other = plain
    small = classified(inputs[:, :2], labels, other[:, :2], width=32, rate=0.05)  # a part of what there is to see
    assert "underfitting" in severe(examine(small, settings={"num_classes": 20}))
    slow = classified(inputs, labels, other, width=32, rate=2e-4)  # low, and still rising
    assert "underfitting" not in rules(examine(slow, settings={"num_classes": 20}))
    mixed = examine(small, settings={"num_classes": 20, "mixup_alpha": 0.2})  # low by construction
    assert "underfitting" not in rules(mixed)


def test_a_rate_that_stays_where_the_value_no_longer_moves(plain, sound):
    inputs, labels, other = plain
    hard = other + 0.7 * drawn(300, 16, seed=8)
    lines = trained(inputs, labels, ranked(hard, labels), epochs=20)
    assert "rate never changed" in rules(examine(lines))
    lowered = trained(inputs, labels, ranked(hard, labels), epochs=20, clock=lambda epoch: 3e-3 * 0.8**epoch)
    assert "rate never changed" not in rules(examine(lowered))


def test_a_rate_that_breaks_the_loss_and_one_that_makes_it_jump(plain):
    inputs, labels, other = plain
    jumps = trained(inputs, labels, ranked(other, labels), epochs=10, clock=lambda e: 3.0 if e == 7 else 1e-3)
    found = next(f for f in examine(jumps).findings if f.rule == "loss spikes")
    assert found.marks[0].epoch == 7
    assert "rate 3" in found.evidence


# Rows


def test_rare_classes_without_balancing():
    labels = (torch.arange(620) < 20).long()
    centres = 0.4 * drawn(2, 16)
    inputs, other = rows_of(labels, centres, 1.0, 2), rows_of(labels, centres, 1.0, 3)
    lines = classified(inputs, labels, other, width=8, rate=1e-3, classes=2)
    counts = {"0": 600, "1": 20}
    found = examine(lines, settings={"class_counts": counts, "num_classes": 2})
    assert "imbalance without balancing" in severe(found)
    assert "class_1" in next(f for f in found.findings if f.rule == "imbalance without balancing").evidence
    balanced = {"class_counts": counts, "sampler": "pk"}
    assert "imbalance without balancing" not in rules(examine(lines, settings=balanced))
    assert "imbalance without balancing" not in rules(examine(lines, settings={"class_counts": [600, 300]}))


def test_queries_without_answers_are_counted(plain, sound):
    inputs, labels, other = plain
    alone = torch.where(torch.arange(300) < 60, 100 + torch.arange(300), labels)
    found = examine(trained(inputs, labels, ranked(other, alone), epochs=5))
    assert "unanswerable queries" in severe(found)
    assert "60 of 300 queries" in found.text()
    assert "unanswerable queries" not in rules(examine(sound))


def test_what_both_parts_share_is_seen_in_their_embeddings(plain, sound):
    inputs, labels, other = plain
    network = encoder()
    known, apart = labels < 10, labels >= 10
    train = network(inputs[known]).detach(), labels[known]
    held = network(other[apart]).detach(), labels[apart]
    clean = examine(sound, embeddings=held, trained_on=train)
    assert not {"shared identities", "near duplicates across parts"} & rules(clean)
    copied = torch.cat([held[0], train[0][:20] * 1.0001]), torch.cat([held[1], 500 + torch.arange(20) % 2])
    found = examine(sound, embeddings=copied, trained_on=EmbeddingBank(*train))
    assert "near duplicates across parts" in severe(found)
    assert "20 validation rows" in found.text()
    both = examine(sound, embeddings=(network(other).detach(), labels), trained_on=train)
    assert "shared identities" in severe(both)
    with pytest.raises(ValueError, match="pass those of the validation rows"):
        examine(sound, trained_on=train)


# Collapse


def test_the_verdict_of_the_probes_counts_where_the_ranking_is_poor(plain):
    labels, centres = torch.arange(400) % 20, drawn(20, 16)
    inputs, other = rows_of(labels, centres, 2.0, 2), rows_of(labels, centres, 2.0, 3)

    def measured(network: nn.Module) -> dict[str, object]:
        rows = network(other)
        probe = probe_embeddings(rows, labels)
        return {"rank_at_1": evaluate_ranking(rows, labels).rank[1], "verdict": probe.verdict or "none"}

    lines = trained(inputs, labels, measured, loss=Hardest(), epochs=12, steps=20)
    verdicts = [line["values"]["verdict"] for line in lines]
    assert verdicts[0] == "healthy"
    assert verdicts[-1] != "healthy", verdicts
    assert "verdict of the probes" in severe(examine(lines))
    early = [{"epoch": e, "rank_at_1": 0.1 * e, "verdict": "healthy" if e > 2 else "point collapse"} for e in range(9)]
    assert "verdict of the probes" not in rules(examine(early))


class Hardest(nn.Module):
    """Batch-hard with a margin of 1, without warm-up: the textbook way into a point."""

    def forward(self, rows: Tensor, labels: Tensor, indices: object = None) -> Tensor:
        rows = normalize(rows)
        distance = (2 - 2 * rows @ rows.T).clamp_min(1e-6).sqrt()
        same = labels[:, None] == labels
        return (distance.masked_fill(~same, 0).amax(1) - distance.masked_fill(same, 9).amin(1) + 1).relu().mean()
