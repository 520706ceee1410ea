"""A recipe is what is compared; a trial is a recipe with a rate, a sharpness, a length and a seed."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

LossName = Literal[
    "supcon", "triplet", "multi-similarity", "proxy-anchor", "normalised softmax", "arcface", "softmax and supcon"
]
Feed = Literal["random", "near", "communities", "rising", "confused", "mined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How batches are made and which loss is minimised; nothing that is tuned.

    Attributes:
        name: in tables and in the file of results.
        side: "global" looks at the whole training set, "batch" never does.
        loss: which one; its sharpness is the trial's `value`.
        feed: where the batches come from once the warm-up is over; before, from random classes. "near": classes near a
            seed; "communities": the class graph in parts, so that each class is seen once a round; "rising": near with
            the probability of the training Rank@1, else random; "confused": near by counts of confusions of rows;
            "mined": triplets whose negatives have ranks 1 to 10.
        values: of the loss, the first is tried first: temperature (SupCon, softmax), margin (triplet), base
            (multi-similarity), alpha (Proxy-Anchor), scale (ArcFace).
        hard_rows: of near classes, the drawings that lie nearest to the batch's other classes.
        rotations: drawings turned by 90, 180 and 270 degrees are further classes.
        ema: average the weights over the last tenth of the steps so far, and judge (and look with) the average.
        cooled: the temperature falls from 0.1 to `value` in the first third.
        augmented: heartbeats are augmented, as drawings always are.
        across: a class's examples in a batch come from different groups.
        days: of heartbeats, those groups are days instead of recordings.
        warm_up: share of the steps before the first look; for the triplet loss on random batches, before batch-hard.
        looks: how often the whole set is embedded, at equal distances.
        pool: nearest classes among which neighbours are drawn (default: 2 (p - 1)).
        after: the recipe whose best settings a variant starts from.
    """

    name: str
    side: Literal["batch", "global"]
    loss: LossName = "supcon"
    feed: Feed = "random"
    values: tuple[float, ...] = (0.05, 0.02, 0.1)
    hard_rows: bool = False
    rotations: bool = False
    ema: bool = False
    cooled: bool = False
    augmented: bool = False
    across: bool = False
    days: bool = False
    warm_up: float = 0.2
    looks: int = 4
    pool: int | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run.

    Attributes:
        task: "omniglot" (or one of its variants, see `plan.bounds`), "clinc", "clinc domains" or "ecg".
        recipe: its name.
        head: whether a linear layer of 128 ends the encoder.
        rate: highest of the one cycle.
        value: see `Recipe.values`.
        steps, seed: of the run; the seed chooses the unseen classes too.
        p: classes of a batch; of k = 4 examples.
        classes: of the training set; None for all.
    """

    task: str
    recipe: str
    head: bool
    rate: float
    value: float
    steps: int
    seed: int
    p: int = 32
    classes: int | None = None

    def key(self) -> str:
        """The same for equal trials only."""
        return "|".join(str(value) for value in asdict(self).values())

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)
