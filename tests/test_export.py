"""Into production: what is exported says the same when it is taken up again, and a changed encoder is noticed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import python
from torch import nn

from legolas_metric import (
    LDA,
    PLDA,
    WCCN,
    DecisionRule,
    ScoreNorm,
    Whitening,
    compare_spaces,
    enrol,
    evaluate_verification,
    export_encoder,
    load_export,
    read_gallery,
    verify_by,
)
from legolas_metric.datasets import load_ecg_id, load_omniglot
from legolas_metric.encoders import Conv4, InputNormalisation, ResNet1D
from legolas_metric.files import read_embeddings

ECG = Path(__file__).parents[2] / "shared" / "data" / "ecgid_dev.npz"


def images(classes: int = 12, each: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Real drawings, and the character of each."""
    data = load_omniglot()
    rows = torch.cat([torch.arange(20 * c, 20 * c + each) for c in range(classes)])
    return torch.stack([data[int(row)][0] for row in rows]), data.labels[rows]


def conv4(x: torch.Tensor, seed: int = 0) -> nn.Sequential:
    """A little encoder whose batch norm has seen the drawings, its normalisation in it."""
    torch.manual_seed(seed)
    encoder = nn.Sequential(InputNormalisation(1).fit(x), Conv4(width=16))
    with torch.no_grad():
        for _ in range(20):
            encoder.train()(x[:60])
    return encoder.eval()


@pytest.fixture(scope="module")
def drawn():
    x, y = images()
    return conv4(x), x, y


def unit_rows(encoder, x):
    with torch.no_grad():
        return nn.functional.normalize(encoder(x), dim=1)


def test_the_folder_gives_the_same_embeddings_again(drawn, tmp_path):
    encoder, x, _ = drawn
    encoder.train()
    kept = export_encoder(encoder, tmp_path / "out", inputs=x, settings={"image_size": [28, 28]})
    assert encoder.training  # as it came
    encoder.eval()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("export.json", "encoder.safetensors", "examples.safetensors"),
    }
    again = load_export(tmp_path / "out", encoder=nn.Sequential(InputNormalisation(1), Conv4(width=16)))
    assert torch.equal(again.embed(x), kept.embed(x))
    assert again.embed(x).numpy() == pytest.approx(unit_rows(encoder, x).numpy(), abs=1e-6)
    assert again.normalisation == encoder[0].figures()
    assert (again.settings, again.input_shape, again.metric) == ({"image_size": [28, 28]}, (1, 28, 28), "cosine")
    assert len(again.examples["inputs"]) == 8
    assert again.check().largest == 0
    assert torch.equal(again.examples["embeddings"], again.embed(x[again.examples["ids"]]))


@pytest.mark.parametrize(
    "make", [lambda: None, Whitening, LDA, WCCN, PLDA], ids=["none", "whitening", "LDA", "WCCN", "PLDA"]
)
def test_onnx_says_the_same_as_torch_with_every_back_end(drawn, tmp_path, make):
    encoder, x, y = drawn
    rows, back_end = unit_rows(encoder, x), make()
    rule = None
    if back_end is not None:
        back_end.fit(rows[:60], y[:60])
    if isinstance(back_end, PLDA):
        rule = DecisionRule.fit(verify_by(back_end, rows[60:], y[60:]), far=0.05)
    else:
        table = rows if back_end is None else back_end.transform(rows)
        rule = DecisionRule.fit(evaluate_verification(table[60:], y[60:]), far=0.05)
    folder = tmp_path / "out"
    names = [f"letter {int(label)}" for label in y[60::2]]
    kept = export_encoder(
        encoder,
        folder,
        inputs=x,
        back_end=back_end,
        rule=rule,
        gallery=(x[60::2], names),
        onnx=True,
        label_names=["a", "b"],
    )
    by_onnx = load_export(folder, engine="onnx")
    for size in (1, 2, 33):  # a free axis
        one, two = by_onnx.embed(x[:size]), kept.embed(x[:size])
        assert one.numpy() == pytest.approx(two.numpy(), rel=1e-3, abs=1e-3)
    assert by_onnx.encode.about()["rule"]["threshold"] == rule.threshold
    assert by_onnx.encode.about()["space"] == kept.space
    if back_end is not None and not isinstance(back_end, PLDA):
        expected = nn.functional.normalize(back_end.transform(rows), dim=1)
        assert kept.embed(x).numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    if isinstance(back_end, PLDA):
        expected = back_end.score(rows[60:70], rows[:20])
        assert kept.score(x[60:70], x[:20]).numpy() == pytest.approx(expected.numpy(), rel=1e-3, abs=2e-3)
    assert by_onnx.identify(x[61::2]).who == kept.identify(x[61::2]).who
    said = kept.identify(x[61::2])
    assert said.accepted.tolist() == (said.scores[:, 0] >= rule.threshold).tolist()


