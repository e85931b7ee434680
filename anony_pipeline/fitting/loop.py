"""Two plain training loops, seeded by step, saved as they go, continued where they stopped.

`fit` minimizes the loss of a small network; `take_steps` is for what has several losses and optimizers of its own.
Small networks leave a large GPU waiting for its next kernel. So a step can be captured once as a CUDA graph and then be
replayed, with the network compiled besides (`Plan.graphed`, `Plan.compiled`).
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from anony_pipeline.errors import CheckpointError
from anony_pipeline.runtime import seeding
from anony_pipeline.runtime.progress import log, track
from anony_pipeline.storage import atomic

Progress = Callable[[Iterable[int], str], Iterator[int]]
Step = Callable[[int, torch.Generator], torch.Tensor]
"""``(step, generator on the device) -> scalar loss``. A graphed one must not use the step, which would be captured."""

SAVE_EVERY_SECONDS, SAY_EVERY_SECONDS = 60.0, 15.0
LOOK_EVERY = 50
WARM_UP = 0.05
EAGER = 3
"""Steps before a step is captured, in which libraries choose kernels and the compiler compiles."""


@dataclass(frozen=True)
class Plan:
    """How long and how a network is trained.

    Attributes:
        steps: Updates of the weights. With ``until`` a nominal number: schedules run over it, however many are done.
        seed: All randomness is a function of it, of the network's name and of the step.
        device: Where it computes.
        state: The file that a broken run continues from; it is removed when the run ends.
        learning_rate: Its highest value.
        weight_decay: AdamW's.
        progress: Yields the steps and shows how far they are.
        until: Unix time at which training is over, in place of a number of steps; None without a limit.
        graphed: Capture a step as a CUDA graph, where the device is one and the step allows it.
        compiled: Compile the network, if it is graphed.
    """

    steps: int
    seed: int
    device: torch.device
    state: Path
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    progress: Progress = track
    until: float | None = None
    graphed: bool = False
    compiled: bool = False

    @property
    def captured(self) -> bool:
        """Whether steps are captured."""
        return self.graphed and self.device.type == "cuda"

    def forward(self, network: nn.Module) -> Callable[..., torch.Tensor]:
        """The network as a step should call it."""
        return torch.compile(network, dynamic=False) if self.captured and self.compiled else network


def learning_rate(step: float, plan: Plan) -> float:
    """Rise linearly over the first twentieth, then fall as a half cosine to a hundredth."""
    warm_up = max(1, round(plan.steps * WARM_UP))
    if step < warm_up:
        return plan.learning_rate * (step + 1) / warm_up
    share = (step - warm_up) / max(1, plan.steps - warm_up)
    return plan.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)


class Clock:
    """How much of a run is over.

    Attributes:
        share: 0-dim float32 in ``[0, 1]`` on the plan's device, which a captured step can read.
        steps: Updates that were made, those before a broken run was continued among them.
    """

    def __init__(self, plan: Plan) -> None:
        self.share = torch.zeros((), device=plan.device)
        self.steps = 0
        self._plan = plan
        self._first, self._begin, self._warm_up = 0.0, time.time(), EAGER

    def go_on(self, share: float) -> None:
        """Begin now, with this share over already."""
        self._first, self._warm_up = share, EAGER

    def tick(self, number: int) -> float:
        """Come to a step; returns the share that is over, of the steps or, if that is the limit, of the time."""
        share = number / self._plan.steps
        if self._plan.until is not None:
            if self._warm_up:  # Compiling takes no share, for the rate has to rise slowly.
                self._begin, self._warm_up = time.time(), self._warm_up - 1
            passed = (time.time() - self._begin) / max(self._plan.until - self._begin, 1e-3)
            share = self._first + (1 - self._first) * min(1.0, passed)
        self.share.fill_(share)
        return share


def fit(what: str, networks: Mapping[str, nn.Module], step: Step, plan: Plan, clock: Clock | None = None) -> None:
    """Minimize a loss over the parameters of some networks, in place.

    Args:
        what: A name, for progress and for the stream of random numbers.
        networks: All that learns; put into training mode, and back into evaluation mode at the end.
        step: Computes the loss of one step.
        plan: How long and how.
        clock: Of the same plan, if somebody looks at it.

    Raises:
        CheckpointError: If a gradient is not finite (every `LOOK_EVERY`-th is looked at), or the state file belongs to
            other networks.
    """
    clock = clock or Clock(plan)
    layout = torch.channels_last if plan.captured else torch.preserve_format
    for network in networks.values():
        network.to(plan.device, memory_format=layout).train()  # type: ignore[call-overload]
    parameters = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    optimizer = _optimizer(parameters, plan)
    clock.steps, share = _restore(plan, networks, optimizer)
    clock.go_on(share)
    update = _Update(step, parameters, optimizer, plan)
    saved = time.monotonic()
    voice = _Voice(what, clock.steps)
    loss = norm = torch.zeros(())
    steps = range(clock.steps, plan.steps) if plan.until is None else itertools.count(clock.steps)
    with _stream_apart(plan):
        for number in plan.progress(steps, f"fitting {what}"):
            if (share := clock.tick(number)) >= 1:
                break
            for group in optimizer.param_groups:
                _set_rate(group, learning_rate(share * plan.steps, plan))
            loss, norm = update(number, seeding.seed_for(plan.seed, what, number))
            clock.steps = number + 1
            if number % LOOK_EVERY == 0:
                _check(what, number, loss, norm)
                voice.say(clock.steps, share, loss)
            if time.monotonic() - saved > SAVE_EVERY_SECONDS:
                _save(plan.state, _state(clock.steps, share, networks, optimizer))
                saved = time.monotonic()
    if plan.captured:
        torch.cuda.synchronize(plan.device)
    _check(what, clock.steps - 1, loss, norm)
    plan.state.unlink(missing_ok=True)
    for network in networks.values():
        network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


class Learner(Protocol):
    """What takes steps of its own.

    Attributes:
        step: How many it has taken.
        device: That it trains on.
    """

    step: int

    @property
    def device(self) -> torch.device:
        """Where its state belongs."""

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, if it is of this training."""


