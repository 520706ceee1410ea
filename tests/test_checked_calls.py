"""The types of calls are checked in tests as jaxtyping checks them: arguments, results, and sizes across them."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from beartype import beartype
from checked_calls import jaxtyped, plain
from jaxtyping import Float, TypeCheckError
from torch import Tensor

BOTH = pytest.mark.parametrize("check", [jaxtyped, plain])
X = torch.ones(2, 3)


def added(x: Float[Tensor, "a b"], y: Float[Tensor, "a b"], *, twice: bool = False) -> Float[Tensor, " a"]:
    return (x + y).sum(int(not twice))


def wrong_calls(function):
    for given, named in (((X, X[:, :2]), {}), ((X.long(), X), {}), ((X, None), {}), ((X, X), {"twice": 1})):
        with pytest.raises(TypeCheckError):
            function(*given, **named)
    with pytest.raises(TypeCheckError):
        function(X, X, twice=True)  # the result has the other size
    assert function(X, X).tolist() == [6, 6]


@BOTH
def test_arguments_and_results_are_checked(check):
    wrong_calls(check(added, typechecker=beartype))
    assert added.__annotations__["twice"] is bool


@BOTH
def test_functions_within_functions_are_checked_each_time_they_are_made(check):
    def made(scale):
        def inner(x: Float[Tensor, "a b"], y: Float[Tensor, "a b"]) -> Float[Tensor, " a"]:
            return ((x + y) * scale).sum(1) if scale else x

        return check(inner, typechecker=beartype)

    twice, thrice, broken = made(2), made(3), made(0)
    assert (twice(X, X).sum(), thrice(X, X).sum(), twice(X, X).sum()) == (24, 36, 24)
    for function, given in ((broken, (X, X)), (twice, (X, X[:1])), (thrice, (X, 1))):
        with pytest.raises(TypeCheckError):
            function(*given)
    assert twice(X, X).sum() == 24


@BOTH
def test_fields_of_a_dataclass_and_generators_are_checked(check):
    @dataclass
    class Pair:
        x: Float[Tensor, " n"]
        y: Float[Tensor, " n"]

    def counted(upto: int) -> Iterator[int]:
        yield from range(upto)

    pair, count = check(Pair, typechecker=beartype), check(counted, typechecker=beartype)
    assert pair(X[0], X[1]).x.tolist() == [1, 1, 1]
    with pytest.raises(TypeCheckError):
        pair(X[0], X[0, :2])
    assert list(count(2)) == [0, 1]
    with pytest.raises(TypeCheckError):
        list(count("2"))


def test_the_library_is_checked():
    from legolas_metric.geometry import exact_similarity

    with pytest.raises(TypeCheckError):
        exact_similarity("rows", X, "cosine")
