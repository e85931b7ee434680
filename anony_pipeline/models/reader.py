"""Plate readers: from a crop of a license plate to its serial.

The first is a convolutional recurrent network read by CTC that ``easyocr.Reader`` serves as a custom network; it has a
differentiable twin for the reading loss. The held-out second one has no recurrence and no CTC: it looks for each
character by attention, and it is in no loss. Further ones are models of fast-plate-ocr, by their files.
"""

import heapq
import io
import os
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from anony_pipeline.errors import WeightsError
from anony_pipeline.models import weights
from anony_pipeline.models.judges import JudgeCard
from anony_pipeline.ops import images
from anony_pipeline.storage import atomic

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
INPUT_HW = (64, 192)
MAX_CHARACTERS = 10
BATCH = 64
CANDIDATES = 5
NETWORK = "anony_plates"
ENGLISH = "english_g2.pth"
NETWORK_FOLDER = Path(__file__).parent / "easyocr_network"
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray (ITU-R BT.601), as OpenCV computes it."""


@dataclass(frozen=True)
class Reading:
    """What a reader read.

    Attributes:
        text: Uppercase letters and digits, without separators; empty if nothing was read.
        confidence: In ``[0, 1]``; comparable between plates of one reader alone.
        candidates: The `CANDIDATES` likeliest texts, the best first, of a reader that tells more than one.
    """

    text: str
    confidence: float
    candidates: tuple[str, ...] = ()


class Reader(Protocol):
    """What reads plates."""

    judge: JudgeCard
    alphabet: str

    def read(self, plates_rgb: Sequence[np.ndarray]) -> list[Reading]:
        """Read ``(H, W, 3)`` uint8 RGB crops of any size, each filled by one plate up to a small margin."""


def _block(inputs: int, outputs: int, pool: tuple[int, int] | None) -> list[nn.Module]:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return [*layers, nn.MaxPool2d(pool)] if pool else layers


class PlateNet(nn.Module):
    """A convolutional recurrent network (Shi et al., "An end-to-end trainable neural network for image-based sequence
    recognition", arXiv:1507.05717), small.

    The upper half is read before the lower one, so that a plate of two rows is read in order; what stands in one row is
    told once, by whichever half.

    ``forward``: ``(N, 1, 64, W)`` gray in ``[-1, 1]`` -> ``(N, W / 2, classes)`` logits, class 0 the CTC blank.
    """  # noqa: D205 - the paper's title needs the line

    def __init__(
        self, inputs: int = 1, channels: int = 128, hidden: int = 96, classes: int = 1 + len(ALPHABET)
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(inputs, channels // 4, (2, 2)),
            *_block(channels // 4, channels // 2, (2, 2)),
            *_block(channels // 2, 3 * channels // 4, None),
            *_block(3 * channels // 4, 3 * channels // 4, (2, 1)),
            *_block(3 * channels // 4, channels, (2, 1)),
        )
        # Four rows of features are left: two learned sums over them, one for each row of text.
        self.rows = nn.Conv2d(channels, 2 * channels, (4, 1), bias=False)
        self.normalize = nn.BatchNorm2d(2 * channels)
        self.sequence = nn.LSTM(channels, hidden, bidirectional=True, batch_first=True)
        self.classify = nn.Linear(2 * hidden, classes)

    def forward(self, gray: torch.Tensor) -> torch.Tensor:
        """See the class."""
        upper, lower = F.relu(self.normalize(self.rows(self.features(gray)))).squeeze(2).chunk(2, dim=1)
        columns = torch.cat([upper, lower], dim=2).transpose(1, 2)
        return self.classify(self.sequence(columns)[0])


class _Context(nn.Module):
    """Lets each place of ``(N, C, H, W)`` maps look at all others, as a block of a transformer does."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.look, self.found = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.think = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        places = maps.flatten(2).transpose(1, 2)
        query, key, value = self.look(self.before(places)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        places = places + self.found(seen)
        places = places + self.think(self.between(places))
        return places.transpose(1, 2).unflatten(2, maps.shape[2:])


class HeldOutPlateNet(nn.Module):
    """A convolutional network with one attention query for each place of the serial. It is in no loss, ever.

    Which character is the fifth can't be seen near it, so places look at each other first; without that, a character
    was at times read in its neighbor's place, too.

    ``forward``: ``(N, 3, 64, 192)`` in ``[-1, 1]`` -> ``(N, MAX_CHARACTERS, 1 + len(ALPHABET))`` logits, class 0 "no
    character".
    """

    def __init__(self, channels: int = 160) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(inplace=True),
            *_block(24, 48, None),
            *_block(48, 64, (2, 2)),
            *_block(64, 96, None),
            *_block(96, 96, (2, 2)),
            *_block(96, channels, None),
            *_block(channels, channels, None),
        )
        self.place = nn.Parameter(torch.randn(1, channels, 8, 24) * 0.02)
        self.context = _Context(channels)
        self.queries = nn.Parameter(torch.randn(MAX_CHARACTERS, channels) * 0.02)
        self.keys = nn.Conv2d(channels, channels, 1)
        self.classify = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, 1 + len(ALPHABET))
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        features = self.context(self.features(pixels) + self.place)
        keys = self.keys(features).flatten(2)
        weight = torch.softmax(torch.einsum("qc,ncp->nqp", self.queries, keys), dim=2)
        return self.classify(torch.einsum("nqp,ncp->nqc", weight, features.flatten(2)))


