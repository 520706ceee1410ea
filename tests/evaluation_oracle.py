"""Ranking and verification by the book: every order of the ties, every pair, one at a time.

What decides is the float64 similarity of the prepared float32 rows; under cosine by the squared distance of unit rows.
"""

from fractions import Fraction
from itertools import permutations, product
from math import comb, log2

import numpy as np
from oracles import unit


def similarity(x, y, metric):
    """What decides, to 14 digits: sums in another order are no other similarity."""
    if metric == "dot":
        return round(float((x.astype(np.float64) * y.astype(np.float64)).sum()), 14)
    if metric == "cosine":
        x, y = unit(x), unit(y)
    squared = float(((x.astype(np.float64) - y.astype(np.float64)) ** 2).sum())
    if metric == "euclidean":
        return round(-(squared**0.5), 14)
    return 1.0 if squared**0.5 <= 4 * 2.0**-23 else round(1 - squared / 2, 14)


def same_label(query, row):
    return row[1] == query[1]


def ranked_levels(rows, query, metric, *, allowed, hit=same_label):
    """[(positives, others)] of each level of equal similarity, best first. rows: (vector, label, id, group)."""
    vector, *_ = query
    levels = {}
    for row in rows:
        if allowed(query, row):
            s = similarity(vector, row[0], metric)
            level = levels.setdefault(s, [0, 0])
            level[0 if hit(query, row) else 1] += 1
    return [tuple(levels[s]) for s in sorted(levels, reverse=True)]


def leave_one_out(query, row):
    return query[2] != row[2]


def other_group(query, row):
    return query[2] != row[2] and not (query[1] == row[1] and query[3] == row[3])


def orders(levels):
    """All rankings (tuples of 0 and 1) that the ties allow, each distinct one with its probability."""
    choices = []
    for positives, others in levels:
        level = (1,) * positives + (0,) * others
        choices.append([(order, Fraction(1, comb(len(level), positives))) for order in set(permutations(level))])
    for parts in product(*choices):
        ranking, chance = (), Fraction(1)
        for order, probability in parts:
            ranking += order
            chance *= probability
        yield ranking, chance


def measures(ranking):
    """All measures of one ranking, from their definitions."""
    r = sum(ranking)
    precision = [Fraction(sum(ranking[: i + 1]), i + 1) for i in range(len(ranking))]
    last = max(i for i, hit in enumerate(ranking) if hit) + 1
    return {
        **{f"rank{k}": Fraction(int(any(ranking[:k]))) for k in range(1, len(ranking) + 2)},
        "r_precision": Fraction(sum(ranking[:r]), r),
        "map_at_r": sum((p for p, hit in list(zip(precision, ranking))[:r] if hit), Fraction(0)) / r,
        "map": sum((p for p, hit in zip(precision, ranking) if hit), Fraction(0)) / r,
        "minp": Fraction(r, last),
        "mrr": Fraction(1, ranking.index(1) + 1),
        **{name: value for k in range(1, len(ranking) + 2) for name, value in measures_at(ranking, k).items()},
        "ndcg": sum(hit / log2(i + 2) for i, hit in enumerate(ranking)) / sum(1 / log2(i + 2) for i in range(r)),
    }


def measures_at(ranking, k):
    r, first = sum(ranking), ranking[:k]
    precision = [Fraction(sum(ranking[: i + 1]), i + 1) for i in range(len(first))]
    return {
        f"recall_at_{k}": Fraction(sum(first), r),
        f"precision_at_{k}": Fraction(sum(first), k),
        f"map_at_{k}": sum((p for p, hit in zip(precision, first) if hit), Fraction(0)) / r,
        f"ndcg_at_{k}": sum(hit / log2(i + 2) for i, hit in enumerate(first))
        / sum(1 / log2(i + 2) for i in range(min(r, k))),
    }


def expected(levels):
    """Each measure's mean over all orders of the ties."""
    total = {}
    for ranking, chance in orders(levels):
        for name, value in measures(ranking).items():
            total[name] = total.get(name, 0.0) + float(chance) * float(value)
    return total


def evaluate(rows, metric, *, allowed=leave_one_out, hit=same_label):
    """(mean of each measure over the answerable queries, answerable, unanswerable)."""
    found, unanswerable = [], 0
    for query in rows:
        if query[1] == -1:
            continue
        levels = ranked_levels(rows, query, metric, allowed=allowed, hit=hit)
        if sum(positives for positives, _ in levels) == 0:
            unanswerable += 1
        else:
            found.append(expected(levels))
    names = set.intersection(*(set(one) for one in found))
    return {name: float(np.mean([one[name] for one in found])) for name in names}, len(found), unanswerable


def pair_scores(rows, metric, *, groups=False):
    """(genuine, impostor) similarities of all unordered pairs."""
    genuine, impostor = [], []
    for i, (x, a, _, g) in enumerate(rows):
        for y, b, _, h in rows[i + 1 :]:
            if a == b == -1:
                continue
            if a != b:
                impostor.append(similarity(x, y, metric))
            elif not groups or g != h:
                genuine.append(similarity(x, y, metric))
    return np.array(genuine), np.array(impostor)


def mean_squared(rows, metric):
    """(intra, inter) mean squared distance over all pairs."""
    intra, inter = [], []
    for i, (x, a, *_) in enumerate(rows):
        for y, b, *_ in rows[i + 1 :]:
            if a == b == -1:
                continue
            u, v = (unit(x), unit(y)) if metric == "cosine" else (x, y)
            (intra if a == b else inter).append(((u.astype(float) - v.astype(float)) ** 2).sum())
    return np.mean(intra), np.mean(inter)
