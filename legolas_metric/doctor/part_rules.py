"""Rules on the rows that a run was given: parts that overlap, queries without answers, rare classes."""

from collections.abc import Iterator, Mapping

from legolas_metric.doctor.findings import Finding
from legolas_metric.doctor.run_case import RunCase, balancings, listed, number_of


def shared_identities(case: RunCase) -> Iterator[Finding]:
    """Identities, or the very rows, on both sides of a split that is to keep them apart; of folds, the worst."""
    told = {name: _most(case, f"shared_{name}") for name in ("identities", "rows")}
    for name, (count, place) in told.items():
        if not count or (name == "identities" and case.settings.get("closed_set") is True):
            continue
        yield Finding(
            severity="fault",
            rule=f"shared {name}",
            sentence=f"{count:g} {name} lie in both the training and the validation part"
            + (f" of {place}" if place else ""),
            evidence=f"shared_{name} = {count:g}: what is measured is how well they were learnt by heart",
            remedy="split by identity (KFold(how='identity')); where all identities are known ones, set closed_set"
            if name == "identities"
            else "draw the two parts from different rows",
            share=1.0,
        )


def _most(case: RunCase, name: str) -> tuple[float, str]:
    """The largest of a count, of the run or of one of its parts, and which."""
    counts = {place: part.settings.get(name, 0) for place, part in case.history.parts.items()} | {
        "": case.number(name) or 0
    }
    worst = max(counts, key=lambda place: counts[place])
    return float(counts[worst]), worst


def near_duplicates(case: RunCase) -> Iterator[Finding]:
    """Rows of the validation part that the training part holds as well."""
    count, rows = case.number("near_duplicates"), case.number("validation_rows")
    share = (count or 0.0) / rows if rows else 0.0
    if count and (not rows or share > case.limits["duplicates"]):
        yield Finding(
            severity="warning",
            rule="near duplicates across parts",
            sentence=f"{count:g} validation rows{f' ({share:.0%})' if rows else ''} are near duplicates of rows of "
            "the training part",
            evidence=f"near_duplicates = {count:g}" + (f" of {rows:g}" if rows else ""),
            remedy="keep duplicates on one side of the split (give them one group), and measure again",
            share=share,
        )


def unanswerable_queries(case: RunCase) -> Iterator[Finding]:
    """Queries without a positive to find."""
    empty, asked = case.curve("unanswerable"), case.curve("queries")
    count = empty.last if empty is not None else case.number("unanswerable") or 0.0
    answered = asked.last if asked is not None else case.number("queries")
    if not count or not answered:
        return
    share = count / (count + answered)
    yield Finding(
        severity="warning" if share > case.limits["unanswerable"] else "note",
        rule="unanswerable queries",
        sentence=f"{count:g} of {count + answered:g} queries have no positive to find and are left out of the means",
        evidence=f"unanswerable {count:g}, queries {answered:g}",
        remedy="quote the count beside the means; take more rows of each class, or of each session, into the gallery",
        share=share,
    )


def rare_classes(case: RunCase) -> Iterator[Finding]:
    """Classes of very different sizes, and nothing that balances them."""
    told = case.settings.get("class_counts")
    counts = [number_of(count) for count in (told.values() if isinstance(told, Mapping) else listed(told))]
    counts = [count for count in counts if count is not None and count >= 1]
    if len(counts) < 2:
        return
    apart = max(counts) / min(counts)
    if balancings(case) or apart <= case.limits["imbalance"]:
        return
    worst = [
        c for n, c in case.history.curves.items() if n.startswith(("val_f1_class_", "val_recall_class_")) and len(c)
    ]
    beside = min(worst, key=lambda curve: curve.last) if worst else None
    yield Finding(
        severity="warning",
        rule="imbalance without balancing",
        marks=() if beside is None else beside.mark(),
        sentence=f"the largest class has {apart:.0f} times the rows of the smallest, and nothing balances them",
        evidence=f"{len(counts)} classes of {min(counts):g} to {max(counts):g} rows"
        + ("" if beside is None else f"; the worst class: {beside.told()}"),
        remedy="draw classes alike (PKSampler, or a weighted sampler), or weigh the loss: one of them",
        share=1 - 1 / apart,
    )


RULES = (shared_identities, near_duplicates, unanswerable_queries, rare_classes)