class ReaderTwin(nn.Module):
    """The first reader for losses: ``(N, 3, 64, 192)`` in ``[-1, 1]`` -> ``(96, N, 37)`` log-probabilities.

    The blank comes first, as `torch.nn.functional.ctc_loss` expects with ``blank=0``.
    """

    alphabet = ALPHABET
    luma: torch.Tensor

    def __init__(self, network: PlateNet) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1), persistent=False)

    def forward(self, images_rgb: torch.Tensor) -> torch.Tensor:
        """See the class."""
        gray = (images_rgb * self.luma).sum(dim=1, keepdim=True)
        return F.log_softmax(self.network(gray).float(), dim=2).transpose(0, 1)


class EnglishTwin(nn.Module):
    """EasyOCR's English model for losses, in the terms of `ReaderTwin`: letters of both cases count as one."""

    alphabet = ALPHABET
    luma: torch.Tensor
    columns: torch.Tensor

    def __init__(self, network: nn.Module, characters: str) -> None:
        super().__init__()
        self.network = network
        # What is no letter or digit separates, as the blank does.
        columns = [1 + ALPHABET.find(c.upper()) if c.upper() in ALPHABET else 0 for c in characters]
        self.register_buffer("columns", torch.tensor([0, *columns]), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1), persistent=False)

    def forward(self, images_rgb: torch.Tensor) -> torch.Tensor:
        """See `ReaderTwin`."""
        gray = (images_rgb * self.luma).sum(dim=1, keepdim=True)
        shares = torch.softmax(self.network(gray, None).float(), dim=2).transpose(0, 1)
        merged = shares.new_zeros(*shares.shape[:2], 1 + len(ALPHABET))
        return merged.index_add(2, self.columns, shares).clamp(min=1e-12).log()


