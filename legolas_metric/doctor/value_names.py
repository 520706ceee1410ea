"""What a logged value is called: one name for each, of the many that loggers and authors give it."""

import re
from collections.abc import Iterable

# Our name, and what it is called elsewhere; in lower case with underscores.
ALIASES: dict[str, tuple[str, ...]] = {
    "epoch": ("epoch", "epochs"),
    "step": ("step", "global_step"),
    "train_loss": ("train_loss", "loss"),
    "val_loss": ("val_loss",),
    "train_accuracy": ("train_accuracy",),
    "val_accuracy": ("val_accuracy", "accuracy", "acc", "top1", "top_1", "top1_acc", "top_1_accuracy", "acc1"),
    "train_f1": ("train_f1", "train_macro_f1", "train_f1_macro"),
    "val_f1": ("val_f1", "f1", "f1_score"),
    "val_f1_macro": ("val_f1_macro", "macro_f1", "f1_macro", "f1_score_macro", "macro_f1_score"),
    "train_rank_at_1": ("train_rank_at_1",),
    "rank_at_1": (
        *("rank_at_1", "rank1", "rank_1", "precision_at_1", "p_at_1", "recall_at_1", "recall_1", "r_at_1", "r_1"),
        *("r1", "cmc_at_1", "cmc_1"),
    ),
    "map_at_r": ("map_at_r", "mean_average_precision_at_r"),
    "mean_average_precision": ("mean_average_precision", "map"),
    "auc": ("auc", "roc_auc", "auroc", "auc_roc", "roc_auc_score"),
    "eer": ("eer", "equal_error_rate"),
    "intra": ("intra", "train_intra", "intra_distance", "pos_distance"),
    "inter": ("inter", "train_inter", "inter_distance", "neg_distance"),
    "davies_bouldin": ("davies_bouldin", "db"),
    "calinski_harabasz": ("calinski_harabasz", "ch"),
    "lr": ("lr", "learning_rate"),
    "temperature": ("temperature", "tau", "train_temperature"),
    "attention_entropy": ("attention_entropy", "attn_entropy"),
    "auxiliary_loss": ("auxiliary_loss", "aux_loss", "train_auxiliary_loss", "train_aux_loss"),
    "main_loss": ("main_loss", "train_main_loss"),
    "strategy": ("strategy", "mining_strategy", "stage", "miner"),
    "negatives_from": ("negatives_from",),
    "effective_rank": ("effective_rank",),
    "mean_cosine": ("mean_cosine",),
    "resultant_length": ("resultant_length",),
    "hubness": ("hubness",),
    "active": ("active", "active_share", "fraction_active", "train_active"),
    "threshold": ("threshold", "eer_threshold", "decision_threshold"),
}
# Names that rules read beside these; and how those begin that are one of a family.
_READ_TOO = ("queries", "unanswerable", "verdict", "rank_at_1_low", "rank_at_1_high", "train_loss_step", "time")
_FAMILIES = ("val_f1_class_", "val_recall_class_", "healthy_", "rank_at_1/", "map_at_r/", "train_loss/")
# Values that lie in [0, 1], or were logged in percent.
_SHARES = ("accuracy", "f1", "f1_macro", "rank_at_1", "map_at_r", "mean_average_precision", "auc", "eer", "r_precision")

