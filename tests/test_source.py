import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from legolas_metric.datasets.source import Inputs


@pytest.mark.parametrize("make", [torch.tensor, np.array, list, lambda rows: np.array(rows)[:, ::-1][:, ::-1]])
def test_arrays_give_their_rows(make):
    source = Inputs(make([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert len(source) == 3
    assert source[1].tolist() == [3.0, 4.0]


def test_pixels_stay_integers():
    assert Inputs(np.zeros((2, 3, 3), np.uint8))[0].dtype == torch.uint8


def test_read_only_arrays_are_taken_without_a_warning():
    pixels = np.arange(6, dtype=np.uint8).reshape(3, 2)
    pixels.setflags(write=False)
    assert Inputs(pixels)[2].tolist() == [4, 5]
    assert Inputs(np.broadcast_to(pixels[:1], (4, 2)))[3].tolist() == [0, 1]


def test_a_data_set_gives_the_first_part_of_its_items():
    x, y = torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 2])
    assert Inputs(TensorDataset(x, y))[2].tolist() == [4.0, 5.0]
    batches = list(DataLoader(Inputs(TensorDataset(x, y)), batch_size=2))
    assert torch.equal(torch.cat(batches), x)


def test_a_data_set_whose_items_are_inputs():
    class Squares(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, row):
            return torch.tensor(row**2)

    assert [int(Inputs(Squares())[row]) for row in range(4)] == [0, 1, 4, 9]


def test_what_has_no_rows_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    with pytest.raises(TypeError, match=r"or a map-style data set with len\(\) and \[\], got Stream"):
        Inputs(Stream())
    with pytest.raises(ValueError, match="the data set is empty"):
        Inputs(np.zeros((0, 3)))
    with pytest.raises(TypeError, match=r"got a DataLoader, whose order and batches are its own: pass loader.dataset"):
        Inputs(DataLoader([1, 2]))
    with pytest.raises(TypeError, match="got str"):
        Inputs("a.png")


def test_any_object_with_len_and_items():
    class Map:
        def __len__(self):
            return 2

        def __getitem__(self, row):
            return {"image": torch.full((3,), row)}, row

    assert Inputs(Map())[1]["image"].tolist() == [1, 1, 1]
    assert Inputs(["a.png", "b.png"])[1] == "b.png"
    assert Inputs([[1, 2, 3], [4]])[1] == [4]  # rows of different lengths
    assert Inputs([(torch.ones(2), 0), (torch.zeros(2), 1)])[1].tolist() == [0, 0]
    assert Inputs([((1.0, 2.0), "a"), ((3.0, 4.0), "b")])[1] == (3.0, 4.0)
