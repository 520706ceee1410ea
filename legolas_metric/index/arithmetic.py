"""Products that keep the precision that a certificate counts on, whatever the caller has switched on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, no TF32 or bfloat16 in place of float32, no reduced-precision sums; all restored."""
    matmul = torch.backends.cuda.matmul
    reduced = matmul.allow_bf16_reduced_precision_reduction
    try:
        matmul.allow_bf16_reduced_precision_reduction = False
        with (
            _float32_products(),
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = reduced


def is_exact(device: torch.device) -> bool:
    """Whether float32 products are float32 products already."""
    try:
        return torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled(device.type)
    except RuntimeError:  # the caller has used the newer switches, and torch allows no mixing
        return False


@contextmanager
def _float32_products() -> Iterator[None]:
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # as above
        mkldnn = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]  (torch's stubs lack it)
        switches = (torch.backends.cuda.matmul, mkldnn)
        before = [switch.fp32_precision for switch in switches]
        try:
            for switch in switches:
                switch.fp32_precision = "ieee"
            yield
        finally:
            for switch, value in zip(switches, before):
                switch.fp32_precision = value
        return
    try:
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
