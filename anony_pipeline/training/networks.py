"""The networks of a training run: those that learn, and frozen critics that only the losses ask."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from anony_pipeline.config.schema import Config
from anony_pipeline.errors import ConfigError
from anony_pipeline.models import lora, weights
from anony_pipeline.models.detector import Detector, load_shipped_detector
from anony_pipeline.models.discriminator import Discriminator
from anony_pipeline.models.generator import Generator, load_generator
from anony_pipeline.models.lpips import Lpips, load_lpips
from anony_pipeline.models.reader import load_reader_twin
from anony_pipeline.models.recognizer import RecognizerTwin, load_recognizer_twin
from anony_pipeline.runtime import seeding, sharding
from anony_pipeline.runtime.device import choose_dtype
from anony_pipeline.runtime.processes import Team

Made = TypeVar("Made")

GATHERED_TOGETHER = (BasicTransformerBlock, ResnetBlock2D)
"""Parts of a UNet that hold nearly all of its weights, and each a few percent of them."""

COMPILED_VARIANTS = 128
"""Beyond so many graphs torch goes on without compiling; its own limit of 8 is less than one UNet has widths."""


@dataclass(frozen=True)
class Networks:
    """What learns.

    Attributes:
        generator: Its adapters, or its named layers.
        discriminator: None if it is switched off, or its loss has weight 0.
        detector: All of it.
    """

    generator: Generator
    discriminator: Discriminator | None
    detector: Detector

    def shard_frozen(self, team: Team) -> None:
        """Let each process keep its share of the generator's frozen weights alone (FSDP2's full sharding)."""
        unet = self.generator.unet
        # Small ones: what is gathered is there twice for a moment, and in the backward pass two blocks are.
        blocks = [block for block in unet.modules() if isinstance(block, GATHERED_TOGETHER)]
        sharding.shard(unet, blocks, lora.trainable_parameters(self.generator).values(), team)


@dataclass(frozen=True)
class Critics:
    """What never learns. A critic whose loss has weight 0 is None, and costs nothing.

    Attributes:
        recognizer: The training recognizer's differentiable twin.
        reader: The training reader's differentiable twin.
        detector: A frozen copy of the detector as it was before training. Its maps also serve the perceptual distance
            where there is no LPIPS: the network that judges KID must be in no loss.
        lpips: The perceptual distance's network, where its files are given.
    """

    recognizer: RecognizerTwin | None = None
    reader: nn.Module | None = None
    detector: Detector | None = None
    lpips: Lpips | None = None


def load_networks(config: Config, device: torch.device) -> Networks:
    """Load what learns. Fresh weights (adapters, discriminator) depend on the seed alone.

    Raises:
        WeightsError: If a model's weights are missing or damaged.
        ConfigError: If a learnable layer is not there, or the precision or torch.compile can't run on the device.
    """
    generator = load_generator(config, device=device, dtype=choose_dtype(config.precision, device))
    _seeded(config.seed, "adapters", lambda: lora.make_trainable(generator, config.model.finetune))
    if config.training.torch_compile:
        compile_blocks(generator)
    settings = config.model.discriminator
    discriminator = (
        _seeded(config.seed, "discriminator", lambda: Discriminator(settings.channels)).to(device)
        if config.has_adversary
        else None
    )
    detector = load_shipped_detector(device=str(device)).requires_grad_(True)
    return Networks(generator.train(), discriminator, detector)


def check_compiles(device: torch.device) -> None:
    """Let torch.compile compile the smallest thing that needs the whole chain of tools.

    Raises:
        ConfigError: If it can't.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2, device=device))
    except Exception as error:  # Triton, compilers and drivers raise whatever they like
        raise ConfigError(
            "torch.compile can't run here",
            where="training.torch_compile",
            got=f"on {device}: {' '.join(str(error).split())[:300]}",
            do="set it to false; on a CPU it needs a C++ compiler (g++), on a GPU Triton",
        ) from error


def compile_blocks(generator: Generator) -> None:
    """Let torch.compile make the generator's transformer blocks faster, each shape and mix of adapters when it comes.

    Raises:
        ConfigError: See `check_compiles`.
    """
    check_compiles(generator.device)
    # One block's code is compiled for each width, with and without each mix of adapters, with and without gradients.
    torch._dynamo.config.recompile_limit = COMPILED_VARIANTS
    generator.unet.compile_repeated_blocks()


def load_critics(config: Config, device: torch.device) -> Critics:
    """Load the critics whose losses have a weight.

    Raises:
        WeightsError: If a critic's weights are missing or damaged.
    """
    loss, where = config.loss, str(device)
    reads = loss.reading_weight > 0 or loss.read_suppress_weight > 0
    lpips = config.model.lpips if loss.perceptual_weight > 0 else None
    sees = loss.detection_weight > 0 or (loss.perceptual_weight > 0 and lpips is None)
    options = weights.loader_options(config, device)
    return Critics(
        recognizer=load_recognizer_twin(config.judges.recognizer, **options) if loss.id_suppress_weight > 0 else None,
        reader=load_reader_twin(config.judges.reader, **options) if reads else None,
        detector=load_shipped_detector(device=where) if sees else None,
        lpips=load_lpips(lpips, weights_dir=options["weights_dir"], device=where) if lpips else None,
    )


def trainable(networks: Networks) -> dict[str, dict[str, nn.Parameter]]:
    """The weights that learn, by network and by name."""
    found = {
        "generator": lora.trainable_parameters(networks.generator),
        "detector": dict(networks.detector.named_parameters()),
    }
    if networks.discriminator is not None:
        found["discriminator"] = dict(networks.discriminator.named_parameters())
    return found


def _seeded(seed: int, stream: str, make: Callable[[], Made]) -> Made:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.seed_for(seed, stream))
        return make()