def test_templates_are_those_of_enrol(drawn, tmp_path):
    encoder, x, y = drawn
    rows = unit_rows(encoder, x)
    back_end = LDA(4).fit(rows[:60], y[:60])
    kept = export_encoder(encoder, tmp_path / "out", inputs=x, back_end=back_end, gallery=(x[60:], y[60:]))
    templates, names = enrol(back_end.transform(rows[60:]), by=y[60:])
    assert kept.gallery.names.tolist() == names.tolist()
    assert kept.gallery.templates.numpy() == pytest.approx(templates.numpy(), abs=1e-5)
    plda = PLDA().fit(rows[:60], y[:60])
    kept = export_encoder(encoder, tmp_path / "plda", inputs=x, back_end=plda, gallery=(x[60:], y[60:]))
    expected = plda.score(rows[:5], enrol(rows[60:], by=y[60:])[0])
    found = kept.identify(x[:5], k=6)
    assert found.scores.numpy() == pytest.approx(expected.sort(1, descending=True)[0].numpy(), rel=1e-3, abs=2e-3)


@pytest.mark.skipif(not ECG.is_file(), reason="the recordings are not here")
def test_heartbeats_are_identified_from_the_folder_end_to_end(tmp_path):
    beats = load_ecg_id(ECG)
    chosen = torch.cat([(beats.labels == person).nonzero().flatten()[:20] for person in range(16)])
    x, y = torch.stack([beats[int(row)][0] for row in chosen]), beats.labels[chosen]
    torch.manual_seed(0)
    encoder = nn.Sequential(InputNormalisation(1).fit(x[:160]), ResNet1D(widths=(8, 16)))
    with torch.no_grad():
        for _ in range(20):
            encoder(x[:160])
    encoder.eval()
    rows = unit_rows(encoder, x)
    back_end = WCCN().fit(rows[y < 6], y[y < 6])
    middle = (y >= 6) & (y < 11)
    rule = DecisionRule.fit(evaluate_verification(back_end.transform(rows[middle]), y[middle]), far=0.01)
    new = (y >= 11) & (y < 14)
    first = torch.arange(len(y)) % 20 < 10
    names = np.array([f"person {int(label)}" for label in y])
    export_encoder(
        encoder,
        tmp_path / "ecg",
        inputs=x[:64],
        ids=chosen[:64],
        back_end=back_end,
        rule=rule,
        gallery=(x[new & first], names[(new & first).numpy()]),
        onnx=True,
    )
    deployed = load_export(tmp_path / "ecg", engine="onnx")  # as a service without the encoder's code has it
    found = deployed.identify(x[new & ~first])
    right = [who == name for who, name in zip(found.who, names[(new & ~first).numpy()])]
    assert np.mean(right) > 0.5
    strangers = deployed.identify(x[y >= 14]).who
    assert strangers.count(None) / len(strangers) > found.who.count(None) / len(found.who)
    table = back_end.transform(rows)
    templates, called = enrol(table[new & first], by=names[(new & first).numpy()])
    scores = nn.functional.normalize(table[new & ~first], dim=1) @ templates.T
    best = [called[i] if s >= rule.threshold else None for s, i in zip(*scores.max(1))]
    assert sum(a != b for a, b in zip(found.who, best)) <= 1  # a score at the threshold may fall to either side


