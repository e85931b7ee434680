"""The generator: few steps of an inpainting diffusion model inside a mask whose pixels it never sees."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import is_xformers_available
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from anony_pipeline.config.schema import Config
from anony_pipeline.errors import ConfigError, WeightsError
from anony_pipeline.models import lora, weights
from anony_pipeline.models.demo_pipeline import build_demo_pipeline, build_demo_unet
from anony_pipeline.ops.crops import Window
from anony_pipeline.structures.regions import Kind

Pipeline: TypeAlias = StableDiffusionInpaintPipeline | StableDiffusionXLInpaintPipeline
Latents = TypeVar("Latents", torch.Tensor, torch.Tensor | None)
SHIPPED_UNET = "generator_unet.safetensors"
INPAINTING_CHANNELS = 9
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
SECOND_TEXT = ("text_encoder_2", "tokenizer_2")
"""What SDXL has beside them."""
PREDICTIONS = ("epsilon", "sample", "v_prediction")
"""What a UNet may answer: `Generator.predict_clean` knows how clean latents follow from each."""
LAST_TIMESTEP = 999
HASHED_VALUES = 64
"""Of each tensor, for a base model's name: all of SDXL's would take seconds."""
COARSE = 1 / 32
"""Sigma over a crop's height: what is coarser on a plate is its anchor's."""


@dataclass(frozen=True)
class Encoded:
    """Latents of crops under their masks, as `Generator.encode_crops` makes them.

    Attributes:
        masked: ``(N, C, h, w)``: of the crops with nothing under the masks.
        anchored: Likewise: of the crops with their anchors under the masks; None for faces.
    """

    masked: torch.Tensor
    anchored: torch.Tensor | None = None

    def part(self, places: Sequence[int]) -> "Encoded":
        """The latents of some of the crops."""
        chosen = list(places)
        return Encoded(self.masked[chosen], None if self.anchored is None else self.anchored[chosen])


class Generator(nn.Module):
    """Fill masked regions with what could have been there.

    It takes the parts of a stock diffusers pipeline, which stays usable as `pipeline`. All weights are frozen;
    `lora.make_trainable` adds what learns.

    Attributes:
        mixes: The adapters of plate styles that have their own (`lora.mix_of`).
        unmerged: Weights as they were before adapters were merged into them (`lora.merge`), by layer.
        replaced: The base model's weights of layers that were trained themselves (`lora.load_adapters`), by name.

    Args:
        pipeline: Stock inpainting pipeline (SD or SDXL) with a 9-channel UNet.
        prompts: The constant text of each kind, encoded once.
        steps: Sampling steps of each kind, 1 to 4.
        anchor_strength: Where plates start, in ``(0, 1]``: timestep ``round(999 * anchor_strength)``; lower keeps more
            of the anchor.
        base_id: Names the base model in checkpoints; see `base_identity`.
        has_small_crops: Whether crops that lose nothing by it are filled at half of their size.
        tiny_vae: Decodes in training mode in place of the full autoencoder, which costs 18 times as much.

    Raises:
        WeightsError: If the UNet does not take nine channels.
        ConfigError: If the scheduler says that it predicts something unknown.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        prompts: Mapping[Kind, str],
        steps: Mapping[Kind, int],
        anchor_strength: float,
        base_id: str,
        tiny_vae: AutoencoderTiny | None = None,
        has_small_crops: bool = False,
    ) -> None:
        super().__init__()
        _check_channels(pipeline.unet, base_id)
        _check_prediction(pipeline, base_id)
        # "leading" spacing would make the one step of a one-step generator start at t = 1.
        pipeline.scheduler = DDIMScheduler.from_config(
            pipeline.scheduler.config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
        )
        self.pipeline = pipeline
        self.unet = pipeline.unet.requires_grad_(False)
        self.vae = pipeline.vae.requires_grad_(False)
        self.tiny_vae = tiny_vae.requires_grad_(False) if tiny_vae is not None else None
        self.steps = dict(steps)
        self.anchor_strength = anchor_strength
        self.base_id = base_id
        self.has_small_crops = has_small_crops
        self.mixes: dict[str, lora.Mix] = {}
        self.unmerged: dict[str, torch.Tensor] = {}
        self.replaced: dict[str, torch.Tensor] = {}
        self._is_xl = isinstance(pipeline, StableDiffusionXLInpaintPipeline)
        alphas = pipeline.scheduler.alphas_cumprod.to(torch.float32)
        self.alphas_cumprod: torch.Tensor
        self.register_buffer("alphas_cumprod", alphas, persistent=False)
        for kind in Kind:
            embeddings, pooled = _encode_prompt(pipeline, prompts[kind])
            self.register_buffer(f"prompt_{kind}", embeddings, persistent=False)
            self.register_buffer(f"pooled_{kind}", pooled, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the frozen weights are kept and computed in."""
        return self.unet.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.unet.conv_in.weight.device

    def noise_shape(self, count: int, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
        """The shape of the standard normal noise that `fill` wants for so many crops of a size in pixels."""
        factor = self.pipeline.vae_scale_factor
        return (count, self.vae.config.latent_channels, size_hw[0] // factor, size_hw[1] // factor)

    def fill(
        self,
        images: torch.Tensor,
        masks: torch.Tensor,
        kind: Kind,
        *,
        noise: torch.Tensor,
        anchors: torch.Tensor | None = None,
        encoded: Encoded | None = None,
        styles: Sequence[str | None] | None = None,
        small: Sequence[bool] | None = None,
    ) -> torch.Tensor:
        """Replace what is under the masks.

        Faces start from pure noise; plates start from their anchor, noised to ``anchor_strength``. The gradient passes
        through the last step only (DRaFT-1: Clark et al., Directly Fine-Tuning Diffusion Models on Differentiable
        Rewards, 2024, section 4). What is coarser than a plate's strokes stays the anchor's, see `with_coarse_of`.

        Args:
            images: ``(N, 3, H, W)`` in ``[-1, 1]``. What is under the mask has no influence, not even if it is NaN.
            masks: ``(N, 1, H, W)``, 1 where to fill, 0 elsewhere. It covers *every* region in the crop.
            kind: Of all N crops.
            noise: Standard normal, of `noise_shape`; drawn on the CPU it is the same on every device.
            anchors: ``(N, 3, H, W)`` in ``[-1, 1]``, needed for plates: the rendered plate in place. Only what is under
                the mask counts.
            encoded: What `encode_crops` made of the same images, masks and anchors, where that was kept; then nothing
                is encoded here. Of crops that are filled at half of their size it stands in the first quarter.
            styles: The plate style of each crop, where styles have adapters of their own (`lora.mix_of`).
            small: Which crops are filled at half of their size (`is_small`); none if None.

        Returns:
            ``(N, 3, H, W)`` float32, in ``[-1, 1]`` under the mask, equal to ``images`` to the bit outside.

        Raises:
            ValueError: If plates come without anchors, or crops that need different passes with gradients.
        """
        styles = styles or [None] * len(images)
        small = small or [False] * len(images)
        passes = self.passes(kind, styles, small)
        if len(passes) > 1:
            return _in_turn(
                passes,
                lambda places: self.fill(
                    images[places],
                    masks[places],
                    kind,
                    noise=noise[places],
                    anchors=None if anchors is None else anchors[places],
                    encoded=None if encoded is None else encoded.part(places),
                    styles=[styles[place] for place in places],
                    small=[small[place] for place in places],
                ),
            )
        if any(small):
            return self._fill_small(images, masks, kind, noise, anchors, encoded, styles)
        style = styles[0] if styles else None
        inside = masks > 0.5
        with self._autocast():
            encoded = encoded or self.encode_crops(images, masks, anchors if kind is Kind.PLATE else None)
            condition = _condition(masks, encoded.masked)
            latents, timesteps, stride = self._start(encoded, kind, noise)
            for timestep in timesteps[:-1]:
                with torch.no_grad():
                    latents = self._step(latents, timestep, timestep - stride, condition, kind, style)
            clean = self.predict_clean(latents, self._timesteps(timesteps[-1], len(images)), condition, kind, style)
        filled = self.decode(clean).float()
        if kind is Kind.PLATE and anchors is not None:
            filled = with_coarse_of(anchors, filled, masks)
        return torch.where(inside, filled.clamp(-1, 1), images)

    def is_small(self, window: Window, size_hw: tuple[int, int]) -> bool:
        """Whether a crop of this size that shows a window of an image loses nothing at half of its size."""
        return self.has_small_crops and 2 * (window[2] - window[0]) <= size_hw[1]

    def passes(self, kind: Kind, styles: Sequence[str | None], small: Sequence[bool]) -> list[list[int]]:
        """Places of crops that one pass can fill: of the same adapters and size. Arguments as in `fill`."""
        places: dict[tuple[lora.Mix, bool], list[int]] = {}
        for place, (style, is_small) in enumerate(zip(styles, small, strict=True)):
            places.setdefault((lora.mix_of(self, kind, style), is_small), []).append(place)
        return list(places.values())

    def _fill_small(
        self,
        images: torch.Tensor,
        masks: torch.Tensor,
        kind: Kind,
        noise: torch.Tensor,
        anchors: torch.Tensor | None,
        encoded: Encoded | None,
        styles: Sequence[str | None],
    ) -> torch.Tensor:
        half_images, half_masks, half_anchors = halved(images, masks, anchors)
        filled = self.fill(
            half_images,
            half_masks,
            kind,
            noise=_corner(noise),
            anchors=half_anchors,
            encoded=None if encoded is None else Encoded(_corner(encoded.masked), _corner(encoded.anchored)),
            styles=styles,
        )
        large = F.interpolate(filled, size=images.shape[-2:], mode="bilinear", align_corners=False)
        return torch.where(masks > 0.5, large, images)

    def condition(self, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Mask and masked image as the UNet takes them, ``(N, 1 + C, h, w)``; arguments as in `fill`."""
        return _condition(masks, self.encode_crops(images, masks).masked)

    @torch.no_grad()
    def encode_crops(self, images: torch.Tensor, masks: torch.Tensor, anchors: torch.Tensor | None = None) -> Encoded:
        """What `fill` needs from the autoencoder's encoder; arguments as there. It does not change in training."""
        inside = masks > 0.5
        # masked_fill, and not a product: 0 * NaN would let a pixel under the mask speak.
        masked = self.encode(images.masked_fill(inside, 0.0))
        return Encoded(masked, None if anchors is None else self.encode(torch.where(inside, anchors, images)))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Scaled latents of ``(N, 3, H, W)`` images in ``[-1, 1]``: the distribution's mode, which can be cached."""
        with torch.autocast(self.device.type, enabled=False):
            latents = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mode()
        return (latents * self.vae.config.scaling_factor).to(self.dtype)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images ``(N, 3, H, W)`` of scaled latents; in training mode by the tiny autoencoder where there is one."""
        vae = self.tiny_vae if self.tiny_vae is not None and self.training else self.vae
        with torch.autocast(self.device.type, enabled=False):
            return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample

    def predict_clean(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        condition: torch.Tensor,
        kind: Kind,
        style: str | None = None,
    ) -> torch.Tensor:
        """One evaluation of the UNet: the clean latents that it sees in noisy ones.

        Args:
            noisy: ``(N, C, h, w)`` latents.
            timesteps: ``(N,)`` integers in ``[0, 999]``.
            condition: Of `condition`.
            kind: Of all N crops; chooses adapter and prompt.
            style: The plate style of all N crops; chooses adapters, where it has its own.
        """
        lora.activate(self, kind, style)
        output = self.unet(
            torch.cat([noisy.to(condition.dtype), condition], dim=1),
            timesteps,
            encoder_hidden_states=getattr(self, f"prompt_{kind}").to(condition.dtype).expand(len(noisy), -1, -1),
            added_cond_kwargs=self._added_conditions(noisy, kind),
        ).sample
        alpha = self._alphas_cumprod(timesteps)
        # Ho et al. 2020, equation 15, and Salimans and Ho 2022, appendix D, solved for x_0.
        match self.pipeline.scheduler.config.prediction_type:
            case "sample":
                return output
            case "v_prediction":
                return alpha.sqrt() * noisy - (1 - alpha).sqrt() * output
            case _:  # epsilon: the constructor lets nothing else pass
                return (noisy - (1 - alpha).sqrt() * output) / alpha.sqrt()

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Noise clean latents to ``(N,)`` timesteps (Ho et al., Denoising Diffusion Probabilistic Models, 2020)."""
        alpha = self._alphas_cumprod(timesteps)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def _start(self, encoded: Encoded, kind: Kind, noise: torch.Tensor) -> tuple[torch.Tensor, list[int], int]:
        """First latents, the timesteps, and what a step subtracts from one."""
        count = self.steps[kind]
        noise = noise.to(self.device)
        if kind is Kind.FACE:
            scheduler = self.pipeline.scheduler
            scheduler.set_timesteps(count)
            return noise, scheduler.timesteps.tolist(), scheduler.config.num_train_timesteps // count
        if encoded.anchored is None:
            raise ValueError("plates start from an anchor: got anchors=None")
        first = round(LAST_TIMESTEP * self.anchor_strength)
        latents = self.add_noise(encoded.anchored, noise, self._timesteps(first, len(noise)))
        # "Trailing" spacing over [0, first] (Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed,
        # 2024, table 2).
        timesteps = [max(0, round((first + 1) * (count - i) / count) - 1) for i in range(count)]
        return latents, timesteps, (first + 1) // count

    def _step(
        self,
        latents: torch.Tensor,
        timestep: int,
        following: int,
        condition: torch.Tensor,
        kind: Kind,
        style: str | None,
    ) -> torch.Tensor:
        """One deterministic step of DDIM (Song et al., 2021, equation 12 with sigma = 0)."""
        now = self._timesteps(timestep, len(latents))
        clean = self.predict_clean(latents, now, condition, kind, style)
        alpha = self._alphas_cumprod(now)
        noise = (latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return self.add_noise(clean, noise, self._timesteps(following, len(latents)))

    def _timesteps(self, timestep: int, count: int) -> torch.Tensor:
        return torch.full((count,), timestep, dtype=torch.long, device=self.device)

    def _alphas_cumprod(self, timesteps: torch.Tensor) -> torch.Tensor:
        return self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)

    def _added_conditions(self, latents: torch.Tensor, kind: Kind) -> dict[str, torch.Tensor] | None:
        """SDXL's pooled text and its size conditions (Podell et al., SDXL, 2024, section 2.2): no crop, full size."""
        if not self._is_xl:
            return None
        factor = self.pipeline.vae_scale_factor
        height, width = latents.shape[-2] * factor, latents.shape[-1] * factor
        times = torch.tensor([[height, width, 0, 0, height, width]], dtype=self.dtype, device=self.device)
        pooled = getattr(self, f"pooled_{kind}").to(self.dtype)
        return {"text_embeds": pooled.expand(len(latents), -1), "time_ids": times.expand(len(latents), -1)}

    def _autocast(self) -> torch.autocast:
        # Trained weights are float32 beside frozen ones in half precision; autocast brings them together.
        half = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if half else None, enabled=half)


