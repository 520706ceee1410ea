"""One pass of a data set through an encoder: batches of inputs to their device, in evaluation mode, no gradients."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from legolas_metric.checks import Metric, check_dimension, check_whole
from legolas_metric.distributed import ALONE, World
from legolas_metric.rows import as_prepared

Encoder = Callable[..., Tensor]
"""Maps a batch of inputs to [b, d]; a tuple of inputs arrives as positional arguments, anything else as one."""

Collate = Callable[[list[Any]], Any]
"""Makes a batch of a list of inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassSettings:
    """How a data set is read for an embedding pass.

    Attributes:
        batch_size: examples a forward pass, at most.
        num_workers, pin_memory, persistent_workers: of the `DataLoader`.
        collate_fn: makes a batch of a list of inputs, alone (labels and ids are known); None stacks them.
        progress: show a progress bar, unless another one has the screen.
    """

    batch_size: int = 512
    num_workers: int = 0
    collate_fn: Collate | None = None
    pin_memory: bool = False
    persistent_workers: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        check_whole("batch_size", self.batch_size, 1)
        check_whole("num_workers", self.num_workers, 0)
        if self.collate_fn is not None and not callable(self.collate_fn):
            raise TypeError(f"collate_fn must be a function of a list of inputs, got {self.collate_fn!r}")


@dataclass(slots=True)
class InputBatch:
    """The inputs of a batch, and how many there are. Pinned as a whole, so that a tuple stays a tuple."""

    inputs: Any
    size: int

    def pin_memory(self) -> "InputBatch":
        """The same in pinned memory."""
        return InputBatch(_each_tensor(self.inputs, lambda values: values.pin_memory()), self.size)


class CollateInputs:
    """Makes an `InputBatch` of a list of inputs; an object, so that workers can be sent it."""

    def __init__(self, collate_fn: Collate | None) -> None:
        self.collate_fn = collate_fn or stacked

    def __call__(self, items: list[Any]) -> InputBatch:
        """The batch of some inputs."""
        return InputBatch(self.collate_fn(items), len(items))


def stacked(items: list[Any]) -> Any:
    """PyTorch's own batch of a list of inputs, but that tuples of inputs give a tuple of batches.

    Raises:
        ValueError: inputs that can't be stacked, such as those of different lengths.
    """
    if type(items[0]) is tuple:
        return tuple(stacked(list(column)) for column in zip(*items, strict=True))
    try:
        return default_collate(items)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"inputs of type {type(items[0]).__name__} can't be stacked to a batch: pass collate_fn, which makes a "
            f"batch of a list of inputs ({str(error).splitlines()[0]})"
        ) from error


def input_loader(inputs: Dataset[Any], settings: PassSettings) -> DataLoader[Any]:
    """All inputs in order, in batches."""
    return DataLoader(
        inputs,
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
        collate_fn=CollateInputs(settings.collate_fn),
        pin_memory=settings.pin_memory,
        persistent_workers=settings.persistent_workers and settings.num_workers > 0,
        # A loader draws a seed even where nothing is random: from its own generator, so that training's stays as it is.
        generator=torch.Generator(),
    )


