"""Nobody's face may be the original's: suppression of the similarity that a face recognizer sees."""

import torch
import torch.nn.functional as F

# The five points (the viewer's left eye, right eye, nose, left and right mouth corner) in a 112 px crop, in pixels, as
# in InsightFace's `face_align.arcface_dst`.
TEMPLATE_112 = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))


def theta_from_boxes(boxes_xyxy: torch.Tensor, image_hw: tuple[int, int], growth: float = 1.0) -> torch.Tensor:
    """The transforms that cut a square about each box.

    Args:
        boxes_xyxy: ``(N, 4)`` in pixels of the image.
        image_hw: Height and width of the image.
        growth: The square's edge over the box's longer edge.

    Returns:
        ``(N, 2, 3)`` for `torch.nn.functional.affine_grid`.
    """
    height, width = image_hw
    centers = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    half = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).amax(dim=1) / 2 * growth
    theta = boxes_xyxy.new_zeros(len(boxes_xyxy), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = half * 2 / width, half * 2 / height
    theta[:, :, 2] = centers * 2 / centers.new_tensor([width, height]) - 1
    return theta


def theta_from_landmarks(landmarks_xy: torch.Tensor, image_hw: tuple[int, int]) -> torch.Tensor:
    """The similarity transforms that bring five points to ArcFace's template.

    Args:
        landmarks_xy: ``(N, 5, 2)`` in pixels of the *original* image: what the generator draws must not move the crop.
        image_hw: Height and width of the image.

    Returns:
        ``(N, 2, 3)`` for `torch.nn.functional.affine_grid`.
    """
    height, width = image_hw
    # Least squares of the similarity (a, -b; b, a) about the centers: Umeyama 1991 in two dimensions without
    # reflection.
    template = landmarks_xy.new_tensor(TEMPLATE_112) / 56 - 1
    target_center, source_center = template.mean(dim=0), landmarks_xy.mean(dim=1, keepdim=True)
    centered, wanted = template - target_center, landmarks_xy - source_center
    scale = centered.square().sum()
    a = (centered * wanted).sum(dim=(1, 2)) / scale
    b = (centered[:, 0] * wanted[..., 1] - centered[:, 1] * wanted[..., 0]).sum(dim=1) / scale
    linear = torch.stack([torch.stack([a, -b], dim=1), torch.stack([b, a], dim=1)], dim=1)
    shift = source_center[:, 0] - linear @ target_center
    to_unit = landmarks_xy.new_tensor([2 / width, 2 / height])
    return torch.cat([linear * to_unit[:, None], (shift * to_unit - 1)[..., None]], dim=2)


def crop_faces(images: torch.Tensor, thetas: torch.Tensor, size: int) -> torch.Tensor:
    """Resample faces to the recognizer's input so that the gradient reaches the image.

    Args:
        images: ``(N, 3, H, W)`` in ``[-1, 1]``.
        thetas: ``(N, 2, 3)`` of `theta_from_boxes` or `theta_from_landmarks`; constants.
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