def with_coarse_of(anchors: torch.Tensor, filled: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Give filled pixels the low frequencies of their anchor: its colors and its light, with their own detail.

    A generator draws a plate's color toward the car's. This is the refinement of Choi et al., ILVR: Conditioning Method
    for Denoising Diffusion Probabilistic Models, 2021, equation 7, on the clean image and under the masks alone.

    Args:
        anchors: ``(N, 3, H, W)``. Only what is under the masks counts.
        filled: Likewise.
        masks: ``(N, 1, H, W)``, 1 where filled.

    Returns:
        ``(N, 3, H, W)``; what it is outside of the masks means nothing.
    """
    inside = masks > 0.5
    off = (anchors - filled).masked_fill(~inside, 0.0)
    known = inside.to(off.dtype)
    # Averaged over the mask's pixels alone: there is no anchor beyond its edge.
    coarse = _smooth(off) / _smooth(known).clamp_min(1e-6)
    return filled + coarse


def _smooth(images: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of ``(N, C, H, W)`` with zeros beyond the edge."""
    channels, height = images.shape[1:3]
    sigma = COARSE * height
    reach = math.ceil(3 * sigma)
    steps = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(channels, 1, -1)
    blurred = F.conv2d(images, kernel[:, :, None], padding=(0, reach), groups=channels)
    return F.conv2d(blurred, kernel[..., None], padding=(reach, 0), groups=channels)


def halved(
    images: torch.Tensor, masks: torch.Tensor, anchors: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Crops, masks and anchors at half of their size; nothing from under the masks comes to the rim of smaller ones."""
    inside = masks > 0.5
    return (
        F.avg_pool2d(images.masked_fill(inside, 0.0), 2),
        F.max_pool2d(inside.to(masks.dtype), 2),
        None if anchors is None else F.avg_pool2d(torch.where(inside, anchors, images), 2),
    )


def _corner(latents: Latents) -> Latents:
    """The first quarter of ``(N, C, h, w)``."""
    return None if latents is None else latents[..., : latents.shape[-2] // 2, : latents.shape[-1] // 2]


def _in_turn(passes: Sequence[list[int]], fill: Callable[[list[int]], torch.Tensor]) -> torch.Tensor:
    """Fill crops that need different passes, one pass after the other; in the crops' own order."""
    if torch.is_grad_enabled():
        # peft takes the gradient from adapters that are switched off, before the backward pass comes to them.
        raise ValueError("one pass learns one mix of adapters at one size: give crops of different ones in turn")
    order = torch.tensor([place for places in passes for place in places]).argsort()
    return torch.cat([fill(places) for places in passes])[order]


def _condition(masks: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    return torch.cat([F.interpolate(masks.to(masked.dtype), size=masked.shape[-2:]), masked], dim=1)


def load_generator(config: Config, *, device: torch.device, dtype: torch.dtype) -> Generator:
    """Load the configured base model, frozen, without adapters.

    Args:
        config: ``model.generator`` says which and how; ``model.offline`` and ``paths.weights`` where from.
        device: Where it computes.
        dtype: Of the frozen weights.

    Raises:
        WeightsError: If the weights are missing, pickled, of another architecture, or of a UNet that can't inpaint.
        ConfigError: If an option can't run here, crops are no whole latents, or the scheduler says that it predicts
            something unknown.
    """
    settings = config.model.generator.diffusers
    pipeline = _pipeline_of(config)
    _check_sizes(config, pipeline.vae_scale_factor)
    generator = Generator(
        pipeline,
        prompts={Kind.FACE: config.model.generator.face_prompt, Kind.PLATE: config.model.generator.plate_prompt},
        steps={Kind.FACE: config.face_steps, Kind.PLATE: config.plate_steps},
        anchor_strength=config.plate_text_anchor_strength,
        base_id=base_identity(settings.model_id, pipeline),
        tiny_vae=_tiny_vae(_folder(config, settings.tiny_vae)) if settings.tiny_vae else None,
        has_small_crops=config.model.generator.small_crops,
    )
    # SDXL's own autoencoder overflows in fp16, and says so; the others' say it, too, where their files say nothing.
    upcasts = isinstance(pipeline, StableDiffusionXLInpaintPipeline) and pipeline.vae.config.force_upcast
    vae_dtype = torch.float32 if upcasts else dtype
    # Converted before they are moved: a GPU that holds a model in half precision need not hold it in float32.
    for part, wanted in ((generator.unet, dtype), (generator.vae, vae_dtype), (generator.tiny_vae, dtype)):
        if part is not None and part.dtype != wanted:
            part.to(wanted)
    generator.to(device)
    # Convolutions are a third faster with the channels innermost, on CPUs and on GPUs in half precision.
    generator.unet.to(memory_format=torch.channels_last)
    if settings.enable_xformers:
        check_xformers(device)
        generator.unet.enable_xformers_memory_efficient_attention()
    if settings.gradient_checkpointing:
        generator.unet.enable_gradient_checkpointing()
        # Losses on the image decode with a gradient: two crops of 512 px in fp16 keep 6 GB for it, by count.
        if isinstance(generator.vae, AutoencoderKL):
            generator.vae.enable_gradient_checkpointing()
    return generator.eval()


def outline_unet(config: Config) -> UNet2DConditionModel:
    """Build the configured UNet without its weights: what can be refused before they are loaded is refused here.

    Args:
        config: As in `load_generator`.

    Raises:
        WeightsError: If the weights are not on this machine, a file of them is cut off, or the UNet can't inpaint.
        ConfigError: If the weights are one file, and nothing says of which architecture; or crops are no whole latents.
    """
    source = config.model.generator.diffusers
    if source.model_id == "shipped":
        return build_demo_unet()
    folder = weights.resolve(source.model_id, Path(config.paths.weights), offline=True, revision=source.revision)
    files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else [folder]
    for path in files:
        weights.names_in(path)  # refuses one that is cut off
    folder = folder if folder.is_dir() else _described(config)
    _class_name(folder)
    try:
        settings = UNet2DConditionModel.load_config(folder / "unet", local_files_only=True)
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(settings)
        scales = AutoencoderKL.load_config(folder / "vae", local_files_only=True)["block_out_channels"]
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise WeightsError(
            "the configurations of UNet and autoencoder can't be read",
            where=folder,
            got=" ".join(str(error).split())[:400],
            allowed="unet/config.json of a UNet2DConditionModel, vae/config.json of an AutoencoderKL",
            do="copy the folder again, or name another in model.generator.diffusers.model_id",
        ) from error
    _check_channels(unet, folder)
    _check_sizes(config, 2 ** (len(scales) - 1))
    return unet


def base_version(config: Config) -> str:
    """Name the base model that a configuration asks for without loading it, the shipped one by its sum.

    Which weights are shipped is the package's choice, and another version's may be others under the same name.
    """
    settings = config.model.generator.diffusers
    if settings.model_id == "shipped":
        return weights.shipped_manifest()["files"][SHIPPED_UNET]["sha256"]
    return f"{settings.model_id}@{settings.revision}"


def base_identity(model_id: str, pipeline: Pipeline) -> str:
    """Name a base model by its id and a hash of its UNet's shape and each tensor's first values, without adapters."""
    # Keys with an underscore say where it was loaded from and by which version.
    shape = {key: value for key, value in pipeline.unet.config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode())
    for value in pipeline.unet.state_dict().values():
        digest.update(value.flatten()[:HASHED_VALUES].float().cpu().numpy().tobytes())
    return f"{Path(model_id).name if Path(model_id).is_absolute() else model_id}@{digest.hexdigest()[:12]}"


def _shipped_pipeline() -> StableDiffusionInpaintPipeline:
    path = weights.shipped(SHIPPED_UNET)
    pipeline = build_demo_pipeline()
    weights.load_into(pipeline.unet, weights.load_safetensors(path), path)
    return pipeline


def _folder(config: Config, name: str, revision: str | None = None) -> Path:
    return weights.resolve(name, Path(config.paths.weights), offline=config.model.offline, revision=revision)


def _pipeline_of(config: Config) -> Pipeline:
    settings = config.model.generator.diffusers
    if settings.model_id == "shipped":
        return _shipped_pipeline()
    found = _folder(config, settings.model_id, settings.revision)
    return _pipeline_from(found) if found.is_dir() else _pipeline_of_file(found, _described(config))


def _described(config: Config) -> Path:
    """The folder that describes the one file that the weights are in."""
    settings = config.model.generator.diffusers
    if settings.single_file_config is None:
        raise ConfigError(
            "one file holds weights alone, without configurations and tokenizer",
            where="model.generator.diffusers.single_file_config",
            got=f"null, for {settings.model_id}",
            allowed="a diffusers folder of the same architecture, a name of the registry or a hub id",
            do="copy the *.json and *.txt files of such a folder, and name it",
        )
    return _folder(config, settings.single_file_config)


def _class_name(folder: Path) -> str:
    """The class of the pipeline in a folder, after it was seen that no part of it is missing."""
    try:
        name = str(DiffusionPipeline.load_config(folder, local_files_only=True)["_class_name"])
    except (OSError, KeyError) as error:
        raise WeightsError(
            "the folder holds no diffusers pipeline",
            where=folder,
            got=str(error).splitlines()[0],
            allowed=f"a folder with model_index.json, {', '.join(PARTS)}",
            do="save one with save_pretrained, or name another in model.generator.diffusers.model_id",
        ) from error
    parts = (*PARTS, *SECOND_TEXT) if "XL" in name else PARTS
    if missing := [part for part in parts if not (folder / part).is_dir()]:
        raise WeightsError(
            "the folder lacks parts of an inpainting pipeline",
            where=folder,
            got=f"{name} without {', '.join(missing)}",
            allowed=f"Stable Diffusion 1, 2 or XL with {', '.join(parts)}",
            do="copy what is missing, or name another folder in model.generator.diffusers.model_id",
        )
    return name


def _pipeline_class(folder: Path) -> tuple[type[Pipeline], dict[str, Any]]:
    """The class that fills masks with a folder's parts, and what it is made without."""
    if "XL" in _class_name(folder):
        return StableDiffusionXLInpaintPipeline, {"add_watermarker": False}
    # The checker judges whole pictures of adults' safety, and would blacken crops.
    return StableDiffusionInpaintPipeline, {"safety_checker": None, "requires_safety_checker": False}


def _pipeline_of_file(file: Path, folder: Path) -> Pipeline:
    weights.names_in(file)  # refuses one that is cut off
    pipeline_class, extras = _pipeline_class(folder)
    try:
        # A folder is given, because without one the library asks a network, even where it is told not to.
        pipeline = pipeline_class.from_single_file(
            str(file), config=str(folder), local_files_only=True, torch_dtype=torch.float32, **extras
        )
    except Exception as error:  # its conversion fails in whatever line finds a tensor missing
        raise WeightsError(
            "the file can't be loaded as this architecture",
            where=file,
            got=" ".join(f"{type(error).__name__}: {error}".split())[:400],
            allowed=f"Stable Diffusion's original format, of the architecture that {folder} describes",
            do="name the folder of its own architecture in model.generator.diffusers.single_file_config",
        ) from error
    _check_filled(pipeline, file)
    return pipeline


def _pipeline_from(folder: Path) -> Pipeline:
    pipeline_class, extras = _pipeline_class(folder)
    try:
        pipeline = pipeline_class.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, torch_dtype=torch.float32, **extras
        )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            "the pipeline can't be loaded",
            where=folder,
            got=" ".join(str(error).split())[:400],
            allowed="complete parts with weights as safetensors; pickled .bin files are never read",
            do="copy a file again that is cut off or missing; convert .bin files, where you trust their source, by "
            "save_pretrained(..., safe_serialization=True)",
        ) from error
    _check_filled(pipeline, folder)
    return pipeline


def _check_filled(pipeline: Pipeline, where: Path) -> None:
    """Refuse weights of which some are not in the files: libraries leave them without values, or draw them."""
    missing = []
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            missing += [f"{name}.{key}" for key, value in part.state_dict().items() if value.is_meta]
            # transformers draws them, and says so in a log alone.
            files = sorted((where / name).glob("*.safetensors")) if isinstance(part, PreTrainedModel) else []
            if files:
                there = {_unwrapped(key) for file in files for key in weights.names_in(file)}
                missing += [f"{name}.{key}" for key in part.state_dict() if _unwrapped(key) not in there]
    if missing:
        raise WeightsError(
            "weights are missing",
            where=where,
            got=f"{len(missing)} that no file has, {missing[0]} first",
            allowed="files with all weights of their part",
            do="copy the files again, or name another in model.generator.diffusers.model_id",
        )


def _unwrapped(name: str) -> str:
    """A text encoder's weights by the name that all versions of transformers agree on."""
    return name.removeprefix("text_model.")


def _tiny_vae(folder: Path) -> AutoencoderTiny:
    try:
        kind = AutoencoderTiny.load_config(folder, local_files_only=True).get("_class_name")
        if kind != AutoencoderTiny.__name__:
            raise ValueError(f"{kind} in config.json")
        return AutoencoderTiny.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            "the tiny autoencoder can't be loaded",
            where=folder,
            got=" ".join(str(error).split())[:400],
            allowed="a folder of diffusers' AutoencoderTiny with safetensors",
            do="mend model.generator.diffusers.tiny_vae, or set it to null",
        ) from error


