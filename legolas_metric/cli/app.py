"""The command line: parse, call, print."""

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from legolas_metric.cli.figures import (
    all_figures,
    collapse_figures,
    compare_table,
    iid_figures,
    mining_figures,
    ranking_figures,
    side_by_side,
    verification_figures,
)
from legolas_metric.cli.inputs import reader
from legolas_metric.cli.options import (
    AsMetric,
    Data,
    Encoder,
    Episodes,
    Files,
    Format,
    Gallery,
    Html,
    Json,
    Labels,
    MetricName,
    MinerName,
    Out,
    Protocol,
    Prototypes,
    Queries,
    Seed,
    Untrained,
    WithinGroup,
    bank_of,
    index_of,
    miner_of,
    protocol_of,
)
from legolas_metric.cli.printing import (
    Form,
    about,
    all_reports,
    check_file,
    check_page,
    comparison_sections,
    diagnose_embeddings,
    diagnosis_sections,
    each,
    examples_of,
    groups_of,
    labels_of,
    run,
    same_examples,
    show,
    show_figures,
    show_intervals,
    show_json,
    show_measured,
    show_trends,
    show_verdicts,
    write_report,
)
from legolas_metric.evaluation.ranking import evaluate_ranking
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.evaluation.verification import VerificationReport, evaluate_verification
from legolas_metric.files import EmbeddingFile, check_output, read_embeddings, write_named
from legolas_metric.probes.collapse import probe_embeddings

FORMATS = """
Embeddings are read from .npz or .safetensors files with the arrays `embeddings` [n, d] and `labels` [n] (and, where
you have them, `ids` and `groups`: session, camera, recording), or from .npy and .pt files that hold the embeddings
alone, with --labels FILE. Pickled objects are never executed. Label -1 means unlabelled.
"""

app = typer.Typer(
    name="legolas-metric",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=f"""Look at embeddings as metric learning needs it: have they collapsed, do they rank, which triplets are hard?

{FORMATS}
Start with `legolas-metric demo`, or with `legolas-metric rank FILE` on embeddings of your own.

Exit status: 0 all is well, 1 some of several files could not be used (the rest was), 2 bad input.""",
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the report goes.")] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(min=4, help="Of 115 steps, for each of two trained encoders.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, the weights and the batches.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the processor (default: all cores).")] = None,
) -> None:
    """Train on bundled handwriting for a few minutes, and see global mining beside batch-only training.

    Ends with a table, and writes report.html and summary.json into the folder. Needs the extras `train` and `report`.
    """
    from legolas_metric.demo.run import run_demo

    if threads is not None:
        torch.set_num_threads(threads)
    run_demo(out, epochs=epochs, seed=seed)


@app.command()
def probe(
    files: Files,
    labels: Labels = None,
    encoder: Encoder = None,
    data: Data = None,
    html: Html = None,
    form: Format = Form.table,
    as_json: Json = False,
) -> None:
    """Has the embedding collapsed? Effective rank, mean cosine and more, beside those of random (iid) rows.

    Rows are looked at as unit vectors. Several files, such as the checkpoints of a run, show its trend.
    """
    check_page(html)
    read = reader(encoder, data, labels)
    reports, status = each(files, read, lambda file: probe_embeddings(file.embeddings, file.labels))
    if html is not None:
        from legolas_metric.report import collapse_sections

        write_report(html, "Collapse", list(reports), collapse_sections(reports))
    several = len(files) > 1
    if as_json or form is Form.json:
        show_json(reports, several=several)
        raise typer.Exit(status)
    figures = {name: collapse_figures(report) for name, report in reports.items()}
    beside = {} if several or form is Form.csv else iid_figures(reports)
    show_figures(figures, form, several=several, beside=beside)
    if form is Form.table:
        show_verdicts(reports)
        show_trends(figures, ("effective rank", "mean cosine"))
    raise typer.Exit(status)


@app.command()
def rank(
    files: Files,
    labels: Labels = None,
    metric: AsMetric = MetricName.cosine,
    protocol: Protocol = "leave-one-out",
    queries: Queries = None,
    gallery: Gallery = None,
    episodes: Episodes = None,
    within_group: WithinGroup = False,
    prototypes: Prototypes = False,
    seed: Seed = 0,
    k: Annotated[list[int] | None, typer.Option("--k", min=1, help="Depth of Rank@k; repeatable.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Rank the whole gallery too, for mAP.")] = False,
    untrained: Untrained = None,
    encoder: Encoder = None,
    data: Data = None,
    html: Html = None,
    form: Format = Form.table,
    as_json: Json = False,
) -> None:
    """Do examples find their own class? Rank@k, MAP@R and more, exactly; all ask all others unless --protocol says."""
    check_page(html)
    ks = tuple(k or (1, 5, 10))
    asked = protocol_of(protocol, queries, gallery, episodes, within_group, prototypes, seed)
    read = reader(encoder, data, labels)
    held: list[EmbeddingFile] = []

    def work(file: EmbeddingFile, baseline: RankingReport | None = None) -> RankingReport:
        held[:] = [file]
        return evaluate_ranking(
            file.embeddings,
            labels_of(file),
            ids=file.ids,
            groups=groups_of(file, asked),
            metric=metric.value,
            protocol=asked,
            ks=ks,
            full=full,
            baseline=baseline,
        )

    before = None if untrained is None else about(untrained, lambda: work(read(untrained)))
    reports, status = each(files, read, partial(work, baseline=before))
    if html is not None:
        from legolas_metric.report import ranking_sections

        write_report(html, "Ranking", list(reports), ranking_sections(reports, examples_of(held[-1])))
    shown, trends = Form.json if as_json else form, (f"Rank@{ks[0]}", "MAP@R")
    show_measured(reports, before, ranking_figures, shown, trends, several=len(files) > 1)
    raise typer.Exit(status)


