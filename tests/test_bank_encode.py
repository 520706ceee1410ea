"""EmbeddingBank.encode: what an encoder makes of data, in evaluation mode, whatever form the inputs have."""

import importlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from legolas_metric import EmbeddingBank
from legolas_metric.datasets.embedding import PassSettings, evaluating, evened, input_loader


def encoder() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))


def test_encode_equals_the_encoder_in_evaluation_mode(generator):
    x, net = torch.randn(11, 3, generator=generator), encoder().train()
    bank = EmbeddingBank.encode(net, x, labels=[0] * 11, metric="dot", batch_size=4, step=3, progress=False)
    assert net.training
    assert all(module.training for module in net.modules())
    with torch.no_grad():
        assert torch.allclose(bank.embeddings, net.eval()(x), atol=1e-6)
    assert bank.step == 3
    assert not bank.embeddings.is_inference()
    assert not bank.embeddings.requires_grad


def test_encode_takes_data_sets_arrays_and_plain_functions(generator):
    x = torch.randn(5, 2, generator=generator)
    pairs = TensorDataset(x, torch.arange(5))
    for source in (x, x.numpy(), pairs):
        bank = EmbeddingBank.encode(
            lambda b: b * 2, source, labels=range(5), ids=range(10, 15), metric="dot", progress=False
        )
        assert torch.equal(bank.embeddings, x * 2)
        assert bank.ids.tolist() == [10, 11, 12, 13, 14]


def test_encode_gives_the_same_rows_with_workers(generator):
    x = torch.randn(9, 3, generator=generator)
    one, two = (
        EmbeddingBank.encode(encoder(), x, labels=[0] * 9, batch_size=2, num_workers=workers, progress=False)
        for workers in (0, 2)
    )
    assert torch.equal(one.embeddings, two.embeddings)


def test_encode_leaves_statistics_gradients_and_generators_alone(generator):
    net = encoder().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    EmbeddingBank.encode(net, torch.randn(6, 3, generator=generator), labels=[0] * 6, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


class Fails(nn.Module):
    def forward(self, x):
        raise RuntimeError("overheated")


@pytest.mark.parametrize("fails", [False, True])
def test_every_part_gets_its_own_mode_back(fails):
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(), nn.Linear(3, 2)))
    if fails:
        net.append(Fails())
    net.train()
    net[1].eval()  # frozen statistics, as fine-tuning often has them
    net[2][0].eval()
    modes = [module.training for module in net.modules()]
    assert len(set(modes)) == 2
    if fails:
        with pytest.raises(RuntimeError, match="overheated"):
            EmbeddingBank.encode(net, torch.ones(4, 3), labels=[0] * 4, progress=False)
    else:
        EmbeddingBank.encode(net, torch.eye(3), labels=[0] * 3, progress=False)
    assert [module.training for module in net.modules()] == modes


def test_evaluating_takes_plain_functions():
    with evaluating(torch.sin):
        pass


def test_encode_refuses_before_the_first_forward_pass():
    calls = []

    def counted(batch):
        calls.append(len(batch))
        return batch

    for changes, error, message in (
        ({"labels": [0]}, ValueError, "labels has 1 entries for 2 rows of the data set"),
        ({"labels": [0.0, 1.0]}, TypeError, "labels must be integers"),
        ({"ids": [3, 3]}, ValueError, "ids must be unique"),
        ({"groups": [3]}, ValueError, "groups has 1 entries for 2 rows of the data set"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"dataset": np.zeros((0, 2))}, ValueError, "the data set is empty"),
    ):
        with pytest.raises(error, match=message):
            EmbeddingBank.encode(
                counted, **{"dataset": torch.ones(2, 2), "labels": [0, 1], "progress": False} | changes
            )
    assert calls == []


def test_encode_refuses_what_is_no_table_of_embeddings():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"the encoder must map 3 inputs to \[3, d\], got \(3,\)"):
        EmbeddingBank.encode(lambda b: b.sum(1), x, labels=[0] * 3, progress=False)
    with pytest.raises(ValueError, match=r"the encoder must map 3 inputs to \[3, d\], got \(1, 2\)"):
        EmbeddingBank.encode(lambda b: b[:1], x, labels=[0] * 3, progress=False)
    with pytest.raises(ValueError, match=r"NaN or inf .* in 3 of 3 rows \(first ids: 4, 5, 6\)"):
        EmbeddingBank.encode(lambda b: b / 0, x, labels=[0] * 3, ids=[4, 5, 6], progress=False)


