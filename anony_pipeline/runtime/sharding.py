"""Weights shared out over the processes that train together, and gathered block by block where they are needed.

FSDP2 (Zhao et al., PyTorch FSDP, 2023), by torch's `fully_shard`, which accelerate's plugin calls, too. Only what is
frozen is shared out: nearly all of a generator with adapters. That has no gradient and no optimizer; what learns stays
whole in every process, as the rest of training expects it.
"""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from anony_pipeline.runtime.processes import Team


def shard(module: nn.Module, blocks: Iterable[nn.Module], whole: Iterable[nn.Parameter], team: Team) -> None:
    """Let each process keep its share of a module's weights, in place.

    Args:
        module: The same in each process, on the team's device.
        blocks: Parts of it that compute one after the other: one at a time is gathered, and let go again.
        whole: Weights that every process keeps.
        team: Of more than one process.
    """
    # Shares are cut from weights in their plain order.
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # missing from torch's stubs
    mesh, kept = init_device_mesh(team.device.type, (team.size,)), set(whole)
    for part in (*blocks, module):
        fully_shard(part, mesh=mesh, ignored_params=kept)


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within the block each process has all weights, and may use them without the others. All must enter it.

    Nothing happens to a module that is not shared out.
    """
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            # As `fully_shard` chooses: the root's own weights stay until the backward pass, which needs them first.
            part.set_reshard_after_forward(part is not module, recurse=False)
            part.reshard()
