"""Face recognizers: from an aligned crop to a unit vector that says who it is.

As a judge a recognizer is an ONNX file served by ``insightface.model_zoo``, whether it came with the package or with an
InsightFace pack, or safetensors of one of our architectures that torch computes. As a part of a loss it is a
differentiable twin with the same weights.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from anony_pipeline.errors import WeightsError
from anony_pipeline.models import weights
from anony_pipeline.models.judges import JudgeCard
from anony_pipeline.ops import images
from anony_pipeline.structures.regions import Region

INPUT_SIZE = 112
EMBEDDING = 512
BATCH = 64
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where eyes, nose and mouth corners lie in a 112 px crop (InsightFace's ``face_align.arcface_dst``)."""
BOX_CONTEXT, BOX_SHIFT = 1.05, -0.03
"""A face box's window where landmarks are unknown: its edge over the box's longer one, and its shift down in edges."""


class Recognizer(Protocol):
    """What tells people apart."""

    judge: JudgeCard
    input_size: int

    def embed(self, crops_rgb: Sequence[np.ndarray]) -> np.ndarray:
        """Turn aligned ``(S, S, 3)`` uint8 RGB crops, S the input size, into ``(N, D)`` float32 unit vectors."""


def similarity_to(points_xy: np.ndarray, target_xy: np.ndarray) -> np.ndarray:
    """The ``(2, 3)`` similarity (rotation, scale, shift) that takes points nearest to their targets.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (1991), in the plane and
    without reflection: there it is linear in ``(a, b, x, y)`` of ``[[a, -b, x], [b, a, y]]``.

    Args:
        points_xy: ``(N, 2)``, at least two distinct ones.
        target_xy: ``(N, 2)``.
    """
    source, target = np.asarray(points_xy, np.float64), np.asarray(target_xy, np.float64)
    center, goal = source.mean(axis=0), target.mean(axis=0)
    (x, y), (u, v) = (source - center).T, (target - goal).T
    spread = max(float((x * x + y * y).sum()), 1e-12)
    a, b = (x * u + y * v).sum() / spread, (x * v - y * u).sum() / spread
    turn = np.array([[a, -b], [b, a]])
    return np.column_stack([turn, goal - turn @ center])


def alignment(region: Region, size: int = INPUT_SIZE) -> np.ndarray:
    """The ``(2, 3)`` matrix that takes the image's ``(x, y)`` to the crop's: by five points, else by the box."""
    if region.landmarks is not None:
        return similarity_to(np.array(region.landmarks), ARCFACE_POINTS * (size / INPUT_SIZE))
    width, height = region.size_wh
    edge = max(width, height, 1e-3) * BOX_CONTEXT
    x_min, y_min, x_max, y_max = region.box_xyxy
    left, top = (x_min + x_max - edge) / 2, (y_min + y_max - edge) / 2 + BOX_SHIFT * edge
    scale = size / edge
    return np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])


def align(image: np.ndarray, region: Region, size: int = INPUT_SIZE) -> np.ndarray:
    """Cut a face as recognizers want it: eyes level and in place by five points, or by the box where there are none.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        region: A face in pixels of the image.
        size: Edge of the crop.

    Returns:
        ``(size, size, 3)`` uint8 RGB; beyond the image's edge its border pixels are repeated.
    """
    matrix = alignment(region, size)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    # Shrinking by a warp alone would alias: sample finer by a whole factor, then average (see ops.crops.cut).
    factor = min(max(1, round(1 / max(scale, 1e-6))), 16)
    fine = matrix * factor
    # cv2 puts a pixel's center at whole numbers, we at halves.
    fine[:, 2] += fine[:, :2] @ (0.5, 0.5) - 0.5
    edge = size * factor
    warped = cv2.warpAffine(image, fine, (edge, edge), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return warped if factor == 1 else cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.PReLU(outputs),
    )


