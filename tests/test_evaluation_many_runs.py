"""Several runs compared: the randomisation test against all sign changes, Holm's correction, LaTeX."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import permutation_test

from legolas_metric import compare_runs, evaluate_ranking
from legolas_metric.evaluation.many_runs import holm
from legolas_metric.tables import Table


def reports(persons, noises):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(persons * 3) // 3
    x, noise = torch.randn(persons, 6, generator=generator)[y], torch.randn(len(y), 6, generator=generator)
    return {f"run_{share}": evaluate_ranking(x + share * noise, y) for share in noises}


def test_p_is_the_share_of_all_sign_changes_of_identities():
    runs = reports(9, (0.6, 0.9, 1.4))
    found = compare_runs(runs, "map_at_r")
    values = {name: report.values("map_at_r").view(9, 3).sum(1).numpy() for name, report in runs.items()}
    for pair in found.pairs:
        change = values[pair.first] - values[pair.second]
        reached = [abs(np.dot(signs, change)) >= abs(change.sum()) - 1e-9 for signs in product((-1, 1), repeat=9)]
        assert pair.p == pytest.approx(np.mean(reached))
        other = permutation_test((change,), np.sum, permutation_type="samples", n_resamples=np.inf)
        assert pair.p == pytest.approx(other.pvalue)
        assert pair.difference == pytest.approx(runs[pair.first].map_at_r - runs[pair.second].map_at_r)
    assert [pair.corrected for pair in found.pairs] == pytest.approx(holm([pair.p for pair in found.pairs]))
    drawn = compare_runs(runs, "map_at_r", resamples=511)
    assert [pair.p for pair in drawn.pairs] == pytest.approx([pair.p for pair in found.pairs], abs=0.06)


def test_runs_are_told_apart_in_tables():
    found = compare_runs(reports(40, (0.3, 1.5)))
    assert found.better() == {"run_0.3": ("run_1.5",), "run_1.5": ()}
    assert "| run_0.3 |" in found.table().markdown()
    text = found.table().latex()
    assert r"run\_0.3 &" in text
    assert text.startswith("\\begin{tabular}{lrl}\n\\toprule\nrun & rank\\_at\\_1 &")
    assert text.endswith("\\bottomrule\n\\end{tabular}")
    assert Table(["50 %"], [("a & b_{1}",)]).latex().splitlines()[2:5] == [
        r"50 \% \\",
        r"\midrule",
        r"a \& b\_\{1\} \\",
    ]
    with pytest.raises(ValueError, match="run_b answers other queries than run_a"):
        compare_runs({"run_a": reports(9, (1,))["run_1"], "run_b": reports(8, (1,))["run_1"]})
    with pytest.raises(ValueError, match="1 reports: two are needed"):
        compare_runs(reports(9, (1,)))
    with pytest.raises(ValueError, match="measure must be one of rank_at_1"):
        compare_runs(reports(9, (1, 2)), "nope")