def test_the_gallery_is_read_by_faiss_and_by_the_commands(drawn, tmp_path):
    import faiss

    encoder, x, y = drawn
    kept = export_encoder(encoder, tmp_path / "out", inputs=x, gallery=(x[60:], [f"c{int(c)}" for c in y[60:]]))
    path = tmp_path / "out" / f"gallery-{kept.space}.npz"
    held = read_embeddings(path)
    assert held.label_names == kept.gallery.names
    assert torch.equal(held.embeddings, kept.gallery.templates)
    index = faiss.read_index(str(path.with_suffix(".faiss")))
    probes = kept.embed(x[61:66])
    scores, rows = index.search(probes.numpy(), 1)
    found = kept.identify(x[61:66])
    assert tuple(kept.gallery.names[int(row)] for row in rows[:, 0]) == found.who
    assert scores[:, 0] == pytest.approx(found.scores[:, 0].numpy(), abs=1e-6)
    again = read_gallery(path)
    assert (again.names, again.space) == (kept.gallery.names, kept.space)


def test_a_gallery_of_another_space_is_refused(drawn, tmp_path):
    encoder, x, y = drawn
    one = export_encoder(encoder, tmp_path / "one", inputs=x)
    two = export_encoder(encoder, tmp_path / "two", inputs=x, settings={"image_size": [32, 32]})
    assert one.space != two.space  # by the settings alone
    with pytest.raises(ValueError, match=f"the gallery is of space {one.space}, this encoder's is {two.space}"):
        two.identify(x[:2], gallery=one.enrol(x, y))
    with pytest.raises(ValueError, match="nobody is known"):
        two.identify(x[:2])


def test_a_later_encoder_is_noticed(drawn, tmp_path):
    encoder, x, _ = drawn
    one = export_encoder(encoder, tmp_path / "one", inputs=x, onnx=True)
    same = compare_spaces(tmp_path / "one", one)
    assert same.same
    assert same.largest < 1e-5
    later = conv4(x, seed=1)
    two = export_encoder(later, tmp_path / "two", inputs=x)
    found = compare_spaces(one, two)
    moved = (unit_rows(later, x[one.examples["ids"]]) - one.examples["embeddings"]).norm(dim=1)
    assert not found.same
    assert found.largest == pytest.approx(float(moved.max()), rel=1e-4)
    assert found.mean == pytest.approx(float(moved.mean()), rel=1e-4)
    assert "embed the gallery again" in found.remedy

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside, self.turn = encoder, nn.Parameter(torch.linalg.qr(torch.randn(16, 16))[0])

        def forward(self, inputs):
            return self.inside(inputs) @ self.turn

    turned = compare_spaces(one, export_encoder(Turned(), tmp_path / "turned", inputs=x))
    assert not turned.same
    assert turned.similarities < 1e-5
    assert "the same one turned" in turned.sentence


def test_a_changed_preprocessing_is_noticed(drawn, tmp_path):
    encoder, x, _ = drawn
    kept = export_encoder(encoder, tmp_path / "out", inputs=x, ids=torch.arange(len(x)) + 100)
    ids = kept.examples["ids"]
    assert kept.check(x[ids - 100]).largest == 0
    assert not kept.check(1 - x[ids - 100]).same  # ink and paper exchanged
    rows = unit_rows(encoder, x)
    order = torch.randperm(len(x))
    np.savez(tmp_path / "today.npz", embeddings=rows[order], ids=order + 100)
    assert compare_spaces(kept, tmp_path / "today.npz").same
    np.savez(tmp_path / "today.npz", embeddings=unit_rows(encoder, 1 - x)[order], ids=order + 100)
    found = compare_spaces(kept, tmp_path / "today.npz")
    assert (found.same, found.inputs) == (False, 8)
    np.savez(tmp_path / "others.npz", embeddings=rows, ids=torch.arange(len(x)) + 1000)
    assert compare_spaces(kept, tmp_path / "others.npz").sentence == "nothing to compare: no input is in both"


