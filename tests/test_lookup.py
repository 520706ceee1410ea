import torch

from legolas_metric.lookup import lookup, runs_of, turns


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


def test_runs_are_those_of_a_count():
    generator = torch.Generator().manual_seed(1)
    for n in (0, 1, 30):
        ascending = torch.randint(0, 9, (n,), generator=generator).sort().values
        sought = torch.arange(-1, 11)
        start, size = runs_of(sought, ascending)
        listed = ascending.tolist()
        assert size.tolist() == [listed.count(value) for value in sought.tolist()]
        assert start.tolist() == [sum(other < value for other in listed) for value in sought.tolist()]


def test_turns_count_what_stands_before():
    generator = torch.Generator().manual_seed(2)
    for n in (0, 1, 40):
        value = torch.randint(0, 7, (n,), generator=generator)
        grouped = torch.cat([value[value == one] for one in (3, 0, 6, 1, 2, 5, 4)])
        listed = grouped.tolist()
        assert turns(grouped).tolist() == [listed[:place].count(one) for place, one in enumerate(listed)]
