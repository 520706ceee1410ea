"""What the commands read: files of embeddings, or checkpoints that are embedded first, one by one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from legolas_metric.checks import UNLABELLED
from legolas_metric.cli.encoding import checkpoint_reader
from legolas_metric.cli.pages import check_pictures
from legolas_metric.cli.refusals import BAD_INPUT, complain
from legolas_metric.cli.waiting import waiting
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.files import EmbeddingFile, read_embeddings
from legolas_metric.matched_ids import renumbered
from legolas_metric.rows import as_groups, as_ids, as_labels

T = TypeVar("T")


def reader(
    encoder: str | None,
    data: str | None,
    labels: Path | None,
    embeddings_key: str,
    labels_key: str,
    *,
    groups: Path | None = None,
    ids: Path | None = None,
    pictures: bool = False,
    protocol: RetrievalProtocol | None = None,
) -> Callable[[Path], EmbeddingFile]:
    """How the files of a command are read: as embeddings, or as checkpoints where an encoder is named.

    Args:
        encoder, data: see `checkpoint_reader`.
        labels: a file of labels that overrides the others.
        embeddings_key, labels_key, groups, ids: see `read_embeddings`.
        pictures: whether a page will show the file's images, which are then refused before the work.
        protocol: which may need groups, whose lack is then told before the work.

    Raises:
        ValueError: only one of encoder and data, or what `checkpoint_reader` refuses.
    """
    if (encoder is None) != (data is None):
        raise ValueError("--encoder and --data go together: checkpoints need both, embeddings neither")

    if encoder is not None and (groups is not None or ids is not None):
        raise ValueError("--groups and --ids go with embeddings: of checkpoints the data hold them")

    def check(held: Any) -> None:
        if protocol is not None:
            check_groups(held, protocol)

    def read(path: Path) -> EmbeddingFile:
        keys = {"embeddings_key": embeddings_key, "labels_key": labels_key}
        held = read_embeddings(path, labels=labels, groups=groups, ids=ids, **keys)
        if held.embeddings.ndim and len(held.embeddings):  # the measures refuse what isn't a table
            as_ids(held.ids, len(held.embeddings))
            as_groups(held.groups, len(held.embeddings))
            check(held.groups)
            if pictures:
                check_pictures(held.images, len(held.embeddings))
        return held

    if encoder is None or data is None:
        return read
    embed = checkpoint_reader(encoder, data, labels, labels_key, check)
    return lambda path: _drawable(embed(path)) if pictures else embed(path)


def _drawable(held: EmbeddingFile) -> EmbeddingFile:
    """Without inputs that are no pictures: an encoder may take anything."""
    try:
        check_pictures(held.images, len(held.embeddings))
    except ValueError as error:
        complain(f"the page shows no examples: {error}")
        return replace(held, images=None)
    return held


def check_groups(groups: Any, protocol: RetrievalProtocol) -> None:
    """Refuse a lack of groups under a protocol that compares them."""
    episodes = protocol.episodes
    needed = protocol.exclude == "same_group" or (episodes is not None and episodes.within_group)
    if needed and groups is None:
        raise ValueError(
            f"no groups, which the protocol {protocol.name!r} compares: save session, camera or recording beside the "
            "embeddings as `groups`, or pass --groups FILE"
        )


def each(
    files: Sequence[Path], read: Callable[[Path], EmbeddingFile], work: Callable[[EmbeddingFile], T]
) -> tuple[dict[str, T], int]:
    """The work done on every file that can be used, by its name in the order given, and the exit status.

    Bad files are named on stderr and the rest goes on; where none is left, that is the end.
    """
    results: dict[str, T] = {}
    paths = list(dict.fromkeys(files))
    for path in paths:
        try:
            results[str(path)] = about(path, lambda path=path: work(read(path)))
        except BAD_INPUT as error:
            complain(error)
    if not results:
        raise SystemExit(2)
    return results, int(len(results) < len(paths))


def about(path: Path, call: Callable[[], T]) -> T:
    """The call's result; what it refuses is told with the name of the file, and a wait of seconds with it too."""
    try:
        with waiting(str(path)):
            return call()
    except (ValueError, TypeError) as error:
        named = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
        raise (TypeError if isinstance(error, TypeError) else ValueError)(named) from error


def same_examples(file: EmbeddingFile, other: EmbeddingFile, path: Path) -> Tensor:
    """The embeddings of `other` in the order of the rows of `file`, read from `path`: by ids where both hold them.

    Raises:
        ValueError: the files hold other examples: their number, their ids or their labels differ.
    """
    rows = len(file.embeddings)
    if len(other.embeddings) != rows:
        raise ValueError(f"not the same examples as {path}: {len(other.embeddings)} rows, where that has {rows}")
    place, remedy = torch.arange(rows), "save the same rows in the same order, or `ids` in both files"
    if file.ids is not None and other.ids is not None:
        own, ids = as_ids(file.ids, rows).sort(), as_ids(_ids_of(other, file), rows).sort()
        if not torch.equal(own.values, ids.values):
            missing = rows - int(torch.isin(ids.values, own.values).sum())
            raise ValueError(f"not the same examples as {path}: {missing} of {rows} ids are not in that file")
        place[own.indices] = ids.indices
        remedy = "one id must have one label"
    if file.labels is not None and other.labels is not None:
        theirs = as_labels(other.labels, rows)[place]
        if other.label_names != file.label_names and file.label_names is not None and other.label_names is not None:
            known = {name: code for code, name in enumerate(file.label_names)}  # numbered as in the first file
            numbered = [known.get(name, len(known)) for name in other.label_names]
            theirs = torch.tensor([*numbered, UNLABELLED])[theirs]
        differ = int((as_labels(file.labels, rows) != theirs).sum())
        if differ:
            raise ValueError(f"not the same examples as {path}: {differ} of {rows} labels differ; {remedy}")
    return other.embeddings[place]


def _ids_of(other: EmbeddingFile, file: EmbeddingFile) -> Tensor:
    """The ids of `other`; names numbered as those of `file`."""
    assert other.ids is not None
    if file.id_names is None or other.id_names is None or file.id_names == other.id_names:
        return other.ids
    return renumbered(other.ids.long(), other.id_names, file.id_names)


def called(file: EmbeddingFile) -> Tensor | list[str | None]:
    """The labels by the file's own names, where it has any: only so are those of two files the same people."""
    labels, names = labels_of(file), file.label_names
    return labels if names is None else [None if code < 0 else names[code] for code in labels.tolist()]


def labels_of(file: EmbeddingFile) -> Tensor:
    """The labels, which most commands need."""
    if file.labels is None:
        raise ValueError(
            "no labels: save them beside the embeddings as `labels`, or pass --labels FILE, or name their array with "
            "--labels-key"
        )
    return file.labels
