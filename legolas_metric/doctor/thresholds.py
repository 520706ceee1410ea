"""Every limit of the doctor's rules, on runs and on tables of embeddings, in one table, with where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from legolas_metric.evaluation.ranking_report import WORSE

Limits = Mapping[str, float]
"""The values of a table, as the settings have them."""


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
    "worse": Threshold(WORSE, "a share that is lower by this is worse", "ours, as in reports of rankings"),
    "confident_auc": Threshold(0.8, "an AUC from which one expects the ranking to be good", "ours"),
    "poor_rank": Threshold(0.5, "a Rank@1, or a share of training rows, below which it is poor", "ours"),
    "useless_rank": Threshold(0.1, "a Rank@1 below which a good AUC is a fault, no longer a warning", "ours"),
    "small_rate": Threshold(1e-5, "a rate below which an encoder hardly moves in some epochs", _STORIES),
    "little": Threshold(0.1, "a loss that fell by less than this share changed little", _STORIES),
    "overfit": Threshold(0.05, "a validation loss that rose by this share from its least value rose", _STORIES),
    "uniform_attention": Threshold(0.02, "entropy so near ln L is uniform attention", _STORIES),
    "f1_gap": Threshold(0.3, "F1 of two classes that lie so far apart", _STORIES),
    "poor_f1": Threshold(0.5, "the worse of them, below which the class isn't learnt", _STORIES),
    "one_class": Threshold(0.002, "how closely accuracy and F1 fit those of one predicted class", "rounding of logs"),
    "high_accuracy": Threshold(0.9, "an accuracy that a good classifier has, and no proof of one class", "ours"),
    "trend": Threshold(0.4, "Kendall's tau with time from which a value rises or falls", "ours"),
    "above_chance": Threshold(
        0.05, "share of the way from chance to 1, below which a model guesses", "measured: shuffled labels, 4000 rows"
    ),
    "few_epochs": Threshold(5.0, "epochs below which no trend is read", "ours"),
    "visible": Threshold(0.05, "of a value: a smaller jump is none that anyone would see", "ours"),
    "level_room": Threshold(0.05, "of a value's whole range, within which it rests on its last level", "ours"),
    "level_part": Threshold(1 / 3, "of the epochs, whose median is the last level, and which must rest on it", "ours"),
    "turn": Threshold(0.25, "of a value's whole range: who goes back by more has turned, or left its level", "ours"),
    "lost_of_gain": Threshold(0.5, "of what a ranking gained until its peak, from which losing it is a fault", "ours"),
    "loss_rose": Threshold(0.2, "a loss that ends above its least value by this share diverges", "ours"),
    "few_rounds": Threshold(0.5, "share of the rounds of mining below which what befell them is a note", "ours"),
    "accuracy_gap": Threshold(0.3, "accuracy of training rows less that of others, from which it is by heart", "ours"),
    "early": Threshold(0.5, "share of the planned epochs before which a run ended early", _STORIES),
    "still_gaining": Threshold(0.5, "gain of the last third of a run, in gains of the third before", "ours"),
    "fallback": Threshold(0.1, "share of the anchors served by another rule than asked", "ours"),
    "starved": Threshold(
        0.5, "share of the anchors without a negative, or none that the window or guard leaves", "ours"
    ),
    "fed": Threshold(0.5, "share of the mined triplets fed until the next round, below which it is told", "ours"),
    "hungry": Threshold(
        1 / 3, "the same, below which it is warned of: an epoch over all rows feeds more", "three rows a triplet"
    ),
    "rejected": Threshold(
        0.5, "share of the candidates that a guard rejects, from which it is told", "design of guards"
    ),
    "drift": Threshold(0.9, "mean cosine of a row and its rewrite, below which a bank is stale", "ours"),
    "old_bank": Threshold(3.0, "epochs since the oldest row of a bank was written, where no drift is told", "ours"),
    "active": Threshold(0.05, "share of triplets inside the margin, below which the loss has nothing to do", "ours"),
    "narrow": Threshold(0.99, "resultant length or mean cosine of a narrow cone", "measured, see docs/probes.md"),
    "narrowed": Threshold(0.5, "what is left of 1 - mean cosine, below which rows drew together", "ours"),
    "rank_halved": Threshold(0.5, "effective rank left of its peak", "ours, as in verdicts"),
    "hubs_grew": Threshold(2.0, "factor by which hubness rose", "ours"),
    "spike": Threshold(5.0, "a jump so many times the usual change of a loss", "ours"),
    "solved": Threshold(0.95, "Rank@1 of classes trained on, from which they are solved", "ours"),
    "unseen_far_below": Threshold(0.2, "by how much the unseen classes then lie below", "ours"),
    "flat": Threshold(0.03, "a share that moved by less than this is flat", "ours"),
    "temperature_low": Threshold(0.01, "a temperature below which a softmax is a maximum", "CLIP clips there"),
    "temperature_high": Threshold(1.0, "a temperature above which all rows count alike", "SupCon: best near 0.1"),
    "spread": Threshold(1.0, "spread of folds or seeds, in gains, from which a gain is no claim", "ours"),
    "threshold_moved": Threshold(0.1, "similarity by which thresholds of folds may lie apart", "ours"),
    "saturated": Threshold(0.95, "a ranking that has no room left to gain", "ours"),
    "deviations": Threshold(1.96, "standard deviations of a figure that chance explains", "95 % of a normal variable"),
    "duplicates": Threshold(0.01, "share of validation rows that training rows resemble too closely", "ours"),
    "same_row": Threshold(0.02, "of the usual distance to the nearest row: what no two different rows have", "ours"),
    "drawn_together": Threshold(0.5, "share of rows so near that it is the embedding which draws them", "ours"),
    "unanswerable": Threshold(0.1, "share of queries without an answer", "ours"),
    "imbalance": Threshold(10.0, "factor between the largest and the smallest class", "ours"),
    "few_rows": Threshold(0.1, "distinct negatives for each triplet, below which few rows are all", "measured, tests"),
    "few_rows_least": Threshold(100.0, "triplets of a round from which their variety is judged", "ours"),
    "near_in_batch": Threshold(0.5, "probability of meeting the nearest class in a batch", "ours, see docs/recipes.md"),
    "outweighs": Threshold(1.0, "an auxiliary loss, weighted, so many times the main one", "ours"),
    # Of tables of embeddings.
    "good_rank": Threshold(0.9, "Rank@1 and MAP@R from which classes are told apart, collapsed or not", "ours"),
    "times_chance": Threshold(3.0, "Rank@1 in those of a random ranking, below which an encoder guesses", "ours"),
    "guessing_rank": Threshold(0.25, "the same as a share of the way from chance to 1, for few classes", "ours"),
    "deviations_of_chance": Threshold(3.0, "deviations below chance from which something avoids the class", "ours"),
    "group_gap": Threshold(0.1, "Rank@1 within groups less that across, from which groups flatter", "ours"),
    "trusted_rank": Threshold(0.3, "Rank@1 from which neighbours say something of a label", "measured, tests"),
    "trusted_of_negatives": Threshold(0.7, "Rank@1 from which the nearest negatives do", "measured, tests"),
    "noisy": Threshold(0.02, "share of suspects that is no longer a note", "ours"),
    "neighbours": Threshold(10.0, "nearest rows that vote on a label", "measured, tests"),
    "majority": Threshold(0.6, "of the places that another label can fill, those it does fill", "measured, tests"),
    "few_of_own": Threshold(0.2, "of the places that the own label can fill, at most so many", "measured, tests"),
    "fewest_votes": Threshold(3.0, "votes below which none is heard", "measured, tests"),
    "contradicted": Threshold(0.25, "share of nearest negatives that lie among the anchor's class", "measured, tests"),
    "fewest_contradicted": Threshold(10.0, "different rows that must bear it", "measured, tests"),
    "twin_distance": Threshold(1e-3, "distance of unit rows within which they are the same recording", "ours"),
    "far_deviations": Threshold(6.0, "deviations beyond the usual distance, from which a row lies far", "ours"),
    "accepted": Threshold(0.01, "false accept rate of the threshold that is offered", "ours"),
    "enrolled": Threshold(4.0, "rows of a person whose mean is tried as a template", "ours"),
    "template_people": Threshold(2000.0, "most people for whom templates are tried", "seconds"),
    "norm_rows": Threshold(10_000.0, "most rows for which score normalisation is tried", "seconds"),
}


class _Asked(dict[str, float]):
    """Limits by name; one that isn't there is named."""

    def __missing__(self, name: str) -> float:
        raise ValueError(f"a rule asks for an unknown limit {name!r}: pass thresholds={{{name!r}: Threshold(...)}}")


