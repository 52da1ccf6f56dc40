"""The processes of one training: who this one is, and what they tell each other."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fakesound.core.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the training; as torchrun numbers them.

    Attributes:
        rank: of this process, over all nodes.
        local_rank: of this process, on its node: also the index of its GPU.
        world_size: how many processes there are.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @classmethod
    def from_env(cls) -> Self:
        """What torchrun set in the environment; one process alone where it set nothing.

        Raises:
            UserError: the variables are not numbers that fit together.
        """
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        values = [os.environ.get(name, default) for name, default in zip(names, "001", strict=True)]
        try:
            rank, local_rank, world_size = (int(value) for value in values)
        except ValueError:
            raise UserError(
                f"{', '.join(names)} are {values}: start through torchrun or unset them"
            ) from None
        if not 0 <= rank < world_size or local_rank < 0:
            raise UserError(f"rank {rank} of {world_size} processes: start through torchrun or unset {names}")
        return cls(rank, local_rank, world_size)

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def device(self) -> torch.device:
        """This process's GPU, or the CPU."""
        if torch.cuda.is_available():
            return torch.device("cuda", self.local_rank)
        return torch.device("cpu")

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Processes joined (gloo on CPUs, NCCL on GPUs) for the time of the block; nothing for one alone.

        Where the block fails, the others are not waited for, and find the connection gone when this process
        ends: to take it down in order may wait for ever for a process that is no more.
        """
        if self.world_size == 1:
            yield
            return
        device = self.device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=self.rank, world_size=self.world_size)
        yield
        dist.barrier()  # nobody leaves while the first process still writes
        dist.destroy_process_group()

    def sum(self, values: Tensor) -> Tensor:
        """`values` added up over all processes, in place and returned."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of each over all processes; waits for it."""
        if self.world_size == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64, device=self.device())
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return told.tolist()

    def gather(self, values: Tensor) -> list[Tensor]:
        """`values` of every process, in order of rank; they must be of one shape."""
        if self.world_size == 1:
            return [values]
        gathered = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(gathered, values)
        return gathered

    def from_first(self, value: int) -> int:
        """The integer that the first process holds."""
        if self.world_size == 1:
            return value
        told = torch.tensor([value], device=self.device())
        dist.broadcast(told, src=0)
        return int(told.item())

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's buffers (running statistics of batch normalisation)."""
        if self.world_size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)