def test_encode_shows_its_progress_on_request(capsys):
    EmbeddingBank.encode(torch.sin, torch.ones(4, 2), labels=[0] * 4, batch_size=2)
    assert "encode" in capsys.readouterr().err
    EmbeddingBank.encode(torch.sin, torch.ones(4, 2), labels=[0] * 4, batch_size=2, progress=False)
    assert capsys.readouterr().err == ""


class Items:
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 7

    def __getitem__(self, row):
        return self.item(row)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = encoder()

    def forward(self, batch, *others):
        return self.net(batch["deep"]["x"] if isinstance(batch, dict) else batch) + sum(others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_encode_takes_inputs_of_every_form(generator, dtype, num_workers):
    x, net = torch.randn(7, 3, generator=generator), Named().eval().to(dtype)
    expected = net(x.to(dtype)).detach().float()

    def cut(items):
        assert all(type(item) is list for item in items)
        return torch.tensor([item[:3] for item in items], dtype=torch.float64)

    forms = {
        "nested dicts": (Items(lambda row: {"deep": {"x": x[row]}, "name": "a"}), {}, 0),
        "two inputs": (Items(lambda row: ((x[row], torch.ones(2)), row)), {}, 1),
        "float64": (x.double().numpy(), {}, 0),
        "lists of different lengths": ([[*x[row].tolist(), *range(row)] for row in range(7)], {"collate_fn": cut}, 0),
        "pairs in a list": ([(x[row], row) for row in range(7)], {}, 0),
    }
    for name, (source, settings, offset) in forms.items():
        bank = EmbeddingBank.encode(
            net,
            source,
            labels=[0] * 7,
            metric="dot",
            batch_size=3,
            num_workers=num_workers,
            progress=False,
            **settings,
        )
        torch.testing.assert_close(bank.embeddings, expected + offset, msg=name)


def test_encode_says_that_inputs_cannot_be_stacked():
    with pytest.raises(ValueError, match=r"inputs of type Tensor can't be stacked to a batch: pass collate_fn"):
        EmbeddingBank.encode(torch.sin, Items(lambda row: torch.ones(row)), labels=[0] * 7, progress=False)
    with pytest.raises(ValueError, match=r"inputs of type Image can't be stacked to a batch: pass collate_fn"):
        EmbeddingBank.encode(torch.sin, Items(lambda row: type("Image", (), {})()), labels=[0] * 7, progress=False)


def test_encode_ends_at_the_first_batch_that_is_not_finite():
    read = []

    def item(row):
        read.append(row)
        return torch.full((2,), torch.nan if row == 3 else 1.0)

    with pytest.raises(ValueError, match=r"NaN or inf .* \(first ids: 33\)"):
        EmbeddingBank.encode(
            lambda batch: batch, Items(item), labels=[0] * 7, ids=range(30, 37), batch_size=2, progress=False
        )
    assert max(read) == 3


def test_encode_shows_no_second_bar_inside_richs(capsys):
    progress = pytest.importorskip("rich.progress")
    console = importlib.import_module("rich.console").Console(force_terminal=True)
    for _ in progress.track([0], transient=True, console=console):
        EmbeddingBank.encode(torch.sin, torch.ones(4, 2), labels=[0] * 4)
    assert "encode" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("n", [1, 2, 7, 1500, 5000])
@pytest.mark.parametrize("workers", [1, 2])  # of more PyTorch warns on two cores
@pytest.mark.parametrize("batch_size", [1, 64, 512])
def test_workers_have_equal_shares_of_a_pass(n, workers, batch_size):
    """A loader deals its batches out in turn."""
    loader = input_loader(
        TensorDataset(torch.arange(n)), evened(n, PassSettings(batch_size=batch_size, num_workers=workers))
    )
    sizes = [len(rows) for rows in loader.batch_sampler]
    shares = [sum(sizes[worker::workers]) for worker in range(workers)]
    assert sum(shares) == n
    assert max(sizes) <= batch_size
    # n / workers, but for what is left over when n is cut into batches
    assert max(shares) <= n / workers + len(sizes[::workers])


def test_without_workers_batches_are_as_asked_for():
    settings = PassSettings(batch_size=512)
    assert evened(1500, settings) is settings
