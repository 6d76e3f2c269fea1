"""Several processes as one training: `torchrun --nproc-per-node N -m app.train ...`.

Each process works on its share of every batch. What they must agree on, they sum: gradients (by
torch's DistributedDataParallel), the statistics of batch norm, the count of labelled pixels that
divides the loss, the confusion matrix of validation, and whether to stop. The result is that of one
process with the whole batch, but for rounding, dropout, and Dice, a ratio that each process has of
its share.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce as differentiable_all_reduce

_PATIENCE: Final = timedelta(hours=6)
"""How long processes wait for each other: while the main one fetches a dataset, and validates where
the others' photos were smaller. NCCL's own 10 minutes would end the run; what ends a process that
has failed is torchrun, at once."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run; by default there is one.

    Attributes:
        rank: Of this one, from 0.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, on the tensor's device."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return everybody's value, by rank."""
        values: list[Any] = [value]
        if self.count > 1:
            values *= self.count
            distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process go first: it fetches what the others find."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()


ALONE: Final = Processes()


def started_by_torchrun() -> bool:
    """Whether this is one of several processes of a run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def own_device(name: str) -> str:
    """Return the device of this process: with CUDA, the one that torchrun numbered for it.

    Args:
        name: `--device`, as for a single process.
    """
    if not started_by_torchrun() or name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    return f"cuda:{os.environ['LOCAL_RANK']}"


@contextmanager
def joined_processes(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did.

    Args:
        device: What this process computes on.
    """
    if not started_by_torchrun():
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size())
    finally:
        # DistributedDataParallel must be gone first: its reducer frees the group while it holds
        # the interpreter's lock, and may hang (pytorch issue 56297).
        gc.collect()
        distributed.destroy_process_group()


def share_statistics(net: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm by one whose statistics are those of all processes' batches.

    torch's own works on GPUs only. Tensors and their names stay as they are.
    """
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
        return converted
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, SharedBatchNorm2d.like(child))
    return net


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on any device."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> "SharedBatchNorm2d":
        """Return one that holds the tensors of `norm` itself."""
        shared = cls(norm.num_features, norm.eps, norm.momentum)
        shared.weight, shared.bias = norm.weight, norm.bias
        shared.running_mean, shared.running_var = norm.running_mean, norm.running_var
        shared.num_batches_tracked = norm.num_batches_tracked
        return shared.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input`, BxCxHxW."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        # The mean first and then squares around it: sums of plain squares would cancel.
        count = x.new_tensor([x.numel() / self.num_features])
        sums = _sum(torch.cat([x.sum((0, 2, 3)), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centered = x - mean.view(1, -1, 1, 1)
        variance = _sum(centered.square().sum((0, 2, 3))) / total
        self._update(mean.detach(), variance.detach() * total / (total - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        output = centered * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return output.to(input.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)


def _sum(values: Tensor) -> Tensor:
    """Return the sum over all processes, through which gradients flow back to each."""
    total: Tensor = differentiable_all_reduce(values)  # type: ignore[no-untyped-call]
    return total