# The part that a value was measured on, before or behind its name.
_PARTS = {
    **dict.fromkeys(("val", "valid", "validation", "eval", "dev"), "val"),
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Lightning's rates by optimiser, of the first one and its first group.
_RATE = re.compile(r"lr_(adam|adamw|sgd|nadam|radam|rmsprop|adagrad|lion|lamb|lars)(_pg1)?")
# Keras calls those of training so, where those of validation stand beside them.
_OF_TRAINING = {"accuracy": "train_accuracy", "acc": "train_accuracy", "f1": "train_f1"}
_NAMES = {alias: name for name, aliases in ALIASES.items() for alias in aliases}

# The same for settings. What is none of a run's own, such as the patience of a scheduler, has no alias.
SETTINGS: dict[str, tuple[str, ...]] = {
    "epochs": ("max_epochs", "num_epochs", "n_epochs"),
    "lr": ("learning_rate", "base_lr"),
    "num_classes": ("n_classes", "classes", "num_labels"),
    "batch_size": ("train_batch_size",),
    "temperature": ("tau",),
    "warmup_epochs": ("warm_up_epochs", "num_warmup_epochs"),
    "classes_per_batch": ("p", "ways", "labels_per_batch"),
}

_LOSSES = {
    "supcon": ("supcon", "supervisedcontrastive"),
    "ntxent": ("ntxent", "normalizedtemperature", "simclr"),
    "infonce": ("infonce", "npair", "multiplenegatives"),
}
_CLOCKS = ("epoch", "step")
_PART_AND_CAPITAL = re.compile(r"^(train|val|valid|eval|test)(?=[A-Z])")

# Values that have parts behind a slash: a protocol's figure, and an auxiliary loss.
_WITH_PARTS = ("rank_at_1", "map_at_r", "r_precision", "nn_accuracy", "train_loss")


def canonical(name: str) -> str:
    """Our name of a value: lower case, underscores, Lightning's "_epoch" taken off, and the alias resolved.

    The part that it was measured on may stand before or behind it. What was measured on a test set is a value of its
    own. A protocol's own figure keeps the protocol behind a slash, an auxiliary loss its name.

    Example:
        >>> canonical("val/Recall@1"), canonical("lr-Adam"), canonical("Loss/valid"), canonical("test_loss")
        ('rank_at_1', 'lr', 'val_loss', 'test_loss')
        >>> canonical("rank_at_1/cross-day"), canonical("train_loss/centre")
        ('rank_at_1/cross-day', 'train_loss/centre')
    """
    first, slash, rest = name.partition("/")
    if slash and _plain(first) in _PARTS and "/" in rest:
        value, _, rest = rest.partition("/")
        first = f"{first}_{value}"
    protocol = rest.removesuffix("_epoch")
    base = _of_part(_plain(first))
    if slash and _plain(protocol) not in _PARTS and base in _WITH_PARTS and _plain(first) != "loss":
        return f"{base}/{protocol}"
    plain = _plain(name).removesuffix("_epoch") or name
    return "lr" if _RATE.fullmatch(plain) else _of_part(plain)


def _of_part(plain: str) -> str:
    """Our name of a plain one, with the part that it was measured on."""
    if plain in _NAMES:
        return _NAMES[plain]
    before, _, rest = plain.partition("_")
    part = _PARTS.get(before)
    if part is None or not rest:
        rest, _, behind = plain.rpartition("_")
        part = _PARTS.get(behind)
    if part is None or not rest:
        return plain
    base = _NAMES.get(rest, rest)
    whole = f"{part}_{base.removeprefix('train_').removeprefix('val_')}"
    return base if part == "val" and base in _NAMES.values() and whole not in ALIASES else whole


def named(lines: Iterable[Iterable[str]]) -> tuple[dict[str, str], list[str]]:
    """Our name of each column that is read, by all that stand in the lines, and which ones are left out.

    Of two columns for one value the plainer name counts.

    Args:
        lines: the columns that have something, line by line.

    Example:
        >>> named([["loss", "accuracy", "val_accuracy"]])[0]
        {'loss': 'train_loss', 'accuracy': 'train_accuracy', 'val_accuracy': 'val_accuracy'}
        >>> named([["accuracy"]])[0], named([["val_loss", "valid_loss"]])[1]
        ({'accuracy': 'val_accuracy'}, ['valid_loss is left out: val_loss stands beside it'])
    """
    held = list(dict.fromkeys(column for line in lines for column in line))
    own = {column: canonical(column) for column in held}
    for column, name in own.items():
        if _plain(column) in _OF_TRAINING and list(own.values()).count(name) > 1:
            own[column] = _OF_TRAINING[_plain(column)]
    first: dict[str, str] = {}
    for column in sorted(held, key=lambda column: _rank(column, own[column])):
        first.setdefault(own[column], column)
    read = {column: name for column, name in own.items() if first[name] == column}
    left = [(column, first[name]) for column, name in own.items() if column not in read and name not in _CLOCKS]
    return read, [f"{column} is left out: {beside} stands beside it" for column, beside in left]


def _rank(column: str, name: str) -> int:
    """How far a column is from our own name of it."""
    aliases = (name, *ALIASES.get(name, ()))
    plain = _plain(column)
    return 0 if column == name else 1 + (aliases.index(plain) if plain in aliases else len(aliases))


def loss_kind(told: str) -> str:
    """What a loss is, of those whose value on a collapsed or guessing model is known; else empty.

    Example:
        >>> loss_kind("NT-Xent"), loss_kind("torch.nn.CrossEntropyLoss()"), loss_kind("info_nce"), loss_kind("circle")
        ('ntxent', 'cross-entropy', 'infonce', '')
    """
    plain = re.sub(r"[^a-z0-9]+", "", told.lower().partition("(")[0])
    if "triplet" in plain:
        return "soft triplet" if "soft" in plain else "triplet"
    if plain in ("ce", "celoss") or ("crossentropy" in plain and "binary" not in plain):
        return "ntxent" if "temperature" in plain else "cross-entropy"
    return next((kind for kind, names in _LOSSES.items() if any(name in plain for name in names)), "")


def is_share(name: str) -> bool:
    """Whether a value of this name lies in [0, 1]."""
    plain = name.partition("/")[0]
    return any(plain in (share, f"val_{share}", f"train_{share}", f"test_{share}") for share in _SHARES)


def is_read(name: str) -> bool:
    """Whether a rule reads a value of this name."""
    return name in ALIASES or name in _READ_TOO or name.startswith(_FAMILIES)


def _plain(name: str) -> str:
    parted = _PART_AND_CAPITAL.sub(r"\1_", name.strip()).lower().replace("@", "_at_")
    return re.sub(r"[^a-z0-9]+", "_", parted).strip("_")
