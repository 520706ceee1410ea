"""Read a run, say what is wrong, worst first."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean, stdev
from typing import Any

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike
from legolas_metric.doctor import (
    choosing_rules,
    claim_rules,
    collapse_rules,
    data_rules,
    learning_rules,
    mining_rules,
    optimising_rules,
    part_rules,
    turning_rules,
)
from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.diagnosis import diagnose
from legolas_metric.doctor.findings import Finding, findings_table, findings_text, worst_first
from legolas_metric.doctor.history_reader import History, HistoryLike, read_history, read_settings
from legolas_metric.doctor.reading import unjudged
from legolas_metric.doctor.run_case import RANKINGS, Rule, RunCase
from legolas_metric.doctor.saved_rows import as_bank, overlap
from legolas_metric.doctor.thresholds import THRESHOLDS, Limits, Threshold, limits

RULES: tuple[Rule, ...] = (
    *(*mining_rules.RULES, *learning_rules.RULES, *choosing_rules.RULES, *turning_rules.RULES),
    *(*data_rules.RULES, *collapse_rules.RULES, *optimising_rules.RULES, *claim_rules.RULES, *part_rules.RULES),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What a run's history says.

    Attributes:
        findings: worst first; empty where nothing is wrong.
        summary: in plain words whether the run is good, and why.
        trends: how each value went, a sentence each.
        missing: what the rules would have used and the history lacks.
        reading: what stands there and was read otherwise than written, or not judged, and why.
        curves: the values themselves, of epochs and of rounds of mining, in the order of `trends`; marks of `findings`
            lie on them.

    Example:
        >>> found = examine({"epoch": [1, 2, 3, 4, 5], "train_loss": [1.0, 0.8, 0.7, 0.6, 0.5]})
        >>> found.healthy, found.summary[:24]
        (True, 'Nothing is wrong in what')

    Source: ours.
    """

    findings: tuple[Finding, ...]
    summary: str
    trends: tuple[str, ...]
    missing: tuple[str, ...]
    reading: tuple[str, ...]
    curves: Mapping[str, Curve]

    @property
    def healthy(self) -> bool:
        """True where no finding is a fault or a warning."""
        return all(finding.severity == "note" for finding in self.findings)

    def json(self) -> dict[str, Any]:
        """Findings, whose evidence names the epochs, and summary, in plain values."""
        names = ("severity", "rule", "sentence", "evidence", "remedy")
        listed = [{name: getattr(finding, name) for name in names} for finding in self.findings]
        return {"findings": listed, "summary": self.summary}

    def text(self) -> str:
        """The summary, the findings with evidence and remedy, and the trends."""
        return "\n".join([self.summary, "", findings_text(self.findings), "", *self.trends])

    __str__ = __repr__ = text

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.summary)}</p>{findings_table(self.findings).html()}"


def examine(
    history: HistoryLike,
    *,
    settings: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    embeddings: EmbeddingBank | tuple[ArrayLike, ArrayLike] | None = None,
    trained_on: EmbeddingBank | tuple[ArrayLike, ArrayLike] | None = None,
    rules: Sequence[Rule] = (),
    thresholds: Mapping[str, Threshold] | None = None,
) -> Examination:
    """What an expert would say after an hour with the logs: faults, warnings, notes, each with evidence and remedy.

    The rules are ours; each is one function, and their limits stand in `THRESHOLDS` with their source.

    Args:
        history: a run's folder, its `history.jsonl`, a CSV with a row for each epoch (other loggers' names are known),
            a mapping from names to columns, or one mapping for each epoch. Epoch 0 is the encoder before training.
        settings: of the run, a mapping, or a JSON or TOML file; over those that lie in the run's folder. A table
            `doctor` in it changes thresholds.
        embeddings: of the validation rows by the encoder that the run came to, a bank, or embeddings and labels: what
            `diagnose` finds in them is told too.
        trained_on: those of the training rows: identities and rows on both sides of the split are then looked for.
        rules: further ones of your own, each a function of a `RunCase` that yields findings.
        thresholds: name -> `Threshold` that they ask for; settings change these too.

    Raises:
        FileNotFoundError: no such history.
        TypeError: a rule that is no function, or yields something else than findings.
        ValueError: a history without values, or an unknown threshold.

    Example:
        >>> loss = [0.9, 0.7, 0.6, 0.55, 0.5]
        >>> found = examine({"train_loss": loss, "rank_at_1": [0.3, 0.25, 0.2, 0.17, 0.15]})
        >>> found.findings[0].sentence
        'the loss falls while rank_at_1 falls: 0.3000 to 0.1500'

    Source: ours.
    """
    told = read_history(history)
    known = {**read_settings(told.settings), **read_settings(settings)}
    asked = limits(known, thresholds)
    of_rows: tuple[Finding, ...] = ()
    if embeddings is not None:
        bank = as_bank(embeddings)
        of_rows = diagnose(bank, settings={"doctor": {name: asked[name] for name in THRESHOLDS}}).findings
        known = {**known, **({} if trained_on is None else overlap(as_bank(trained_on), bank, asked))}
    elif trained_on is not None:
        raise ValueError("trained_on is compared with embeddings: pass those of the validation rows as well")
    case = RunCase(told, known, asked)
    found = worst_first([*(finding for rule in (*RULES, *rules) for finding in _said(rule, case)), *of_rows])
    curves = {**told.curves, **{name: curve for name, curve in told.rounds.items() if name not in told.curves}}
    reading = (*told.remarks, *unjudged(case))
    return Examination(
        findings=found,
        summary=_summary(told, found, asked) + (f" On what was read: {'; '.join(reading)}." if reading else ""),
        trends=tuple(curve.words(asked) for curve in curves.values() if len(curve)),
        missing=_missing(told),
        reading=reading,
        curves={name: curve for name, curve in curves.items() if len(curve)},
    )


