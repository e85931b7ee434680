"""Which weights of the generator learn: low-rank adapters on named layers, or those layers themselves."""

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from anony_pipeline.config.schema import Finetune
from anony_pipeline.errors import CheckpointError, ConfigError
from anony_pipeline.models import weights
from anony_pipeline.plates.styles import NEUTRAL, configured_styles
from anony_pipeline.storage import atomic
from anony_pipeline.structures.regions import Kind

if TYPE_CHECKING:
    from anony_pipeline.models.generator import Generator

ADAPTERS = {Kind.FACE: "face", Kind.PLATE: "plate"}
"""One adapter a kind, all on the same layers, so that they can be mixed and swapped."""

Mix: TypeAlias = tuple[tuple[str, float], ...]
"""Adapters whose changes are added up, each with its weight."""

TARGETS = re.compile(
    r"(^|\.)(to_q|to_k|to_v|to_out\.0|conv1|conv2|conv_shortcut|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2)$"
)
INDEX_FILE = "adapters.json"
LAYERS_FILE = "unet_layers.safetensors"
WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
METADATA_KEY = "lora_adapter_metadata"
_PART = re.compile(r"([A-Za-z_]\w*)((?:\[-?\d+\])*)$")


def resolve_layers(unet: nn.Module, learnable_layers: Sequence[str]) -> list[str]:
    """Find the layers that the configuration's names stand for.

    Args:
        unet: The loaded UNet; indices, negative ones too, count in its own lists of blocks.
        learnable_layers: ``unet.mid_block``, ``unet.up_blocks[-1]``, ``unet.down_blocks[0].attentions[0]`` ...

    Returns:
        Full names of linear and convolution layers (attention, feed-forward, projections, residual blocks), in the
        UNet's order.

    Raises:
        ConfigError: If a name is malformed or stands for no such layer; the message lists the blocks that exist.
    """
    found: set[str] = set()
    for entry in learnable_layers:
        layers = _targets_below(unet, _path_of(unet, entry))
        if not layers:
            raise _no_such_layers(unet, entry)
        found.update(layers)
    if not found:
        raise _no_such_layers(unet, "(empty list)")
    return [name for name, _ in unet.named_modules() if name in found]


def learnable_layers(unet: nn.Module, settings: Finetune) -> list[str]:
    """The layers that will learn, after it was seen that the mixes' styles exist.

    Raises:
        ConfigError: See `resolve_layers`; or if a mix is of a plate style that does not exist.
    """
    _check_styles(settings.style_mix)
    return resolve_layers(unet, settings.learnable_layers)


def make_trainable(generator: "Generator", settings: Finetune) -> None:
    """Add a `face`, a `plate` and the mixes' `style_*` adapters, or unfreeze the named layers; what learns is float32.

    Args:
        generator: Frozen as a whole, without adapters.
        settings: ``use_lora``, ``learnable_layers``, ``lora_rank``, ``lora_alpha`` and ``style_mix``.

    Raises:
        ConfigError: See `learnable_layers`.
    """
    layers = learnable_layers(generator.unet, settings)
    if not settings.use_lora:
        for name in layers:
            generator.unet.get_submodule(name).requires_grad_(True).float()
        return
    generator.mixes = {style: tuple(mix.items()) for style, mix in settings.style_mix.items()}
    named = (name for mix in settings.style_mix.values() for name in mix)
    for name in dict.fromkeys((*ADAPTERS.values(), *named)):
        _add_adapter(generator.unet, name, settings.lora_rank, settings.lora_alpha, layers)
    activate(generator, Kind.FACE)


def mix_of(generator: "Generator", kind: Kind, style: str | None = None) -> Mix:
    """The adapters of a region: of a plate those of its style, where the style has a mix; otherwise its kind's own."""
    own = ((ADAPTERS[kind], 1.0),)
    return generator.mixes.get(style or NEUTRAL, own) if kind is Kind.PLATE else own


