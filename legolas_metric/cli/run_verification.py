"""The command `verify`: AUC, EER, TAR at FAR, and a threshold that is tried on other people."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from legolas_metric.cli.options import (
    Apply,
    ApplyGroups,
    ApplyLabels,
    AsMetric,
    Data,
    EmbeddingsKey,
    Encoder,
    Files,
    Form,
    Format,
    Grid,
    Groups,
    Html,
    Ids,
    Json,
    Labels,
    LabelsKey,
    MetricName,
    ThresholdFar,
    Untrained,
)


def verify(
    files: Files,
    labels: Labels = None,
    groups: Groups = None,
    ids: Ids = None,
    embeddings_key: EmbeddingsKey = "embeddings",
    labels_key: LabelsKey = "labels",
    metric: AsMetric = MetricName.cosine,
    far: Annotated[list[float] | None, typer.Option("--far", help="False accept rate, in (0, 1]; repeatable.")] = None,
    threshold_far: ThresholdFar = None,
    apply: Apply = None,
    apply_labels: ApplyLabels = None,
    apply_groups: ApplyGroups = None,
    grid: Grid = False,
    untrained: Untrained = None,
    encoder: Encoder = None,
    data: Data = None,
    html: Html = None,
    form: Format = Form.table,
    as_json: Json = False,
) -> None:
    """Can one threshold tell same from different? AUC, EER and TAR@FAR over all pairs, exactly.

    With --threshold-far 0.01 --apply OTHER the threshold of that rate (FAR, FMR) is chosen on FILE and tried on OTHER.

    Where the file holds groups, pairs of one class and one group are left out. What is accepted at a rate that
    stands for fewer than 30 impostor pairs carries a question mark in tables.
    """
    from legolas_metric.cli import choices, inputs, pages, printing
    from legolas_metric.evaluation.verification import evaluate_verification
    from legolas_metric.evaluation.verification_report import VerificationReport
    from legolas_metric.files import EmbeddingFile

    pages.check_page(html, [*files, labels, groups, ids, untrained, data, apply, apply_labels, apply_groups])
    fars = choices.rates_of(far, threshold_far)
    choices.check_applied(files, threshold_far, apply, apply_labels or apply_groups)

    def reader(labels: Path | None, groups: Path | None, ids: Path | None = None) -> Callable[[Path], EmbeddingFile]:
        return inputs.reader(encoder, data, labels, embeddings_key, labels_key, groups=groups, ids=ids)

    read = reader(labels, groups, ids)

    def work(file: EmbeddingFile, baseline: VerificationReport | None = None) -> VerificationReport:
        return evaluate_verification(
            file.embeddings,
            inputs.called(file),
            groups=file.groups,
            metric=metric.value,
            fars=fars,
            exact=not grid,
            baseline=baseline,
        )

    before = None if untrained is None else inputs.about(untrained, lambda: work(read(untrained)))
    reports, status = inputs.each(files, read, partial(work, baseline=before))
    done = choices.applied(next(iter(reports.values())), threshold_far, apply, reader(apply_labels, apply_groups))
    shown = Form.json if as_json else form
    printing.show_verified(reports, before, shown, several=len(files) > 1, applied=(str(apply), done))
    if html is not None:
        pages.write_report(
            html,
            shown,
            "Verification",
            list(reports),
            lambda report: report.verification_sections(reports),
        )
    raise typer.Exit(status)