def _said(rule: Rule, case: RunCase) -> list[Finding]:
    """What a rule finds.

    Raises:
        TypeError: a rule that is none.
    """
    if not callable(rule):
        raise TypeError(f"rules must be functions of a RunCase that yield findings, got {rule!r}")
    found = rule(case)
    if not isinstance(found, Iterable):
        found = iter([found])
    listed = list(found)
    if not all(isinstance(each, Finding) for each in listed):
        raise TypeError(f"the rule {rule.__name__} must yield findings, a Finding each, and yielded {listed}")
    return listed


def _summary(history: History, found: tuple[Finding, ...], asked: Limits) -> str:
    """Whether the run is good and why, what its parts came to, and what could not be judged."""
    missing = _missing(history)
    lacks = f" Not logged, and so not judged: {', '.join(missing)}." if missing else ""
    faults = [finding for finding in found if finding.severity == "fault"]
    warnings = [finding for finding in found if finding.severity == "warning"]
    after = _of_parts(history) + lacks
    more = len(faults) + len(warnings) - 1
    others = f" {more} more {'faults and warnings' if more > 1 else 'finding'} below." if more > 0 else ""
    if faults:
        return f"The run is not good: {faults[0].sentence}.{others}{after}"
    if warnings:
        return f"The run has no fault, but {warnings[0].sentence}.{others}{after}"
    ranking = history.get("rank_at_1") or history.get("map_at_r") or history.get("val_accuracy")
    epochs = f" over {history.epochs} epoch{'' if history.epochs == 1 else 's'}" if history.epochs else ""
    nothing = f"nothing is wrong in what was logged{epochs}"
    weak = next((finding for finding in found if finding.rule == "weak ranking"), None)
    if weak is not None:
        return f"The run is not good: it is {weak.sentence}. No rule says why: {nothing}.{after}"
    if ranking is None or len(ranking) < 2:
        return f"{nothing.capitalize()}.{after}"
    if ranking.last > ranking.first and ranking.last >= asked["poor_rank"]:
        at_best = ranking.best(larger=True)[1] - ranking.last <= asked["worse"]
        why = f"{ranking.told()}{', its best' if at_best else ''}"
        return f"The run is good: {why}, and {nothing}.{after}"
    return f"{nothing.capitalize()}: {ranking.told()}.{after}"


def _of_parts(history: History) -> str:
    """What folds came to together."""
    for name in ("rank_at_1", "map_at_r", *history.result):
        ends = [part.result[name] for part in history.parts.values() if name in part.result]
        if len(ends) > 1:
            value, low, high = history.pooled.get(name, (None, None, None))
            over = "" if value is None else f", pooled {value:.3f} [{low:.3f}, {high:.3f}]"
            return f" {len(ends)} parts came to {name} {fmean(ends):.3f}, spread {stdev(ends):.3f}{over}."
    return ""


def _missing(history: History) -> tuple[str, ...]:
    """What rules would have used."""
    names = {
        "a ranking (rank_at_1 or map_at_r)": (*RANKINGS, "val_accuracy", "val_f1", "val_f1_macro"),
        "training loss": ("train_loss",),
        "learning rate": ("lr",),
    }
    known = {*history.result, *(name.partition("/")[0] for name in history.curves if history.get(name))}
    lacks = [name for name, any_of in names.items() if not known & set(any_of)]
    ranking = history.get("rank_at_1") or history.get("map_at_r")
    if (ranking is not None and ranking.epochs[0] != 0) or (ranking is None and "rank_at_1" in history.result):
        lacks.append("the untrained encoder (epoch 0)")
    return (*lacks, *history.unread)
