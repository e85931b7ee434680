"""Random changes of image batches on the device that trains: place, light, resolution, noise.

All take and give ``(N, 3, H, W)`` float in ``[-1, 1]`` and draw from the generator they are given. None of them waits
for the device or brings numbers to it, so that a whole step of training can be captured as a CUDA graph (`loop.fit`).
"""

import math

import torch
import torch.nn.functional as F


def uniform(count: int, low: float, high: float, randomness: torch.Generator) -> torch.Tensor:
    """``(count,)`` numbers between ``low`` and ``high``, on the generator's device."""
    return low + (high - low) * torch.rand(count, generator=randomness, device=randomness.device)


def to_pixels(images_u8: torch.Tensor) -> torch.Tensor:
    """``(N, H, W, 3)`` uint8 -> ``(N, 3, H, W)`` float32 in ``[-1, 1]``."""
    return images_u8.permute(0, 3, 1, 2).float() / 127.5 - 1


def stretch(count: int, from_hw: tuple[int, int], to_hw: tuple[int, int], device: torch.device) -> torch.Tensor:
    """``(count, 2, 3)`` matrices that take the whole of an image of one size to the whole of a crop of another."""
    matrices = torch.zeros(count, 2, 3, device=device)
    matrices[:, 0, 0].fill_(to_hw[1] / from_hw[1])
    matrices[:, 1, 1].fill_(to_hw[0] / from_hw[0])
    return matrices


def jitter(
    matrices: torch.Tensor,
    size_hw: tuple[int, int],
    randomness: torch.Generator,
    *,
    scale: float,
    turn: float,
    shift: float,
) -> torch.Tensor:
    """Disturb ``(N, 2, 3)`` matrices that take an image's ``(x, y)`` to a crop's.

    Args:
        matrices: In pixels.
        size_hw: Of the crop.
        randomness: Where chance comes from.
        scale: Largest relative change of size.
        turn: Largest turn in radians, either way.
        shift: Largest shift as a share of the crop's edges, either way.
    """
    # Under autocast matrices would be multiplied in bf16: half a pixel off.
    with torch.autocast(matrices.device.type, enabled=False):
        count = len(matrices)
        angle = uniform(count, -turn, turn, randomness)
        factor = torch.exp(uniform(count, -scale, scale, randomness))
        cosine, sine = torch.cos(angle) * factor, torch.sin(angle) * factor
        rotation = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
        move = torch.stack([edge * uniform(count, -shift, shift, randomness) for edge in size_hw[::-1]], 1)
        linear = rotation @ matrices[:, :, :2]
        center = _center(matrices, size_hw)
        offset = (rotation @ (matrices[:, :, 2] - center)[..., None])[..., 0] + center + move
        return torch.cat([linear, offset[..., None]], 2)


