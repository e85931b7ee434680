"""Fit the attribute network whose features FID and KID compare: what a region looks like, never who it is.

Besides attributes it learns where the five landmarks are and whether, and how, the inner face was spoilt: so it has to
look at eyes and mouths, which hardly any attribute asks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from anony_pipeline.fitting import augmentation
from anony_pipeline.fitting.loop import Clock, Plan, fit
from anony_pipeline.fitting.rendering import Faces, Plates
from anony_pipeline.models.features import INPUT_SIZE, FeatureNet
from anony_pipeline.runtime import seeding

OWN = 5
"""Values that are known of every crop: plate or face, blur, noise, brightness, contrast."""
SPOILT = ("spoilt", "softened", "shuffled", "dashed", "averaged")
"""What is known of each face besides: whether its inner part was spoilt at all, and in which way."""
PLACES = tuple(
    f"{axis}_of_{point}" for point in ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth") for axis in "xy"
)
"""And where its landmarks are in the crop, with a mean of about 0 and a deviation of about 1."""
IDENTITY_WORDS = ("identity", "seed", "name", "person")
"""Attributes whose names hold one of these say who somebody is and are left out."""


@dataclass(frozen=True)
class AttributeCode:
    """How attributes become numbers: one column for each number or truth value, one for each value of each word.

    Attributes:
        columns: ``name`` of a number, or ``name=value`` of a word.
        mean: ``(D,)`` of the attributes that the code was made of.
        spread: ``(D,)`` their standard deviation.
    """

    columns: tuple[str, ...]
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, attributes: Sequence[dict[str, Any]]) -> "AttributeCode":
        """Make the code of some faces' attributes; what never varies among them is left out."""
        flat = [_flat(one) for one in attributes]
        columns = tuple(sorted({name for one in flat for name in one}))
        table = _table(flat, columns)
        spread = np.nanstd(table, axis=0)
        kept = spread > 1e-6
        names = tuple(name for name, keep in zip(columns, kept, strict=True) if keep)
        return cls(names, np.nanmean(table[:, kept], axis=0), spread[kept])

    def encode(self, attributes: Sequence[dict[str, Any]]) -> np.ndarray:
        """``(N, D)`` float32 with about mean 0 and deviation 1; NaN where a face has no such number."""
        table = _table([_flat(one) for one in attributes], self.columns)
        return ((table - self.mean) / self.spread).astype(np.float32)


