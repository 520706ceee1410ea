import torch

from legolas_metric.lookup import lookup


def test_it_finds_what_a_loop_finds():
    generator = torch.Generator().manual_seed(0)
    for n, m in ((1, 3), (7, 20), (40, 11), (40, 0), (0, 4)):
        among = torch.randint(-5, 30, (n,), generator=generator)
        for sought in (among, among.sort().values):
            names = torch.randint(-8, 33, (m,), generator=generator)
            place, found = lookup(names, sought)
            listed = sought.tolist()
            assert found.tolist() == [name in listed for name in names.tolist()]
            expected = [listed.index(name) if name in listed else 0 for name in names.tolist()]
            assert place.tolist() == expected


def test_it_keeps_the_shape_of_the_names():
    place, found = lookup(torch.tensor([[3, 9], [7, 3]]), torch.tensor([7, 3]))
    assert place.tolist() == [[1, 0], [0, 1]]
    assert found.tolist() == [[True, False], [True, True]]
