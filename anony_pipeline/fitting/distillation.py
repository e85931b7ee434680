"""Bring a teacher of many steps into the base generator's one step: the same face of the same noise, and as real.

Three forces on faces. *Follow*: of a noise and a crop the teacher has made one face, and the generator is to make that
one (Luhman and Luhman, Knowledge Distillation in Iterative Generative Models, 2021): in the end only in what is coarse,
for the mean of many fine details is a blur, and in who it is, as a recognizer has it. *Match*: what is made moves to
where the teacher's density grows over that of what is made now (Yin et al., One-step Diffusion with Distribution
Matching Distillation, 2024, equation 7). *Pass*: what is made is to be taken for drawn by a critic that looks through
the teacher's eyes, at noisy pictures (Sauer et al., Fast High-Resolution Image Synthesis with Latent Adversarial
Diffusion Distillation, 2024). The last two are sharp. Plates stay what the generator made of them before.
"""

import copy
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from anony_pipeline.fitting import likeness
from anony_pipeline.fitting import teacher as teachers
from anony_pipeline.fitting.crop_store import Batch, CropStore
from anony_pipeline.fitting.generator import PLATE_STRENGTHS, demo_generator, warm_cosine, with_unet
from anony_pipeline.fitting.loop import take_steps
from anony_pipeline.fitting.teacher import FlowNet
from anony_pipeline.losses import adversarial, reconstruction
from anony_pipeline.models import weights
from anony_pipeline.models.discriminator import PatchScores
from anony_pipeline.models.generator import LAST_TIMESTEP, SHIPPED_UNET, with_coarse_of
from anony_pipeline.ops import images
from anony_pipeline.runtime.progress import log, track
from anony_pipeline.runtime.seeding import numpy_generator, seed_for
from anony_pipeline.storage import atomic, manifests
from anony_pipeline.structures.regions import Kind

STATE = "distillation_state.pt"
PREVIEW = "generator_preview.png"
LEARNING_RATE = 4e-4
SCORE_LEARNING_RATE = 1e-4
EMA_DECAY = 0.999
TURNS = (Kind.FACE, Kind.FACE, Kind.FACE, Kind.PLATE)
FINE, COARSE = (0.3, 0.0), (0.7, 0.4)
"""Weights of following pixel by pixel and in means of `POOLED` x `POOLED` pixels, at first and from `WHOLE` on."""
WHO, KEPT = 0.5, 0.3
"""Of following in who it is, and of staying near a first step's face in a further one."""
POOLED = 4
MATCH, PASS = 2.0, 1.0
BEGIN, WHOLE = 0.1, 0.4
"""Shares of the steps after those that follow alone: before the first nothing is matched or passed, from the second on
all is. A density of what is made, and a critic of it, must be learned first, and whose noise is whose is hardly learned
any more afterwards."""
MATCHED_TIMES, CRITIC_TIMES = (0.02, 0.98), (0.02, 0.7)
CRITIC_LEARNING_RATE = 2e-4
FURTHER_SHARE = 0.15
"""Of the steps on faces, those that begin with what a first step made, as samplers of several steps do."""
FURTHER_TIMESTEPS = (249, 499, 749)


