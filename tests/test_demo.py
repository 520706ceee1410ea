"""The main job, on a corner of the bundled data."""

import io
import json
import math

import pytest
import torch
from rich.console import Console

from legolas_metric.datasets import Omniglot, split_omniglot
from legolas_metric.demo.run import (
    figures_table,
    hardest_gallery,
    nearest_gallery,
    rounds_table,
    run_demo,
    summary,
)

FIGURES = {"rank_at_1", "map_at_r", "auc", "effective_rank", "mean_cosine", "top1_variance"}


def some(data: Omniglot, classes: int) -> Omniglot:
    return data.take(torch.isin(data.labels, data.labels.unique()[:classes]).nonzero().flatten())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    train, validation = split_omniglot(seed=0)
    out = tmp_path_factory.mktemp("runs") / "demo"
    screen = Console(record=True, width=80, file=io.StringIO())
    result = run_demo(out, epochs=4, data=(some(train, 40), some(validation, 15)), console=screen)
    return out, result, screen.export_text()


def test_the_summary_holds_the_tables_figures(run):
    out, result, _ = run
    found = json.loads((out / "summary.json").read_text())
    assert found == json.loads(json.dumps(summary(result)))
    for name in ("untrained", "batch_only", "global"):
        assert set(found[name]) == FIGURES
        assert all(math.isfinite(value) for value in found[name].values())
    assert found["seed"] == 0
    assert found["seconds"] > 0
    assert {"torch", "faiss-cpu", "python", "legolas-metric"} <= set(found["versions"])
    assert found["global"]["map_at_r"] == result.mined.ranking.map_at_r
    assert found["batch_only"]["auc"] == result.batch_only.verification.auc


def test_both_runs_start_from_the_same_weights_and_take_as_many_steps(run):
    _, result, _ = run
    first, second = (outcome.history[0].ranking for outcome in (result.batch_only, result.mined))
    assert first.rank == second.rank == result.untrained.ranking.rank
    assert len(result.batch_only.history) == len(result.mined.history) == 5
    assert result.steps == 4 * 7
    assert result.mined.rounds[-1].step == 3 * 7


def test_training_ranks_better_than_no_training(run):
    _, result, _ = run
    for outcome in (result.batch_only, result.mined):
        assert outcome.ranking.map_at_r > result.untrained.ranking.map_at_r


def test_looks_and_near_pairs_against_counting_by_hand():
    from legolas_metric import EmbeddingBank
    from legolas_metric.demo.recipe import look_at, near_pairs

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(6, (40,), generator=generator) * 2
    rows = torch.randn(12, 5, generator=generator)[labels] + torch.randn(40, 5, generator=generator)
    bank = EmbeddingBank(rows, labels)
    unit = torch.nn.functional.normalize(rows)
    means = {c: torch.nn.functional.normalize(unit[labels == c].sum(0), dim=0) for c in range(0, 12, 2)}
    nearest = [max(float(means[c] @ means[d]) for d in means if d != c) for c in means]
    own = [max(means, key=lambda c: float(unit[i] @ means[c])) == int(labels[i]) for i in range(40)]
    look = look_at(bank, 3)
    assert (look.epoch, look.confused) == (3, pytest.approx(1 - sum(own) / 40))
    assert look.nearest == pytest.approx(sum(nearest) / 6)
    left, found = set(means), near_pairs(bank)
    assert len(found) == 3
    for pair in found:
        a, b = max(((a, b) for a in left for b in left if a < b), key=lambda ab: float(means[ab[0]] @ means[ab[1]]))
        left -= {a, b}
        assert pair.similarity == pytest.approx(float(means[a] @ means[b]))
        for row, c, other in zip(pair.rows, (a, b), (b, a)):
            assert row == max((labels == c).nonzero().flatten().tolist(), key=lambda i: float(unit[i] @ means[other]))


def test_the_whole_set_is_looked_at_each_epoch_and_its_nearest_classes_shown(run):
    _, result, _ = run
    assert [look.epoch for look in result.mined.looks] == [r.epoch for r in result.mined.rounds] == [0, 1, 2, 3]
    table = rounds_table(result.mined).text()
    assert [cells[1] for cells in table] == ["random classes"] + ["near classes"] * 3
    assert len(nearest_gallery(result).cards) == len(result.near) == 12
    assert len(hardest_gallery(result).cards) > 0
    assert not result.batch_only.looks


def test_both_engines_find_the_same(run):
    _, result, _ = run
    assert result.race.agreement == 1.0
    assert "faiss" in result.race.faiss.stats.engine
    assert "exact" in result.race.exact.stats.engine


def test_the_screen_shows_the_whole_table_in_80_columns_and_says_where_the_report_lies(run):
    out, result, screen = run
    for row in figures_table(result).text():
        assert all(cell in screen for cell in row)
    assert "…" not in screen
    assert f"Wrote {out / 'report.html'}" in screen.replace("\n", "")
    assert ("beats" in screen) == (result.mined.ranking.rank[1] > result.batch_only.ranking.rank[1])


def test_the_report_is_one_offline_page_with_every_part(run):
    page = (run[0] / "report.html").read_text()
    for part in (
        "Rank@1",
        "MAP@R",
        "Effective rank",
        "Mean cosine",
        "Singular spectrum",
        "Similarity of pairs",
        "Mining engines",
        "Nearest classes",
        "Hardest mined pairs",
    ):
        assert f">{part}</h2>" in page
    assert page.count("data:image/png;base64,") >= 3
    assert "<script src" not in page
    assert sorted(path.name for path in run[0].iterdir()) == ["report.html", "summary.json"]


def test_an_unwritable_folder_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Choose another output folder"):
        run_demo(tmp_path / "file" / "demo")


@pytest.mark.parametrize("moment", ["legolas_metric.demo.run.figures_table", "pathlib.Path.replace"])
def test_a_run_interrupted_while_it_reports_leaves_nothing_half_written(run, tmp_path, monkeypatch, moment):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("legolas_metric.demo.run.compare_on_omniglot", lambda *args, **kwargs: run[1])
    monkeypatch.setattr(moment, stop)
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path / "demo")
    assert list((tmp_path / "demo").iterdir()) == []


def test_too_few_epochs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="epochs must be at least 2, got 1"):
        run_demo(tmp_path, epochs=1)
