import math

import numpy as np
import pytest
import torch

from legolas_metric import evaluate_ranking, evaluate_verification
from legolas_metric.report import (
    bars,
    cmc,
    curves,
    det,
    drift_and_age,
    projection,
    rank1_against_gallery,
    roc,
    similarity_histogram,
    spectra,
)


def test_curves_number_their_epochs_and_span_the_references():
    figure = curves({"a": torch.tensor([0.1, 0.2, 0.3]), "b": [0.5]}, y="r", start=1, references={"untrained": 0.15})
    a, b, reference = figure.data
    assert (list(a.x), list(b.x), list(reference.x)) == ([1, 2, 3], [1], [1, 3])
    assert list(a.y) == pytest.approx([0.1, 0.2, 0.3])
    assert list(reference.y) == [0.15, 0.15]
    assert figure.layout.yaxis.title.text == "r"
    assert a.line.color != b.line.color
    assert a.line.dash != b.line.dash


def test_a_reference_shows_beside_a_single_epoch():
    (_, reference) = curves({"a": [0.1]}, y="r", references={"u": 0.2}).data
    assert reference.x[0] < 0 < reference.x[1]


def test_values_keep_their_precision():
    assert list(curves({"a": [0.1]}, y="r").data[0].y) == [0.1]
    assert list(curves({"a": np.array([0.1], np.float32)}, y="r").data[0].y) == [float(np.float32(0.1))]


def test_spectra_leave_gaps_where_the_logarithm_does():
    run, iid = spectra({"a": torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)}, baseline=np.array([2.0, 1.0])).data
    assert list(run.x) == [1, 2, 3]
    assert list(run.y) == [4.0, 1.0, None]
    assert iid.name == "iid rows"
    assert spectra({"point": [0.0, 0.0]}).data[0].y == (None, None)


def test_spectra_tick_whole_decades_when_many():
    few = spectra({"a": [50.0, 1.0]}).layout.yaxis.tickvals
    many = spectra({"a": [50.0, 1e-6]}).layout.yaxis.tickvals
    assert list(few) == [1, 2, 5, 10, 20, 50, 100, 200, 500]
    assert list(many) == pytest.approx([10.0**power for power in range(-6, 3)])


def test_histogram_is_shares_of_each_kind():
    edges, genuine, impostor = [-1.0, -0.5, 0.5, 1.0], [0, 1, 3], [60, 30, 10]
    negatives, positives = similarity_histogram(edges, genuine, impostor).data
    assert list(negatives.y) == [0.6, 0.3, 0.1]
    assert list(positives.y) == [0.0, 0.25, 0.75]
    assert list(negatives.x) == [-0.75, 0.0, 0.75]
    assert list(negatives.width) == [0.5, 1.0, 0.5]
    assert (negatives.name, positives.name) == ("negative pairs (100)", "positive pairs (4)")


def test_histogram_without_positives_is_drawn_empty():
    _, positives = similarity_histogram([0.0, 1.0], [0], [5]).data
    assert list(positives.y) == [0.0]


def test_bars_start_at_zero_and_leave_room_for_their_figure():
    figure = bars({"exact": 0.4, "faiss": 1.0}, x="seconds")
    assert list(figure.data[0].y) == ["exact", "faiss"]
    assert list(figure.data[0].text) == ["0.4", "1"]
    assert tuple(figure.layout.xaxis.range) == (0, 1.15)
    assert tuple(bars({"a": 0.0}, x="s").layout.xaxis.range) == (0, 1)


def table(generator) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(8).repeat_interleave(3)
    return torch.randn(8, 4, generator=generator)[labels] + torch.randn(24, 4, generator=generator), labels


def test_ranking_charts_show_the_reports_values(generator):
    report = evaluate_ranking(*table(generator), full=True)
    (trace,) = cmc({"ours": report.cmc(12)}).data
    assert list(trace.x) == list(range(1, 13))
    assert list(trace.y) == report.cmc(12).tolist()
    (trace,) = rank1_against_gallery({"ours": report.rank1_at([10, 2, 5])}).data
    assert list(trace.x) == [2, 5, 10]
    assert list(trace.y) == [report.rank1_at([size])[size] for size in (2, 5, 10)]


def test_verification_charts_show_the_reports_values(generator):
    report = evaluate_verification(*table(generator))
    (trace,) = roc({"ours": (report.far, report.tar)}).data
    assert list(trace.y) == report.tar.tolist()
    assert [x or 0.0 for x in trace.x] == report.far.tolist()
    (trace,) = det({"ours": (report.far, report.tar)}).data
    assert [y or 0.0 for y in trace.y] == pytest.approx((1 - report.tar).tolist())


def test_drift_and_age_have_an_axis_each():
    figure = drift_and_age([math.nan, 0.5, 0.75], torch.tensor([0, 115, 230]), start=4)
    drift, age = figure.data
    assert (list(drift.x), list(age.x)) == ([4, 5, 6], [4, 5, 6])
    assert (list(drift.y)[1:], list(age.y)) == ([0.5, 0.75], [0, 115, 230])
    assert (drift.yaxis, age.yaxis) == (None, "y2")
    assert figure.layout.yaxis2.domain[1] < figure.layout.yaxis.domain[0]


def test_projection_tells_classes_apart_and_greys_the_unlabelled():
    points = torch.arange(18.0).view(9, 2)
    (trace,) = projection(points, [0, 1, 2, 3, 4, 5, 6, -1, 0]).data
    looks = list(zip(trace.marker.color, trace.marker.symbol))
    assert list(trace.x) == points[:, 0].tolist()
    assert list(trace.y) == points[:, 1].tolist()
    assert looks[0] == looks[8]
    assert len(set(looks)) == 8
    assert trace.text[6] == "class 6"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: curves({}, y="r"), "at least one run"),
        (lambda: spectra({}), "at least one run"),
        (lambda: bars({}, x="s"), "at least one run"),
        (lambda: curves({"a": []}, y="r"), r"a must be 1-D and not empty, got shape \(0,\)"),
        (lambda: spectra({"a": torch.zeros(2, 2)}), r"a must be 1-D and not empty, got shape \(2, 2\)"),
        (lambda: similarity_histogram([0.0, 1.0], [1, 2], [1]), "2 counts for 2 edges, expected 1"),
        (lambda: roc({"a": ([0.1], [0.1, 0.2])}), "a: 1 false accept rates for 2 true accept rates"),
        (lambda: det({}), "at least one run"),
        (lambda: cmc({}), "at least one run"),
        (lambda: rank1_against_gallery({}), "at least one run"),
        (lambda: drift_and_age([0.1], [1, 2]), "drift has 1 entries, age 2: give one for each refresh"),
        (lambda: projection(torch.zeros(3, 3), [0, 1, 2]), r"points must be \[n, 2\] with n >= 1, got shape \(3, 3\)"),
        (lambda: projection(torch.zeros(3, 2), [0, 1]), "labels has 2 entries for 3 points"),
    ],
)
def test_bad_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_gap_stays_a_gap():
    assert math.isnan(curves({"a": [0.1, math.nan]}, y="r").data[0].y[1])