def _flat(attributes: dict[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in attributes.items():
        if any(word in name.lower() for word in IDENTITY_WORDS):
            continue
        if isinstance(value, str):
            found[f"{name}={value}"] = 1.0
        elif isinstance(value, bool | int | float):
            found[name] = float(value)
    return found


def _table(flat: Sequence[dict[str, float]], columns: Sequence[str]) -> np.ndarray:
    # A word that is not there is a zero; a number that is not there is unknown.
    missing = {name: 0.0 if "=" in name else np.nan for name in columns}
    return np.array([[one.get(name, missing[name]) for name in columns] for one in flat]).reshape(
        len(flat), len(columns)
    )


def spoil(
    faces: torch.Tensor, boxes: torch.Tensor, points: torch.Tensor, randomness: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Spoil the inner part of half of the faces, as generators do; hair, outline and background stay as they are.

    Softened: no detail is left. Shuffled: stripes of it are in wrong places. Dashed: softened, with dark dashes for
    eyes and mouth. Averaged: four other faces are blended into it.

    Args:
        faces: ``(N, 3, S, S)`` in ``[-1, 1]``, N of 5 or more.
        boxes: ``(N, 2, 2)`` their boxes' corners, ``(x, y)`` in pixels.
        points: ``(N, 5, 2)`` their landmarks.
        randomness: Where chance comes from.

    Returns:
        The faces, and ``(N, 5)`` what is true of each, 1 or -1 in the order of `SPOILT`.
    """
    count, device = len(faces), faces.device
    size = (boxes[:, 1] - boxes[:, 0]).clamp(min=4)
    inner = _inner_part(faces, points.mean(dim=1), size, randomness)
    softened = _softened(faces, randomness)
    shuffled = _shuffled(faces, randomness)
    dashed = _dashed(softened, points, size, randomness)
    others = torch.stack([faces.roll(number, dims=0) for number in range(1, 5)]).mean(dim=0)
    averaged = faces + (others - faces) * _each(count, 0.6, 1, randomness)
    way = torch.randint(0, 8, (count,), generator=randomness, device=device)
    true = torch.stack([way >= 4, way == 4, way == 5, way == 6, way == 7], 1)
    for number, one in enumerate((softened, shuffled, dashed, averaged), start=1):
        faces = torch.where(true[:, number].view(-1, 1, 1, 1), faces + (one - faces) * inner, faces)
    return faces, true.float() * 2 - 1


def _each(count: int, low: float, high: float, randomness: torch.Generator) -> torch.Tensor:
    """A number for each image, ``(count, 1, 1, 1)``."""
    return augmentation.uniform(count, low, high, randomness).view(-1, 1, 1, 1)


def _from(places: torch.Tensor, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far right of ``(N, 2)`` places and below them each pixel is: ``(N, 1, 1, W)`` and ``(N, 1, H, 1)``."""
    height, width = faces.shape[2:]
    x = torch.arange(width, device=faces.device).view(1, 1, 1, -1) + 0.5
    y = torch.arange(height, device=faces.device).view(1, 1, -1, 1) + 0.5
    return x - places[:, 0].view(-1, 1, 1, 1), y - places[:, 1].view(-1, 1, 1, 1)


def _edges(size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Widths and heights of ``(N, 2)`` sizes, ``(N, 1, 1, 1)`` either."""
    return size[:, 0].view(-1, 1, 1, 1), size[:, 1].view(-1, 1, 1, 1)


def _inner_part(
    faces: torch.Tensor, middle: torch.Tensor, size: torch.Tensor, randomness: torch.Generator
) -> torch.Tensor:
    """An ellipse about the landmarks' middle, ``(N, 1, H, W)`` in ``[0, 1]`` with a soft rim."""
    (right, down), (wide, high) = _from(middle, faces), _edges(size)
    across = right / (wide * _each(len(faces), 0.32, 0.45, randomness))
    along = down / (high * _each(len(faces), 0.3, 0.42, randomness))
    return ((1.15 - (across**2 + along**2)) / 0.3).clamp(0, 1)


def _softened(faces: torch.Tensor, randomness: torch.Generator) -> torch.Tensor:
    count, _, height, width = faces.shape
    less = torch.rand(count, generator=randomness, device=faces.device).view(-1, 1, 1, 1) < 0.5
    soft, softer = (
        F.interpolate(F.avg_pool2d(faces, edge), (height, width), mode="bilinear") for edge in (width // 16, width // 8)
    )
    return torch.where(less, soft, softer)


def _shuffled(faces: torch.Tensor, randomness: torch.Generator, stripes: int = 12) -> torch.Tensor:
    count, _, height, width = faces.shape
    order = (
        torch.arange(stripes, device=faces.device)
        + augmentation.uniform(2 * count * stripes, 0, 3, randomness).view(2, count, stripes)
    ).argsort(dim=2)
    rows, columns = (
        (one[:, :, None] * (edge // stripes) + torch.arange(edge // stripes, device=faces.device)).flatten(1)
        for one, edge in zip(order, (height, width), strict=True)
    )
    shuffled = faces.gather(2, rows.view(count, 1, height, 1).expand_as(faces))
    return shuffled.gather(3, columns.view(count, 1, 1, width).expand_as(faces))


def _dashed(
    softened: torch.Tensor, points: torch.Tensor, size: torch.Tensor, randomness: torch.Generator
) -> torch.Tensor:
    count, (wide, high) = len(softened), _edges(size)
    dashed = softened
    for place in (points[:, 0], points[:, 1], (points[:, 3] + points[:, 4]) / 2):
        right, down = _from(place, softened)
        right = right - wide * _each(count, -0.04, 0.04, randomness)
        down = down - high * _each(count, -0.03, 0.03, randomness)
        down = down - right * _each(count, -0.25, 0.25, randomness)
        across = right / (wide * _each(count, 0.07, 0.15, randomness))
        along = down / (high * _each(count, 0.012, 0.035, randomness))
        dash = (1.2 - across**2 - along**2).clamp(0, 1)
        dashed = dashed - dash * _each(count, 0.4, 1, randomness) * (dashed + 1) * 0.7
    return dashed


class _Mixed:
    """Faces and plates as one set of batches of which much is known."""

    def __init__(self, faces: Faces, plates: Plates, code: AttributeCode, device: torch.device) -> None:
        table = code.encode(faces.attributes)
        self._device = device
        self._faces = torch.from_numpy(faces.images).to(device)
        self._plates = torch.from_numpy(plates.images).to(device)
        self._table = torch.from_numpy(table).to(device)
        corners = torch.from_numpy(faces.boxes).view(-1, 2, 2)
        # Each with 1, so that a matrix moves it.
        self._points = F.pad(torch.cat([torch.from_numpy(faces.landmarks), corners], 1), (0, 1), value=1).to(device)
        self.groups = (OWN, len(SPOILT), len(PLACES), table.shape[1])
        self.outputs = sum(self.groups)

    def __len__(self) -> int:
        return len(self._faces)

    def batch(self, count: int, randomness: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """``(count, 3, 96, 96)`` pixels and ``(count, outputs)`` wanted values, NaN where unknown."""
        half = count // 2
        chosen, plates = (
            torch.randint(len(images), (half,), generator=randomness, device=self._device)
            for images in (self._faces, self._plates)
        )
        faces, points = self._cut(self._faces[chosen], randomness, self._points[chosen])
        faces, spoilt = spoil(faces, points[:, 5:], points[:, :5], randomness)
        # Nobody knows what a spoilt face shows.
        known = torch.cat([_places(points), self._table[chosen]], 1).masked_fill(spoilt[:, :1] > 0, torch.nan)
        pixels = torch.cat([faces, self._cut(self._plates[plates], randomness)[0]])
        known = torch.cat([spoilt, known], 1)
        known = torch.cat([known, torch.full_like(known, torch.nan)])
        # Mixed, because the first half of the batch keeps its resolution.
        order = torch.rand(2 * half, generator=randomness, device=self._device).argsort()
        pixels = augmentation.light(pixels[order], randomness)
        shine = torch.stack([pixels.mean(dim=(1, 2, 3)), pixels.std(dim=(1, 2, 3)) * 2 - 1], 1)
        pixels, share = augmentation.coarsen(pixels, randomness, lowest=0.12, groups=2)
        pixels, sigma = augmentation.add_noise(pixels, randomness)
        plate = (order >= half).float() * 2 - 1
        own = torch.stack([plate, share.log2() + 1, sigma * 20 - 1], 1)
        return pixels, torch.cat([own, shine, known[order]], 1)

    def undisturbed(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(N, 3, 96, 96)`` faces as they were rendered, and their ``(N, P + D)`` landmarks' places and attributes."""
        faces, points = self._cut(self._faces[rows], None, self._points[rows])
        return faces, torch.cat([_places(points), self._table[rows]], 1)

    def _cut(
        self, images: torch.Tensor, randomness: torch.Generator | None, points: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops of about the whole images, and points that were moved with them."""
        count, height, width = images.shape[:3]
        size = (INPUT_SIZE, INPUT_SIZE)
        matrices = augmentation.stretch(count, (height, width), size, self._device)
        if randomness is not None:
            matrices = augmentation.jitter(matrices, size, randomness, scale=0.15, turn=0.1, shift=0.08)
        with torch.autocast(self._device.type, enabled=False):
            moved = matrices[:, :0] if points is None else points @ matrices.transpose(1, 2)
        return augmentation.warp(augmentation.to_pixels(images), matrices, size), moved


def _places(points: torch.Tensor) -> torch.Tensor:
    """What is learned of ``(N, 5 or more, 2)`` points: where the five landmarks are, in eighths of the crop's edge."""
    return (points[:, :5].flatten(1) / INPUT_SIZE - 0.5) * 8


def fit_features(
    faces: Faces, plates: Plates, code: AttributeCode, plan: Plan, *, batch: int = 256, clock: Clock | None = None
) -> FeatureNet:
    """Fit the attribute network: squared error to every known value.

    What is known of all crops, how faces are spoilt, where landmarks are, and attributes count equally.

    Args:
        faces: With attributes.
        plates: Crops.
        code: Turns the attributes into the values that are learned.
        plan: How long and where.
        batch: Crops a step, half of them plates.
        clock: As in `loop.fit`.

    Returns:
        The network, in evaluation mode, on the plan's device.
    """
    torch.manual_seed(seeding.seed_for(plan.seed, "features start"))
    mixed = _Mixed(faces, plates, code, plan.device)
    network = FeatureNet(mixed.outputs)
    forward = plan.forward(network)

    def step(_number: int, randomness: torch.Generator) -> torch.Tensor:
        pixels, wanted = mixed.batch(batch, randomness)
        known = ~torch.isnan(wanted)
        error = (forward(pixels).float() - wanted.nan_to_num()) ** 2 * known
        groups = zip(error.split(mixed.groups, dim=1), known.split(mixed.groups, dim=1), strict=True)
        return torch.stack([one.sum() / there.sum().clamp(min=1) for one, there in groups]).sum()

    fit("features", {"network": network}, step, plan, clock)
    return network


@torch.no_grad()
def explained(
    network: nn.Module, faces: Faces, plates: Plates, code: AttributeCode, device: torch.device
) -> dict[str, Any]:
    """The share of each value's variance that the network explains on other faces and plates: 1 is all, 0 none.

    Returns:
        Of disturbed crops, as in fitting: ``plate_or_face``, ``blur``, ``noise`` and each of `SPOILT`. Of faces as they
        were rendered: ``landmarks_mean``, ``attributes_mean`` and ``attributes`` by their columns, without those that
        hardly vary among these faces; and ``attributes_mean_disturbed``.
    """
    mixed = _Mixed(faces, plates, code, device)
    own, spoilt, places, _ = mixed.groups
    pixels, wanted = mixed.batch(max(16, min(2048, 2 * len(mixed))), torch.Generator(device).manual_seed(0))
    disturbed = _shares(_answers(network, pixels), wanted)
    rows = torch.arange(len(mixed), device=device)
    pixels, wanted = mixed.undisturbed(rows)
    shares = _shares(_answers(network, pixels)[:, own + spoilt :], wanted)
    by_column = {name: value for name, value in zip(code.columns, shares[places:], strict=True) if value is not None}
    return {
        **dict(zip(("plate_or_face", "blur", "noise"), disturbed, strict=False)),
        **dict(zip(SPOILT, disturbed[own : own + spoilt], strict=True)),
        "landmarks_mean": _mean(shares[:places]),
        "attributes_mean": _mean(list(by_column.values())),
        "attributes_mean_disturbed": _mean(disturbed[own + spoilt + places :]),
        "attributes": by_column,
    }


def _answers(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    return torch.cat([network(part).float() for part in pixels.split(256)])


def _shares(answers: torch.Tensor, wanted: torch.Tensor) -> list[float | None]:
    """The explained share of each column's variance; None of what hardly varies, which can't be explained."""
    known = ~torch.isnan(wanted)
    error = torch.where(known, answers - wanted.nan_to_num(), 0).square().sum(0)
    spread = torch.where(known, wanted - wanted.nanmean(dim=0), 0).square().sum(0)
    shares = (1 - error / spread.clamp(min=1e-6)).tolist()
    return [share if enough else None for share, enough in zip(shares, (spread > 1).tolist(), strict=True)]


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known else None
