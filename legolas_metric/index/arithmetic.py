"""Products that keep the precision that a certificate counts on, whatever the caller has switched on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch

_guard = threading.Lock()
_inside = 0
_restore: list[Callable[[], None]] = []


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, no TF32 or bfloat16 in place of float32, no reduced-precision sums; all restored.

    The switches are the process's: of several threads the first to come sets them, and the last to go restores them.
    """
    _enter()
    try:
        inference = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
        cast = torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()
        with inference, torch.no_grad(), cast:
            yield
    finally:
        _leave()


def _enter() -> None:
    global _inside
    with _guard:
        if _inside == 0:
            _restore.extend((_set_reduction(), _set_products()))
        _inside += 1


def _leave() -> None:
    global _inside
    with _guard:
        _inside -= 1
        if _inside == 0:
            while _restore:
                _restore.pop()()


def _set_reduction() -> Callable[[], None]:
    """No sums of reduced precision; returns what undoes that."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False

    def undo() -> None:
        matmul.allow_bf16_reduced_precision_reduction = before

    return undo


def _set_products() -> Callable[[], None]:
    """Products of float32 as such; returns what undoes that."""
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # the caller has used the newer switches, and torch allows no mixing
        mkldnn = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]  (torch's stubs lack it)
        switches = (torch.backends.cuda.matmul, mkldnn)
        before = [switch.fp32_precision for switch in switches]
        for switch in switches:
            switch.fp32_precision = "ieee"

        def undo() -> None:
            for switch, value in zip(switches, before):
                switch.fp32_precision = value

        return undo
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(precision)


def is_exact(device: torch.device) -> bool:
    """Whether float32 products are float32 products already."""
    try:
        return torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled(device.type)
    except RuntimeError:  # as above
        return False
