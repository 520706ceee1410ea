"""`legolas-metric mine`: hard triplets of a file of embeddings, for whoever trains on them."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from legolas_metric.cli.options import (
    AsMetric,
    EmbeddingsKey,
    Form,
    Groups,
    Ids,
    Json,
    Labels,
    LabelsKey,
    MetricName,
    MinerName,
    Out,
    Seed,
    TripletForm,
)

if TYPE_CHECKING:
    from legolas_metric.names import Names
    from legolas_metric.records import Triplets
    from legolas_metric.tables import Table

_ARRAYS = (".npz", ".safetensors")
_LINES = (".jsonl", ".csv", ".parquet")


def mine(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Embeddings.")],
    labels: Labels = None,
    groups: Groups = None,
    ids: Ids = None,
    embeddings_key: EmbeddingsKey = "embeddings",
    labels_key: LabelsKey = "labels",
    out: Out = None,
    form: Annotated[
        TripletForm, typer.Option(help="Of a line of --out x.jsonl, .csv or .parquet.")
    ] = TripletForm.n_tuple,
    miner: Annotated[
        MinerName, typer.Option(help="Negatives: random, semi-hard or nearest; full-hard: farthest positives too.")
    ] = MinerName.full_hard,
    ranks: Annotated[
        str | None, typer.Option(metavar="FIRST-LAST", help="Draw the negatives from these ranks, such as 10-50.")
    ] = None,
    guard: Annotated[
        bool, typer.Option("--guard", help="Replace probable false negatives by the next candidate.")
    ] = False,
    per_anchor: Annotated[int, typer.Option(min=1, help="Negatives for each anchor.")] = 1,
    anchors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="`ids` of the rows that ask (default: all with a label).")
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="`ids` of the rows that may answer, as positive or negative: a corpus."),
    ] = None,
    index: Annotated[
        str, typer.Option(metavar="INDEX", help="auto, exact, or a FAISS factory: Flat, HNSW32, IVF256,Flat.")
    ] = "auto",
    metric: AsMetric = MetricName.cosine,
    margin: Annotated[float, typer.Option(min=0, help="Width of the semi-hard window, in distance.")] = 0.2,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find hard triplets in the whole set, and say what could not be found.

    The file written holds anchor, positive and negative (ids), and their similarities s_ap and s_an; JSON lines, CSV
    and parquet come in the forms that other trainers read.
    """
    from legolas_metric.cli import choices, inputs, printing
    from legolas_metric.cli.waiting import waiting

    check_out(out, [file, labels, groups, ids, anchors, candidates])
    chosen = choices.miner_of(
        miner, choices.index_of(index, metric), margin, per_anchor, seed, ranks=ranks_of(ranks), guard=guard
    )
    asked, answers = (None if path is None else choices.ids_of(path) for path in (anchors, candidates))
    read = inputs.reader(None, None, labels, embeddings_key, labels_key, groups=groups, ids=ids)
    held = inputs.about(file, lambda: read(file))
    if out is not None and held.id_names is not None and out.suffix in _ARRAYS:
        raise ValueError(
            f"{file}: its ids are names, which {out.suffix} can't hold: choose --out x.jsonl, .csv or .parquet"
        )
    bank = inputs.about(file, lambda: choices.bank_of(held, metric))
    triplets = inputs.about(file, lambda: chosen.mine(bank, asked, candidates=answers))
    printing.show_mined(str(file), triplets, Form.json if as_json else Form.table)
    if not as_json:
        printing.show(score_table(triplets), Form.table)
    if out is not None:
        with waiting(str(out)):
            write(triplets, out, form, held.id_names)
        printing.say_written(out, Form.json if as_json else Form.table)


def ranks_of(text: str | None) -> tuple[int, int] | None:
    """First and last rank of "10-50".

    Example:
        >>> ranks_of("10-50")
        (10, 50)
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)\s*[-,]\s*(\d+)", text.strip())
    if found is None:
        raise ValueError(f"--ranks must be FIRST-LAST, such as 10-50, got {text!r}")
    return int(found[1]), int(found[2])


def check_out(out: Path | None, read: list[Path | None]) -> None:
    """Refuse an output that can't be written, or that is one of the inputs, before any work is done."""
    from legolas_metric.outputs import check_file, check_not_read, check_writable

    if out is None:
        return
    check_not_read(out, read)
    check_file(out)
    if out.suffix not in (*_ARRAYS, *_LINES):
        known = ", ".join((*_ARRAYS, *_LINES))
        raise ValueError(f"{out} has the unknown extension {out.suffix!r}: expected one of {known}")
    check_writable(out.parent)


def write(triplets: "Triplets", out: Path, form: TripletForm, names: "Names | None" = None) -> None:
    """Write triplets by the extension of the file, with the names of ids where they have any."""
    from legolas_metric.files import write_named

    if out.suffix in _ARRAYS:
        names = ("anchor", "positive", "negative", "s_ap", "s_an")
        write_named(out, {name: getattr(triplets, name) for name in names})
    elif out.suffix == ".jsonl":
        triplets.to_jsonl(out, form=form.value, names=names)
    elif out.suffix == ".csv":
        triplets.to_csv(out, form=form.value, names=names)
    else:
        triplets.to_parquet(out, form=form.value, names=names)


def score_table(triplets: "Triplets") -> "Table":
    """How similar the positives are, and the negatives, and by how much they differ.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, HardMiner
        >>> print(score_table(HardMiner().mine(EmbeddingBank(torch.eye(4), [0, 0, 1, 1]))).rows[1])
        ('median', 0.0, 0.0, 0.0)
    """

    from legolas_metric.tables import Table

    columns = [triplets.s_ap.double(), triplets.s_an.double()]
    columns.append(columns[0] - columns[1])
    shares = {"mean": None, "median": 0.5, "least": 0.0, "5 %": 0.05, "95 %": 0.95, "most": 1.0}
    rows = [
        (name, *(float(c.mean() if share is None else c.quantile(share)) if len(c) else None for c in columns))
        for name, share in shares.items()
    ]
    heads = ["similarity", "positive", "negative", "difference"]
    return Table(heads, rows, formats=dict.fromkeys(heads[1:], ".4f"))