def activate(generator: "Generator", kind: Kind, style: str | None = None) -> None:
    """Switch to the adapters of a kind and style; without adapters nothing happens. No other's weights take a gradient.

    Raises:
        ValueError: If other adapters are merged.
    """
    unet, mix = generator.unet, mix_of(generator, kind, style)
    if not {name for name, _ in mix} <= getattr(unet, "peft_config", {}).keys() or _is_active(unet, mix):
        return
    if generator.unmerged:
        raise ValueError(f"other adapters than {mix} are merged: unmerge them first")
    unet.set_adapters([name for name, _ in mix], [weight for _, weight in mix])


def merge(generator: "Generator", kind: Kind, style: str | None = None) -> None:
    """Add the adapters of a kind and style to the weights that they change: the same output for less time.

    The weights as they were stay in memory, so that `unmerge` restores them to the bit in half precision, too.

    Args:
        generator: With adapters, none of them merged. It can then fill regions of this mix alone, and can't learn.
        kind: Of the regions that it will fill.
        style: Their plate style.

    Raises:
        ValueError: If adapters are merged already, there are none, or their weights are not finite.
    """
    if generator.unmerged or not getattr(generator.unet, "peft_config", {}):
        raise ValueError("there are no adapters to merge, or some are merged already: unmerge them first")
    activate(generator, kind, style)
    try:
        for name, layer in _adapted(generator.unet).items():
            # A safe merge puts a new tensor in the old one's place, which is kept.
            generator.unmerged[name] = layer.get_base_layer().weight.data
            layer.merge(safe_merge=True)
    except ValueError:
        unmerge(generator)
        raise


def unmerge(generator: "Generator") -> None:
    """Take merged adapters out again: all is as before `merge`. Without merged ones nothing happens."""
    for name, layer in _adapted(generator.unet).items():
        if name in generator.unmerged:
            layer.get_base_layer().weight.data = generator.unmerged.pop(name)
            layer.merged_adapters.clear()


@contextmanager
def without_adapters(generator: "Generator") -> Iterator[None]:
    """Within the block the generator is its base model: without adapters, and without layers that `load_adapters` read.

    Raises:
        ValueError: If adapters are merged.
    """
    if not getattr(generator.unet, "peft_config", {}):
        _swap_layers(generator)
        try:
            yield
        finally:
            _swap_layers(generator)
        return
    if generator.unmerged:
        raise ValueError("adapters are merged into the base model: unmerge them first")
    generator.unet.disable_adapters()
    try:
        yield
    finally:
        generator.unet.enable_adapters()


def trainable_parameters(generator: "Generator") -> dict[str, nn.Parameter]:
    """All weights that training changes, of all adapters whichever is active, by their names in the UNet."""
    unet = generator.unet
    if getattr(unet, "peft_config", {}):
        return {name: parameter for name, parameter in unet.named_parameters() if ".lora_" in name}
    return {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}


def save_adapters(generator: "Generator", folder: Path) -> None:
    """Write what was trained, in diffusers' format: ``<folder>/face/pytorch_lora_weights.safetensors`` and so on.

    A stock pipeline loads each by ``load_lora_weights``, and mixes them by ``set_adapters`` with the mixes' weights.
    Where layers were trained themselves, their weights are written to one file.

    Args:
        generator: With adapters or trained layers.
        folder: Made if need be. Its ``adapters.json`` names the base model that the adapters belong to, and the mixes.
    """
    unet = generator.unet
    names = list(getattr(unet, "peft_config", {}))
    for name in names:
        metadata = {key: value for key, value in unet.peft_config[name].to_dict().items() if _is_json(value)}
        layers = get_peft_model_state_dict(unet, adapter_name=name)
        generator.pipeline.save_lora_weights(
            folder / name,
            unet_lora_layers={key: value.detach().float().cpu().contiguous() for key, value in layers.items()},
            unet_lora_adapter_metadata={**metadata, "target_modules": sorted(unet.peft_config[name].target_modules)},
            weight_name=WEIGHTS_FILE,
        )
    if not names:
        trained = {
            name: value.detach().float().cpu().contiguous() for name, value in trainable_parameters(generator).items()
        }
        atomic.write_bytes(folder / LAYERS_FILE, save(trained))
    index = {"base_model": generator.base_id, "adapters": names}
    mixes = {style: dict(mix) for style, mix in generator.mixes.items()}
    atomic.write_json(folder / INDEX_FILE, index | ({"mixes": mixes} if mixes else {}))


