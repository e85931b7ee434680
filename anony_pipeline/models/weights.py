"""Where weights come from: the package, a local folder, a mirror, the origin. Always checked, never unpickled.

Weights load as safetensors or ONNX. A file whose sha256 is known is refused if it has another; a pickle is refused
whatever its name says, because unpickling runs code. Where a published format is torch's own, tensors alone are read
from it.
"""

import functools
import json
import pickle
import shutil
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from anony_pipeline.config.schema import Config
from anony_pipeline.errors import WeightsError
from anony_pipeline.runtime.progress import log
from anony_pipeline.storage import atomic, manifests

SHIPPED = Path(__file__).parents[1] / "weights"
FORMAT = "anony_pipeline.weights/1"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
NEVER_READ = ["*.bin", "*.ckpt", "*.pt", "*.pth", "*.msgpack", "*.h5", "*.fp16.safetensors", "*.non_ema.safetensors"]
"""Files of a repository that are left where they are: pickled ones, and further copies of the weights beside them."""
Network = TypeVar("Network", bound=torch.nn.Module)


@dataclass(frozen=True)
class Source:
    """One place that weights can be fetched from.

    Attributes:
        how: ``hub`` (a Hugging Face repository), ``file`` (one file at a URL) or ``zip`` (an archive at a URL). What
            comes from a URL lies in one folder, without an archive's own folders.
        where: Repository id or URL.
        revision: The commit of a repository; None takes the newest, and the log says which that was.
    """

    how: Literal["hub", "file", "zip"]
    where: str
    revision: str | None = None


@dataclass(frozen=True)
class Entry:
    """One known set of weights.

    Attributes:
        title: What it is.
        sources: Tried in this order, after the local folder.
        license: Of the weights, not of the code.
        commercial_use: Whether the license allows it, to our reading.
        sha256: File name -> sha256, of the files whose sum is known; others are taken on their source's word.
    """

    title: str
    sources: tuple[Source, ...]
    license: str
    commercial_use: bool
    sha256: Mapping[str, str]


REGISTRY: dict[str, Entry] = {
    "sd2-inpainting": Entry(
        "Stable Diffusion 2 inpainting (512 px, predicts epsilon)",
        # stabilityai's repository was removed in November 2025; the mirror holds the same files.
        (
            Source("hub", "sd2-community/stable-diffusion-2-inpainting", "5f74973cbb64c8568780732c17f43eb269d63a0d"),
            Source("hub", "stabilityai/stable-diffusion-2-inpainting"),
        ),
        "CreativeML OpenRAIL++-M",
        True,
        {},
    ),
    "sd15-inpainting": Entry(
        "Stable Diffusion 1.5 inpainting (512 px)",
        (
            Source(
                "hub", "stable-diffusion-v1-5/stable-diffusion-inpainting", "8a4288a76071f7280aedbdb3253bdb9e9d5d84bb"
            ),
            Source("hub", "sd-legacy/stable-diffusion-inpainting"),
        ),
        "CreativeML OpenRAIL-M",
        True,
        {},
    ),
    "sdxl-inpainting": Entry(
        "Stable Diffusion XL inpainting 0.1 (1024 px)",
        (
            Source(
                "hub", "diffusers/stable-diffusion-xl-1.0-inpainting-0.1", "115134f363124c53c7d878647567d04daf26e41e"
            ),
        ),
        "CreativeML OpenRAIL++-M",
        True,
        {},
    ),
    "taesd": Entry("Tiny autoencoder for SD 1 and 2", (Source("hub", "madebyollin/taesd"),), "MIT", True, {}),
    "taesdxl": Entry("Tiny autoencoder for SDXL", (Source("hub", "madebyollin/taesdxl"),), "MIT", True, {}),
    "buffalo_l": Entry(
        "InsightFace's pack with the recognizer w600k_r50",
        (Source("zip", "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip"),),
        "InsightFace models: non-commercial research only",
        False,
        {"w600k_r50.onnx": "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43"},
    ),
    "buffalo_s": Entry(
        "InsightFace's small pack with the recognizer w600k_mbf",
        (Source("zip", "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_s.zip"),),
        "InsightFace models: non-commercial research only",
        False,
        {},
    ),
    "english_g2": Entry(
        "EasyOCR's English recognition model, second generation",
        (Source("zip", "https://github.com/JaidedAI/EasyOCR/releases/download/v1.3/english_g2.zip"),),
        "Apache-2.0",
        True,
        {},
    ),
    "dinov2": Entry(
        "DINOv2 large, for Fréchet distances that see like people (arXiv:2306.04675)",
        (Source("hub", "facebook/dinov2-large"),),
        "Apache-2.0",
        True,
        {},
    ),
    "inception": Entry(
        "Inception v3 as FID defines it (2015-12-05), for torch-fidelity",
        (
            Source(
                "file",
                f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}",
            ),
        ),
        "Apache-2.0",
        True,
        {
            INCEPTION: "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        },
    ),
}


