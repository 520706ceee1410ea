"""Global mining under the `Trainer` of transformers: a sampler and a callback, by one `MiningLoop`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from legolas_metric.distributed import World
from legolas_metric.training.embedder import Placed
from legolas_metric.training.encoder_option import EncoderOption, check_encoder, encoder_of
from legolas_metric.training.loop import MiningLoop

_FILE = "mining.pt"


class MinedRows(Sampler[int]):
    """The rows of a loop's batches in a row, for a loader that cuts them into batches of the loop's `batch_size`.

    Of several processes each cuts the rows of all, and the Trainer deals the batches out in turn: one to each process.
    """

    def __init__(self, loop: MiningLoop) -> None:
        self.loop = loop
        self.through = 0  # steps of a resumed epoch, whose rows the Trainer asks for and skips

    @property
    def batch_size(self) -> int:
        """Rows of each of them."""
        return self.loop.feeder.settings.batch_size

    @property
    def joint(self) -> int:
        """Rows of a step of all processes."""
        return self.batch_size * self.loop.world.size

    def __len__(self) -> int:
        return self.loop.steps * self.joint

    def __iter__(self) -> Iterator[int]:
        through, self.through = self.through, 0
        yield from [0] * (through * self.joint)
        for batch in self.loop.feeder.batches.joint():
            if len(batch) < self.joint:
                raise ValueError(
                    f"the mined triplets have {len(batch)} rows altogether, and a step takes {self.joint}: set a "
                    f"smaller batch_size"
                )
            yield from batch


class MiningCallback(TrainerCallback):
    """A `MiningLoop` that the `Trainer` of transformers drives: mines at the start of every epoch, and resumes.

    ```
    loop = MiningLoop(dataset, labels, miner=HardMiner(), batch_size=64, collate_fn=...)
    mining = MiningCallback(loop, encoder=lambda model: model.embed)

    class MinedTrainer(Trainer):
        def _get_train_sampler(self, *_):
            return mining.sampler

    MinedTrainer(model, args, train_dataset=WithIds(dataset), callbacks=[mining]).train()
    ```

    The model finds the mined triplets of its batch by `loop.indices(ids)`. The Trainer fetches a batch ahead, so that
    the first one after a round within an epoch is of the round before. Rounds are in `loop.rounds`. A checkpoint of
    the Trainer's holds `mining.pt`, with which `train(resume_from_checkpoint=...)` goes on, in mid-epoch too.

    Of several processes (torchrun, accelerate) each embeds its part, all mine the same triplets, and each trains on its
    part of the joint batches. A loss that is to see a whole joint batch gathers it, as `SupConLoss(gather=world)`.

    Args:
        loop: what is mined; its `batch_size` must be `per_device_train_batch_size`.
        encoder: of the model: an attribute's name, or a function of the model that gives what embeds a batch as the
            loop's `collate_fn` makes it (default: `model.encoder`, else the model itself).
        monitor: the metric of an evaluation that a schedule's `Plateau` looks at, such as "eval_rank_at_1".

    Raises:
        TypeError: no loop, or an encoder that is none of these.
        ValueError: when training begins, a Trainer that doesn't draw from `sampler`, has another batch size, several
            processes, or a checkpoint without `mining.pt`.

    Example:
        >>> import torch
        >>> from legolas_metric import HardMiner
        >>> from legolas_metric.training import MiningCallback, MiningLoop
        >>> loop = MiningLoop(torch.randn(60, 8), torch.arange(60) // 6, miner=HardMiner(), batch_size=20)
        >>> len(MiningCallback(loop).sampler)
        60

    Source: ours.
    """

    def __init__(self, loop: MiningLoop, *, encoder: EncoderOption = None, monitor: str | None = None) -> None:
        if not isinstance(loop, MiningLoop):
            raise TypeError(f"loop must be a MiningLoop, got {type(loop).__name__}")
        check_encoder(encoder)
        self.loop, self.encoder, self.monitor = loop, encoder, monitor
        self.sampler = MinedRows(loop)
        self._value = None if monitor is None else float("-inf")

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Join the Trainer's processes, before it counts the steps of an epoch."""
        if args.world_size > 1 and self.loop.world.size == 1:
            self.loop.join(World.current(averages_gradients=True))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that the Trainer trains on what is mined; go on where a checkpoint stood."""
        _check_trainer(args, kwargs["train_dataloader"], self.sampler, kwargs["model"])
        if args.disable_tqdm is False:  # one bar a place
            self.loop.embedder.quiet()
        placed = self._placed(args, kwargs["model"])
        if state.global_step == 0:
            self.loop.start(placed)
            return
        file = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / _FILE
        if not file.exists():
            raise ValueError(f"to go on, mining needs {file}, which a run with this callback writes at each checkpoint")
        self.loop.load_state_dict(torch.load(file, weights_only=True))
        self.loop.start(placed)
        self.loop.resume(placed)
        if not self.loop.complete:
            if args.ignore_data_skip:
                raise ValueError("ignore_data_skip would begin the epoch again, whose batches go on: leave it False")
            self.sampler.through = self.loop.done

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mine for this epoch, when its turn comes."""
        if self.loop.bank is not None and not self.loop.complete:  # a resumed one, which goes on
            return
        placed, epoch = self._placed(args, kwargs["model"]), self.loop.next_epoch
        self.loop.begin(placed, epoch=epoch, step=state.global_step, value=self._value)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count a batch whose gradient was added up."""
        self.loop.done += 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the average and the bank up, and mine anew within an epoch."""
        loop = self.loop
        loop.done, loop.step = loop.done + 1, state.global_step
        loop.complete = loop.done >= loop.steps
        loop.after_step(self._placed(args, kwargs["model"]))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note the value that a plateau is seen by."""
        found = kwargs.get("metrics", {})
        if self.monitor is not None and self.monitor in found:
            self._value = float(found[self.monitor])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the loop's state beside the checkpoint."""
        if state.is_world_process_zero:  # it serves all of them
            torch.save(self.loop.state_dict(), Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / _FILE)

    def _placed(self, args: TrainingArguments, model: nn.Module) -> Placed:
        found = encoder_of(model, self.encoder)
        device = next(model.parameters()).device
        narrow = torch.bfloat16 if args.bf16 else torch.float16
        return Placed(
            found,
            None if isinstance(found, nn.Module) else model,
            device,
            lambda: torch.autocast(device.type, narrow, enabled=bool(args.bf16 or args.fp16)),
        )


def _check_trainer(args: TrainingArguments, loader: Any, sampler: MinedRows, model: nn.Module) -> None:
    dealt = getattr(loader, "batch_sampler", None)  # on several processes around the one that cuts
    if getattr(getattr(dealt, "batch_sampler", dealt), "sampler", None) is not sampler:
        raise ValueError(
            "the Trainer draws its batches from elsewhere: let its _get_train_sampler return mining.sampler"
        )
    if args.deepspeed or args.fsdp or any(isinstance(part, DTensor) for part in model.parameters()):
        raise ValueError(
            "every process embeds with a whole encoder, which DeepSpeed, FSDP and tensor parallelism do not give it: "
            "leave them off (torchrun alone), or use one device"
        )
    processes = sampler.loop.world.size
    if args.world_size != processes:
        raise ValueError(
            f"the Trainer has {args.world_size} processes, the loop {processes}: pass the callback to the Trainer's "
            f"callbacks, not to add_callback, so that it joins them before steps are counted"
        )
    if processes > 1 and getattr(args.accelerator_config, "split_batches", False):
        raise ValueError("split_batches would cut the mined batches anew: leave it False in accelerator_config")
    size = args.per_device_train_batch_size * max(args.n_gpu, 1)
    if size != sampler.batch_size:
        raise ValueError(f"the Trainer's batches have {size} rows, the loop's {sampler.batch_size}: make them equal")
