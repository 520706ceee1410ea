"""A device that isn't there: tensors that say they lie on a card, lie in memory, and are as strict as on a real one.

torch's backend for devices written in Python carries it out. What a card refuses is refused: tensors of both places in
one operation, places of a card for a tensor of the host, a generator of the host, memory as an array of NumPy. What
makes a card wait, or goes between it and the host, is counted in `CROSSED`. It says nothing of a card's speed, kernels
and rounding. For a process of its own: the backend is the whole process's.
"""

from collections import Counter

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

CROSSED: Counter[str] = Counter()
"""How often a number was read, an answer was so long as its values say, and a tensor was sent one way or the other."""

_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "equal", "bincount"}


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("card", _Module())
CARD = torch.device("card:0")


class OnCard(torch.Tensor):
    """A tensor of the card, which is one of the host."""

    @staticmethod
    def __new__(cls, inner):
        about = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, device=CARD, **about)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})

    def tolist(self):
        CROSSED["read"] += 1
        return self.inner.tolist()

    def new_tensor(self, data, *, dtype=None, device=None):
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or CARD)

    def __repr__(self):
        return f"OnCard({self.inner!r})"


def _of_card(device) -> bool:
    return device is None or torch.device(device).type == "card"


def _as_long_as_values_say(name, args, kwargs) -> bool:
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    by_mask = name == "index" or "index_put" in name
    by_mask = by_mask and any(one is not None and one.dtype == torch.bool for one in args[1])
    return by_mask and (name == "index" or args[2].numel() > 1)  # one value is filled in wherever the mask is true


def _run(operation, args, kwargs):
    name = operation.name().split("::")[1].split(".")[0]
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    cards, host = ([one for one in tensors if isinstance(one, OnCard) == there] for there in (True, False))
    onto = _of_card(kwargs.get("device"))
    generator = kwargs.get("generator")
    if onto and generator is not None and generator.device.type == "cpu":
        raise RuntimeError(f"{operation}: a generator of the host for a tensor of the card")
    if name in _WAITS or _as_long_as_values_say(name, args, kwargs):
        CROSSED["read" if name == "_local_scalar_dense" else "long as its values say"] += 1
    elif name in ("copy_", "_to_copy", "_copy_from"):
        CROSSED["sent"] += bool(host) or not onto
    elif name == "index" and isinstance(args[0], OnCard):
        CROSSED["sent"] += bool(host)  # places of the host are sent with it
    elif cards and any(one.ndim for one in host):
        raise RuntimeError(f"{operation}: tensors of the card and of the host")
    own = {id(one.inner): one for one in cards}
    host_of = {"device": torch.device("cpu")} if kwargs.get("device") is not None else {}
    plain = tree_map(lambda leaf: leaf.inner if isinstance(leaf, OnCard) else leaf, (args, kwargs))
    out = operation(*plain[0], **{**plain[1], **host_of})
    written = (name.endswith("_") and not name.endswith("__")) or "out" in kwargs

    def back(leaf):
        if not isinstance(leaf, torch.Tensor) or not onto:
            return leaf
        known = own.get(id(leaf))
        return known if known is not None else leaf if written else OnCard(leaf)

    return tree_map(back, out)


def _through_the_host(make):
    def made(data, *, dtype=None, device=None, **rest):
        if device is None or not _of_card(device):
            return make(data, dtype=dtype, device=device, **rest)
        return make(data, dtype=dtype, **rest).to(device)

    return made


torch.tensor, torch.as_tensor = _through_the_host(torch.tensor), _through_the_host(torch.as_tensor)
_rest = torch.library.Library("_", "IMPL")
_rest.fallback(lambda operation, *args, **kwargs: _run(operation, args, kwargs), "PrivateUse1")
_new = torch.library.Library("aten", "IMPL")  # those whose results get their length late
for _name in (
    "arange",
    "arange.start",
    "arange.start_step",
    "randperm",
    "randperm.generator",
    "eye",
    "eye.m",
    "linspace",
):
    _packet, _, _overload = _name.partition(".")
    _operation = getattr(getattr(torch.ops.aten, _packet), _overload or "default")
    _new.impl(_name, lambda *args, _of=_operation, **kwargs: _run(_of, args, kwargs), "PrivateUse1")