def load_adapters(generator: "Generator", folder: Path) -> None:
    """Read what `save_adapters` wrote, into a generator with or without adapters of its own.

    Raises:
        CheckpointError: If the folder is incomplete, or its adapters were trained on another base model.
    """
    index = _read_index(folder)
    if index["base_model"] != generator.base_id:
        raise CheckpointError(
            "the adapters belong to another base model",
            where=folder,
            got=f"the loaded generator is {generator.base_id}",
            allowed=f"adapters were trained on {index['base_model']}",
            do="set model.generator.diffusers.model_id to the base of these adapters, or train anew",
        )
    if not index["adapters"]:
        _load_layers(generator, folder / LAYERS_FILE)
    for name in index["adapters"]:
        _load_adapter(generator.unet, name, folder / name / WEIGHTS_FILE)
    generator.mixes = index["mixes"]
    activate(generator, Kind.FACE)


def _check_styles(mixes: Mapping[str, Mapping[str, float]]) -> None:
    if unknown := sorted(mixes.keys() - configured_styles().keys() if mixes else ()):
        raise ConfigError(
            "a mix of adapters is of a plate style that does not exist",
            where="model.finetune.style_mix",
            got=", ".join(unknown),
            allowed=", ".join(configured_styles()),
            do="name one of these, or add a style file to configs/plate_styles",
        )


def _adapted(unet: nn.Module) -> dict[str, LoraLayer]:
    return {name: module for name, module in unet.named_modules() if isinstance(module, LoraLayer)}


def _is_active(unet: nn.Module, mix: Mix) -> bool:
    """Whether a mix is active, told from the first layer with adapters: all have the same."""
    layer = next(module for module in unet.modules() if isinstance(module, LoraLayer))
    return layer.active_adapters == [name for name, _ in mix] and all(
        layer.scaling[name] == weight * layer.lora_alpha[name] / layer.r[name] for name, weight in mix
    )


def _path_of(unet: nn.Module, entry: str) -> str:
    """Turn ``unet.up_blocks[-1]`` into ``up_blocks.3``."""
    module, path = unet, []
    for part in entry.strip().removeprefix("unet.").split("."):
        match = _PART.match(part)
        if match is None or not isinstance(getattr(module, match[1], None), nn.Module):
            raise _no_such_layers(unet, entry)
        module = getattr(module, match[1])
        path.append(match[1])
        for index in map(int, re.findall(r"-?\d+", match[2])):
            if not isinstance(module, nn.ModuleList) or not -len(module) <= index < len(module):
                raise _no_such_layers(unet, entry)
            path.append(str(index % len(module)))
            module = module[index]
    return ".".join(path)


def _targets_below(unet: nn.Module, path: str) -> list[str]:
    return [
        # An adapter wraps the layer that it is on; the layer keeps its name.
        name
        for name, module in unet.named_modules()
        if (name == path or name.startswith(f"{path}."))
        and TARGETS.search(name)
        and (isinstance(module, nn.Linear | nn.Conv2d) or hasattr(module, "base_layer"))
    ]