class _Bottleneck(nn.Module):
    """MobileFaceNet's inverted residual: widen, convolve each channel, narrow without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, widening: int = 2) -> None:
        super().__init__()
        middle = inputs * widening
        self.residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            _conv(inputs, middle, 1),
            _conv(middle, middle, 3, stride, groups=middle),
            nn.Conv2d(middle, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class ArcFaceNet(nn.Module):
    """A small MobileFaceNet (Chen et al., arXiv:1804.07573): depthwise blocks, and the last map's places weighted.

    ``forward``: ``(N, 3, 112, 112)`` in ``[-1, 1]`` -> ``(N, 512)``, not yet of unit length, as InsightFace's own
    models.
    """

    def __init__(self) -> None:
        super().__init__()
        blocks = [(48, 2), (48, 1), (48, 1), (96, 2), *[(96, 1)] * 3, (160, 2), (160, 1), (160, 1)]
        layers: list[nn.Module] = [_conv(3, 32, 3, 2), _conv(32, 32, 3, 1, groups=32)]
        channels = 32
        for outputs, stride in blocks:
            layers.append(_Bottleneck(channels, outputs, stride, widening=3))
            channels = outputs
        self.features = nn.Sequential(*layers, _conv(channels, 384, 1))
        self.place = nn.Sequential(nn.Conv2d(384, 384, 7, groups=384, bias=False), nn.BatchNorm2d(384))
        self.embedding = nn.Sequential(nn.Linear(384, EMBEDDING, bias=False), nn.BatchNorm1d(EMBEDDING))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.embedding(self.place(self.features(images)).flatten(1))


class _Residual(nn.Module):
    """A basic residual block as in IResNet (arXiv:2004.04989): normalize first, no activation after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + self.shortcut(x)


class HeldOutFaceNet(nn.Module):
    """A small residual network: plain convolutions and a mean over places. In no loss, ever.

    ``forward``: ``(N, 3, 112, 112)`` in ``[-1, 1]`` -> ``(N, 512)``, not yet of unit length.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 24, 5, 2, 2, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            _Residual(24, 36, 2),
            _Residual(36, 36, 1),
            _Residual(36, 96, 2),
            _Residual(96, 96, 1),
            _Residual(96, 160, 2),
            _Residual(160, 160, 1),
            nn.BatchNorm2d(160),
        )
        # A mean over each of 2 x 2 quarters keeps where things are, as far as that tells people apart.
        self.embedding = nn.Sequential(nn.Linear(4 * 160, EMBEDDING, bias=False), nn.BatchNorm1d(EMBEDDING))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        maps = F.avg_pool2d(self.layers(images), kernel_size=4, stride=3)
        return self.embedding(maps.flatten(1))


ARCHITECTURES: dict[str, type[nn.Module]] = {"recognizer": ArcFaceNet, "held_out_recognizer": HeldOutFaceNet}
"""Shipped recognizers by the stem of their files."""


def export_onnx(network: nn.Module, path: Path) -> None:
    """Write a recognizer as ONNX with a free batch axis, so that InsightFace takes it for one of its own.

    Args:
        network: ``(N, 3, 112, 112)`` -> ``(N, 512)``; put into evaluation mode.
        path: Written in one step.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    torch.onnx.export(
        network.eval().cpu(),
        (torch.zeros(2, 3, INPUT_SIZE, INPUT_SIZE),),
        str(part),
        input_names=["input"],
        output_names=["embedding"],
        dynamic_axes={"input": {0: "batch"}, "embedding": {0: "batch"}},
        opset_version=17,
        # In evaluation the exporter would fold normalization into convolutions, and other numbers than the module's
        # were stored; ONNX Runtime folds them when it loads.
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        # The newer exporter needs onnxscript, which this package does not.
        dynamo=False,
    )
    _store_in_half(part)
    part.replace(path)


def _store_in_half(path: Path) -> None:
    """Keep as fp16 what fp16 holds exactly, and cast it when it is loaded: half the file and the same numbers."""
    import onnx  # noqa: PLC0415 - a judge needs ONNX Runtime alone

    model = onnx.load(str(path))
    graph, casts = model.graph, []
    for constant in graph.initializer:
        values = onnx.numpy_helper.to_array(constant)
        if values.dtype != np.float32 or not np.array_equal(values.astype(np.float16).astype(np.float32), values):
            continue
        name = constant.name
        constant.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
    onnx.save(model, str(path))