def shipped(name: str) -> Path:
    """Find weights that came with the package, checked against ``weights/manifest.json``.

    Args:
        name: A file (``recognizer.onnx``) or a folder (``generator``) of the package's ``weights``.

    Raises:
        WeightsError: If the manifest or the file is not there, or has another sha256.
    """
    return _shipped(SHIPPED, name)


@functools.cache
def _shipped(root: Path, name: str) -> Path:
    listed = shipped_manifest(root)["files"]
    mine = {file: entry for file, entry in listed.items() if file == name or file.startswith(f"{name}/")}
    if not mine:
        raise WeightsError(
            "there are no such shipped weights",
            where=root / manifests.NAME,
            got=name,
            allowed=", ".join(sorted({file.split("/")[0] for file in listed})) or "none: the manifest is empty",
            do="make them by the job base_models, or install the package again",
        )
    for file, entry in mine.items():
        check_sha256(root / file, entry["sha256"])
    return root / name


def shipped_manifest(root: Path = SHIPPED) -> dict[str, Any]:
    """Read the manifest of the shipped weights: ``files``, and in ``models`` how each was made and how well it does."""
    path = root / manifests.NAME
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise WeightsError(
            "the package's weights have no manifest",
            where=path,
            do="make the weights by the job base_models, or install the package again",
        ) from error


def check_sha256(path: Path, sha256: str | None) -> str:
    """Compare a file's sha256 with the expected one, where there is one.

    Returns:
        The file's sha256.

    Raises:
        WeightsError: If the file is missing or has another sum.
    """
    if not path.is_file():
        raise WeightsError(
            "the weights file is missing",
            where=path,
            allowed=f"a file with sha256 {sha256}" if sha256 else "a file",
            do="put it there, or name another; `shipped` ones are always here",
        )
    got = manifests.sha256_of(path)
    if sha256 is not None and got != sha256:
        raise WeightsError(
            "the weights file has another sha256",
            where=path,
            got=got,
            allowed=sha256,
            do="the file is damaged or not the one that was pinned: fetch it again, or name another",
        )
    return got


def load_safetensors(path: Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read tensors from a safetensors file, on the CPU, in the dtype that they are stored in.

    Raises:
        WeightsError: If the file is missing, has another sha256 than the given one, is a pickle, or is no safetensors
        file.
    """
    check_sha256(path, sha256)
    with path.open("rb") as file:
        head = file.read(9)
    # torch.save writes a zip archive ("PK") or, formerly, a bare pickle (protocol 2 and up begins with 0x80).
    # A safetensors file begins with its header's length, which may begin with the same bytes; then its "{" follows.
    if head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise WeightsError(
            "a pickle stands where safetensors is expected",
            where=path,
            got="a file of torch.save or pickle",
            allowed="safetensors",
            do="unpickling runs code: convert the file where you trust it, with safetensors.torch.save_file",
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(
            "the file is no safetensors file", where=path, got=str(error), allowed="safetensors", do="fetch it again"
        ) from error


def names_in(path: Path) -> list[str]:
    """The names of a safetensors file's tensors, read from its header alone, which says how long the file must be.

    Raises:
        WeightsError: If the file is cut off, or no safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            "the file is cut off, or no safetensors file",
            where=path,
            got=str(error),
            allowed="safetensors",
            do="copy it again",
        ) from error


def load_state(path: Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read a state dict that `torch.save` wrote, or a safetensors file, on the CPU; no code in it is run.

    Raises:
        WeightsError: If the file is missing, has another sha256 than the given one, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        return load_safetensors(path, sha256)
    check_sha256(path, sha256)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        raise WeightsError(
            "the file holds something else than a state dict of tensors",
            where=path,
            got=str(error).splitlines()[0] if str(error) else repr(error),
            allowed="a state dict as torch.save writes it, or safetensors",
            do="take the published file; what needs code to be read is never loaded",
        ) from error


def save_half(path: Path, module: torch.nn.Module) -> None:
    """Write a module's weights as fp16 safetensors (integers as they are), under the name only when complete."""
    state = {
        name: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in module.state_dict().items()
    }
    atomic.write_bytes(path, save(state))


def load_into(module: Network, state: Mapping[str, torch.Tensor], where: Path) -> Network:
    """Fill a module with weights, as float32 and in evaluation mode with frozen parameters.

    Raises:
        WeightsError: If names or shapes are another architecture's.
    """
    try:
        module.load_state_dict({n: v.float() if v.is_floating_point() else v for n, v in state.items()})
    except RuntimeError as error:
        raise WeightsError(
            "the weights belong to another architecture",
            where=where,
            got=str(error).splitlines()[1].strip() if "\n" in str(error) else str(error),
            allowed=type(module).__name__,
            do="take the file that was made for this architecture, or make it anew by the job base_models",
        ) from error
    return module.eval().requires_grad_(False)


def round_to_half(module: torch.nn.Module) -> None:
    """Round weights to what fp16 holds, in place, so that every copy of them (ONNX, safetensors) computes the same."""
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half().float())


