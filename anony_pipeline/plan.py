"""What a training needs, and whether it is here: said before anything starts."""

import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import torch

from anony_pipeline import doctor
from anony_pipeline.config.schema import Config, Lpips
from anony_pipeline.datasets import integrity, loaders, unify
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.datasets.sources import Split
from anony_pipeline.doctor import Finding
from anony_pipeline.errors import AnonyPipelineError
from anony_pipeline.models import generator, lora, weights
from anony_pipeline.models.lpips import load_lpips
from anony_pipeline.models.plate_style import load_style_classifier
from anony_pipeline.plates.styles import configured_styles, load_styles
from anony_pipeline.runtime import device as devices
from anony_pipeline.storage import locations
from anony_pipeline.structures.regions import CATEGORY_IDS, Kind
from anony_pipeline.training import networks

BYTES_OF = {"fp32": 4, "fp16": 2, "bf16": 2}
# Parameters in millions, counted from published configurations: of the UNet; of autoencoder and text encoders.
PARAMETERS = {"sd2-inpainting": (866, 424), "sd15-inpainting": (860, 207), "sdxl-inpainting": (2568, 902)}
ADAM_AND_GRADIENT_BYTES = 16
RESERVE_BYTES = 2 << 30
LATER = "will be downloaded"
WEIGHTS = (".safetensors", ".onnx", ".pth", ".pt")


def examine(config: Config) -> list[Finding]:
    """Look at what a configuration asks for."""
    gpus = _gpus_bytes()
    found = [*_data(config), doctor.plate_styles(), *_weights(config), *_device(config), _memory(config, gpus)]
    if config.training.fsdp:
        found.append(_sharing(len(gpus)))
    return [*found, _disk(config), _work(config)]


def _data(config: Config) -> Iterator[Finding]:
    if unify.unified_is_there(config.paths.unified):
        yield from (_split(config, split) for split in ("train", "val"))
        yield from _made_otherwise(config)
        return
    yield Finding("unified data", True, "not there yet: it will be made of the sources", needed=False)
    for source in config.data.sources:
        there = locations.location(source.root).exists()
        made = config.data.streetscape is not None or source.download is not None
        what = (
            source.root
            if there
            else f"not at {source.root}; it will be {'drawn' if config.data.streetscape else 'fetched'}"
        )
        do = "copy the data set there, set data.sources[].root, or `anony colab-paths`"
        yield Finding(f"data: {source.name}", there or made, what if there or made else f"not at {source.root}", do)
        if unknown := sorted(filter(None, set(source.plate_styles.values()) - set(_known_styles()))):
            what = f"data.sources: {', '.join(unknown)} in plate_styles, and no style file"
            do = "add a style file to configs/plate_styles, or name one of " + ", ".join(_known_styles())
            yield Finding(f"plate styles of {source.name}", False, what, do)


def _made_otherwise(config: Config) -> Iterator[Finding]:
    """Files that the present sources and their settings have no influence on."""
    try:
        files = unify.made_otherwise(config)
    except AnonyPipelineError:  # has a row of its own
        return
    for file in files:
        what = f"{file} was made with other settings of `data`, and is used as it is"
        yield Finding("settings of data", False, what, "remove it to make it anew", needed=False)


def _split(config: Config, split: Split) -> Finding:
    name, do = f"unified data, {split}", "mend the file, or remove it: it is made anew of the sources"
    try:
        coco = loaders.open_split(config, split)
    except AnonyPipelineError as error:
        return _refused(name, error)
    # What a remote store holds is asked image by image when it is fetched.
    faults = [] if coco.is_remote else [f"{file} is not there" for file in integrity.missing_files(coco)]
    faults += [*integrity.unknown_styles(coco, _known_styles()), *integrity.boxes_in_images(coco)]
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        return Finding(name, False, f"{faults[0]}{more}", do)
    counts = {kind: _count(config, coco, kind) for kind in Kind}
    large = f"of {config.data.min_region_px} px or more"
    what = f"{len(coco.images)} images, {counts[Kind.FACE]} faces and {counts[Kind.PLATE]} plates {large}"
    if split == "train" and any(counts.values()) and not all(counts.values()):
        what += ": the generator learns one kind alone"
    do = "look at data.sources, data.splits and data.min_region_px"
    return Finding(name, any(counts.values()), f"{what}, {coco.path}", do)


