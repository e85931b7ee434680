"""Nobody's face may be the original's: suppression of the similarity that a face recognizer sees."""

import torch
import torch.nn.functional as F


def crop_faces(images: torch.Tensor, thetas: torch.Tensor, size: int) -> torch.Tensor:
    """Resample faces to the recognizer's input so that the gradient reaches the image.

    Args:
        images: ``(N, 3, H, W)`` in ``[-1, 1]``.
        thetas: ``(N, 2, 3)`` for `torch.nn.functional.affine_grid`, from the crop to the image, of the *original* face:
            what the generator draws must not move the crop. Constants.
        size: The recognizer's input edge in pixels.

    Returns:
        ``(N, 3, size, size)``; beyond the image its border is repeated.
    """
    grid = F.affine_grid(thetas.to(images.dtype), [len(images), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def identity_hinge(outputs: torch.Tensor, originals: torch.Tensor, margin: float) -> torch.Tensor:
    """Punish a cosine to the original only above the margin: ``relu(cos - m)``.

    Below what two strangers reach there is nothing left to suppress, and pushing on would distort faces.

    Args:
        outputs: ``(N, D)`` unit-length embeddings of generated faces, from a differentiable recognizer.
        originals: ``(N, D)`` unit-length embeddings of the faces that were there; no gradient is taken.
        margin: The 95th percentile of the cosine of two different people, of this recognizer on this data (see
            `impostor_margin`).

    Returns:
        A scalar in ``[0, 1 - margin]``.
    """
    return F.relu((outputs * originals.detach()).sum(dim=1) - margin).mean()


def impostor_margin(embeddings: torch.Tensor, identities: torch.Tensor, quantile: float = 0.95) -> float:
    """The quantile of the cosine over all pairs of different people.

    Args:
        embeddings: ``(N, D)`` of unit length.
        identities: ``(N,)`` integers; equal numbers are one person.
        quantile: In ``[0, 1]``.

    Returns:
        A cosine; 0 where there are no two people.
    """
    different = (identities[:, None] != identities[None]).triu(diagonal=1)
    cosines = (embeddings @ embeddings.T)[different]
    return float(torch.quantile(cosines.float(), quantile)) if len(cosines) else 0.0