def loader_options(config: Config, device: torch.device) -> dict[str, Any]:
    """What every loader of a model takes: where weights lie, whether a network may be asked, where it computes."""
    return {
        "weights_dir": Path(config.paths.weights),
        "offline": config.model.offline,
        "device": str(device),
    }


def resolve(name: str, weights_dir: Path, *, offline: bool, revision: str | None = None) -> Path:
    """Find named weights on this machine, or fetch them: local folder, then each source of the registry in order.

    Args:
        name: An existing file or folder, a name of `REGISTRY`, or a Hugging Face repository id.
        weights_dir: The folder of downloaded or copied weights (``paths.weights``).
        offline: Never ask a network; a Hugging Face cache on this machine is looked at all the same.
        revision: Pins a Hugging Face repository id to a commit, branch or tag. Names of `REGISTRY` have their own.

    Returns:
        A file or a folder.

    Raises:
        WeightsError: If they are nowhere (the message names every place that was tried), or if a revision is given for
            something that has none: a pin that is not honored would be worse than no pin.
    """
    direct = Path(name).expanduser()
    if revision is not None and (name in REGISTRY or direct.exists() or (weights_dir / name).exists()):
        raise WeightsError(
            "a revision pins a Hugging Face repository, and this is none",
            where=name,
            got=revision,
            allowed="a repository id; the registry's names are pinned already, and a folder is what it is",
            do="set model.generator.diffusers.revision to null, or name the repository itself",
        )
    for candidate in (direct, weights_dir / name):
        if candidate.exists():
            return _checked(name, candidate)
    if direct.suffix in (".onnx", ".safetensors", ".pth", ".pt") or direct.is_absolute():
        raise _nowhere(name, list(dict.fromkeys((str(direct), str(weights_dir / name)))), offline=offline)
    tried = [str(weights_dir / name)]
    entry = REGISTRY.get(name)
    for source in entry.sources if entry else (Source("hub", name, revision),):
        fetch: Callable[[Source, Path, bool], Path | str] = _from_hub if source.how == "hub" else _from_url
        found = fetch(source, weights_dir / name, offline)
        if isinstance(found, Path):
            return _checked(name, found)
        tried.append(found)
    raise _nowhere(name, tried, offline=offline)


def _checked(name: str, path: Path) -> Path:
    entry = REGISTRY.get(name)
    for file, sha256 in (entry.sha256 if entry else {}).items():
        if path.is_dir() or path.name == file:
            check_sha256(path / file if path.is_dir() else path, sha256)
    return path


def _nowhere(name: str, tried: list[str], *, offline: bool) -> WeightsError:
    entry = REGISTRY.get(name)
    pins = ", ".join(f"{file}: sha256 {sha256}" for file, sha256 in entry.sha256.items()) if entry else ""
    return WeightsError(
        f"the weights {name!r} are not on this machine" if offline else f"the weights {name!r} can't be fetched",
        where="\n           ".join(tried),
        got="offline: no network was asked" if offline else "none of these places gave them",
        allowed=f"a file, a folder, a Hugging Face id, or one of {', '.join(REGISTRY)}"
        + (f" ({pins})" if pins else ""),
        do="copy them to the first place named, set model.offline to false, or name `shipped`",
    )


def _from_hub(source: Source, _folder: Path, offline: bool) -> Path | str:
    # Importing the hub's client costs a second that local weights don't need.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    kept = f"Hugging Face {source.where}@{source.revision or 'main'}"
    try:
        folder = snapshot_download(
            source.where, revision=source.revision, local_files_only=offline, ignore_patterns=NEVER_READ
        )
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        return f"{kept} ({type(error).__name__})"
    if source.revision is None:
        # The hub's client names a snapshot's folder by its commit.
        log.info("%s is not pinned; this is its commit %s", source.where, Path(folder).name)
    return Path(folder)


def _from_url(source: Source, folder: Path, offline: bool) -> Path | str:
    if offline:
        return f"{source.where} (not asked)"
    name = PurePosixPath(urllib.parse.urlparse(source.where).path).name
    try:
        with atomic.folder(folder) as part:
            with urllib.request.urlopen(source.where, timeout=60) as response, (part / name).open("wb") as file:  # noqa: S310 - https only, from the registry
                shutil.copyfileobj(response, file)
            if source.how == "zip":
                _unpack(part / name, part)
    except (OSError, zipfile.BadZipFile) as error:
        return f"{source.where} ({error})"
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            # Only the name counts: a path in an archive could lead out of the folder.
            if not member.is_dir():
                with packed.open(member) as data, (folder / PurePosixPath(member.filename).name).open("wb") as target:
                    shutil.copyfileobj(data, target)
    archive.unlink()
