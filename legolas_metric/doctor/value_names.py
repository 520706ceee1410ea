"""What a logged value is called: one name for each, of the many that loggers and authors give it."""

import re
from collections.abc import Iterable

# Our name, and what it is called elsewhere; in lower case with underscores.
ALIASES: dict[str, tuple[str, ...]] = {
    "epoch": ("epoch", "epochs"),
    "step": ("step", "global_step"),
    "train_loss": ("train_loss", "loss", "training_loss", "loss_train"),
    "val_loss": ("val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss", "loss_val"),
    "train_accuracy": ("train_accuracy", "train_acc", "accuracy_train", "acc"),
    "val_accuracy": ("val_accuracy", "val_acc", "valid_accuracy", "eval_accuracy", "accuracy", "accuracy_val"),
    "train_f1": ("train_f1", "train_macro_f1", "train_f1_macro"),
    "val_f1": ("val_f1", "eval_f1", "f1"),
    "val_f1_macro": ("val_f1_macro", "val_macro_f1", "macro_f1", "f1_macro"),
    "train_rank_at_1": ("train_rank_at_1", "train_rank1", "train_precision_at_1"),
    "rank_at_1": ("rank_at_1", "val_rank_at_1", "rank1", "val_rank1", "rank_1", "precision_at_1", "recall_at_1", "r_1"),
    "map_at_r": ("map_at_r", "val_map_at_r", "mean_average_precision_at_r"),
    "auc": ("auc", "val_auc", "roc_auc", "val_roc_auc"),
    "eer": ("eer", "val_eer"),
    "intra": ("intra", "train_intra", "intra_distance", "pos_distance"),
    "inter": ("inter", "train_inter", "inter_distance", "neg_distance"),
    "davies_bouldin": ("davies_bouldin", "val_db", "db", "val_davies_bouldin"),
    "calinski_harabasz": ("calinski_harabasz", "val_ch", "ch", "val_calinski_harabasz"),
    "lr": ("lr", "learning_rate"),
    "temperature": ("temperature", "tau", "train_temperature"),
    "attention_entropy": ("attention_entropy", "attn_entropy"),
    "auxiliary_loss": ("auxiliary_loss", "aux_loss", "train_auxiliary_loss", "train_aux_loss"),
    "main_loss": ("main_loss", "train_main_loss"),
    "strategy": ("strategy", "mining_strategy", "stage", "miner"),
    "negatives_from": ("negatives_from",),
    "effective_rank": ("effective_rank", "val_effective_rank"),
    "mean_cosine": ("mean_cosine", "val_mean_cosine"),
    "resultant_length": ("resultant_length", "val_resultant_length"),
    "hubness": ("hubness", "val_hubness"),
    "active": ("active", "active_share", "fraction_active", "train_active"),
    "threshold": ("threshold", "eer_threshold", "val_threshold", "decision_threshold"),
}
# Lightning's rates by optimiser, of the first one and its first group.
_RATE = re.compile(r"lr_(adam|adamw|sgd|nadam|radam|rmsprop|adagrad|lion|lamb|lars)(_pg1)?")
# Keras calls those of training so, where those of validation stand beside them.
_OF_TRAINING = {"accuracy": "train_accuracy", "f1": "train_f1"}
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

# Values that have parts behind a slash: a protocol's figure, and an auxiliary loss.
_WITH_PARTS = ("rank_at_1", "map_at_r", "r_precision", "nn_accuracy", "train_loss")


def canonical(name: str) -> str:
    """Our name of a value: lower case, underscores, Lightning's "_epoch" taken off, and the alias resolved.

    A protocol's own figure keeps the protocol behind a slash, an auxiliary loss its name.

    Example:
        >>> canonical("val/Rank@1"), canonical("lr-Adam"), canonical("train_loss_epoch")
        ('rank_at_1', 'lr', 'train_loss')
        >>> canonical("rank_at_1/cross-day")
        'rank_at_1/cross-day'
        >>> canonical("train_loss/centre")
        'train_loss/centre'
    """
    first, slash, protocol = name.partition("/")
    if slash and _plain(first) in _WITH_PARTS:
        return f"{_plain(first)}/{protocol.removesuffix('_epoch')}"
    plain = _plain(name).removesuffix("_epoch") or name
    return "lr" if _RATE.fullmatch(plain) else _NAMES.get(plain, plain)


def named(columns: Iterable[str]) -> dict[str, str]:
    """Our name of each column of a table, by all that stand there.

    Example:
        >>> named(["loss", "accuracy", "val_accuracy"])
        {'loss': 'train_loss', 'accuracy': 'train_accuracy', 'val_accuracy': 'val_accuracy'}
        >>> named(["loss", "accuracy"])["accuracy"]
        'val_accuracy'
    """
    own = {column: canonical(column) for column in columns}
    for column, name in own.items():
        if _plain(column) in _OF_TRAINING and list(own.values()).count(name) > 1:
            own[column] = _OF_TRAINING[_plain(column)]
    return own


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower().replace("@", "_at_")).strip("_")