class OnnxRecognizer:
    """A recognizer that ``insightface.model_zoo`` serves."""

    def __init__(self, path: Path, *, device: str = "cpu") -> None:
        """Load an ONNX file.

        Args:
            path: Input ``(N, 3, S, S)``, one output ``(N, D)``.
            device: ``cuda`` asks ONNX Runtime for the GPU where it has one.

        Raises:
            WeightsError: If InsightFace does not take the file for a recognizer.
        """
        # Importing InsightFace takes seconds, and fitting runs where it is not installed.
        import onnxruntime  # noqa: PLC0415
        from insightface import model_zoo  # noqa: PLC0415

        sha256 = weights.check_sha256(path, None)
        wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        options = onnxruntime.SessionOptions()
        # Its threads would go on spinning after each call and take the cores from torch: a reader asked next needs
        # twice as long.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            model = model_zoo.get_model(str(path), providers=[*providers, "CPUExecutionProvider"], sess_options=options)
        except (
            RuntimeError,
            ValueError,
            IndexError,
            onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf,
        ) as error:
            raise _no_recognizer(path, type(error).__name__) from error
        if getattr(model, "taskname", None) != "recognition":
            raise _no_recognizer(path, "nothing that it knows" if model is None else type(model).__name__)
        self._model: Any = model
        self.input_size = int(model.input_size[0])
        self.judge = JudgeCard(
            "recognizer",
            f"{path.parent.name}/{path.stem}",
            f"insightface {version('insightface')}",
            path.name,
            sha256,
        )

    def embed(self, crops_rgb: Sequence[np.ndarray]) -> np.ndarray:
        """See `Recognizer.embed`. At most `BATCH` crops are computed at once."""
        if not len(crops_rgb):
            return np.zeros((0, EMBEDDING), np.float32)
        # InsightFace takes BGR and swaps the channels itself.
        images = [np.ascontiguousarray(crop[..., ::-1]) for crop in crops_rgb]
        parts = [self._model.get_feat(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        vectors = np.concatenate(parts).astype(np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _no_recognizer(path: Path, got: str) -> WeightsError:
    return WeightsError(
        "InsightFace does not take the file for a face recognizer",
        where=path,
        got=got,
        allowed="an ONNX file with input N x 3 x 112 x 112 and one output N x 512",
        do="name the recognition model of a pack (buffalo_l: w600k_r50.onnx)",
    )


class RecognizerTwin(nn.Module):
    """A recognizer that gradients pass through: ``(N, 3, S, S)`` in ``[-1, 1]`` -> ``(N, D)`` of unit length."""

    def __init__(self, network: nn.Module, input_size: int = INPUT_SIZE) -> None:
        super().__init__()
        self.network = network
        self.input_size = input_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        # The length is computed in float32 whatever autocast says: fp16 squares overflow.
        return F.normalize(self.network(images).float(), dim=1)


class TorchRecognizer:
    """A recognizer of one of `ARCHITECTURES` that torch computes from its safetensors."""

    def __init__(self, path: Path, *, device: str = "cpu") -> None:
        """Load it.

        Args:
            path: Weights of one of `ARCHITECTURES`.
            device: Where it computes.

        Raises:
            WeightsError: If the file is of no such architecture.
        """
        self._twin = _twin_of(path).to(device).eval()
        self._device = device
        self.input_size = self._twin.input_size
        self.judge = JudgeCard(
            "recognizer",
            f"{path.parent.name}/{path.stem}",
            f"torch {torch.__version__}",
            path.name,
            weights.check_sha256(path, None),
        )

    @torch.no_grad()
    def embed(self, crops_rgb: Sequence[np.ndarray]) -> np.ndarray:
        """See `Recognizer.embed`. At most `BATCH` crops are computed at once."""
        parts = [np.zeros((0, EMBEDDING), np.float32)]
        for start in range(0, len(crops_rgb), BATCH):
            pixels = images.to_tensor(crops_rgb[start : start + BATCH], device=self._device)
            parts.append(self._twin(pixels).cpu().numpy())
        return np.concatenate(parts)


def _twin_of(path: Path) -> RecognizerTwin:
    state = weights.load_safetensors(path)
    networks = (build() for build in ARCHITECTURES.values())
    network = next((network for network in networks if network.state_dict().keys() == state.keys()), None)
    if network is None:
        raise WeightsError(
            "the weights are of no face recognizer that torch can compute here",
            where=path,
            got=f"{len(state)} tensors: {', '.join(sorted(state)[:3])} ...",
            allowed=f"safetensors of {' or '.join(build.__name__ for build in ARCHITECTURES.values())}",
            do="name such a file, or export the network as ONNX: any is taken then",
        )
    return RecognizerTwin(weights.load_into(network, state, path))


def load_recognizer(
    which: str,
    *,
    held_out: bool = False,
    weights_dir: Path | None = None,
    offline: bool = True,
    device: str = "cpu",
) -> Recognizer:
    """Load a recognizer as a judge, through InsightFace or by torch alone.

    Args:
        which: ``shipped``, an InsightFace pack (``buffalo_l``), an ONNX file, or safetensors of one of `ARCHITECTURES`.
        held_out: With ``shipped``: the second one, of another architecture, which is in no loss.
        weights_dir: Where packs lie (``paths.weights``).
        offline: Never ask a network.
        device: Where it computes, if ONNX Runtime can.

    Raises:
        WeightsError: If the weights are missing, damaged or no recognizer.
    """
    path = recognizer_file(which, held_out=held_out, weights_dir=weights_dir, offline=offline)
    return (TorchRecognizer if path.suffix == ".safetensors" else OnnxRecognizer)(path, device=device)


def load_recognizer_twin(
    which: str, *, weights_dir: Path | None = None, offline: bool = True, device: str = "cpu"
) -> RecognizerTwin:
    """Load the differentiable twin of a recognizer, frozen. There is none of the held-out one: it must be in no loss.

    Args:
        which: As in `load_recognizer`. A third-party ONNX file is translated by onnx2torch.
        weights_dir: Where packs lie (``paths.weights``).
        offline: Never ask a network.
        device: Where it computes.

    Raises:
        WeightsError: If the weights are missing or damaged.
    """
    if which == "shipped":
        path = weights.shipped("recognizer.safetensors")
        network = weights.load_into(ArcFaceNet(), weights.load_safetensors(path), path)
        return RecognizerTwin(network).to(device).eval()
    path = recognizer_file(which, weights_dir=weights_dir, offline=offline)
    if path.suffix == ".safetensors":
        return _twin_of(path).to(device).eval()
    # onnx2torch is needed with third-party weights alone.
    import onnx  # noqa: PLC0415
    import onnx2torch  # noqa: PLC0415

    model = _with_plain_constants(onnx.load(str(path)))
    size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    return RecognizerTwin(onnx2torch.convert(model).eval().requires_grad_(False), size).to(device).eval()


def _with_plain_constants(model: Any) -> Any:  # noqa: ANN401 - an onnx.ModelProto, imported where it is needed
    """Let nodes read constants themselves: onnx2torch can't follow nodes that merge equal ones or cast stored ones."""
    import onnx  # noqa: PLC0415

    constants = {constant.name: constant for constant in model.graph.initializer}
    aliases = {}
    for node in list(model.graph.node):
        constant = constants.get(node.input[0]) if node.input else None
        if constant is None or node.op_type not in ("Identity", "Cast"):
            continue
        if node.op_type == "Cast":
            wanted = onnx.helper.tensor_dtype_to_np_dtype(node.attribute[0].i)
            values = onnx.numpy_helper.to_array(constant).astype(wanted)
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, node.output[0]))
        else:
            aliases[node.output[0]] = constant.name
        model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = [aliases.get(name, name) for name in node.input]
    return model


def recognizer_file(
    which: str, *, held_out: bool = False, weights_dir: Path | None = None, offline: bool = True
) -> Path:
    """Find the file that a recognizer's name stands for (see `load_recognizer`)."""
    if which == "shipped":
        return weights.shipped("held_out_recognizer.onnx" if held_out else "recognizer.onnx")
    found = weights.resolve(which, weights_dir or Path(), offline=offline)
    if found.is_file():
        return found
    import onnx  # noqa: PLC0415 - only packs need to be looked through

    for file in sorted(found.rglob("*.onnx")):
        graph = onnx.load(str(file), load_external_data=False).graph
        sides = [axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim[2:]]
        # A pack's other models have other sizes: 192 landmarks, 96 gender and age, free ones detection.
        if sides == [INPUT_SIZE, INPUT_SIZE] and len(graph.output) == 1:
            return file
    raise WeightsError(
        "the pack holds no face recognizer",
        where=found,
        got=", ".join(file.name for file in sorted(found.rglob("*.onnx"))) or "no ONNX file",
        allowed="an ONNX file with input N x 3 x 112 x 112 and one output",
        do="copy the whole pack, or name the recognizer's file",
    )
