"""The main job, on a corner of the bundled data."""

import io
import json
import math

import pytest
import torch
from rich.console import Console

from legolas_metric.datasets import Omniglot, split_omniglot
from legolas_metric.demo.run import figures_table, run_demo, summary

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


def test_the_schedule_goes_from_random_to_full_hard(run):
    _, result, _ = run
    assert [r.miner for r in result.mined.rounds] == ["RandomMiner", "SemiHardMiner", "HardMiner", "FullHardMiner"]


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
    assert (out / "report.html").resolve().as_uri() in screen.replace("\n", "")
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
    with pytest.raises(ValueError, match="epochs must be at least 4, got 3"):
        run_demo(tmp_path, epochs=3)