def evened(n: int, settings: PassSettings) -> PassSettings:
    """The same, in batches of equal size and equally many for each worker: who has a batch more is waited for. Ours."""
    if settings.num_workers == 0:
        return settings
    turns = -(-n // (settings.batch_size * settings.num_workers))
    return replace(settings, batch_size=-(-n // (turns * settings.num_workers)))


def shared_rows(n: int, settings: PassSettings, world: World) -> tuple[Int64[Tensor, " m"], PassSettings]:
    """The rows that this process reads of a pass that several share, and how: batch j is that of process j % size.

    So the rows of one turn of all processes stand in a row. There are at least as many batches as processes.
    """
    size = min(settings.batch_size, n // world.size)
    batches = torch.arange(n).split(size)
    return torch.cat(batches[world.rank :: world.size]), replace(settings, batch_size=size)


def embed_each(
    encoder: Encoder,
    loader: DataLoader[Any],
    take: Callable[[int, Float32[Tensor, "b d"]], object],
    *,
    module: nn.Module | None = None,
    device: torch.device | None = None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    progress: bool = True,
    world: World = ALONE,
) -> None:
    """Hand the rows of each batch to `take(first row, rows)`, one batch at a time.

    Of several processes each is handed the rows of all, batch for batch in order of rank: see `shared_rows`.

    Args:
        encoder: maps inputs to [b, d].
        loader: as `input_loader` gives it.
        take: keeps the rows; what it raises ends the pass.
        module: whose parts are put into evaluation mode meanwhile, and whose dtype floating inputs are given (default:
            the encoder, where it is a module).
        device: where to encode (default: the module's own).
        context: entered around each forward pass, such as an autocast.
        progress: show a bar where a terminal waits longer than two seconds, unless another one has the screen.
        world: the processes that share the pass.
    """
    owner = module if module is not None else encoder if isinstance(encoder, nn.Module) else None
    where = device if device is not None else _device_of(owner)
    dtype = _dtype_of(owner)
    shown = progress and world.rank == 0 and not screen_is_taken()
    # A bar that is not shown would still take tqdm's lock, which a forked process that was killed may hold for ever.
    bar = tqdm(loader, desc="encode", unit="batch", leave=False) if shown else nullcontext(loader)
    begin, own = 0, torch.empty(0, 0)
    turns = world.most(len(loader), where)

    def hand(begin: int, own: Tensor) -> int:
        with world.meeting("embedding"):
            rows = world.gather(own)
        take(begin, rows)
        return len(rows)

    with evaluating(owner), bar as batches:  # closed before an error is told
        for batch in batches:
            inputs = _each_tensor(batch.inputs, lambda values: _placed(values, where, dtype))
            with torch.inference_mode(), context():
                rows = call_encoder(encoder, inputs)
                _check_rows(rows, batch.size)
            own = rows.float().clone()  # cloned here it is an ordinary tensor, not one of inference mode
            begin += hand(begin, own)
        for _ in range(len(loader), turns):  # others have a batch more
            begin += hand(begin, own[:0])


def embed_rows(
    encoder: Encoder,
    loader: DataLoader[Any],
    ids: Int64[Tensor, " n"],
    *,
    metric: Metric,
    module: nn.Module | None = None,
    device: torch.device | None = None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    progress: bool = True,
    world: World = ALONE,
) -> Float32[Tensor, "n d"]:
    """All rows of a data set, prepared for a metric, on the device of the pass.

    Args:
        ids: [n], name the rows in an error.
        metric: under "cosine" rows are normalised.
        encoder, loader, module, device, context, progress, world: see `embed_each`.

    Raises:
        ValueError: rows that are not finite, told of at the first batch that has them.
    """
    out = torch.empty(0, 0)

    def take(begin: int, rows: Tensor) -> None:
        nonlocal out
        prepared = as_prepared(rows, metric, ids=ids[begin : begin + len(rows)])
        if begin == 0:
            out = prepared.new_empty(len(ids), prepared.shape[1])
        check_dimension(prepared, out, names=("a batch's embeddings", "the first batch's"))
        out[begin : begin + len(prepared)] = prepared

    embed_each(encoder, loader, take, module=module, device=device, context=context, progress=progress, world=world)
    return out


def call_encoder(encoder: Encoder, inputs: Any) -> Tensor:
    """Embed inputs: a tuple as positional arguments, anything else as one."""
    return encoder(*inputs) if isinstance(inputs, tuple) else encoder(inputs)


@contextmanager
def evaluating(encoder: Any) -> Iterator[None]:
    """Evaluation mode for the block; every part of the module gets its own mode back, also after an error."""
    modules = list(encoder.modules()) if isinstance(encoder, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        if isinstance(encoder, nn.Module):
            encoder.eval()
        yield
    finally:
        for module, mode in zip(modules, modes):
            module.training = mode


def _each_tensor(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nested batch, each tensor of it changed, and each object that moves itself by `.to`."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_each_tensor(part, change) for part in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_each_tensor(part, change) for part in value))
    if isinstance(value, dict):
        return {key: _each_tensor(part, change) for key, part in value.items()}
    if hasattr(value, "to"):  # such as a tokenizer's batch
        return change(value)
    return {key: _each_tensor(part, change) for key, part in value.items()} if isinstance(value, Mapping) else value


def _placed(values: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if isinstance(values, Tensor) and values.is_floating_point() and dtype is not None:
        return values.to(device, dtype, non_blocking=True)
    return values.to(device)


def _device_of(module: nn.Module | None) -> torch.device:
    first = None if module is None else next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _dtype_of(module: nn.Module | None) -> torch.dtype | None:
    """The floating dtype that a module computes in: that of its first such parameter."""
    parameters = () if module is None else module.parameters()
    return next((parameter.dtype for parameter in parameters if parameter.is_floating_point()), None)


def _check_rows(rows: Any, size: int) -> None:
    if not isinstance(rows, Tensor) or rows.ndim != 2 or len(rows) != size:
        shape = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(f"the encoder must map {size} inputs to [{size}, d], got {shape}")
    if not rows.is_floating_point():
        raise TypeError(f"the encoder must give floating-point rows, got {rows.dtype}: convert them, as with .float()")


def screen_is_taken() -> bool:
    """Whether rich has redirected the error stream to its own live display: a second bar in it would call itself."""
    return type(sys.stderr).__module__.split(".")[0] == "rich"
