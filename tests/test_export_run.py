"""`legolas-metric export RUN`: from a run to a folder that a service loads, and what is asked of it there."""

import json

import numpy as np
import pytest
import torch

from legolas_metric import LDA, DecisionRule, compare_spaces, evaluate_verification, export_run, load_export
from legolas_metric.datasets import load_omniglot
from legolas_metric.runs import RunSettings
from legolas_metric.runs.commands import split_rows, train
from legolas_metric.runs.one_run import best_path, embed, read_encoder
from legolas_metric.runs.run_data import load_data
from legolas_metric.runs.run_folder import settings_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory", "ignore:an interval over", "ignore:a calibration on"
)
TINY = {"mining": "none", "epochs": 2, "batch_size": 16, "steps_per_epoch": 4, "width": 8, "progress": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on forty real characters; and drawings of others, as a user has them."""
    folder = tmp_path_factory.mktemp("deployed")
    data = load_omniglot()
    pixels = torch.stack([data[row][0] for row in range(1000)]).mul(255).byte().squeeze(1).numpy()
    names = np.array([f"letter {int(label):02}" for label in data.labels[:1000]])
    np.savez(folder / "known.npz", x=pixels[:800], y=names[:800])
    new = np.arange(800, 1000)
    np.savez(folder / "people.npz", x=pixels[new[::2]], y=names[new[::2]])
    np.savez(folder / "new.npz", x=pixels[new[1::2]])
    train(RunSettings.of(TINY | {"data": str(folder / "known.npz")}), folder / "run")
    return folder, names[new[1::2]]


@pytest.fixture(scope="module")
def exported(run):
    folder, _ = run
    return export_run(
        folder / "run", folder / "out", back_end="lda", far=0.05, gallery=str(folder / "people.npz"), onnx=True
    )


def test_the_folder_holds_the_run_s_best_encoder(run, exported):
    folder, names = run
    again = load_export(folder / "out")
    settings = settings_of(folder / "run")
    data, _ = load_data(settings)
    encoder, kept = read_encoder(best_path(folder / "run", None), settings)
    rows = embed(encoder, data, settings)
    seen, others = split_rows(data, settings)
    back_end = LDA().fit(rows[seen], data.labels[seen])
    table = torch.nn.functional.normalize(back_end.transform(rows), dim=1)
    inputs = torch.stack([data.dataset[row] for row in others.tolist()])
    assert again.embed(inputs).numpy() == pytest.approx(table[others].numpy(), abs=1e-4)
    rule = DecisionRule.fit(evaluate_verification(back_end.transform(rows[others]), data.labels[others]), far=0.05)
    assert again.rule.threshold == pytest.approx(rule.threshold, abs=1e-4)
    assert again.label_names == kept.label_names
    assert again.normalisation == kept.normalisation
    assert again.back_end.people == {data.label_names[int(code)] for code in data.labels[seen].unique()}
    assert set(again.examples["ids"].tolist()) <= set(others.tolist())
    assert {path.name for path in (folder / "out").iterdir()} == {
        *("export.json", "encoder.safetensors", "back_end.safetensors", "examples.safetensors", "encoder.onnx"),
        *(f"gallery-{again.space}.npz", f"gallery-{again.space}.faiss"),
    }
    found = again.identify(torch.from_numpy(np.load(folder / "new.npz")["x"]).float()[:, None] / 255)
    called = [row[0] for row in found.names]
    assert np.mean([a == b for a, b in zip(called, names)]) > 0.2  # ten letters


def test_new_inputs_are_identified_on_the_command_line(run, exported, call):
    folder, names = run
    status, out, err = call("identify", str(folder / "out"), str(folder / "new.npz"), "--json", "--k", "2")
    assert (status, err) == (0, "")
    said = json.loads(out)
    x = torch.from_numpy(np.load(folder / "new.npz")["x"]).float()[:, None] / 255
    expected = exported.identify(x, k=2)
    assert [one["who"] for one in said] == list(expected.who)
    assert [tuple(one["names"]) for one in said] == list(expected.names)
    assert len(said) == len(names)
    status, out, _ = call(
        "identify", str(folder / "out"), str(folder / "new.npz"), "--engine", "onnx", "--format", "csv"
    )
    assert out.splitlines()[0] == "row,who,score"
    who = [None if line.split(",")[1] == "nobody" else line.split(",")[1] for line in out.splitlines()[1:]]
    assert sum(a != b for a, b in zip(who, expected.who)) <= 1


def test_the_command_writes_the_same_and_says_what(run, exported, call, tmp_path):
    folder, _ = run
    out = tmp_path / "out"
    status, said, err = call(
        "export", str(folder / "run"), "--out", str(out), "--back-end", "lda", "--threshold-far", "0.05"
    )
    assert (status, err) == (0, "")
    assert f"Space {exported.space}; threshold {exported.rule.threshold:.4f} at FAR 0.05" in said
    assert (
        f"Wrote back_end.safetensors, encoder.safetensors, examples.safetensors, export.json: 0 templates, in {out}"
        in said
    )
    status, said, _ = call("compare", "--same-space", str(folder / "out"), str(out))
    assert status == 0
    assert said.startswith("The same space: 8 inputs lie where they lay")
    status, _, err = call("export", str(folder / "run"), "--out", str(out))
    assert (status, err.count("\n")) == (2, 1)
    assert "holds something already, which is not touched" in err
    status, _, err = call("export", str(tmp_path), "--out", str(tmp_path / "x"))
    assert (status, "holds no run" in err) == (2, True)
    status, _, err = call("export", str(folder / "run"), "--out", str(tmp_path / "x"), "--fold", "0")
    assert (status, "leave --fold out" in err, (tmp_path / "x").exists()) == (2, True, False)


def test_score_normalisation_and_calibration_come_along(run, exported, call, tmp_path):
    folder, _ = run
    options = ("--back-end", "lda", "--score-norm", "as", "--calibration", "logistic", "--threshold-far", "0.05")
    people = ("--gallery", str(folder / "people.npz"))
    status, said, err = call("export", str(folder / "run"), "--out", str(tmp_path / "out"), *options, *people)
    assert (status, err) == (0, "")
    made = load_export(tmp_path / "out")
    assert f"Cllr {made.calibration.cllr:.4f} on the validation classes" in said
    assert (made.score_norm.people, made.metric) == (made.back_end.people, "dot")
    assert made.calibration.identities == made.rule.identities
    assert not made.calibration.identities & made.score_norm.people
    status, said, err = call("identify", str(tmp_path / "out"), str(folder / "new.npz"), "--k", "12", "--json")
    found = json.loads(said)  # two places more than there are people
    assert (status, err, found[0]["names"][10:], found[0]["scores"][10:]) == (0, "", [None, None], [None, None])
    scores = torch.tensor([one["scores"][0] for one in found])
    assert [one["llr"] for one in found] == pytest.approx(made.calibration.llr(scores).tolist(), abs=1e-4)
    assert [one["who"] is None for one in found] == (scores < made.rule.threshold).tolist()
    status, said, _ = call("identify", str(tmp_path / "out"), str(folder / "new.npz"), "--format", "csv")
    assert said.startswith("row,who,score,llr\n0,")
    status, _, err = call(
        "export", str(folder / "run"), "--out", str(tmp_path / "x"), "--back-end", "plda", *options[2:4]
    )
    assert (status, err.count("\n"), "PLDA's scores are none" in err, (tmp_path / "x").exists()) == (2, 1, True, False)


def test_another_run_is_another_space(run, exported, call, tmp_path):
    folder, _ = run
    train(RunSettings.of(TINY | {"data": str(folder / "known.npz"), "seed": 1}), tmp_path / "run")
    later = export_run(tmp_path / "run", tmp_path / "out", back_end="plda", far=0.05)
    assert later.metric == "dot"
    plain = export_run(tmp_path / "run", tmp_path / "plain", far=0.05)
    assert not compare_spaces(later, plain).same
    call("--version")  # takes away what training said
    status, said, err = call("compare", "--same-space", str(tmp_path / "plain"), str(folder / "out"), "--json")
    assert said, err
    found = json.loads(said)
    assert (status, err, found["same"], found["inputs"]) == (1, "", False, 8)
    status, said, _ = call("compare", "--same-space", str(tmp_path / "plain"), str(folder / "out"))
    assert "What to do: don't mix their rows" in said
    status, _, err = call("embed", str(tmp_path / "run"), "--out", str(tmp_path / "rows.npz"))
    status, said, _ = call("compare", "--same-space", str(tmp_path / "plain"), str(tmp_path / "rows.npz"))
    assert status == 0
    assert said.startswith("The same space: 8 inputs")