def _check_channels(unet: UNet2DConditionModel, base_id: str | Path) -> None:
    channels = unet.config.in_channels
    if channels != INPAINTING_CHANNELS:
        raise WeightsError(
            "this UNet is no inpainting model: it can't see mask and surroundings",
            where=base_id,
            got=f"{channels} input channels",
            allowed=f"{INPAINTING_CHANNELS} (4 noisy latents, 1 mask, 4 latents of the masked image)",
            do="take the inpainting variant of the model (sd2-inpainting, sd15-inpainting, sdxl-inpainting), or widen "
            "conv_in to 9 channels with the new 5 at zero and fine-tune it as inpainting model first",
        )


def _check_prediction(pipeline: Pipeline, base_id: str) -> None:
    """Refuse a UNet that answers with something unknown: taken for noise, it would spoil every crop without a word."""
    # A scheduler that says nothing is one of the time when all predicted the noise.
    prediction = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise ConfigError(
            "the scheduler says that the UNet predicts something unknown",
            where=f"prediction_type in scheduler/scheduler_config.json of {base_id}",
            got=prediction,
            allowed=", ".join(PREDICTIONS),
            do="name a model that predicts one of these in model.generator.diffusers.model_id; mend the file only "
            "where the model's card says that it is wrong",
        )


