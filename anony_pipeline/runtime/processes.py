"""The processes of one training, one a GPU; started by `accelerate launch` or `torchrun`. A lone process is the first.

Each process draws the same batch, because a batch is a function of seed, stream and step, and fills its own share of
it. Gradients are summed in one go after the backward pass. A wrapper that hooks into the backward pass would have to
look for parameters without a gradient at each step, because the adapters of faces and plates take turns.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import PartialState
from torch import distributed, nn

CPU = torch.device("cpu")
PATIENCE = timedelta(hours=6)
"""How long processes wait for the one that prepares the data."""


@dataclass(frozen=True)
class Team:
    """The processes that train together.

    Attributes:
        rank: This one's number, from 0.
        size: How many there are.
        device: Where this one computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks for all."""
        return self.rank == 0

    @property
    def is_on_one_machine(self) -> bool:
        """Whether all processes see the same files."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size)) == self.size

    def share(self, count: int) -> slice:
        """This process's share of so many equal parts, which `size` divides."""
        mine = count // self.size
        return slice(self.rank * mine, (self.rank + 1) * mine)

    def reduce_gradients(self, parameters: Iterable[nn.Parameter], *, mean: bool = False) -> None:
        """Sum (or average) the gradients of all processes, in place; where one has none, it counts as zero.

        A weight that has a gradient in no process still has none afterwards.
        """
        if self.size == 1:
            return
        everything = list(parameters)
        # Shares may have learned different adapters.
        learned = torch.tensor([parameter.grad is not None for parameter in everything], device=self.device).int()
        distributed.all_reduce(learned, op=distributed.ReduceOp.MAX)
        chosen = [parameter for parameter, anywhere in zip(everything, learned.tolist(), strict=True) if anywhere]
        if not chosen:
            return
        gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in chosen]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        if mean:
            flat /= self.size
        sizes = [gradient.numel() for gradient in gradients]
        for parameter, gradient, part in zip(chosen, gradients, flat.split(sizes), strict=True):
            parameter.grad = gradient.copy_(part.view_as(gradient))

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Join ``(N, ...)`` of each process to ``(size * N, ...)``, in the order of their ranks; no gradient passes."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        distributed.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    def sum_scalars(self, scalars: Mapping[str, float]) -> dict[str, float]:
        """Add named numbers; a name that one process lacks counts 0 there."""
        if self.size == 1:
            return dict(scalars)
        everyones: list[dict[str, float]] = [{} for _ in range(self.size)]
        distributed.all_gather_object(everyones, dict(scalars))
        names = dict.fromkeys(name for each in everyones for name in each)
        return {name: sum(each.get(name, 0.0) for each in everyones) for name in names}

    def any(self, flag: bool) -> bool:
        """Whether any process says True: all get the same answer."""
        if self.size == 1:
            return flag
        said = torch.tensor([int(flag)], device=self.device)
        distributed.all_reduce(said, op=distributed.ReduceOp.MAX)
        return bool(said.item())

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            PartialState().wait_for_everyone()

    @contextlib.contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """Let one process a machine run the block before the others do: it makes the files that they then find."""
        if self.size == 1:
            yield
            return
        with PartialState().local_main_process_first():
            yield


ALONE = Team()


def join(device: torch.device) -> Team:
    """Join the processes that the launcher started; without a launcher there is one.

    Args:
        device: As configured; on GPUs each process takes the one that the launcher gave it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Team(device=device)
    state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
    return Team(state.process_index, state.num_processes, torch.device(state.device))
