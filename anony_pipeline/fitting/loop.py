"""One plain training loop for all small networks: seeded by step, saved as it goes, continued where it stopped."""

import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from anony_pipeline.errors import CheckpointError
from anony_pipeline.runtime import seeding
from anony_pipeline.runtime.progress import track
from anony_pipeline.storage import atomic

Progress = Callable[[Iterable[int], str], Iterator[int]]
Step = Callable[[int, torch.Generator], torch.Tensor]
"""``(step, generator on the device) -> scalar loss``."""

SAVE_EVERY_SECONDS = 30.0
WARM_UP = 0.05


@dataclass(frozen=True)
class Plan:
    """How long and how a network is trained.

    Attributes:
        steps: Updates of the weights.
        seed: All randomness is a function of it, of the network's name and of the step.
        device: Where it computes.
        state: The file that a broken run continues from; it is removed when the run ends.
        learning_rate: Its highest value.
        weight_decay: AdamW's.
        progress: Yields the steps and shows how far they are.
    """

    steps: int
    seed: int
    device: torch.device
    state: Path
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    progress: Progress = track


def learning_rate(step: int, plan: Plan) -> float:
    """Rise linearly over the first twentieth, then fall as a half cosine to a hundredth."""
    warm_up = max(1, round(plan.steps * WARM_UP))
    if step < warm_up:
        return plan.learning_rate * (step + 1) / warm_up
    share = (step - warm_up) / max(1, plan.steps - warm_up)
    return plan.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)


def fit(what: str, networks: Mapping[str, nn.Module], step: Step, plan: Plan) -> None:
    """Minimize a loss over the parameters of some networks, in place.

    Args:
        what: A name, for progress and for the stream of random numbers.
        networks: All that learns; put into training mode, and back into evaluation mode at the end.
        step: Computes the loss of one step.
        plan: How long and how.

    Raises:
        CheckpointError: If the loss is not finite, or the state file belongs to other networks.
    """
    for network in networks.values():
        network.to(plan.device).train()
    parameters = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    start = _restore(plan, networks, optimizer)
    saved = time.monotonic()
    for number in plan.progress(range(start, plan.steps), f"fitting {what}"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number, plan)
        randomness = torch.Generator(plan.device).manual_seed(seeding.seed_for(plan.seed, what, number))
        with torch.autocast(plan.device.type, torch.bfloat16, enabled=plan.device.type == "cuda"):
            loss = step(number, randomness)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 5.0)
        if number % 50 == 0 and not torch.isfinite(norm):
            raise CheckpointError(
                f"fitting {what} diverged", where=f"step {number}", got=loss.item(), do="lower the learning rate"
            )
        optimizer.step()
        if time.monotonic() - saved > SAVE_EVERY_SECONDS:
            _save(plan.state, number + 1, networks, optimizer)
            saved = time.monotonic()
    plan.state.unlink(missing_ok=True)
    for network in networks.values():
        network.eval()


def _save(file: Path, step: int, networks: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    buffer = io.BytesIO()
    states = {name: network.state_dict() for name, network in networks.items()}
    torch.save({"step": step, "networks": states, "optimizer": optimizer.state_dict()}, buffer)
    atomic.write_bytes(file, buffer.getvalue())


def _restore(plan: Plan, networks: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    if not plan.state.exists():
        return 0
    state = torch.load(plan.state, map_location=plan.device, weights_only=True)
    try:
        for name, network in networks.items():
            network.load_state_dict(state["networks"][name])
        optimizer.load_state_dict(state["optimizer"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            "the state of a broken fitting run belongs to other networks",
            where=plan.state,
            got=str(error).splitlines()[0],
            do="remove the file to begin anew",
        ) from error
    return int(state["step"])
