"""The command line: parse, call, print. What a command needs is imported when it runs, so that help comes at once."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from legolas_metric.cli.options import (
    HELP,
    AsMetric,
    Data,
    Drawn,
    EmbeddingsKey,
    Encoder,
    Episodes,
    Files,
    Form,
    Format,
    Gallery,
    Groups,
    Html,
    Ids,
    Json,
    Labels,
    LabelsKey,
    MetricName,
    Over,
    Protocol,
    Prototypes,
    Queries,
    SameSpace,
    Seed,
    Untrained,
    Version,
    WithinGroup,
)
from legolas_metric.cli.refusals import run
from legolas_metric.cli.run_commands import demo, embed, ensemble, kfold, search, train
from legolas_metric.cli.run_examination import doctor
from legolas_metric.cli.run_export import export, identify, same_space
from legolas_metric.cli.run_mining import mine
from legolas_metric.cli.run_verification import verify

app = typer.Typer(
    name="legolas-metric",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=HELP,
)


@app.callback()
def options(
    version: Version = False,
) -> None:
    """What stands before a command's name."""


for command in (demo, train, kfold, embed, ensemble, search, doctor, mine, export, identify):
    app.command()(command)


@app.command()
def probe(
    files: Files,
    labels: Labels = None,
    groups: Groups = None,
    ids: Ids = None,
    embeddings_key: EmbeddingsKey = "embeddings",
    labels_key: LabelsKey = "labels",
    encoder: Encoder = None,
    data: Data = None,
    html: Html = None,
    form: Format = Form.table,
    as_json: Json = False,
) -> None:
    """Has the embedding collapsed? Effective rank, mean cosine and more, beside those of random (iid) rows.

    Rows are looked at as unit vectors. Several files, such as the checkpoints of a run, show its trend.
    """
    from legolas_metric.cli import inputs, pages, printing
    from legolas_metric.probes.collapse import probe_embeddings

    pages.check_page(html, [*files, labels, groups, ids, data])
    read = inputs.reader(encoder, data, labels, embeddings_key, labels_key, groups=groups, ids=ids)
    reports, status = inputs.each(files, read, lambda file: probe_embeddings(file.embeddings, file.labels))
    printing.show_probed(reports, Form.json if as_json else form, several=len(files) > 1)
    if html is not None:
        pages.write_report(
            html,
            Form.json if as_json else form,
            "Collapse",
            list(reports),
            lambda report: report.collapse_sections(reports),
        )
    raise typer.Exit(status)


