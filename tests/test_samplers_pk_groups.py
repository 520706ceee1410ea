"""PKSampler where rows have groups: a class is drawn from as many of them as there are."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_samplers_pk import batches, check_batch, joined

from legolas_metric import PKSampler


def group_table(sizes):
    """sizes[c][g] rows in group g of class c."""
    rows = [(c, 10 * g) for c, groups in enumerate(sizes) for g, size in enumerate(groups) for _ in range(size)]
    order = np.random.default_rng(1).permutation(len(rows))
    labels, groups = torch.tensor(rows)[order].unbind(1)
    return labels, groups


def test_a_class_is_drawn_from_different_groups():
    labels, groups = group_table([[1, 2, 3, 1, 9], [4, 4, 4], [1, 1, 1, 1]])
    sampler = PKSampler(labels, 3, 3, groups=groups, distinct_groups=True)
    assert sampler.few_groups.tolist() == []
    seen = set()
    for epoch in range(2 * 9):
        for batch in batches(sampler, epoch):
            check_batch(batch, labels, 3, 3)
            assert all(len(set(block)) == 3 for block in groups[torch.tensor(batch)].view(3, 3).tolist())
            seen |= set(batch)
    assert len(seen) == len(labels)


def test_few_groups_are_used_as_evenly_as_their_sizes_allow():
    labels, groups = group_table([[1, 9], [5, 5], [7], [2, 1, 6]])
    sampler = PKSampler(labels, 4, 4, groups=groups, distinct_groups=True)
    assert sampler.few_groups.tolist() == [0, 1, 2, 3]
    seen = set()
    for epoch in range(9):
        (batch,) = batches(sampler, epoch)
        check_batch(batch, labels, 4, 4)
        for block in torch.tensor(batch).view(4, 4):
            counts = sorted(Counter(groups[block].tolist()).values())
            assert counts == {0: [1, 3], 1: [2, 2], 2: [4], 3: [1, 1, 2]}[int(labels[block[0]])]
        seen |= set(batch)
    assert len(seen) == len(labels)


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=6), min_size=2, max_size=5),
    k=st.integers(2, 5),
    weights=st.sampled_from(["balanced", "proportional"]),
    seed=st.integers(0, 999),
)
def test_groups_spread_as_widely_as_possible_and_all_rows_come(sizes, k, weights, seed):
    labels, groups = group_table(sizes)
    sampler = PKSampler(labels, 2, k, groups=groups, distinct_groups=True, weights=weights, short="repeat", seed=seed)
    # A group waits ceil(groups / k) visits for its turn; its rows take at most as many turns as there are of them.
    epochs = max(-(-len(own) // k) * max(own) for own in sizes)
    seen = set()
    for epoch in range(epochs):
        for batch in joined([visit[:k], visit[k:]] for visit in batches(sampler, epoch)):
            own = sizes[int(labels[batch[0]])]
            used = Counter(groups[torch.tensor(batch)].tolist())
            assert len(used) == min(k, len(own))
            assert len(set(batch)) == min(k, sum(own))
            for group, count in used.items():  # none gives two more than another that still had some
                assert all(count <= used[10 * g] + 1 or used[10 * g] >= own[g] for g in range(len(own)))
                assert sum(own) < k or count <= own[group // 10]
            seen |= set(batch)
    assert len(seen) == len(labels)
