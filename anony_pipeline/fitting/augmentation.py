"""Random changes of image batches on the device that trains: place, light, resolution, noise.

All take and give ``(N, 3, H, W)`` float in ``[-1, 1]`` and draw from the generator they are given.
"""

import torch
import torch.nn.functional as F


def uniform(count: int, low: float, high: float, randomness: torch.Generator) -> torch.Tensor:
    """``(count,)`` numbers between ``low`` and ``high``, on the generator's device."""
    return low + (high - low) * torch.rand(count, generator=randomness, device=randomness.device)


def to_pixels(images_u8: torch.Tensor) -> torch.Tensor:
    """``(N, H, W, 3)`` uint8 -> ``(N, 3, H, W)`` float32 in ``[-1, 1]``."""
    return images_u8.permute(0, 3, 1, 2).float() / 127.5 - 1


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
        size = torch.tensor([size_hw[1], size_hw[0]], device=matrices.device, dtype=matrices.dtype)
        angle = uniform(count, -turn, turn, randomness)
        factor = torch.exp(uniform(count, -scale, scale, randomness))
        cosine, sine = torch.cos(angle) * factor, torch.sin(angle) * factor
        rotation = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
        move = size * torch.stack([uniform(count, -shift, shift, randomness) for _ in range(2)], 1)
        linear = rotation @ matrices[:, :, :2]
        center = size / 2
        offset = (rotation @ (matrices[:, :, 2] - center)[..., None])[..., 0] + center + move
        return torch.cat([linear, offset[..., None]], 2)


def warp(pixels: torch.Tensor, matrices: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Resample by ``(N, 2, 3)`` matrices that take an image's ``(x, y)`` pixels to the crop's; edges are repeated."""
    height, width = pixels.shape[2:]
    device = pixels.device
    whole = torch.cat([matrices.float(), torch.tensor([[[0.0, 0, 1]]], device=device).expand(len(matrices), -1, -1)], 1)
    crop_to_unit = torch.diag(torch.tensor([size_hw[1] / 2, size_hw[0] / 2, 1.0], device=device))
    crop_to_unit[:2, 2] = torch.tensor([size_hw[1] / 2, size_hw[0] / 2], device=device)
    unit_of_image = torch.diag(torch.tensor([2 / width, 2 / height, 1.0], device=device))
    unit_of_image[:2, 2] = -1
    with torch.autocast(device.type, enabled=False):  # see `jitter`
        theta = (unit_of_image @ torch.linalg.inv(whole) @ crop_to_unit)[:, :2]
    grid = F.affine_grid(theta, [len(pixels), 3, *size_hw], align_corners=False)
    return F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)


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
    """Shrink and enlarge again, as regions that are small in their images are: one factor for each group of the batch.

    Args:
        pixels: The batch.
        randomness: Where chance comes from.
        lowest: The smallest share of the edge that is kept; the first group keeps all.
        groups: How many different factors a batch sees.

    Returns:
        The batch, and ``(N,)`` the share of resolution that each kept.
    """
    height, width = pixels.shape[2:]
    parts, shares = [], []
    for number, part in enumerate(pixels.chunk(groups)):
        share = 1.0 if number == 0 else float(lowest ** uniform(1, 0, 1, randomness).item())
        small = (max(4, round(height * share)), max(4, round(width * share)))
        if share < 1:
            shrunk = F.interpolate(part, small, mode="bilinear", antialias=True)
            part = F.interpolate(shrunk, (height, width), mode="bicubic").clamp(-1, 1)  # noqa: PLW2901 - the part, changed
        parts.append(part)
        shares.append(torch.full((len(part),), share, device=pixels.device))
    return torch.cat(parts), torch.cat(shares)


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
