"""Fit a face recognizer on procedural people, and measure it on people that it has never seen."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from anony_pipeline.fitting import augmentation
from anony_pipeline.fitting.loop import Clock, Plan, fit
from anony_pipeline.fitting.rendering import Faces
from anony_pipeline.models.recognizer import ARCHITECTURES, EMBEDDING, INPUT_SIZE, alignment
from anony_pipeline.runtime import seeding
from anony_pipeline.structures.regions import Kind, Region

MARGIN = 0.4
CLEAR_PX, CLEAR_YAW = 48, 45


class ArcMargin(nn.Module):
    """Additive angular margin (ArcFace, Deng et al., arXiv:1801.07698, equation 3).

    The paper's scale s = 64 is for 85,000 people; with few, the softmax saturates long before they are told apart.
    AdaCos (arXiv:1905.00292) derives ``sqrt(2) log(C - 1)`` without a margin; with one, three times that serves.
    """

    def __init__(self, people: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(people, EMBEDDING) * 0.05)
        self.scale = min(64.0, 3 * math.sqrt(2) * math.log(max(people - 1, 2)))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor, margin: float | torch.Tensor) -> torch.Tensor:
        """Mean cross entropy of ``(N, 512)`` embeddings of any length and ``(N,)`` labels, with a margin in radians."""
        margin = torch.as_tensor(margin, device=embeddings.device)
        with torch.autocast(embeddings.device.type, enabled=False):
            cosine = F.linear(F.normalize(embeddings.float()), F.normalize(self.weight.float())).clamp(
                -1 + 1e-6, 1 - 1e-6
            )
            mine = cosine.gather(1, labels[:, None])
            # cos(theta + m); beyond pi the curve would rise again, so it goes on as a line there.
            shifted = torch.where(
                mine > -margin.cos(),
                mine * margin.cos() - (1 - mine**2).sqrt() * margin.sin(),
                mine - margin.sin() * margin,
            )
            return F.cross_entropy(cosine.scatter(1, labels[:, None], shifted) * self.scale, labels)


def fit_recognizer(name: str, faces: Faces, plan: Plan, *, batch: int = 256, clock: Clock | None = None) -> nn.Module:
    """Fit one of the shipped architectures.

    Half of the crops are aligned by five points and half by the box, because detected faces come without landmarks.

    Args:
        name: ``recognizer`` or ``held_out_recognizer``.
        faces: Several views of each person.
        plan: How long and where.
        batch: Crops a step.
        clock: As in `loop.fit`.

    Returns:
        The network, in evaluation mode, on the plan's device.
    """
    torch.manual_seed(seeding.seed_for(plan.seed, f"{name} start"))
    network = ARCHITECTURES[name]()
    _, labels = np.unique(faces.people, return_inverse=True)
    margin = ArcMargin(int(labels.max()) + 1)
    pixels = torch.from_numpy(faces.images).to(plan.device)
    owners = torch.from_numpy(labels).to(plan.device)
    by_points, by_box = (matrix.to(plan.device) for matrix in alignments(faces))
    forward, clock = plan.forward(network), clock or Clock(plan)

    def step(_number: int, randomness: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(pixels), (batch,), generator=randomness, device=plan.device)
        pointed = torch.rand(batch, generator=randomness, device=plan.device) < 0.5
        matrices = torch.where(pointed[:, None, None], by_points[chosen], by_box[chosen])
        size = (INPUT_SIZE, INPUT_SIZE)
        matrices = augmentation.jitter(matrices, size, randomness, scale=0.12, turn=0.12, shift=0.06)
        crops = augmentation.warp(augmentation.to_pixels(pixels[chosen]), matrices, size)
        crops = augmentation.light(crops, randomness)
        # Half of them keep what they have: small ones are among the rendered already.
        crops, _ = augmentation.coarsen(crops, randomness, lowest=0.15, groups=2)
        crops, _ = augmentation.add_noise(crops, randomness)
        crops = augmentation.cover(crops, randomness)
        # The margin grows over the first half: from the start it keeps a small network from learning at all.
        grown = MARGIN * (2 * clock.share).clamp(max=1)
        return margin(forward(crops), owners[chosen], grown)

    fit(name, {"network": network, "margin": margin}, step, plan, clock)
    return network


def alignments(faces: Faces) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``(N, 2, 3)`` alignment matrices of rendered faces, by five points and by the box."""
    pairs = list(zip(faces.boxes.tolist(), faces.landmarks.tolist(), strict=True))
    by_points = [alignment(Region(Kind.FACE, tuple(box), landmarks=tuple(map(tuple, points)))) for box, points in pairs]
    by_box = [alignment(Region(Kind.FACE, tuple(box))) for box, _ in pairs]
    return torch.from_numpy(np.stack(by_points)).float(), torch.from_numpy(np.stack(by_box)).float()