def _no_such_layers(unet: nn.Module, entry: str) -> ConfigError:
    blocks = []
    for name, module in unet.named_children():
        for path in [f"{name}[{i}]" for i in range(len(module))] if isinstance(module, nn.ModuleList) else [name]:
            block = unet.get_submodule(path.replace("[", ".").removesuffix("]"))
            count = sum(1 for layer, _ in block.named_modules() if TARGETS.search(layer))
            lists = [f"{key}: {len(m)}" for key, m in block.named_children() if isinstance(m, nn.ModuleList) and len(m)]
            if count:
                blocks.append(f"unet.{path} ({count} layers; {', '.join(lists)})")
    return ConfigError(
        "a learnable layer matches nothing in this UNet",
        where="model.finetune.learnable_layers",
        got=entry,
        allowed="\n           ".join(blocks),
        do="name one of these blocks, or one of the lists inside, as in unet.down_blocks[0].resnets[0]",
    )


def _add_adapter(unet: UNet2DConditionModel, name: str, rank: int, alpha: float, layers: Sequence[str]) -> None:
    # Dropout stays 0: with activation checkpointing and torch.compile it fails (peft issue 3020).
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, init_lora_weights="gaussian", target_modules=list(layers)
    )
    with warnings.catch_warnings():
        # The second adapter on one model is meant.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        unet.add_adapter(config, adapter_name=name)
    for parameter_name, parameter in unet.named_parameters():
        if f".{name}." in parameter_name and ".lora_" in parameter_name:
            parameter.data = parameter.data.float()


def _is_json(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool) or value == {}


def _read_index(folder: Path) -> Mapping[str, Any]:
    path = folder / INDEX_FILE
    try:
        index = json.loads(path.read_text())
        names = list(index["adapters"])
        mixes = {style: tuple(mix.items()) for style, mix in index.get("mixes", {}).items()}
        if missing := {name for mix in mixes.values() for name, _ in mix} - set(names):
            raise ValueError(f"a mix names {', '.join(sorted(missing))}, which is not there")
        return {"base_model": str(index["base_model"]), "adapters": names, "mixes": mixes}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "the folder's adapters can't be read", where=path, got=repr(error), do="take a complete checkpoint"
        ) from error


def _load_layers(generator: "Generator", path: Path) -> None:
    unet, state = generator.unet, weights.load_safetensors(path)
    parameters = dict(unet.named_parameters())
    if unknown := sorted(state.keys() - parameters.keys()):
        raise CheckpointError(
            "the trained layers are another model's", where=path, got=", ".join(unknown[:3]), do="check the base model"
        )
    for name in {key.rpartition(".")[0] for key in state}:
        unet.get_submodule(name).requires_grad_(True).float()
    for name, value in state.items():
        generator.replaced.setdefault(name, parameters[name].detach().clone())
        parameters[name].data.copy_(value)


def _swap_layers(generator: "Generator") -> None:
    """Put the base model's layers in place of those that were trained themselves, or these back."""
    parameters = dict(generator.unet.named_parameters())
    for name, other in generator.replaced.items():
        generator.replaced[name], parameters[name].data = parameters[name].data, other


def _load_adapter(unet: UNet2DConditionModel, name: str, path: Path) -> None:
    state = {key.removeprefix("unet."): value for key, value in weights.load_safetensors(path).items()}
    if name not in getattr(unet, "peft_config", {}):
        settings = _lora_metadata(path)
        _add_adapter(unet, name, settings["r"], settings["lora_alpha"], settings["target_modules"])
    result = set_peft_model_state_dict(unet, state, adapter_name=name)
    if result is not None and result.unexpected_keys:
        raise CheckpointError(
            "the adapter is on layers that this model does not have",
            where=path,
            got=", ".join(result.unexpected_keys[:3]),
            do="check the base model",
        )


def _lora_metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    settings = {key.removeprefix("unet."): value for key, value in metadata.items()}
    if missing := {"r", "lora_alpha", "target_modules"} - settings.keys():
        raise CheckpointError(
            "the adapter does not say how it was made",
            where=path,
            got=f"no {', '.join(sorted(missing))}",
            allowed="a file that this program or diffusers >= 0.34 saved with its metadata",
            do="take a complete checkpoint",
        )
    return settings