def encode(serials: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn serials into CTC targets: ``(sum of lengths,)`` classes from 1 and ``(N,)`` lengths, both int64."""
    classes = [1 + ALPHABET.index(character) for serial in serials for character in serial]
    return torch.tensor(classes, dtype=torch.long), torch.tensor([len(s) for s in serials], dtype=torch.long)


def decode_ctc(log_probabilities: torch.Tensor) -> list[Reading]:
    """Read ``(T, N, 37)`` log-probabilities greedily: the best class each step, repeats merged, blanks dropped.

    The confidence is the product over the characters' best steps.
    """
    best, classes = log_probabilities.detach().float().max(dim=2)
    readings = []
    for values, path in zip(best.T.tolist(), classes.T.tolist(), strict=True):
        steps = [
            (value, now)
            for value, now, before in zip(values, path, [0, *path[:-1]], strict=True)
            if now not in (0, before)
        ]
        text = "".join(ALPHABET[now - 1] for _, now in steps)
        readings.append(Reading(text, float(np.exp(sum(value for value, _ in steps))) if steps else 0.0))
    return readings


def decode_places(logits: torch.Tensor) -> list[Reading]:
    """Read ``(N, MAX_CHARACTERS, 1 + len(ALPHABET))`` logits of `HeldOutPlateNet`: the best class at each place."""
    shares = torch.softmax(logits.detach().float(), dim=2).cpu().numpy()
    return [_likeliest(places, ["", *ALPHABET]) for places in shares]


def _likeliest(shares: np.ndarray, characters: Sequence[str]) -> Reading:
    """The reading of ``(places, classes)`` probabilities, each place by itself, with its `CANDIDATES`."""
    texts = likeliest_texts(shares, characters, CANDIDATES)
    best = "".join(characters[number] for number in shares.argmax(axis=1))
    return Reading(best, float(np.prod(shares.max(axis=1))), tuple(texts))


def likeliest_texts(shares: np.ndarray, characters: Sequence[str], count: int) -> list[str]:
    """The likeliest texts of ``(places, classes)`` probabilities, the best first, each text once.

    Best first search: from each path, one place at a time takes its next best class.

    >>> likeliest_texts(np.array([[0.6, 0.4], [0.9, 0.1]]), "AB", 3)
    ['AA', 'BA', 'AB']
    """
    order = np.argsort(-shares, axis=1, kind="stable")
    costs = -np.log(np.maximum(np.take_along_axis(shares, order, axis=1), 1e-12))
    start = (0,) * len(shares)
    waiting, seen, texts = [(float(costs[:, 0].sum()), start)], {start}, dict[str, None]()
    while waiting and len(texts) < count:
        cost, ranks = heapq.heappop(waiting)
        texts.setdefault("".join(characters[order[place, rank]] for place, rank in enumerate(ranks)))
        for place, rank in enumerate(ranks):
            if rank + 1 < shares.shape[1]:
                step = (*ranks[:place], rank + 1, *ranks[place + 1 :])
                if step not in seen:
                    seen.add(step)
                    dearer = float(costs[place, rank + 1] - costs[place, rank])
                    heapq.heappush(waiting, (cost + dearer, step))
    return list(texts)


class EasyOcrReader:
    """A reader that ``easyocr.Reader`` serves, our custom network or EasyOCR's own."""

    def __init__(self, reader: object, judge: JudgeCard) -> None:
        self._reader = reader
        self.judge = judge
        self.alphabet = ALPHABET

    def read(self, plates_rgb: Sequence[np.ndarray]) -> list[Reading]:
        """See `Reader.read`."""
        return [self._read(plate) for plate in plates_rgb]

    def _read(self, plate_rgb: np.ndarray) -> Reading:
        gray = cv2.cvtColor(images.resize(plate_rgb, INPUT_HW), cv2.COLOR_RGB2GRAY)
        height, width = gray.shape
        with warnings.catch_warnings():
            # EasyOCR pins memory also where there is no GPU.
            warnings.filterwarnings("ignore", message=".*pin_memory.*")
            # `readtext` fails without EasyOCR's text detector (EasyOCR issue 1267): the whole crop is the box. Its
            # second try with stretched contrast is off: the judge then reads exactly what the twin in the loss reads.
            results = self._reader.recognize(  # type: ignore[attr-defined]
                gray, horizontal_list=[[0, width, 0, height]], free_list=[], contrast_ths=0.0, reformat=False
            )
        _, text, confidence = results[0] if results else (None, "", 0.0)
        kept = "".join(character for character in text.upper() if character in ALPHABET)
        return Reading(kept, float(np.clip(confidence, 0, 1)))


class TorchReader:
    """The held-out reader."""

    def __init__(self, network: HeldOutPlateNet, judge: JudgeCard, device: str) -> None:
        self._network = network.to(device).eval()
        self._device = device
        self.judge = judge
        self.alphabet = ALPHABET

    @torch.no_grad()
    def read(self, plates_rgb: Sequence[np.ndarray]) -> list[Reading]:
        """See `Reader.read`. At most `BATCH` crops are computed at once."""
        readings: list[Reading] = []
        for start in range(0, len(plates_rgb), BATCH):
            resized = [images.resize(plate, INPUT_HW) for plate in plates_rgb[start : start + BATCH]]
            readings += decode_places(self._network(images.to_tensor(resized, device=self._device)))
        return readings


class FastPlateReader:
    """A model of fast-plate-ocr, by its ONNX file and the YAML beside it."""

    def __init__(self, path: Path, *, device: str = "cpu") -> None:
        """Load it.

        Args:
            path: The ONNX file, or a folder with one; a YAML file must lie beside it.
            device: ``cuda`` asks ONNX Runtime for the GPU where it has one.

        Raises:
            WeightsError: If a file is missing, or they are no model of fast-plate-ocr.
        """
        # Needed with these weights alone.
        import onnxruntime  # noqa: PLC0415
        from fast_plate_ocr import LicensePlateRecognizer  # noqa: PLC0415

        model, settings = _only(path, "*.onnx"), _only(path, "*.yaml")
        sha256 = weights.check_sha256(model, None)
        wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._model = LicensePlateRecognizer(
                onnx_model_path=model,
                plate_config_path=settings,
                providers=[*providers, "CPUExecutionProvider"],
                sess_options=options,
            )
            if self._probabilities([np.zeros((*INPUT_HW, 3), np.uint8)]).shape[2] != len(self._model.config.alphabet):
                raise ValueError("it has as many classes as its alphabet in no output")
        except Exception as error:
            # ONNX Runtime, YAML and the library each have errors of their own for a file that is not theirs.
            raise WeightsError(
                "the files are no model of fast-plate-ocr",
                where=model,
                got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                allowed="an ONNX file and its plate configuration as YAML",
                do="copy both files of one model",
            ) from error
        self._characters = [c.upper() if c.upper() in ALPHABET else "" for c in self._model.config.alphabet]
        self.alphabet = "".join(sorted(set(self._characters)))
        self.judge = JudgeCard("reader", model.stem, f"fast-plate-ocr {version('fast-plate-ocr')}", model.name, sha256)

    def read(self, plates_rgb: Sequence[np.ndarray]) -> list[Reading]:
        """See `Reader.read`. At most `BATCH` crops are computed at once."""
        readings: list[Reading] = []
        for start in range(0, len(plates_rgb), BATCH):
            shares = self._probabilities(plates_rgb[start : start + BATCH])
            readings += [_likeliest(places, self._characters) for places in shares]
        return readings

    def _probabilities(self, plates_rgb: Sequence[np.ndarray]) -> np.ndarray:
        """``(N, places, classes)``: the library's own answer keeps the best class alone."""
        from fast_plate_ocr.core.process import resize_image  # noqa: PLC0415

        settings = self._model.config
        gray = settings.image_color_mode == "grayscale"
        batch = [
            resize_image(
                cv2.cvtColor(plate, cv2.COLOR_RGB2GRAY) if gray else plate,
                settings.img_height,
                settings.img_width,
                image_color_mode=settings.image_color_mode,
                keep_aspect_ratio=settings.keep_aspect_ratio,
                interpolation_method=settings.interpolation,
                padding_color=settings.padding_color,
            )
            for plate in plates_rgb
        ]
        names = [self._model.plate_output_name]
        (found,) = self._model.model.run(names, {"input": np.stack(batch).astype(np.uint8)})
        return np.asarray(found, np.float64).reshape(len(batch), settings.max_plate_slots, -1)


def _only(path: Path, pattern: str) -> Path:
    """The one file of a kind in a folder, or beside a file."""
    folder = path if path.is_dir() else path.parent
    found = [path] if path.match(pattern) else sorted(folder.glob(pattern))
    if len(found) != 1:
        raise WeightsError(
            "one model of fast-plate-ocr is an ONNX file with one YAML file beside it",
            where=folder,
            got=", ".join(file.name for file in found) or f"no {pattern}",
            do="put each model into a folder of its own",
        )
    return found[0]


def load_reader(
    which: str,
    *,
    cache: Path,
    held_out: bool = False,
    weights_dir: Path | None = None,
    offline: bool = True,
    device: str = "cpu",
) -> Reader:
    """Load a plate reader as a judge.

    Args:
        which: ``shipped``, or ``easyocr`` for EasyOCR's own English model, or the folder of ``english_g2.pth``; or a
            model of fast-plate-ocr, an ONNX file or its folder.
        cache: A folder that is private to this user; EasyOCR's ``.pth`` is written below it.
        held_out: With ``shipped``: the second one, of another architecture, which is in no loss.
        weights_dir: Where EasyOCR's models lie or are fetched to (``paths.weights``).
        offline: Never ask a network.
        device: Where it computes.

    Raises:
        WeightsError: If the weights are missing or damaged.
    """
    if which == "shipped" and held_out:
        path = weights.shipped("held_out_reader.safetensors")
        state = weights.load_safetensors(path)
        network = weights.load_into(HeldOutPlateNet(), state, path)
        card = JudgeCard(
            "reader", "held_out_reader", f"torch {torch.__version__}", path.name, weights.check_sha256(path, None)
        )
        return TorchReader(network, card, device)
    if which == "shipped":
        return _custom_reader(weights.shipped("reader.safetensors"), cache, device)
    if which.endswith(".onnx") or any(Path(which).glob("*.onnx")):
        return FastPlateReader(weights.resolve(which, weights_dir or Path(), offline=offline), device=device)
    return _standard_reader(_english_file(which, weights_dir, offline=offline), device)


def load_reader_twin(
    which: str = "shipped", *, weights_dir: Path | None = None, offline: bool = True, device: str = "cpu"
) -> nn.Module:
    """Load the differentiable twin of the first reader, frozen. The held-out one has none: it must be in no loss.

    Args:
        which: As in `load_reader`.
        weights_dir: Where EasyOCR's models lie or are fetched to (``paths.weights``).
        offline: Never ask a network.
        device: Where it computes.

    Returns:
        A module ``(N, 3, 64, 192)`` in ``[-1, 1]`` -> ``(T, N, 1 + len(ALPHABET))`` log-probabilities, the blank first.

    Raises:
        WeightsError: If the weights are missing or damaged.
    """
    if which == "shipped":
        path = weights.shipped("reader.safetensors")
        return frozen(ReaderTwin(weights.load_into(PlateNet(), weights.load_safetensors(path), path)).to(device))
    from easyocr.config import recognition_models  # noqa: PLC0415 - EasyOCR takes seconds to import
    from easyocr.model.vgg_model import Model  # noqa: PLC0415

    characters = recognition_models["gen2"]["english_g2"]["characters"]
    file = _english_file(which, weights_dir, offline=offline)
    state = {name.removeprefix("module."): value for name, value in _tensors(file).items()}
    network = weights.load_into(Model(1, 256, 256, 1 + len(characters)), state, file)
    return frozen(EnglishTwin(network, characters).to(device))


def frozen(twin: nn.Module) -> nn.Module:
    """Put a twin into evaluation mode, but for its recurrent layers.

    cuDNN gives them a gradient in training mode alone; without dropout they compute the same in both.
    """
    twin.eval()
    for layer in twin.modules():
        if isinstance(layer, nn.RNNBase):
            layer.train()
    return twin


def _custom_reader(path: Path, cache: Path, device: str) -> EasyOcrReader:
    sha256 = weights.check_sha256(path, None)
    state = weights.load_safetensors(path, sha256)
    weights.load_into(PlateNet(), state, path)
    storage = cache / "easyocr" / sha256[:16]
    _private(storage)
    buffer = io.BytesIO()
    # EasyOCR strips seven characters ("module.") of every name.
    torch.save({f"module.{n}": v.float() if v.is_floating_point() else v for n, v in state.items()}, buffer)
    # Written anew each time: EasyOCR unpickles the file, so what lies there from before is not trusted.
    atomic.write_bytes(storage / f"{NETWORK}.pth", buffer.getvalue(), mode=0o600)
    reader = _easyocr(storage, device, recog_network=NETWORK, user_network_directory=str(NETWORK_FOLDER))
    return EasyOcrReader(
        reader, JudgeCard("reader", "reader (PlateNet, CTC)", f"easyocr {version('easyocr')}", path.name, sha256)
    )


def _private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for place in (folder.parent, folder):
        if place.stat().st_uid != os.getuid() or place.is_symlink():
            raise WeightsError(
                "the cache folder belongs to somebody else",
                where=place,
                do="EasyOCR unpickles what lies there: set paths.private or paths.cache to a folder of your own",
            )
        place.chmod(0o700)


def _english_file(which: str, weights_dir: Path | None, *, offline: bool) -> Path:
    found = weights.resolve("english_g2" if which == "easyocr" else which, weights_dir or Path(), offline=offline)
    return found if found.is_file() else found / ENGLISH


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read EasyOCR's own ``.pth`` without letting it run code."""
    weights.check_sha256(path, None)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(
            "the file holds something else than tensors",
            where=path,
            got=str(error).splitlines()[0],
            allowed=f"EasyOCR's {ENGLISH}",
            do="fetch english_g2.zip of EasyOCR v1.3 again",
        ) from error


def _standard_reader(path: Path, device: str) -> EasyOcrReader:
    # EasyOCR unpickles the file: it must hold tensors alone. EasyOCR compares its MD5 sum besides.
    _tensors(path)
    sha256 = weights.check_sha256(path, None)
    try:
        reader = _easyocr(path.parent, device)
    except FileNotFoundError as error:
        raise WeightsError(
            "EasyOCR refuses its model", where=path, got=str(error), do="fetch english_g2.zip of EasyOCR v1.3 again"
        ) from error
    return EasyOcrReader(reader, JudgeCard("reader", "english_g2", f"easyocr {version('easyocr')}", path.name, sha256))


def _easyocr(storage: Path, device: str, **network: str) -> object:
    # Importing EasyOCR takes seconds, and fitting runs where it is not installed.
    import easyocr  # noqa: PLC0415

    return easyocr.Reader(
        ["en"],
        gpu=device if device.startswith("cuda") else False,
        detector=False,
        model_storage_directory=str(storage),
        download_enabled=False,
        quantize=False,
        verbose=False,
        **network,
    )