def _known_styles() -> Collection[str]:
    try:
        return configured_styles()
    except AnonyPipelineError:  # has a row of its own
        return load_styles()


def _count(config: Config, coco: CocoSet, kind: Kind) -> int:
    """Regions that are trained on, or validated with."""
    return sum(
        annotation["category_id"] == CATEGORY_IDS[kind]
        and not annotation.get("iscrowd")
        and min(annotation["bbox"][2:]) >= config.data.min_region_px
        for annotation in coco.annotations
    )


def _refused(name: str, error: AnonyPipelineError) -> Finding:
    """What a run would stop with."""
    got = f" ({error.got})" if error.got is not None else ""
    allowed = f"; allowed: {error.allowed}" if error.allowed is not None else ""
    what, do = (" ".join(text.split()) for text in (f"{error.where}: {error.what}{got}", f"{error.do}{allowed}"))
    return Finding(name, False, what, do)


def _weights(config: Config) -> Iterator[Finding]:
    settings = config.model.generator.diffusers
    found = _weight("generator", settings.model_id, config, settings.revision)
    yield found
    if found.fine and not found.what.endswith(LATER):
        yield _learnable(config)
    if settings.tiny_vae is not None:
        yield _weight("tiny autoencoder", settings.tiny_vae, config)
    if config.model.lpips is not None and config.loss.perceptual_weight > 0:
        yield _lpips(config.model.lpips, config)
    judges = config.judges.model_dump()
    for role, name in judges.items():
        if name is not None:
            yield _weight(role.replace("_", " "), {"easyocr": "english_g2"}.get(name, name), config)
        elif not role.startswith("second_"):  # nobody misses a further opinion
            what = "none: its figures will be null, and the gates that need them fail"
            yield Finding(role.replace("_", " "), False, what, f"set judges.{role}", needed=False)
    if (file := config.targets.landmarks) is not None:
        there, do = Path(file).is_file(), "put it there, or set targets.landmarks to null"
        yield Finding("targets.landmarks", there, file if there else f"{file} is not there", do)
    if (file := config.model.plate_style) is not None:
        yield _plate_style(Path(file))


def _weight(role: str, name: str, config: Config, revision: str | None = None) -> Finding:
    if name == "shipped":
        return Finding(
            role, weights.SHIPPED.joinpath("manifest.json").is_file(), "shipped with the package", "`make base-models`"
        )
    entry = weights.REGISTRY.get(name)
    terms = f" ({entry.license}{'' if entry.commercial_use else '; NOT for commercial use'})" if entry else ""
    try:
        found = weights.resolve(name, Path(config.paths.weights), offline=True, revision=revision)
    except AnonyPipelineError as error:
        if config.model.offline:
            return Finding(role, False, f"{name} is not here{terms}", str(error.do))
        return Finding(role, True, f"{name}{terms} {LATER}")
    if found.is_dir() and not any(path.suffix in WEIGHTS for path in found.rglob("*")):
        return Finding(role, False, f"{found} holds no weights", f"a folder with one of: {' '.join(WEIGHTS)}")
    return Finding(role, True, f"{name}: {found}{terms}")


def _plate_style(path: Path) -> Finding:
    try:
        load_style_classifier(path)
    except AnonyPipelineError as error:
        return _refused("model.plate_style", error)
    return Finding("model.plate_style", True, str(path))


def _learnable(config: Config) -> Finding:
    """Of the UNet without its weights: whether it can inpaint, and what of it learns."""
    name = "what learns"
    try:
        layers = lora.learnable_layers(generator.outline_unet(config), config.model.finetune)
    except AnonyPipelineError as error:
        return _refused(name, error)
    how = f"by LoRA of rank {config.model.finetune.lora_rank}" if config.model.finetune.use_lora else "as a whole"
    return Finding(name, True, f"{len(layers)} layers of the UNet {how}")


def _lpips(settings: Lpips, config: Config) -> Finding:
    try:
        load_lpips(settings, weights_dir=Path(config.paths.weights))
    except AnonyPipelineError as error:
        return _refused("LPIPS", error)
    return Finding("LPIPS", True, settings.network)


