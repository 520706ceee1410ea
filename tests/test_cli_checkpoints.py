"""Commands on checkpoints, which are encoded first."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_files import embeddings

from legolas_metric import evaluate_ranking
from legolas_metric.files import write_tensors


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4))


def data() -> tuple[torch.Tensor, np.ndarray]:
    x, y = embeddings(0.6)
    return torch.from_numpy(x), y


@pytest.fixture
def checkpoints(folder, monkeypatch) -> torch.nn.Module:
    """Three checkpoints of one encoder, plain, Lightning's, safetensors; and `mine.py`, which makes it and its data."""
    module = net().train()
    torch.save(module.state_dict(), "plain.pt")
    held = {"state_dict": {f"encoder.{k}": v for k, v in module.state_dict().items()}, "epoch": 3, "callbacks": {}}
    torch.save(held, "lightning.ckpt")
    write_tensors("weights.safetensors", module.state_dict())
    Path("own_code.py").write_text(
        "from test_cli_checkpoints import data, net\nwrong = lambda: 3\n"
        "def failing():\n    raise RuntimeError('no such device')\n"
        "stuck = lambda: {}[3]\nnarrow = net\nother_data = lambda: (data()[0][:, :5], data()[1])\n"
        "from torch.nn import BatchNorm1d, Linear, PReLU, Sequential\nother = lambda: Linear(8, 4)\n"
        "wide = lambda: Sequential(Linear(9, 4), BatchNorm1d(4))\nmore = lambda: net().append(PReLU())\n"
    )
    Path("broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.delitem(sys.modules, "own_code", raising=False)
    return module.eval()


CHECKPOINTS = ("plain.pt", "lightning.ckpt", "weights.safetensors")


def test_checkpoints_are_encoded_and_ranked(call, checkpoints):
    status, out, _ = call("rank", *CHECKPOINTS, "--encoder", "own_code:net", "--data", "own_code:data", "--json")
    x, y = data()
    with torch.no_grad():
        expected = evaluate_ranking(checkpoints(x), y).map_at_r
    assert status == 0
    assert [held["map_at_r"] for held in json.loads(out)] == [pytest.approx(expected)] * 3
    np.savez("images.npz", images=x.numpy(), labels=y)
    status, out, _ = call("probe", "plain.pt", "--encoder", "own_code:net", "--data", "images.npz", "--json")
    assert (status, json.loads(out)["d"]) == (0, 4)
    _, out, _ = call("rank", "plain.pt", "--encoder", "own_code:net", "--data", "x.npy", "--labels", "y.npy", "--json")
    assert json.loads(out)["map_at_r"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--encoder", "own_code:net"), "--encoder and --data go together: checkpoints need both"),
        (("--encoder", "own_code", "--data", "x.npy"), "--encoder must be package.module:function, got 'own_code'"),
        (("--encoder", "nowhere:net", "--data", "x.npy"), "No module named 'nowhere'"),
        (("--encoder", "own_code:nothing", "--data", "x.npy"), "--encoder: module own_code has no function nothing"),
        (("--encoder", "own_code:net", "--data", "x.npy"), "x.npy: no labels: save them beside the images"),
        (("--encoder", "own_code:net", "--data", "own_code:net"), "must return (data set, labels) or"),
        (("--encoder", "own_code:wrong", "--data", "own_code:data"), "--encoder must return an nn.Module, got int"),
        (("--encoder", "own_code:other", "--data", "own_code:data"), "fit the encoder under several names (0., 1.)"),
        (
            ("--encoder", "own_code:more", "--data", "own_code:data"),
            "does not fit the encoder: it lacks 1 of 8 weights",
        ),
        (("--encoder", "own_code:wide", "--data", "own_code:data"), "0.weight is (4, 8), the encoder's is (4, 9)"),
        (
            ("--encoder", "own_code:net", "--data", "own_code:failing"),
            "metric: --data own_code:failing failed: Runtime",
        ),
        (
            ("--encoder", "own_code:net", "--data", "own_code:stuck"),
            "metric: --data own_code:stuck failed: KeyError: 3",
        ),
        (
            ("--encoder", "broken:net", "--data", "x.npy"),
            "metric: --encoder broken:net: importing broken failed: ZeroDi",
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_one_line(call, checkpoints, arguments, message):
    status, out, err = call("rank", "plain.pt", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_an_encoder_that_fails_is_named_with_its_file(call, checkpoints):
    own = ("--encoder", "own_code:failing", "--data", "own_code:data")
    status, _, err = call("rank", "plain.pt", "lightning.ckpt", *own)
    failed = "--encoder own_code:failing failed: RuntimeError: no such device"
    assert (status, err.splitlines()) == (2, [f"legolas-metric: {p}: {failed}" for p in ("plain.pt", "lightning.ckpt")])
    own = ("--encoder", "own_code:narrow", "--data", "own_code:other_data")
    status, _, err = call("rank", "plain.pt", *own)
    assert status == 2
    message = err.split("\r")[-1]  # on a line of its own, after the progress bar is gone
    assert message.startswith("legolas-metric: plain.pt: the encoder or its data failed: RuntimeError: mat1 and mat2")


def test_a_checkpoint_without_weights_is_refused(call, checkpoints):
    torch.save({"epoch": 3}, "none.pt")
    own = ("--encoder", "own_code:net", "--data", "own_code:data")
    status, _, err = call("rank", "plain.pt", "none.pt", "pickled.pt", "cut.npz", *own)
    assert status == 1
    assert "none.pt holds no weights: save torch.save(encoder.state_dict(), path)" in err
    assert "pickled.pt holds pickled Python objects" in err
