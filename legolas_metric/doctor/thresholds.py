"""Every limit of the doctor's rules on runs, in one table, with where it comes from. Settings can change each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Threshold:
    """A limit, what it limits, and its source."""

    value: float
    meaning: str
    source: str


_STORIES = "ours, set between the four stories and the healthy runs of the tests"

THRESHOLDS: dict[str, Threshold] = {
    "collapse_value": Threshold(
        0.01, "a loss is at its collapsed value within this share of it", "ours, as CollapseGuard"
    ),
    "guessing_loss": Threshold(0.05, "a cross-entropy so little below ln C has learnt nothing", _STORIES),
    "loss_moved": Threshold(0.01, "a loss that fell by less than this share did not move", "ours"),
    "loss_fell": Threshold(0.05, "a loss that fell by this share of its first value fell", "ours"),
    "ranking_fell": Threshold(0.1, "a ranking figure that lost this share of its first value fell", _STORIES),
    "worse": Threshold(0.01, "a share that is lower by this is worse", "ours, as in reports of rankings"),
    "confident_auc": Threshold(0.8, "an AUC from which one expects the ranking to be good", "ours, as in diagnose"),
    "poor_rank": Threshold(0.5, "a Rank@1 below which the ranking is poor", "ours, as in diagnose"),
    "small_rate": Threshold(1e-5, "a rate below which an encoder hardly moves in some epochs", _STORIES),
    "little": Threshold(0.1, "a loss that fell by less than this share changed little", _STORIES),
    "overfit": Threshold(0.05, "a validation loss that rose by this share from its least value rose", _STORIES),
    "uniform_attention": Threshold(0.02, "entropy so near ln L is uniform attention", _STORIES),
    "f1_gap": Threshold(0.3, "F1 of two classes that lie so far apart", _STORIES),
    "one_class": Threshold(0.002, "how closely accuracy and F1 fit those of one predicted class", "rounding of logs"),
    "trend": Threshold(0.4, "Kendall's tau with time from which a value rises or falls", "ours"),
    "above_chance": Threshold(
        0.05, "share of the way from chance to 1, below which a model guesses", "measured: shuffled labels, 4000 rows"
    ),
    "few_epochs": Threshold(5.0, "epochs below which no trend is read", "ours"),
    "fallback": Threshold(0.1, "share of the anchors served by another rule than asked", "ours"),
    "starved": Threshold(
        0.5, "share of the anchors without a negative, or of mined triplets that were not fed", "ours"
    ),
    "rejected": Threshold(
        0.5, "share of the candidates that a guard rejects, from which it is told", "design of guards"
    ),
    "drift": Threshold(0.9, "mean cosine of a row and its rewrite, below which a bank is stale", "ours"),
    "active": Threshold(0.05, "share of triplets inside the margin, below which the loss has nothing to do", "ours"),
    "narrow": Threshold(0.99, "resultant length or mean cosine of a narrow cone", "measured, see docs/probes.md"),
    "rank_halved": Threshold(0.5, "effective rank left of its peak", "ours, as in verdicts"),
    "hubs_grew": Threshold(2.0, "factor by which hubness rose", "ours"),
    "spike": Threshold(5.0, "a jump so many times the usual change of a loss", "ours"),
    "solved": Threshold(0.98, "Rank@1 of classes trained on, from which they are solved", "ours"),
    "unseen_far_below": Threshold(0.2, "by how much the unseen classes then lie below", "ours"),
    "flat": Threshold(0.03, "a share that moved by less than this is flat", "ours"),
    "temperature_low": Threshold(0.01, "a temperature below which a softmax is a maximum", "CLIP clips there"),
    "temperature_high": Threshold(1.0, "a temperature above which all rows count alike", "SupCon: best near 0.1"),
    "spread": Threshold(1.0, "spread of folds or seeds, in gains, from which a gain is no claim", "ours"),
    "threshold_moved": Threshold(0.1, "similarity by which thresholds of folds may lie apart", "ours"),
    "saturated": Threshold(0.95, "a ranking that has no room left to gain", "ours"),
    "duplicates": Threshold(0.01, "share of validation rows that training rows resemble too closely", "ours"),
    "unanswerable": Threshold(0.1, "share of queries without an answer", "ours"),
    "imbalance": Threshold(10.0, "factor between the largest and the smallest class", "ours"),
    "few_rows": Threshold(0.1, "distinct negatives for each triplet, below which few rows are all", "measured, tests"),
    "few_rows_least": Threshold(100.0, "triplets of a round from which their variety is judged", "ours"),
    "near_in_batch": Threshold(0.5, "probability of meeting the nearest class in a batch", "ours, see docs/recipes.md"),
    "outweighs": Threshold(1.0, "an auxiliary loss, weighted, so many times the main one", "ours"),
}


def limits(settings: Mapping[str, Any]) -> dict[str, float]:
    """The values, with those that the settings change under `doctor`.

    Raises:
        ValueError: an unknown name.
    """
    changed = settings.get("doctor", {})
    unknown = set(changed) - set(THRESHOLDS)
    if unknown:
        raise ValueError(
            f"settings['doctor'] names no threshold {', '.join(sorted(unknown))}: see THRESHOLDS for names"
        )
    return {name: float(changed.get(name, threshold.value)) for name, threshold in THRESHOLDS.items()}
