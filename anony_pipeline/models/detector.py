"""Detectors of faces and license plates: a small FCOS, a held-out RetinaNet, and OpenCV's YuNet by its ONNX file.

Both trained ones are torchvision's, with backbones without batch statistics (they see few images at once) and a level
of stride 4 for small regions. Their losses know what an image does *not* label: an unlabeled kind has no negatives
there, and crowd regions are neither positive nor negative.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, batched_nms, generalized_box_iou_loss, sigmoid_focal_loss

from anony_pipeline.errors import WeightsError
from anony_pipeline.models import weights
from anony_pipeline.models.judges import JudgeCard
from anony_pipeline.ops import images
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import KINDS_BY_CATEGORY, Kind, Region

CATEGORIES = tuple(sorted(KINDS_BY_CATEGORY))
"""Category ids in the order of the networks' classes: class 0 is category 1 (face), class 1 category 2 (plate)."""
LOWEST_SCORE = 0.02
TILE_PX, OVERLAP_PX, TILE_EDGE_PX = 1024, 192, 3
PIXELS_AT_ONCE = 1_500_000
NMS_IOU = 0.5

Targets = Sequence[Mapping[str, torch.Tensor]]


class _Unresized(GeneralizedRCNNTransform):
    """Normalizes and pads a batch, and leaves sizes alone: boxes mean pixels of the image that was given."""

    def resize(
        self, image: torch.Tensor, target: dict[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
        return image, target


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.GroupNorm(8, outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.GroupNorm(8, outputs),
        )
        self.shortcut = (
            nn.Identity() if stride == 1 and inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.layers(x) + self.shortcut(x))


class _Depthwise(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = 3 * inputs
        self.residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, middle, 1, bias=False),
            nn.GroupNorm(8, middle),
            nn.SiLU(inplace=True),
            nn.Conv2d(middle, middle, 5, stride, 2, groups=middle, bias=False),
            nn.GroupNorm(8, middle),
            nn.SiLU(inplace=True),
            nn.Conv2d(middle, outputs, 1, bias=False),
            nn.GroupNorm(8, outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class _Pyramid(nn.Module):
    """A stem of stride 2, stages of stride 4, 8, 16 and 32, and a feature pyramid over them."""

    def __init__(
        self, stem: nn.Module, stages: Sequence[nn.Module], channels: Sequence[int], out_channels: int
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.pyramid = FeaturePyramidNetwork(
            list(channels), out_channels, norm_layer=lambda width: nn.GroupNorm(8, width)
        )
        self.out_channels = out_channels

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The stem's and the stages' maps."""
        found = [self.stem(x)]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found

    def forward(self, x: torch.Tensor) -> "OrderedDict[str, torch.Tensor]":
        return self.pyramid(OrderedDict((str(number), one) for number, one in enumerate(self.maps(x)[1:])))


def negatives_allowed(targets: Targets, anchors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Say where "nothing here" may be learned.

    Args:
        targets: Per image ``unlabeled`` (2,) bool by class, ``crowd_boxes`` (M, 4) and ``crowd_labels`` (M,).
        anchors: Per image ``(A, 4)``; an anchor stands where its center is.

    Returns:
        ``(N, A, 2)`` bool: False for a kind that the image does not label, and inside a crowd region of that kind.
    """
    allowed = []
    for target, places in zip(targets, anchors, strict=True):
        centers = (places[:, None, :2] + places[:, None, 2:]) / 2
        crowds = target["crowd_boxes"]
        inside = ((centers >= crowds[None, :, :2]) & (centers <= crowds[None, :, 2:])).all(dim=2)
        columns = [
            ~target["unlabeled"][number] & ~inside[:, target["crowd_labels"] == number].any(dim=1)
            for number in range(len(CATEGORIES))
        ]
        allowed.append(torch.stack(columns, dim=1))
    return torch.stack(allowed)


def _classification_loss(logits: torch.Tensor, positive: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Focal loss (Lin et al., arXiv:1708.02002) over what counts: positives, and negatives where they are allowed."""
    each = sigmoid_focal_loss(logits, positive, reduction="none")
    return (each * (counted | (positive > 0))).sum() / positive.sum().clamp(min=1)


def _one_hot(targets: Targets, matched: Sequence[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    positive = torch.zeros_like(logits)
    for row, (target, match) in enumerate(zip(targets, matched, strict=True)):
        found = torch.nonzero(match >= 0).squeeze(1)
        positive[row, found, target["labels"][match[found]]] = 1.0
    return positive


class _MaskedFcosHead(FCOSHead):
    """FCOS's head whose classification loss skips what is not labeled."""

    def compute_loss(
        self,
        targets: list[dict[str, torch.Tensor]],
        head_outputs: dict[str, torch.Tensor],
        anchors: list[torch.Tensor],
        matched_idxs: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        logits = head_outputs["cls_logits"]
        positive = _one_hot(targets, matched_idxs, logits)
        found = torch.stack(list(matched_idxs)) >= 0
        places = torch.stack(list(anchors))[found]
        wanted = torch.cat(
            [target["boxes"][match[match >= 0]] for target, match in zip(targets, matched_idxs, strict=True)]
        )
        count = found.sum().clamp(min=1)
        predicted = self.box_coder.decode(head_outputs["bbox_regression"][found], places)
        sides = self.box_coder.encode(places, wanted).clamp(min=0)
        # FCOS (Tian et al., arXiv:1904.01355), equation 3: 1 in the middle of the box, 0 at its edges.
        across, along = sides[:, [0, 2]], sides[:, [1, 3]]
        ratio = (across.amin(1) / across.amax(1).clamp(min=1e-6)) * (along.amin(1) / along.amax(1).clamp(min=1e-6))
        centerness = head_outputs["bbox_ctrness"][found].squeeze(1)
        return {
            "classification": _classification_loss(logits, positive, negatives_allowed(targets, anchors)),
            "bbox_regression": generalized_box_iou_loss(predicted, wanted, reduction="sum") / count,
            "bbox_ctrness": F.binary_cross_entropy_with_logits(centerness, ratio.sqrt(), reduction="sum") / count,
        }

    def forward(self, x: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        # Under autocast the maps are fp16 or bf16, in which a coordinate of 1000 px has steps of 0.5 or 4 px.
        return {name: value.float() for name, value in super().forward(x).items()}


class _MaskedRetinaHead(RetinaNetHead):
    """RetinaNet's head whose classification loss skips what is not labeled."""

    def compute_loss(
        self,
        targets: list[dict[str, torch.Tensor]],
        head_outputs: dict[str, torch.Tensor],
        anchors: list[torch.Tensor],
        matched_idxs: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        logits = head_outputs["cls_logits"]
        positive = _one_hot(targets, matched_idxs, logits)
        between = torch.stack(list(matched_idxs)) == self.classification_head.BETWEEN_THRESHOLDS
        counted = negatives_allowed(targets, anchors) & ~between[..., None]
        return {
            "classification": _classification_loss(logits, positive, counted),
            "bbox_regression": self.regression_head.compute_loss(targets, head_outputs, anchors, matched_idxs),
        }

    def forward(self, x: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.float() for name, value in super().forward(x).items()}


def _fcos() -> FCOS:
    widths = (32, 48, 72, 96)
    inputs = (24, *widths[:-1])
    stages = [nn.Sequential(_Block(i, o, 2), _Block(o, o, 1)) for i, o in zip(inputs, widths, strict=True)]
    stem = nn.Sequential(nn.Conv2d(3, 24, 5, 2, 2, bias=False), nn.GroupNorm(8, 24), nn.ReLU(inplace=True))
    head = _MaskedFcosHead(64, 1, len(CATEGORIES), num_convs=2)
    # torchvision clamps distances by a ReLU and starts them at 0, where a side that begins below never learns.
    nn.init.constant_(head.regression_head.bbox_reg.bias, 2.0)
    return FCOS(
        _Pyramid(stem, stages, widths, 64),
        num_classes=len(CATEGORIES),
        # An FCOS "anchor" is a place as large as its level's stride.
        anchor_generator=AnchorGenerator(((4,), (8,), (16,), (32,)), ((1.0,),) * 4),
        head=head,
        score_thresh=LOWEST_SCORE,
        nms_thresh=NMS_IOU,
        detections_per_img=500,
    )


def _retinanet() -> RetinaNet:
    widths = (24, 40, 64, 96)
    inputs = (16, *widths[:-1])
    stages = [nn.Sequential(_Depthwise(i, o, 2), _Depthwise(o, o, 1)) for i, o in zip(inputs, widths, strict=True)]
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.GroupNorm(8, 16), nn.SiLU(inplace=True))
    # Height over width: plates lie, faces stand.
    anchors = AnchorGenerator(((9, 13), (20, 28), (42, 60), (90, 140)), ((0.3, 1.2),) * 4)
    return RetinaNet(
        _Pyramid(stem, stages, widths, 48),
        num_classes=len(CATEGORIES),
        anchor_generator=anchors,
        head=_MaskedRetinaHead(48, 4, len(CATEGORIES), norm_layer=lambda width: nn.GroupNorm(8, width)),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.4,
        score_thresh=LOWEST_SCORE,
        nms_thresh=NMS_IOU,
        detections_per_img=500,
    )


ARCHITECTURES = {"fcos": _fcos, "retinanet": _retinanet}


class Detector(nn.Module):
    """A torchvision detector of the categories 1 (face) and 2 (license plate).

    It has no layer that behaves otherwise in training: what it returns depends on whether targets are given, not on
    ``train()``.
    """

    def __init__(self, architecture: Literal["fcos", "retinanet"] = "fcos") -> None:
        super().__init__()
        self.architecture = architecture
        self.model: Any = ARCHITECTURES[architecture]()
        self.model.transform = _Unresized(1, 1, [0.5] * 3, [0.25] * 3)
        # torchvision's own switch between losses and detections; `forward` decides instead.
        self.model.eval()
        self.judge: JudgeCard | None = None

    def train(self, mode: bool = True) -> "Detector":
        """Leave torchvision's switch alone (see the class)."""
        super().train(mode)
        self.model.eval()
        return self

    def maps(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The backbone's maps below its pyramid, of strides 2, 4, 8, 16 and 32, for perceptual distances.

        Args:
            pixels: ``(N, 3, H, W)`` in ``[-1, 1]``.
        """
        # As `forward` scales them: (x - 0.5) / 0.25 of values in [0, 1].
        return self.model.backbone.maps(2 * pixels)

    def forward(
        self,
        images_01: Sequence[torch.Tensor],
        targets: Targets | None = None,
        not_exhaustive: Sequence[Collection[int]] | None = None,
    ) -> dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]:
        """Compute losses where targets are given, detections otherwise.

        Args:
            images_01: ``(3, H, W)`` float in ``[0, 1]``, of any sizes.
            targets: Per image ``boxes`` (M, 4) xyxy in pixels, ``labels`` (M,) category ids 1 or 2, and, where there
                are crowd regions, ``iscrowd`` (M,) bool: places that are neither positive nor negative.
            not_exhaustive: Per image the category ids that it does not label exhaustively: their unlabeled instances
                are never negatives. None: everything is labeled.

        Returns:
            Named scalar losses, or per image ``boxes`` (M, 4), ``labels`` (M,) category ids and ``scores`` (M,), best
            first.
        """
        if targets is None:
            found = self.model(list(images_01))
            return [{**each, "labels": each["labels"] + CATEGORIES[0]} for each in found]
        return self._losses(images_01, targets, not_exhaustive)(slice(None))

    def losses_of_each(
        self,
        images_01: Sequence[torch.Tensor],
        targets: Targets,
        not_exhaustive: Sequence[Collection[int]] | None = None,
    ) -> list[dict[str, torch.Tensor]]:
        """Compute each image's losses as if it were alone: `forward` divides by the regions of the whole batch.

        Arguments as in `forward`.
        """
        losses = self._losses(images_01, targets, not_exhaustive)
        return [losses(slice(number, number + 1)) for number in range(len(images_01))]

    def _losses(
        self,
        images_01: Sequence[torch.Tensor],
        targets: Targets,
        not_exhaustive: Sequence[Collection[int]] | None,
    ) -> Callable[[slice], dict[str, torch.Tensor]]:
        """Look at a batch; what is returned computes the losses of a part of it."""
        skipped = not_exhaustive if not_exhaustive is not None else [()] * len(targets)
        prepared = [_prepared(target, ids) for target, ids in zip(targets, skipped, strict=True)]
        batch, _ = self.model.transform(list(images_01), None)
        maps = list(self.model.backbone(batch.tensors).values())
        outputs = self.model.head(maps)
        anchors = self.model.anchor_generator(batch, maps)
        places = (
            {"num_anchors_per_level": [m.shape[2] * m.shape[3] for m in maps]} if self.architecture == "fcos" else {}
        )

        def of(part: slice) -> dict[str, torch.Tensor]:
            chosen = {name: value[part] for name, value in outputs.items()}
            return self.model.compute_loss(prepared[part], chosen, anchors[part], **places)

        return of


def _prepared(target: Mapping[str, torch.Tensor], unlabeled: Collection[int]) -> dict[str, torch.Tensor]:
    boxes_xyxy, labels = target["boxes"].float().reshape(-1, 4), target["labels"].long() - CATEGORIES[0]
    crowd = target.get("iscrowd")
    crowd = torch.zeros_like(labels, dtype=torch.bool) if crowd is None else crowd.bool()
    # A box without area can match nothing, and its loss is not finite.
    real = ~crowd & ((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) > 0.5).all(dim=1)
    return {
        "boxes": boxes_xyxy[real],
        "labels": labels[real],
        "crowd_boxes": boxes_xyxy[crowd],
        "crowd_labels": labels[crowd],
        "unlabeled": torch.tensor([c in unlabeled for c in CATEGORIES], device=boxes_xyxy.device),
    }


def build_detector(architecture: Literal["fcos", "retinanet"] = "fcos") -> Detector:
    """Make an untrained detector: ``fcos`` trains with the generator, ``retinanet`` is the held-out one."""
    return Detector(architecture)


def load_detector(path: Path, architecture: Literal["fcos", "retinanet"] = "fcos", *, device: str = "cpu") -> Detector:
    """Load a detector's weights, in evaluation mode.

    Args:
        path: Safetensors of a `Detector` (in a checkpoint: ``detector.safetensors``).
        architecture: Which one it is.
        device: Where it computes.

    Raises:
        WeightsError: If the file is missing, a pickle or another architecture's.
    """
    detector = weights.load_into(Detector(architecture), weights.load_safetensors(path), path).to(device)
    detector.judge = JudgeCard(
        "detector",
        f"{path.stem} ({architecture})",
        f"torchvision {torchvision.__version__}",
        path.name,
        weights.check_sha256(path, None),
    )
    return detector


def load_shipped_detector(*, held_out: bool = False, device: str = "cpu") -> Detector:
    """Load the package's detector, or the held-out second one, of another architecture, which is in no loss."""
    if held_out:
        return load_detector(weights.shipped("held_out_detector.safetensors"), "retinanet", device=device)
    return load_detector(weights.shipped("detector.safetensors"), "fcos", device=device)


@torch.no_grad()
def detect(
    detector: "Detector | YuNet", images_rgb: Sequence[np.ndarray], threshold: float = 0.3
) -> list[list[Region]]:
    """Find faces and plates.

    Memory is bounded: at most `PIXELS_AT_ONCE` pixels are computed at once. A larger image is seen as a whole,
    shrunk, and in overlapping tiles at full resolution; what both find is merged.

    Args:
        detector: A `Detector`, or an adapter with the same ``find``.
        images_rgb: ``(H, W, 3)`` uint8, of any sizes.
        threshold: Scores below it are left out; below `LOWEST_SCORE` there are none.

    Returns:
        Per image its regions in the image's pixels, best first.
    """
    if isinstance(detector, YuNet):
        return [[region for region in detector.find(image) if region.score >= threshold] for image in images_rgb]
    views = [(number, *view) for number, image in enumerate(images_rgb) for view in _views(image)]
    found: list[list[np.ndarray]] = [[] for _ in images_rgb]
    for batch in _batches(views):
        pixels = [images.to_tensor([view], "0..1", _device_of(detector))[0] for _, view, _ in batch]
        results = detector(pixels)
        for (number, view, window), result in zip(batch, results, strict=True):
            columns = [result["boxes"], result["scores"][:, None], result["labels"][:, None]]
            rows = np.concatenate([column.float().cpu().numpy() for column in columns], axis=1)
            rows = rows[~_cut_off(rows, view, window, images_rgb[number])]
            corner, size_wh = np.array(window[:2]), np.array(window[2:]) - window[:2]
            rows[:, :4] = rows[:, :4] * np.tile(size_wh / view.shape[1::-1], 2) + np.tile(corner, 2)
            found[number].append(rows)
    return [_merged(np.concatenate(rows), image, threshold) for rows, image in zip(found, images_rgb, strict=True)]


def _device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


Window = tuple[int, int, int, int]
"""What a view shows, xyxy in the image's pixels."""


def _views(image: np.ndarray) -> list[tuple[np.ndarray, Window]]:
    """The image itself, or, if it is too large, it shrunk and its tiles: pixels and window of each."""
    height, width = image.shape[:2]
    if height * width <= PIXELS_AT_ONCE:
        return [(image, (0, 0, width, height))]
    scale = min(1.0, (PIXELS_AT_ONCE / (height * width)) ** 0.5)
    small = images.resize(image, (max(1, int(height * scale)), max(1, int(width * scale))))
    views = [(small, (0, 0, width, height))]
    for top in _starts(height):
        for left in _starts(width):
            bottom, right = min(top + TILE_PX, height), min(left + TILE_PX, width)
            views.append((image[top:bottom, left:right], (left, top, right, bottom)))
    return views


def _cut_off(rows: np.ndarray, view: np.ndarray, window: Window, image: np.ndarray) -> np.ndarray:
    """Which boxes end at an edge of their tile inside the image: another view shows them whole."""
    size_wh, whole_wh = np.array(view.shape[1::-1]), np.array(image.shape[1::-1])
    at_low = (rows[:, :2] < TILE_EDGE_PX) & (np.array(window[:2]) > 0)
    at_high = (rows[:, 2:4] > size_wh - TILE_EDGE_PX) & (np.array(window[2:]) < whole_wh)
    return np.any(at_low | at_high, axis=1)


def _starts(length: int) -> list[int]:
    if length <= TILE_PX:
        return [0]
    count = int(np.ceil((length - OVERLAP_PX) / (TILE_PX - OVERLAP_PX)))
    return [round(position) for position in np.linspace(0, length - TILE_PX, count)]


def _batches(views: list[tuple]) -> list[list[tuple]]:
    """Neighbors of one size share a batch as far as the pixels allow."""
    batches: list[list[tuple]] = []
    for view in views:
        shape = view[1].shape
        fits = batches and batches[-1][0][1].shape == shape
        if fits and (len(batches[-1]) + 1) * shape[0] * shape[1] <= PIXELS_AT_ONCE:
            batches[-1].append(view)
        else:
            batches.append([view])
    return batches


def _merged(rows: np.ndarray, image: np.ndarray, threshold: float) -> list[Region]:
    rows = rows[rows[:, 4] >= threshold]
    rows[:, :4] = boxes.clip(rows[:, :4], image.shape[1], image.shape[0])
    kept = batched_nms(
        torch.from_numpy(rows[:, :4].astype(np.float32)),
        torch.from_numpy(rows[:, 4].astype(np.float32)),
        torch.from_numpy(rows[:, 5].astype(np.int64)),
        NMS_IOU,
    ).numpy()
    return [
        Region(KINDS_BY_CATEGORY[int(row[5])], tuple(row[:4].tolist()), score=float(row[4]))
        for row in rows[kept]
        if row[2] > row[0] and row[3] > row[1]
    ]


class YuNet:
    """OpenCV's face detector (``cv2.FaceDetectorYN``) by its ONNX file; it finds faces alone, with five landmarks."""

    def __init__(self, path: Path, *, lowest_score: float = 0.1, scale: float = 1.0) -> None:
        """Load the network.

        Args:
            path: An ONNX file of OpenCV's model zoo (``face_detection_yunet_*.onnx``).
            lowest_score: Scores below it are never returned.
            scale: Images are enlarged by it first: 2 to 4 finds faces below 20 px.

        Raises:
            WeightsError: If the file is missing or OpenCV can't read it.
        """
        sha256 = weights.check_sha256(path, None)
        try:
            self._network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), lowest_score, 0.3, 5000)
            # OpenCV loads any network; that it has other outputs than YuNet shows when it is asked.
            self._network.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise WeightsError(
                "OpenCV can't read the file as a YuNet face detector",
                where=path,
                got=str(error).strip().splitlines()[-1],
                allowed="face_detection_yunet_*.onnx of OpenCV's model zoo",
                do="name another file, or set the judge to `shipped`",
            ) from error
        self._scale = scale
        self.judge = JudgeCard(
            "detector", f"{path.stem} at scale {scale:g}, faces alone", f"opencv {cv2.__version__}", path.name, sha256
        )

    def find(self, image_rgb: np.ndarray) -> list[Region]:
        """Find the faces of an ``(H, W, 3)`` uint8 image, best first, in its pixels."""
        height, width = image_rgb.shape[:2]
        size = (max(1, round(width * self._scale)), max(1, round(height * self._scale)))
        image_bgr = cv2.resize(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), size, interpolation=cv2.INTER_LINEAR)
        self._network.setInputSize(size)
        _, rows = self._network.detect(image_bgr)
        regions = [] if rows is None else [self._region(row, width, height) for row in rows]
        return sorted((r for r in regions if min(r.size_wh) > 0), key=lambda region: -region.score)

    def _region(self, row: np.ndarray, width: int, height: int) -> Region:
        box = boxes.clip(boxes.xywh_to_xyxy([row[:4] / self._scale]), width, height)[0]
        points = (row[4:14] / self._scale).reshape(5, 2)
        # YuNet begins with the person's right eye and right mouth corner: the viewer's left, as ours.
        return Region(
            Kind.FACE,
            tuple(box.tolist()),
            landmarks=tuple((float(x), float(y)) for x, y in points),
            score=float(np.clip(row[14], 0, 1)),
        )