@app.command()
def rank(
    files: Files,
    labels: Labels = None,
    groups: Groups = None,
    ids: Ids = None,
    embeddings_key: EmbeddingsKey = "embeddings",
    labels_key: LabelsKey = "labels",
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
    from legolas_metric.cli import choices, inputs, pages, printing
    from legolas_metric.evaluation.ranking import RankingReport, evaluate_ranking
    from legolas_metric.files import EmbeddingFile

    pages.check_page(html, [*files, labels, groups, ids, untrained, queries, gallery, data])
    ks = tuple(k or (1, 5, 10))
    asked = choices.protocol_of(protocol, queries, gallery, episodes, within_group, prototypes, seed)
    keys = (embeddings_key, labels_key)
    read = inputs.reader(
        encoder, data, labels, *keys, groups=groups, ids=ids, pictures=html is not None, protocol=asked
    )
    held: list[EmbeddingFile] = []

    def work(file: EmbeddingFile, baseline: RankingReport | None = None) -> RankingReport:
        held[:] = [file]
        return evaluate_ranking(
            file.embeddings,
            inputs.called(file),
            ids=file.ids,
            groups=file.groups,
            metric=metric.value,
            protocol=asked,
            ks=ks,
            full=full,
            baseline=baseline,
        )

    before = None if untrained is None else inputs.about(untrained, lambda: work(read(untrained)))
    reports, status = inputs.each(files, read, partial(work, baseline=before))
    shown, trends = Form.json if as_json else form, (f"rank_at_{ks[0]}", "map_at_r")
    printing.show_ranked(reports, before, shown, trends, several=len(files) > 1)
    if html is not None:
        example = pages.examples_of(held[-1])
        pages.write_report(
            html,
            Form.json if as_json else form,
            "Ranking",
            list(reports),
            lambda report: report.ranking_sections(reports, example),
        )
    raise typer.Exit(status)


app.command()(verify)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Embeddings, or a checkpoint.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The same examples by another encoder.")],
    labels: Labels = None,
    groups: Groups = None,
    ids: Ids = None,
    embeddings_key: EmbeddingsKey = "embeddings",
    labels_key: LabelsKey = "labels",
    metric: AsMetric = MetricName.cosine,
    protocol: Protocol = "leave-one-out",
    queries: Queries = None,
    gallery: Gallery = None,
    over: Over = Drawn.identities,
    one_space: SameSpace = False,
    encoder: Encoder = None,
    data: Data = None,
    html: Html = None,
    form: Format = Form.table,
    as_json: Json = False,
) -> None:
    """Two embeddings side by side: ranking, verification and collapse, and which is better at what.

    Better is said where the 95 % interval of the paired difference, by the bootstrap over classes, leaves out zero.
    That tells chance in the examples, not in the training: for that, train each encoder with several seeds.

    With --same-space A and B are folders of `export` (or files of the same examples by id): do their embeddings lie in
    one space, so that a gallery of A serves B? The exit status is 1 where they don't.
    """
    if one_space:
        raise typer.Exit(same_space(a, b, Form.json if as_json else form))
    from legolas_metric.cli import choices, comparison, inputs, pages

    pages.check_page(html, [a, b, labels, groups, ids, queries, gallery, data])
    asked = choices.protocol_of(protocol, queries, gallery)
    read = inputs.reader(encoder, data, labels, embeddings_key, labels_key, groups=groups, ids=ids, protocol=asked)
    first, second = (inputs.about(path, lambda path=path: read(path)) for path in (a, b))
    same = inputs.about(b, lambda: inputs.same_examples(first, second, a))
    found = comparison.compare((a, first.embeddings), (b, same), first, metric.value, asked, over.value)
    comparison.show(found, Form.json if as_json else form)
    if html is not None:
        pages.write_report(
            html,
            Form.json if as_json else form,
            "A and B",
            [f"A: {a}", f"B: {b}"],
            lambda _: pages.comparison_sections(found.reports),
        )


@app.command()
def diagnose(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Embeddings, or a checkpoint.")],
    labels: Labels = None,
    groups: Groups = None,
    ids: Ids = None,
    embeddings_key: EmbeddingsKey = "embeddings",
    labels_key: LabelsKey = "labels",
    untrained: Untrained = None,
    encoder: Encoder = None,
    data: Data = None,
    html: Html = None,
    form: Format = Form.table,
    as_json: Json = False,
) -> None:
    """Is this embedding any good, and if not, why not? What follows from all measures, worst first.

    Where the file holds groups, an example must find its class in another group. As CSV come the rows whose label is
    worth a look, clearest first. Finding a fault is no error: the exit status is 0.
    """
    from legolas_metric.cli import diagnosing, inputs, pages

    pages.check_page(html, [file, labels, groups, ids, untrained, data])
    read = inputs.reader(
        encoder, data, labels, embeddings_key, labels_key, groups=groups, ids=ids, pictures=html is not None
    )
    held = inputs.about(file, lambda: read(file))
    own = inputs.about(file, lambda: inputs.labels_of(held))
    before = None
    if untrained is not None:
        before = inputs.about(untrained, lambda: inputs.same_examples(held, read(untrained), file))
    found = inputs.about(file, lambda: diagnosing.diagnosed(held, before))
    diagnosing.show(str(file), found, Form.json if as_json else form)
    if html is not None:
        pages.write_report(
            html,
            Form.json if as_json else form,
            "Diagnosis",
            [str(file)],
            lambda _: diagnosing.sections(held, own, found),
        )


@app.command()
def warm_up(as_json: Json = False) -> None:
    """Compile the loops of mining and verification ahead, and keep them, as a container's image may.

    Prints the seconds that each took: next to none where it was compiled before.
    """
    from legolas_metric.cli import printing
    from legolas_metric.cli.waiting import waiting
    from legolas_metric.evaluation.tally import warm_up as compile_counting
    from legolas_metric.index.exact.warm_up import warm_up as compile_mining

    with waiting("compiling"):
        seconds = compile_mining() | compile_counting()
    printing.show_seconds(seconds, Form.json if as_json else Form.table)


def main() -> None:
    """Run the command line; bad usage or input ends it with status 2 and one line on stderr."""
    run(app)