class Moody(nn.Module):
    """Says one thing in torch and another in ONNX, as an operator that is translated wrongly does."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, inputs):
        rows = inputs.flatten(1) * self.scale
        return rows + 0.01 if torch.compiler.is_compiling() else rows


def test_onnx_that_differs_is_refused_and_nothing_is_left(tmp_path):
    x = torch.randn(5, 2, 3)
    with pytest.raises(ValueError, match=r"differ by 0\.0\d+ of their length, where 0\.0001 is let pass"):
        export_encoder(Moody(), tmp_path / "out", inputs=x, onnx=True)
    assert list(tmp_path.iterdir()) == []
    assert export_encoder(Moody(), tmp_path / "out", inputs=x, onnx=True, tolerance=0.1).space


@pytest.mark.parametrize("name", ["export.json", "encoder.safetensors", "examples.safetensors"])
def test_what_was_changed_or_lost_is_refused(drawn, tmp_path, name):
    encoder, x, y = drawn
    rule = DecisionRule.fit(evaluate_verification(unit_rows(encoder, x), y), far=0.05)
    export_encoder(encoder, tmp_path / "out", inputs=x, rule=rule)
    path = tmp_path / "out" / name
    if name == "export.json":
        about = json.loads(path.read_text())
        about["rule"]["threshold"] -= 0.1
        path.write_text(json.dumps(about))
    else:
        held = path.read_bytes()
        path.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{name} was changed since it was exported"):
        load_export(tmp_path / "out", encoder=conv4(x))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_export(tmp_path / "out", encoder=conv4(x))


def test_what_cannot_be_exported_is_refused_before_the_work(drawn, tmp_path):
    encoder, x, y = drawn
    rows = unit_rows(encoder, x)
    rule = DecisionRule.fit(evaluate_verification(rows, y, metric="euclidean"), far=0.05)
    folder = tmp_path / "out"
    norm = ScoreNorm(rows[:60])
    cosine, plda = DecisionRule.fit(evaluate_verification(rows, y), far=0.05), PLDA().fit(rows[:60], y[:60])
    for told, changed in (
        ("PLDA's scores are none: leave one of the two out", {"score_norm": norm, "back_end": plda}),
        ("of metric 'cosine', deployed rows are compared by 'dot'", {"score_norm": norm, "rule": cosine}),
        ("rows after the back end.*cohort", {"score_norm": norm, "back_end": LDA(4).fit(rows[:60], y[:60])}),
        ("the rule's threshold is of metric 'euclidean'", {"rule": rule}),
        ("LDA, is not fitted yet", {"back_end": LDA()}),
        (r"inputs must be two real inputs or more", {"inputs": x[:1]}),
        ("3 entries|3 ids|ids", {"ids": [1, 2, 3]}),
        ("tolerance must be", {"tolerance": 0.0}),
    ):
        with pytest.raises(ValueError, match=told):
            export_encoder(encoder, folder, **({"inputs": x} | changed))
        assert not folder.exists()
    folder.mkdir()
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="holds something already"):
        export_encoder(encoder, folder, inputs=x)
    assert (folder / "mine.txt").read_text() == "kept"


def test_inputs_of_another_shape_and_an_unknown_encoder_are_refused(drawn, tmp_path):
    encoder, x, _ = drawn
    kept = export_encoder(encoder, tmp_path / "out", inputs=x)
    with pytest.raises(ValueError, match=r"inputs must be \[n, 1, 28, 28\], got \[3, 28, 28\]"):
        kept.embed(x[:3, 0])
    with pytest.raises(ValueError, match="pass encoder="):
        load_export(tmp_path / "out")
    with pytest.raises(ValueError, match="don't fit Conv4"):
        load_export(tmp_path / "out", encoder=Conv4(width=16))
    with pytest.raises(FileNotFoundError, match=r"no encoder.onnx: export it again with onnx=True"):
        load_export(tmp_path / "out", engine="onnx")


def test_a_killed_export_leaves_nothing_that_looks_whole(tmp_path):
    script = (
        "import os, torch, legolas_metric.export.writing as w\n"
        "w.write_json = lambda *a: os._exit(9)\n"
        f"w.export_encoder(torch.nn.Linear(3, 2), {str(tmp_path / 'out')!r}, inputs=torch.randn(4, 3))\n"
    )
    assert python("-c", script).returncode == 9
    assert not (tmp_path / "out").exists()
    assert len(os.listdir(tmp_path)) == 1  # what was begun
    export_encoder(nn.Linear(3, 2), tmp_path / "out", inputs=torch.randn(4, 3))
    assert os.listdir(tmp_path) == ["out"]