def _device(config: Config) -> Iterator[Finding]:
    try:
        chosen = devices.choose_device(config.device)
        devices.choose_dtype(config.precision, chosen)
    except AnonyPipelineError as error:
        yield Finding("device", False, f"{config.device}, {config.precision}: {error.what}", str(error.do))
        return
    yield Finding("device", True, f"{chosen}, {config.precision}")
    wanted = {
        "xFormers": (config.model.generator.diffusers.enable_xformers, generator.check_xformers),
        "torch.compile": (config.training.torch_compile, networks.check_compiles),
    }
    for name, (is_on, check) in wanted.items():
        if is_on:
            yield _runs(name, check, chosen)


def _runs(name: str, check: Callable[[torch.device], None], device: torch.device) -> Finding:
    try:
        check(device)
    except AnonyPipelineError as error:
        return _refused(name, error)
    return Finding(name, True, f"runs on {device}")


def _memory(config: Config, gpus: Sequence[float]) -> Finding:
    name, model = "memory for weights", config.model.generator.diffusers.model_id
    if model not in PARAMETERS:
        what = "the demo's run stays below 4 GB" if model == "shipped" else "unknown model: not estimated"
        return Finding(name, True, what)
    unet, rest = (millions * 1e6 * BYTES_OF[config.precision] for millions in PARAMETERS[model])
    need = unet + rest
    what = f"about {need / 1e9:.1f} GB for all weights"
    if not config.model.finetune.use_lora:
        need += PARAMETERS[model][0] * 1e6 * ADAM_AND_GRADIENT_BYTES
        what = f"about {need / 1e9:.1f} GB for all weights, gradients and Adam, if all layers of the UNet learn"
    elif config.training.fsdp:
        # Not less is needed: loading and validating hold them all.
        what = (
            f"{what} while they are loaded and in validations; in a step {rest / 1e9:.1f} GB in each process, and the "
            f"UNet's frozen {unet / 1e9:.1f} GB over the number of processes, with one block of it whole"
        )
    what += "; activations come on top and are not estimated"
    if not gpus:
        return Finding(name, True, f"{what}; no GPU is here to compare with", needed=False)
    have, do = min(gpus), "choose a smaller model, fp16, or LoRA"
    return Finding(name, have > need + RESERVE_BYTES, f"{what}; each GPU has {have / 1e9:.0f} GB or more", do)


def _sharing(gpus: int) -> Finding:
    """Of `training.fsdp`: it is refused with one process, and adapters, discriminator and detector are never shared."""
    name, do = "training.fsdp", "set it to false; processes on other machines are not seen from here"
    if gpus == 1:
        return Finding(name, False, "one GPU is here: there is nobody to share weights with", do)
    shared = "the UNet's frozen weights are shared out; what learns stays whole in each process"
    with_whom = f"over up to {gpus} GPUs of this machine" if gpus else "no GPU is here to share them with"
    return Finding(name, True, f"{shared}: {with_whom}, by accelerate launch or torchrun", needed=False)


def _gpus_bytes() -> list[float]:
    """The memory of each GPU of this machine."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    asked = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    run = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603 - a fixed command
    return [float(line) * (1 << 20) for line in run.stdout.split() if line.replace(".", "").isdigit()]


def _disk(config: Config) -> Finding:
    try:
        place = locations.local_folder(config.paths.outputs, "paths.outputs")
    except AnonyPipelineError as error:
        return _refused("disk", error)
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    if not os.access(there, os.W_OK):
        return Finding("disk", False, f"nothing can be written at {there}", "set paths.outputs to a folder of your own")
    model = config.model.generator.diffusers.model_id
    need = sum(PARAMETERS.get(model, (100,))) * 1e6 * BYTES_OF["fp32"] + RESERVE_BYTES
    free = shutil.disk_usage(there).free
    do = "free some, or set paths.outputs and paths.weights to another disk"
    what = f"{free / 1e9:.0f} GB free at {there}, about {need / 1e9:.0f} GB needed for weights; kept crops come on top"
    return Finding("disk", free > need, what, do)


def _work(config: Config) -> Finding:
    training, cycle = config.training, config.alternating
    at_once = -(-training.batch_size // training.accumulation)
    what = (
        f"{training.pretrain_steps} pretraining and {training.max_steps} joint steps of {training.batch_size} crops, "
        f"{at_once} at a time; a cycle has "
        f"{cycle.detector} detector, {cycle.generator} generator, {cycle.discriminator} discriminator. "
        "How long a step takes here is not known before it ran: metrics.csv and the log say it"
    )
    return Finding("work", True, what, needed=False)