@app.command()
def verify(
    files: Files,
    labels: Labels = None,
    metric: AsMetric = MetricName.cosine,
    far: Annotated[list[float] | None, typer.Option("--far", help="False accept rate; repeatable.")] = None,
    untrained: Untrained = None,
    encoder: Encoder = None,
    data: Data = None,
    html: Html = None,
    form: Format = Form.table,
    as_json: Json = False,
) -> None:
    """Can one threshold tell same from different? AUC, EER and TAR@FAR over all pairs, exactly.

    Where the file holds groups, pairs of one class and one group are left out. What is accepted at a rate that
    stands for fewer than 30 impostor pairs carries a question mark in tables.
    """
    check_page(html)
    read = reader(encoder, data, labels)

    def work(file: EmbeddingFile, baseline: VerificationReport | None = None) -> VerificationReport:
        return evaluate_verification(
            file.embeddings,
            labels_of(file),
            groups=file.groups,
            metric=metric.value,
            fars=tuple(far or (1e-2, 1e-3, 1e-4)),
            baseline=baseline,
        )

    before = None if untrained is None else about(untrained, lambda: work(read(untrained)))
    reports, status = each(files, read, partial(work, baseline=before))
    if html is not None:
        from legolas_metric.report import verification_sections

        write_report(html, "Verification", list(reports), verification_sections(reports))
    shown = Form.json if as_json else form
    show_measured(reports, before, verification_figures, shown, ("AUC", "EER"), several=len(files) > 1)
    raise typer.Exit(status)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Embeddings, or a checkpoint.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The same examples by another encoder.")],
    labels: Labels = None,
    metric: AsMetric = MetricName.cosine,
    protocol: Protocol = "leave-one-out",
    queries: Queries = None,
    gallery: Gallery = None,
    encoder: Encoder = None,
    data: Data = None,
    html: Html = None,
    form: Format = Form.table,
    as_json: Json = False,
) -> None:
    """Two embeddings side by side: ranking, verification and collapse, and which is better at what.

    Intervals are 95 % by the bootstrap over classes. They tell chance in the examples, not in the training: for that,
    train each encoder with several seeds.
    """
    check_page(html)
    asked, read = protocol_of(protocol, queries, gallery), reader(encoder, data, labels)
    files = {path: about(path, lambda path=path: read(path)) for path in (a, b)}
    about(b, lambda: same_examples(files[a], files[b], a))
    held = {n: about(p, lambda p=p: all_reports(files[p], metric.value, asked)) for n, p in (("A", a), ("B", b))}
    ranks = {name: ranking for name, (ranking, _, _) in held.items()}
    if html is not None:
        write_report(html, "A and B", [f"A: {a}", f"B: {b}"], comparison_sections(held))
    figures = {name: all_figures(*reports) for name, reports in held.items()}
    if as_json or form is Form.json:
        names = (str(a), str(b)) if a != b else (f"{a} (A)", f"{b} (B)")
        show_json(dict(zip(names, figures.values())), several=True)
        return
    show(compare_table(figures["A"], figures["B"]), form)
    if form is Form.table:
        show_intervals(ranks)


@app.command()
def diagnose(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Embeddings, or a checkpoint.")],
    labels: Labels = None,
    untrained: Untrained = None,
    encoder: Encoder = None,
    data: Data = None,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Is this embedding any good, and if not, why not? What follows from all measures, worst first.

    Where the file holds groups, an example must find its class in another group. Finding a fault is no error: the exit
    status is 0.
    """
    check_page(html)
    read = reader(encoder, data, labels)
    held = about(file, lambda: read(file))
    before = None if untrained is None else about(untrained, lambda: same_examples(held, read(untrained), file))
    found = about(file, lambda: diagnose_embeddings(held, before))
    if html is not None:
        write_report(html, "Diagnosis", [str(file)], diagnosis_sections(held, found))
    if as_json:
        show_json({str(file): found})
    else:
        print(found.text())


@app.command()
def mine(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Embeddings.")],
    labels: Labels = None,
    out: Out = None,
    miner: Annotated[
        MinerName, typer.Option(help="Negatives: random, semi-hard or nearest; full-hard: farthest positives too.")
    ] = MinerName.full_hard,
    index: Annotated[
        str, typer.Option(metavar="INDEX", help="auto, exact, or a FAISS factory: Flat, HNSW32, IVF256,Flat.")
    ] = "auto",
    metric: AsMetric = MetricName.cosine,
    margin: Annotated[float, typer.Option(min=0, help="Width of the semi-hard window, in distance.")] = 0.2,
    per_anchor: Annotated[int, typer.Option(min=1, help="Triplets for each anchor.")] = 1,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find hard triplets in the whole set, and say what could not be found.

    The file written holds anchor, positive and negative (ids), and their similarities s_ap and s_an.
    """
    if out is not None:
        check_file(out)
        check_output(out)
    held = read_embeddings(file, labels=labels)
    chosen = miner_of(miner, index_of(index, metric), margin, per_anchor, seed)
    triplets = about(file, lambda: chosen.mine(bank_of(held, metric)))
    if out is not None:
        names = ("anchor", "positive", "negative", "s_ap", "s_an")
        write_named(out, {name: getattr(triplets, name) for name in names})
    if as_json:
        show_json({str(file): triplets.stats})
        return
    show(side_by_side({str(file): {"triplets": len(triplets), **mining_figures(triplets.stats)}}), Form.table)
    if out is not None:
        print(f"Wrote {out}.")


def main() -> None:
    """Run the command line; bad usage or input ends it with status 2 and one line on stderr."""
    run(app)