def warp(pixels: torch.Tensor, matrices: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Resample by ``(N, 2, 3)`` matrices that take an image's ``(x, y)`` pixels to the crop's; edges are repeated."""
    height, width = pixels.shape[2:]
    with torch.autocast(pixels.device.type, enabled=False):  # see `jitter`
        (a, b), (c, d) = matrices.float()[:, :, :2].permute(1, 2, 0)
        inverse = torch.stack([d, -b, -c, a], 1).view(-1, 2, 2) / (a * d - b * c)[:, None, None]
        center = _center(matrices, size_hw)
        middle = (inverse @ (center - matrices[:, :, 2])[..., None])[..., 0]
        # From the crop's to the image's coordinates, both running from -1 to 1.
        linear = inverse * center[:, None] / _center(matrices, (height, width))[:, :, None]
        offset = middle / _center(matrices, (height, width)) - 1
        theta = torch.cat([linear, offset[..., None]], 2)
        grid = F.affine_grid(theta, [len(pixels), 3, *size_hw], align_corners=False)
        return F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)


def _center(matrices: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """``(N, 2)`` the ``(x, y)`` of a crop's middle."""
    like = matrices.new_ones(len(matrices), dtype=torch.float32)
    return torch.stack([like * (size_hw[1] / 2), like * (size_hw[0] / 2)], 1)


def light(pixels: torch.Tensor, randomness: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """Change brightness, contrast, white balance and gamma of each image; one in ten loses its color."""
    count = len(pixels)

    def each(low: float, high: float, channels: int = 1) -> torch.Tensor:
        return uniform(count * channels, low * strength, high * strength, randomness).view(count, channels, 1, 1)

    shine = (pixels + 1) / 2
    shine = shine.clamp(1e-3, 1) ** torch.exp(each(-0.35, 0.35))
    shine = shine * torch.exp(each(-0.35, 0.35)) * torch.exp(each(-0.08, 0.08, 3)) + each(-0.08, 0.08)
    gray = shine.mean(dim=1, keepdim=True)
    shine = torch.where(each(0, 1) < 0.1 * strength, gray, shine)
    return shine.clamp(0, 1) * 2 - 1


def coarsen(
    pixels: torch.Tensor, randomness: torch.Generator, lowest: float, groups: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shrink and enlarge again, as regions that are small in their images are: each image by a factor of its own.

    Args:
        pixels: The batch.
        randomness: Where chance comes from.
        lowest: The smallest share of the edge that is kept; the logarithm of what is kept is uniform.
        groups: The first of so many parts of the batch keeps all.

    Returns:
        The batch, and ``(N,)`` the share of resolution that each kept.
    """
    count, _, height, width = pixels.shape
    share = lowest ** uniform(count, 0, 1, randomness)
    share = share.masked_fill(torch.arange(count, device=pixels.device) < math.ceil(count / groups), 1.0)
    with torch.autocast(pixels.device.type, enabled=False):
        rows, columns = (_coarse(edge, share) for edge in (height, width))
        coarse = rows[:, None] @ pixels.float() @ columns[:, None].transpose(2, 3)
    return torch.where(share.view(-1, 1, 1, 1) < 1, coarse.clamp(-1, 1), pixels), share


def _coarse(edge: int, share: torch.Tensor) -> torch.Tensor:
    """``(N, edge, edge)`` matrices that shrink a line of pixels to a share of it and enlarge it again.

    The numbers of `F.interpolate`: a triangle as wide as a small pixel, then cubics (a = -0.75) between them.
    """
    small = (edge * share).round().clamp(min=4).view(-1, 1, 1)
    ratio = edge / small
    at = torch.arange(edge, device=share.device, dtype=torch.float32)
    centers = (at.view(1, -1, 1) + 0.5) * ratio
    shrink = (1 - (at + 0.5 - centers).abs() / ratio).clamp(min=0)
    # Small pixels that there are none of have centers outside, and are never read.
    shrink = shrink / shrink.sum(dim=2, keepdim=True).clamp(min=1e-6)
    place = (at.view(1, -1, 1) + 0.5) / ratio - 0.5
    enlarge = torch.zeros_like(shrink)
    for tap in range(-1, 3):
        neighbor = place.floor() + tap
        x = (place - neighbor).abs()
        near, far = (1.25 * x - 2.25) * x * x + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3
        read = torch.minimum(neighbor.clamp(min=0), small - 1)
        enlarge = enlarge + torch.where(x <= 1, near, far) * (at == read)
    return enlarge @ shrink


def add_noise(
    pixels: torch.Tensor, randomness: torch.Generator, highest: float = 0.12
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add Gaussian noise of another strength to each image; returns the batch and its ``(N,)`` sigmas."""
    sigma = highest * uniform(len(pixels), 0, 1, randomness) ** 2
    noise = torch.randn(pixels.shape, generator=randomness, device=pixels.device)
    return (pixels + noise * sigma.view(-1, 1, 1, 1)).clamp(-1, 1), sigma


def cover(pixels: torch.Tensor, randomness: torch.Generator, share: float = 0.15) -> torch.Tensor:
    """Hide a random rectangle of a ``share`` of the images under gray (random erasing, arXiv:1708.04896)."""
    count, _, height, width = pixels.shape
    x = torch.arange(width, device=pixels.device).view(1, 1, 1, -1)
    y = torch.arange(height, device=pixels.device).view(1, 1, -1, 1)

    def each(low: float, high: float) -> torch.Tensor:
        return uniform(count, low, high, randomness).view(-1, 1, 1, 1)

    inside = ((x - each(0, width)).abs() < each(0.1, 0.3) * width) & (
        (y - each(0, height)).abs() < each(0.1, 0.3) * height
    )
    return torch.where(inside & (each(0, 1) < share), each(-1, 1), pixels)