def _check_sizes(config: Config, factor: int) -> None:
    """Refuse crops of which the autoencoder would cut a rim off."""
    settings = config.model.generator
    sizes = {"face_size": settings.face_size, "plate_height": settings.plate_height}
    if wrong := {name: size for name, size in sizes.items() if size % factor}:
        raise ConfigError(
            "the autoencoder can't make whole latents of these crops",
            where=", ".join(f"model.generator.{name}" for name in wrong),
            got=", ".join(map(str, wrong.values())),
            allowed=f"multiples of {factor}, by which it makes images smaller",
            do=f"set {', '.join(f'{name}: {max(1, round(size / factor)) * factor}' for name, size in wrong.items())}",
        )


def check_xformers(device: torch.device) -> None:
    """Refuse xFormers' attention where it can't run.

    Raises:
        ConfigError: If there is no GPU, or no xFormers for this torch.
    """
    reason = None
    if device.type != "cuda":
        reason = f"xFormers needs a CUDA device, and this run is on {device}"
    elif not is_xformers_available():
        reason = "the package xformers is not installed, or was built for another torch"
    if reason is not None:
        raise ConfigError(
            "xFormers attention can't run here",
            where="model.generator.diffusers.enable_xformers",
            got=reason,
            do="set it to false: torch's own attention is as fast on current GPUs",
        )


@torch.no_grad()
def _encode_prompt(pipeline: Pipeline, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token embeddings ``(1, L, D)`` and SDXL's pooled ones ``(1, P)`` (empty otherwise)."""
    encoded = pipeline.encode_prompt(
        prompt, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    pooled = encoded[2] if isinstance(pipeline, StableDiffusionXLInpaintPipeline) else torch.empty(1, 0)
    return encoded[0].float(), pooled.float()