@torch.no_grad()
def embed(network: nn.Module, faces: Faces, *, by_box: bool, device: torch.device) -> torch.Tensor:
    """Embed rendered faces, ``(N, 512)`` of unit length on the CPU, aligned by the box or by five points."""
    matrices = alignments(faces)[int(by_box)].to(device)
    pixels = torch.from_numpy(faces.images)
    size = (INPUT_SIZE, INPUT_SIZE)
    parts = [
        F.normalize(network(augmentation.warp(augmentation.to_pixels(part.to(device)), matrix, size)).float())
        for part, matrix in zip(pixels.split(256), matrices.split(256), strict=True)
    ]
    return torch.cat(parts).cpu()


def clear(faces: Faces) -> np.ndarray:
    """Which faces show who they are: ``(N,)`` bool.

    Photographed at `CLEAR_PX` or more, turned by at most `CLEAR_YAW` degrees, without mask, sunglasses or hood, and not
    by night.
    """
    heights = faces.boxes[:, 3] - faces.boxes[:, 1]
    return np.array(
        [
            height * one["shrink"] >= CLEAR_PX
            and abs(one["yaw"]) <= CLEAR_YAW
            and one["mask"] == "none"
            and one["glasses"] != "sun"
            and one["hat"] != "hood"
            and one["time"] != "night"
            for height, one in zip(heights.tolist(), faces.attributes, strict=True)
        ]
    )


def verification(embeddings: torch.Tensor, people: np.ndarray) -> dict[str, float]:
    """How well people are told apart: ``rank1`` and ``tar_at_far_1e3``.

    Args:
        embeddings: ``(N, D)`` of unit length.
        people: ``(N,)`` who is who.

    Returns:
        ``rank1``: the share of pictures whose person is found first among all people, in a gallery of one picture each.
        ``tar_at_far_1e3``: the share of same-person pairs above the similarity that one in a thousand pairs of
        different people exceeds. Both are NaN where there is nothing to compare.
    """
    owners = torch.from_numpy(np.unique(people, return_inverse=True)[1])
    likeness = embeddings @ embeddings.T
    same = owners[:, None] == owners[None]
    upper = torch.ones_like(same).triu(1).bool()
    impostors, genuine = likeness[~same & upper], likeness[same & upper]
    if not len(impostors) or not len(genuine):
        return {"rank1": math.nan, "tar_at_far_1e3": math.nan}
    # torch.quantile refuses more than 16 million values.
    threshold = impostors.topk(max(1, round(len(impostors) * 1e-3))).values[-1]
    first = torch.tensor([int((owners == owner).nonzero()[0]) for owner in range(int(owners.max()) + 1)])
    probes = torch.ones(len(owners), dtype=torch.bool)
    probes[first] = False
    found = likeness[probes][:, first].argmax(dim=1) == owners[probes]
    return {"rank1": float(found.float().mean()), "tar_at_far_1e3": float((genuine > threshold).float().mean())}