class Critic(nn.Module):
    """Tells what was made from what was drawn, place by place, on the maps of the teacher's levels.

    Args:
        channels: Of the levels.
        width: Of its own layers.
    """

    def __init__(self, channels: Sequence[int], width: int = 96) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(count, width, 1),
                nn.GroupNorm(8, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(8, width),
                nn.SiLU(),
                nn.Conv2d(width, 1, 1),
            )
            for count in channels
        )

    def forward(self, maps: Sequence[torch.Tensor], masks: torch.Tensor) -> list[PatchScores]:
        """Scores of each level's places, of which those count that touch a mask.

        Args:
            maps: ``(N, C, h, w)`` of each level, of edges that divide the pictures'.
            masks: ``(N, 1, H, W)``, 0 or 1.
        """
        return [
            PatchScores(head(level).float(), F.max_pool2d(masks, masks.shape[-1] // level.shape[-1]))
            for head, level in zip(self.heads, maps, strict=True)
        ]


class Guides(NamedTuple):
    """Frozen networks that the generator learns from.

    Attributes:
        teacher: Makes a face of every noise.
        recognizer: ``(N, 3, 112, 112)`` in ``[-1, 1]`` -> ``(N, D)``: who a face is.
    """

    teacher: FlowNet
    recognizer: nn.Module


class Steps(NamedTuple):
    """How many steps there are.

    Attributes:
        alone: The first ones, which follow and are neither matched nor passed: no network of the teacher's size
            computes in them.
        sharpened: All others.
    """

    alone: int
    sharpened: int


class Student:
    """All that learns, and one step of it.

    Args:
        guides: On the device that trains.
        former: Weights that the generator begins with, and that plates are held to.
        steps: Over which schedules run.
        seed: Of noise and of the critic's weights.
        device: That trains.
    """

    def __init__(self, guides: Guides, former: Path, steps: Steps, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed_for(seed, "distillation/weights"))
        self.steps, self.seed, self.device, self.step = steps, seed, device, 0
        self.began_with = manifests.sha256_of(former)
        teacher, recognizer = guides
        self.taught_by, self.seen_by = _digest(teacher), _digest(recognizer)
        self.generator = demo_generator().to(device)
        weights.load_into(self.generator.unet, weights.load_safetensors(former), former)
        self.unet = self.generator.unet
        self.former = copy.deepcopy(self.unet).requires_grad_(False)
        self.unet.requires_grad_(True).train()
        self.ema = copy.deepcopy(self.unet).requires_grad_(False)
        self.teacher = teacher.requires_grad_(False)
        self.recognizer = recognizer.requires_grad_(False).eval()
        self.score = copy.deepcopy(teacher).requires_grad_(True)
        self.critic = Critic(teacher.unet.config.block_out_channels).to(device)
        self.maps = self.teacher.maps
        is_fast = device.type == "cuda"
        if is_fast:
            for net in (self.unet, self.former, self.ema):
                net.to(memory_format=torch.channels_last)
            for net in (self.unet, self.teacher, self.score):
                net.compile(dynamic=False)
            self.maps = torch.compile(self.maps, dynamic=False)
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), LEARNING_RATE, betas=(0.9, 0.99), fused=is_fast)
        self.score_optimizer = torch.optim.AdamW(
            self.score.parameters(), SCORE_LEARNING_RATE, betas=(0.0, 0.99), fused=is_fast
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(), CRITIC_LEARNING_RATE, betas=(0.0, 0.99), fused=is_fast
        )

    @property
    def sharpness(self) -> float:
        """How much of matching and passing is in force, from 0 to 1."""
        share = (self.step - self.steps.alone) / max(1, self.steps.sharpened)
        return min(1.0, max(0.0, (share - BEGIN) / (WHOLE - BEGIN)))

    def half(self) -> torch.autocast:
        """bfloat16 on a GPU."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def noise(self, stream: str, number: int, batch: Batch) -> torch.Tensor:
        """Standard normal latents ``(N, 4, H, W)``, a function of seed, stream and number."""
        randomness = torch.Generator(self.device).manual_seed(seed_for(self.seed, stream, number))
        shape = self.generator.noise_shape(len(batch.images), (batch.images.shape[2], batch.images.shape[3]))
        return torch.randn(shape, generator=randomness, device=self.device)

    def made(self, batch: Batch, noise: torch.Tensor, timesteps: torch.Tensor | None = None) -> torch.Tensor:
        """Completed faces ``(N, 3, H, W)`` of noise, or of noised latents at ``(N,)`` timesteps."""
        generator, condition = self.generator, self.generator.condition(batch.images, batch.masks)
        last = torch.full((len(noise),), LAST_TIMESTEP, device=self.device) if timesteps is None else timesteps
        with self.half():
            clean = generator.predict_clean(noise, last, condition, Kind.FACE)
        return torch.where(batch.masks > 0.5, generator.decode(clean.float()), batch.images)

    def face_step(self, batch: Batch, noise: torch.Tensor, followed: torch.Tensor) -> dict[str, torch.Tensor]:
        """Follow, match and pass.

        Args:
            batch: Crops.
            noise: ``(N, 4, H, W)``: which faces.
            followed: ``(N, 3, H, W)``: what the teacher made of both.
        """
        outputs = self.made(batch, noise)
        fixed = outputs.detach().requires_grad_(True)
        fine = reconstruction.masked_l1(fixed, followed, batch.masks)
        coarse = _coarse_l1(fixed, followed, batch.masks)
        of_fine, of_coarse = (first + (last - first) * self.sharpness for first, last in (FINE, COARSE))
        randomness = torch.Generator(self.device).manual_seed(seed_for(self.seed, "distillation/who", self.step))
        with self.half():
            who = likeness.to_followed(fixed, followed, batch.boxes, self.recognizer, randomness)
        weighted = {"fine": (of_fine, fine), "coarse": (of_coarse, coarse), "who": (WHO, who)}
        return self._learn(outputs, fixed, weighted, batch)

    def further_step(self, batch: Batch, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """A later step of a sampler of several: it begins with what a first one made, and stays near it."""
        rng = numpy_generator(self.seed, "distillation/timestep", self.step)
        with torch.no_grad(), with_unet(self.generator, self.ema):
            first = self.made(batch, noise)
        timesteps = torch.full((len(noise),), int(rng.choice(FURTHER_TIMESTEPS)), device=self.device)
        anew = self.noise("distillation/further", self.step, batch)
        latents = self.generator.add_noise(self.generator.encode(first), anew, timesteps)
        outputs = self.made(batch, latents, timesteps)
        fixed = outputs.detach().requires_grad_(True)
        kept = reconstruction.masked_l1(fixed, first, batch.masks)
        return self._learn(outputs, fixed, {"kept": (KEPT, kept)}, batch)

    def plate_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Make what the former generator makes of the same anchors and noise."""
        generator, anchors = self.generator, _anchors_of(batch)
        noise = self.noise("distillation/plate", self.step, batch)
        rng = numpy_generator(self.seed, "distillation/strength", self.step)
        strengths = torch.from_numpy(rng.uniform(*PLATE_STRENGTHS, len(noise))).to(self.device, non_blocking=True)
        timesteps = (strengths * LAST_TIMESTEP).round().long()
        anchored = generator.encode(torch.where(batch.masks > 0.5, anchors, batch.images))
        latents = generator.add_noise(anchored, noise, timesteps)
        condition = generator.condition(batch.images, batch.masks)

        def filled() -> torch.Tensor:
            with self.half():
                clean = generator.predict_clean(latents, timesteps, condition, Kind.PLATE)
            return with_coarse_of(anchors, generator.decode(clean.float()), batch.masks)

        with torch.no_grad(), with_unet(self.generator, self.former):
            wanted = filled()
        outputs = filled()
        losses = {
            "pixel": reconstruction.masked_l1(outputs, wanted, batch.masks),
            "edges": reconstruction.gradient_l1(outputs, wanted, batch.masks),
        }
        self._update((losses["pixel"] + losses["edges"]).backward)
        return {name: loss.detach() for name, loss in losses.items()}

    def _learn(
        self, outputs: torch.Tensor, fixed: torch.Tensor, weighted: dict[str, tuple[float, torch.Tensor]], batch: Batch
    ) -> dict[str, torch.Tensor]:
        """Follow the gradients of weighted losses of the outputs, each of one length; then match and pass as well.

        Args:
            outputs: ``(N, 3, H, W)`` with the generator's graph.
            fixed: The same, a leaf.
            weighted: Weight and loss of ``fixed``, by name.
            batch: Their crops.
        """
        length = _length_of_pixel_distance(batch.masks)
        total = torch.zeros_like(fixed)
        for weight, loss in weighted.values():
            total += weight * _of_length(torch.autograd.grad(loss, fixed)[0], length)
        losses = {name: loss for name, (_, loss) in weighted.items()}
        if self.step >= self.steps.alone:
            direction, losses["pass"], losses["critic"] = self._passing(fixed, batch)
            losses["score"] = self._train_score(fixed.detach(), batch)
            total += PASS * self.sharpness * _of_length(direction, length)
        if self.sharpness > 0:
            direction, losses["match"] = self._matching(fixed.detach(), batch)
            total += MATCH * self.sharpness * _of_length(direction, length)
        self._update(lambda: outputs.backward(total))
        return {name: loss.detach() for name, loss in losses.items()}

    def _passing(self, outputs: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One turn of the game with the critic, who is shown what was made and drawn under the same noise.

        Args:
            outputs: ``(N, 3, H, W)``, a leaf.
            batch: Their crops.

        Returns:
            The gradient at the outputs of their loss; that loss; the critic's, before it learned.
        """
        randomness = torch.Generator(self.device).manual_seed(seed_for(self.seed, "distillation/critic", self.step))
        low, high = CRITIC_TIMES
        times = low + (high - low) * torch.rand(len(outputs), generator=randomness, device=self.device)
        t = times.view(-1, 1, 1, 1)
        noise = torch.randn(outputs.shape, generator=randomness, device=self.device)

        def seen(pictures: torch.Tensor) -> list[torch.Tensor]:
            return self.maps((1 - t) * pictures + t * noise, times, batch.images, batch.masks)

        with self.half():
            made = seen(outputs)
            passed = adversarial.generator_loss(self.critic(made, batch.masks))
            (direction,) = torch.autograd.grad(passed, outputs)
            with torch.no_grad():
                drawn = seen(batch.images)
            shown = (self.critic(maps, batch.masks) for maps in (drawn, [level.detach() for level in made]))
            told_apart = adversarial.discriminator_loss(*shown)
        self.critic_optimizer.zero_grad(set_to_none=True)
        told_apart.backward()
        self.critic_optimizer.step()
        return direction, passed, told_apart

    @torch.no_grad()
    def _matching(self, outputs: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient of the divergence of what is made from what the teacher makes (Yin et al., equations 7, 8)."""
        randomness = torch.Generator(self.device).manual_seed(seed_for(self.seed, "distillation/match", self.step))
        low, high = MATCHED_TIMES
        times = low + (high - low) * torch.rand(len(outputs), generator=randomness, device=self.device)
        t = times.view(-1, 1, 1, 1)
        noise = torch.randn(outputs.shape, generator=randomness, device=self.device)
        noisy = (1 - t) * outputs + t * noise
        with self.half():
            real = noisy - t * self.teacher(noisy, times, outputs, batch.masks).float()
            made = noisy - t * self.score(noisy, times, outputs, batch.masks).float()
        pixels = 3 * batch.masks.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
        off = ((outputs - real).abs() * batch.masks).sum(dim=(1, 2, 3), keepdim=True) / pixels
        direction = (made - real) * batch.masks / off.clamp(min=1e-3)
        return direction, ((made - real).abs() * batch.masks).sum() / pixels.sum()

    def _train_score(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        randomness = torch.Generator(self.device).manual_seed(seed_for(self.seed, "distillation/score", self.step))
        noise = torch.randn(outputs.shape, generator=randomness, device=self.device)
        times = torch.rand(len(outputs), generator=randomness, device=self.device)
        with self.half():
            loss = teachers.flow_loss(self.score, outputs, batch.masks, times, noise)
        self.score_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.score.parameters(), 1.0)
        self.score_optimizer.step()
        return loss.detach()

    def _update(self, backward: Callable[[], None]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = warm_cosine(self.step, sum(self.steps), LEARNING_RATE)
        self.optimizer.zero_grad(set_to_none=True)
        backward()
        nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.unet.parameters()), 1 - decay)

    _ASKED = ("steps", "seed", "began_with", "taught_by", "seen_by")
    _PARTS = ("unet", "ema", "score", "critic", "optimizer", "score_optimizer", "critic_optimizer")

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        asked = {name: getattr(self, name) for name in self._ASKED}
        learned = {name: getattr(self, name).state_dict() for name in self._PARTS}
        return {"step": self.step, **asked, "steps": tuple(self.steps), **learned}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, if it is of this training."""
        if other := [name for name in self._ASKED if state[name] != getattr(self, name)]:
            log.warning("the distillation is begun anew: another was saved, by %s", ", ".join(other))
            return
        self.step = state["step"]
        for name in self._PARTS:
            getattr(self, name).load_state_dict(state[name])


class Pairs:
    """Faces that the teacher made, in chunks whose crops and noise are functions of the chunk's number.

    Args:
        student: Knows the teacher, the seed and the noise.
        store: Face crops.
        chunks: How many, of how many faces.
        work: Folder that keeps them.
    """

    def __init__(self, student: Student, store: CropStore, chunks: tuple[int, int], work: Path) -> None:
        self.student, self.store = student, store
        self.chunks, self.chunk = chunks
        # Of another teacher, other noise or other crops they would be other pictures.
        made_of = f"{student.taught_by[:12]}-{student.seed}-{len(store.images)}"
        self.pictures = torch.from_numpy(self._kept(work / f"pairs-{made_of}.npy")).to(store.device)

    def __getitem__(self, number: int) -> tuple[Batch, torch.Tensor, torch.Tensor]:
        """Crops, noise and the teacher's pictures of one chunk."""
        batch, noise = self._given(number)
        return batch, noise, self.pictures[number].float() / 127.5 - 1

    def completed(self, batch: Batch, noise: torch.Tensor) -> torch.Tensor:
        """What the teacher makes of the three color channels of the noise, ``(N, 3, H, W)``."""
        with self.student.half():
            return teachers.draw(self.student.teacher, noise[:, :3].contiguous(), batch.images, batch.masks)

    def _given(self, number: int) -> tuple[Batch, torch.Tensor]:
        batch = self.store.draw(self.chunk, numpy_generator(self.student.seed, "distillation/pair", number))
        return batch, self.student.noise("distillation/pair noise", number, batch)

    def _kept(self, file: Path) -> np.ndarray:
        height, width = self.store.images.shape[1:3]
        shape = (self.chunks, self.chunk, 3, height, width)
        if file.exists() and (kept := np.load(file)).shape == shape:
            return kept
        pictures = np.empty(shape, np.uint8)
        for number in track(range(self.chunks), "faces by the teacher"):
            made = self.completed(*self._given(number))
            pictures[number] = ((made + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
        with atomic.writing(file) as target:
            np.save(target, pictures)
        return pictures


def distill(
    guides: Guides,
    stores: Mapping[Kind, CropStore],
    *,
    former: Path,
    steps: Steps,
    seed: int,
    out: Path,
    work: Path,
    chunks: tuple[int, int],
) -> dict[str, Any]:
    """Teach the base generator and write its moving average as fp16 safetensors; a broken run goes on.

    Args:
        guides: Frozen; on the device that trains.
        stores: Crops of each kind, on the device that trains.
        former: Weights of the generator to begin with; plates stay as it makes them.
        steps: Faces and plates take turns (`TURNS`).
        seed: Of batches and noise.
        out: Folder of ``generator_unet.safetensors`` and of a picture of held-out crops.
        work: Folder of the teacher's faces and the training state.
        chunks: How many the teacher makes, of how many faces each (49 kB a face): one is a step's batch.

    Returns:
        Facts for the weights' manifest: steps, seconds, and distances on held-out crops.
    """
    begin = time.monotonic()
    store, plates = stores[Kind.FACE], stores[Kind.PLATE]
    student = Student(guides, former, steps, seed, store.device)
    taught = Pairs(student, store, chunks, work)
    take_steps("the taught generator", student, sum(steps), lambda: train_step(student, taught, plates), work / STATE)
    weights.save_half(out / SHIPPED_UNET, student.ema)
    return {
        "following_steps": steps.alone,
        "distillation_steps": steps.sharpened,
        "distillation_seconds_of_last_slice": round(time.monotonic() - begin, 1),
        "distillation_batch_size": taught.chunk,
        "teacher_parameters": sum(p.numel() for p in guides.teacher.parameters()),
        "pairs": taught.chunks * taught.chunk,
        "began_with_sha256": student.began_with,
        **validate(student, taught, plates, out / PREVIEW),
    }


def train_step(student: Student, taught: Pairs, plates: CropStore) -> dict[str, dict[str, torch.Tensor]]:
    """One step of whose turn it is; losses by what was learned."""
    rng = numpy_generator(student.seed, "distillation/batch", student.step)
    if TURNS[student.step % len(TURNS)] is Kind.PLATE:
        losses = {"plates": student.plate_step(plates.draw(taught.chunk // 2, rng))}
    else:
        batch, noise, followed = taught[int(rng.integers(taught.chunks))]
        if rng.random() < FURTHER_SHARE:
            losses = {"further": student.further_step(batch, noise)}
        else:
            losses = {"faces": student.face_step(batch, noise, followed)}
    student.step += 1
    return losses


@torch.no_grad()
def validate(student: Student, taught: Pairs, plates: CropStore, preview: Path) -> dict[str, float]:
    """How well the averaged generator follows on held-out crops, and a picture.

    Returns:
        ``face_l1_to_teacher`` of the same noise and ``.._of_another_noise``, which it is for a generator that does not
        listen; how far two noises are apart, of both; ``plate_l1_to_former``. The picture has, from above: masked, the
        teacher's, the generator's of the same noise and of another one, the original; plates as drawn, anchor, made.
    """
    faces, drawn = taught.store.validation(64), plates.validation(64)
    noises = [student.noise("distillation/validation", number, faces) for number in range(2)]
    with torch.compiler.set_stance("force_eager"):  # for these few shapes nothing is worth compiling
        wanted = [taught.completed(faces, noise) for noise in noises]
        with with_unet(student.generator, student.ema):
            made = [student.made(faces, noise).clamp(-1, 1) for noise in noises]
        noise = student.noise("distillation/validation", 2, drawn)
        with_plates = []
        for unet in (student.former, student.ema):
            with with_unet(student.generator, unet):
                filled = student.generator.fill(
                    drawn.images, drawn.masks, Kind.PLATE, noise=noise, anchors=drawn.anchors
                )
            with_plates.append(filled)
    rows = [faces.images.masked_fill(faces.masks > 0.5, 0), wanted[0], *made, faces.images]
    images.write(preview, _sheet([rows, [drawn.images, _anchors_of(drawn), with_plates[1]]]))
    compared: dict[str, tuple[torch.Tensor, torch.Tensor, Batch]] = {
        "face_l1_to_teacher": (made[0], wanted[0], faces),
        "face_l1_to_teacher_of_another_noise": (made[0], wanted[1], faces),
        "face_l1_between_two_noises": (made[0], made[1], faces),
        "face_l1_between_two_noises_of_teacher": (wanted[0], wanted[1], faces),
        "plate_l1_to_former": (with_plates[0], with_plates[1], drawn),
    }
    return {
        name: round(float(reconstruction.masked_l1(first, second, batch.masks)), 4)
        for name, (first, second, batch) in compared.items()
    }


def _anchors_of(plates: Batch) -> torch.Tensor:
    if plates.anchors is None:
        raise ValueError("plates come with their anchors: got a batch of faces")
    return plates.anchors


def _sheet(parts: list[list[torch.Tensor]], width: int = 2048) -> np.ndarray:
    """Rows of pictures, as many of each as fit."""
    rows = [images.to_images(row[: width // row.shape[3]]) for part in parts for row in part]
    joined = [np.concatenate(row, axis=1) for row in rows]
    widest = max(row.shape[1] for row in joined)
    return np.concatenate([np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0))) for row in joined])


def _coarse_l1(outputs: torch.Tensor, targets: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of means over `POOLED` x `POOLED` pixels, as far as they lie under the masks."""
    error = F.avg_pool2d((outputs - targets) * masks, POOLED).abs()
    inside = F.avg_pool2d(masks, POOLED).sum(dim=(1, 2, 3)) * outputs.shape[1]
    return (error.sum(dim=(1, 2, 3)) / inside.clamp(min=1)).mean()


def _of_length(gradient: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    return gradient * (length / gradient.norm().clamp(min=1e-12))


def _length_of_pixel_distance(masks: torch.Tensor) -> torch.Tensor:
    """The length of `reconstruction.masked_l1`'s gradient, wherever no pixel is right: what others are scaled to."""
    inside = (3 * masks.sum(dim=(1, 2, 3))).clamp(min=1)
    return (1 / inside).sum().sqrt() / len(masks)


def _digest(net: nn.Module) -> str:
    """The sha256 of a network's weights."""
    digest = hashlib.sha256()
    for value in net.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
