"""Rows of one direction are merged into the first of them: against the loop that says so."""

import pytest
import torch

from legolas_metric.geometry import merge_directions, normalise, tie_distance


def merged_by_a_loop(rows):
    """Each row takes the first row before it that stands for itself and lies within the tie distance."""
    out, own = rows.clone(), []
    for row in range(len(rows)):
        near = [
            other for other in own if (rows[row].double() - rows[other].double()).norm() <= tie_distance(rows.dtype)
        ]
        if near:
            out[row] = rows[near[0]]
        else:
            own.append(row)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 2, 9])
def test_the_first_row_of_a_direction_stands_for_all(dtype, d):
    generator = torch.Generator().manual_seed(d)
    directions = torch.randn(12, d, dtype=dtype, generator=generator)
    which = torch.randint(0, 12, (80,), generator=generator)
    lengths = 10 ** torch.randn(80, 1, dtype=dtype, generator=generator)
    rows = normalise(lengths * directions[which])
    assert len(rows.unique(dim=0)) > 12 or d == 1
    expected = merged_by_a_loop(rows)
    merge_directions(rows)
    assert torch.equal(rows, expected)
    assert len(rows.unique(dim=0)) == (2 if d == 1 else len(which.unique()))
    again = rows.clone()
    merge_directions(again)
    assert torch.equal(again, rows)


def test_numbers_that_all_rows_share_hide_no_direction():
    """As pixels at an edge do: then the numbers by which rows are told apart first tell nothing."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(12, 9, generator=generator)[torch.randint(0, 12, (60,), generator=generator)]
    rows[:, 3:6] = 0
    rows = normalise(rows * 10 ** torch.randn(60, 1, generator=generator))
    expected = merged_by_a_loop(rows)
    assert not torch.equal(rows, expected)
    merge_directions(rows)
    assert torch.equal(rows, expected)


def test_rows_that_are_no_more_than_near_stay_as_they_are():
    generator = torch.Generator().manual_seed(0)
    rows = normalise(torch.ones(30, 3) + 1e-6 * torch.randn(30, 3, generator=generator))
    expected = merged_by_a_loop(rows)
    merge_directions(rows)
    assert torch.equal(rows, expected)


def test_a_cloud_of_rounding_ends_in_time():
    """Thousands of directions within one chain: those beyond the first are left as they are, and nothing runs away."""
    generator = torch.Generator().manual_seed(0)
    rows = normalise(torch.ones(20_000, 8) + 1e-6 * torch.randn(20_000, 8, generator=generator))
    before = rows.clone()
    merge_directions(rows)
    assert (rows - before).norm(dim=1).max() <= tie_distance(torch.float32) * 1.001


def test_rows_that_are_many_are_told_apart_by_two_projections(monkeypatch):
    """A million rows lie so densely on one axis that all are one chain there; a large tie distance stands for that."""
    generator = torch.Generator().manual_seed(0)
    rows = normalise(torch.randn(2000, 6, generator=generator))
    rows[1000:1040] = rows[:40]
    rows[1000:1040, 0] += 1e-5
    monkeypatch.setattr("legolas_metric.geometry.tie_distance", lambda dtype: 2e-3)
    places = rows.double() @ torch.eye(6, 1, dtype=torch.float64)
    assert int((places[:, 0].sort().values.diff() <= 2e-3).sum()) > 1700
    merge_directions(rows)
    assert torch.equal(rows[1000:1040], rows[:40])
    assert len(rows.unique(dim=0)) > 1950