Losses = Mapping[str, torch.Tensor]


def take_steps(what: str, learner: Learner, steps: int, one: Callable[[], Mapping[str, Losses]], file: Path) -> None:
    """Take a learner's steps up to a number; a broken run goes on where it was saved.

    Args:
        what: A name, for progress.
        learner: All that learns.
        steps: How many it shall have taken.
        one: Takes one; returns its losses, by what was learned.
        file: Of the state that it goes on from, which stays when all are taken.
    """
    if file.exists():
        learner.resume(torch.load(file, map_location=learner.device, weights_only=True))
    said = saved = time.monotonic()
    losses: dict[str, Losses] = {}
    for _ in track(range(learner.step, steps), f"fitting {what}"):
        losses |= one()
        now = time.monotonic()
        if now - said >= SAY_EVERY_SECONDS:
            said = now
            log.info("fitting %s: step %d of %d; %s", what, learner.step, steps, _written(losses))
        if now - saved >= SAVE_EVERY_SECONDS:
            saved = now
            _save(file, learner.state())
    _save(file, learner.state())


def _written(losses: Mapping[str, Losses]) -> str:
    return "; ".join(
        f"{learned}: " + " ".join(f"{name} {float(value):.3f}" for name, value in values.items())
        for learned, values in losses.items()
    )


def _check(what: str, number: int, loss: torch.Tensor, norm: torch.Tensor) -> None:
    if not torch.isfinite(norm):
        raise CheckpointError(
            f"fitting {what} diverged", where=f"step {number}", got=loss.item(), do="lower the learning rate"
        )


class _Voice:
    """Says every now and then how fast and how well it goes, where nobody sees a progress bar."""

    def __init__(self, what: str, done: int) -> None:
        self._what, self._done, self._said = what, done, time.monotonic()

    def say(self, done: int, share: float, loss: torch.Tensor) -> None:
        if (passed := time.monotonic() - self._said) < SAY_EVERY_SECONDS:
            return
        pace = (done - self._done) / passed
        log.info(
            "fitting %s: %.0f %%, step %d, %.1f a second, loss %.4f", self._what, 100 * share, done, pace, loss.item()
        )
        self._done, self._said = done, time.monotonic()


def _optimizer(parameters: Sequence[nn.Parameter], plan: Plan) -> torch.optim.Optimizer:
    if not plan.captured:
        return torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    # A captured update reads its rate from the device.
    rate = torch.zeros((), device=plan.device)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=plan.weight_decay, capturable=True, fused=True)


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


class _Update:
    """One update of the weights; a captured one is computed `EAGER` times, captured once, and replayed from then on."""

    def __init__(
        self, step: Step, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, plan: Plan
    ) -> None:
        self._step, self._parameters, self._optimizer, self._plan = step, parameters, optimizer, plan
        self._randomness = torch.Generator(plan.device)
        self._graph: Any = None
        self._made: tuple[torch.Tensor, torch.Tensor] | None = None
        self._computed = 0

    def __call__(self, number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss and the gradient's norm, which hold until the next call."""
        self._randomness.manual_seed(seed)
        if not self._plan.captured or self._computed < EAGER:
            self._computed += 1
            return self._compute(number)
        if self._made is None:
            self._graph = torch.cuda.CUDAGraph()
            self._graph.register_generator_state(self._randomness)
            self._optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(self._graph, stream=torch.cuda.current_stream(self._plan.device)):
                self._made = self._compute(number)
        self._graph.replay()
        return self._made

    def _compute(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        device = self._plan.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = self._step(number, self._randomness)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, 5.0)
        self._optimizer.step()
        return loss.detach(), norm


def _stream_apart(plan: Plan) -> AbstractContextManager[object]:
    """A stream of its own for steps that are captured: the default one can't be."""
    if not plan.captured:
        return nullcontext()
    stream = torch.cuda.Stream(plan.device)
    stream.wait_stream(torch.cuda.current_stream(plan.device))
    return torch.cuda.stream(stream)


def _save(file: Path, state: Mapping[str, Any]) -> None:
    """Write what a broken run goes on from, under the file's name only when it is complete."""
    with atomic.writing(file) as target:
        torch.save(dict(state), target)


def _state(
    step: int, share: float, networks: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    states = {name: network.state_dict() for name, network in networks.items()}
    return {"step": step, "share": share, "networks": states, "optimizer": optimizer.state_dict()}


def _restore(plan: Plan, networks: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    if not plan.state.exists():
        return 0, 0.0
    state = torch.load(plan.state, map_location=plan.device, weights_only=True)
    try:
        for name, network in networks.items():
            network.load_state_dict(state["networks"][name])
        # How an update is computed is this run's choice: one that captures goes on from one that did not, too.
        chosen = [{key: group[key] for key in ("lr", "capturable", "fused")} for group in optimizer.param_groups]
        optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(optimizer.param_groups, chosen, strict=True):
            group.update(own)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            "the state of a broken fitting run belongs to other networks",
            where=plan.state,
            got=str(error).splitlines()[0],
            do="remove the file to begin anew",
        ) from error
    return int(state["step"]), float(state["share"])
