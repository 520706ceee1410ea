"""Into production: scores that are normalised and calibrated, people enrolled without the encoder's code."""

import pytest
import torch
from test_export import conv4, images, unit_rows

from legolas_metric import (
    LDA,
    PLDA,
    Calibration,
    DecisionRule,
    ScoreNorm,
    enrol,
    export_encoder,
    load_export,
    verify_by,
)


@pytest.fixture(scope="module")
def drawn():
    x, y = images()
    return conv4(x), x, y


@pytest.mark.parametrize("how", ["as", "s"])
def test_scores_are_normalised_and_calibrated_as_they_were_before(drawn, tmp_path, how):
    encoder, x, y = drawn
    back_end = LDA(5).fit(unit_rows(encoder, x)[:60], y[:60]) if how == "as" else None
    rows = unit_rows(encoder, x) if back_end is None else back_end.transform(unit_rows(encoder, x))
    norm = ScoreNorm(rows[:60], how=how, top=15, labels=y[:60])
    report = verify_by(norm, rows[60:], y[60:])
    with pytest.warns(UserWarning, match="6 identities"):
        calibration = Calibration.fit(report, how="logistic" if how == "as" else "isotonic")
    rule = DecisionRule.fit(report, far=0.05)
    parts = {"back_end": back_end, "score_norm": norm, "calibration": calibration, "rule": rule}
    kept = export_encoder(encoder, tmp_path / "out", inputs=x, gallery=(x[60::2], y[60::2]), onnx=True, **parts)
    templates, names = enrol(rows[60::2], by=y[60::2])
    expected = norm.score(rows[61::2], templates)
    by_onnx = load_export(tmp_path / "out", engine="onnx")
    for one in (kept, by_onnx):
        assert one.score(x[:5], x[60:90]).numpy() == pytest.approx(
            norm.score(rows[:5], rows[60:90]).numpy(), rel=1e-3, abs=2e-3
        )
        found = one.identify(x[61::2], k=len(names))
        assert found.scores.numpy() == pytest.approx(expected.sort(1, descending=True)[0].numpy(), rel=1e-3, abs=2e-3)
        assert [row[0] for row in found.names] == names[expected.argmax(1)].tolist()
        assert found.accepted.tolist() == (found.scores[:, 0] >= rule.threshold).tolist()
        assert torch.equal(found.llr, calibration.llr(found.scores[:, 0]))
        again = one.enrol(x[60::2], y[60::2])  # people come later too
        assert again.templates.numpy() == pytest.approx(kept.gallery.templates.numpy(), rel=1e-3, abs=1e-3)
    assert (by_onnx.score_norm.people, by_onnx.calibration.identities) == (set(range(6)), set(range(6, 12)))
    other = ScoreNorm(rows[:40], how=how, top=15)
    assert (
        export_encoder(encoder, tmp_path / "other", inputs=x, score_norm=other, back_end=back_end).space != kept.space
    )


def test_people_are_enrolled_after_plda_without_the_encoder_s_code(drawn, tmp_path):
    encoder, x, y = drawn
    rows = unit_rows(encoder, x)
    plda = PLDA().fit(rows[:60], y[:60])
    export_encoder(encoder, tmp_path / "out", inputs=x, back_end=plda, onnx=True)
    by_onnx = load_export(tmp_path / "out", engine="onnx")
    found = by_onnx.identify(x[:5], gallery=by_onnx.enrol(x[60:], y[60:]), k=6)
    expected = plda.score(rows[:5], enrol(rows[60:], by=y[60:])[0])
    assert found.scores.numpy() == pytest.approx(expected.sort(1, descending=True)[0].numpy(), rel=1e-3, abs=2e-3)