def limits(settings: Mapping[str, Any], own: Mapping[str, Threshold] | None = None) -> dict[str, float]:
    """The values, with those that the settings change under `doctor`.

    Args:
        settings: of the run.
        own: further thresholds, for rules of one's own.

    Raises:
        TypeError: a threshold, or a changed value, that is none.
        ValueError: an unknown name, or one of its own that is taken.
    """
    own, changed = own or {}, settings.get("doctor", {})
    if not isinstance(changed, Mapping):
        raise TypeError(f"settings['doctor'] must map names of thresholds to numbers, got {changed!r}")
    for name, row in own.items():
        if name in THRESHOLDS:
            raise ValueError(f"the threshold {name!r} is there already: change it by settings['doctor'], or rename it")
        if not isinstance(row, Threshold):
            raise TypeError(f"thresholds[{name!r}] must be Threshold(value, meaning, source), got {row!r}")
    table = {**THRESHOLDS, **own}
    unknown = set(changed) - set(table)
    if unknown:
        raise ValueError(
            f"settings['doctor'] names no threshold {', '.join(sorted(unknown))}: see THRESHOLDS for names"
        )
    for name, value in changed.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise TypeError(f"settings['doctor'][{name!r}] must be a number, got {value!r}")
    return _Asked({name: float(changed.get(name, row.value)) for name, row in table.items()})
