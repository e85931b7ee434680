"""A codec without loss in the place of a diffusion pipeline's autoencoder."""

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

# ITU-R BT.601-7, section 2.5.1: the weights of red, green and blue in luma.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ExactLatents:
    """What `LumaCodec.encode` gives: a distribution with one possible value, so that it needs no random numbers."""

    latents: torch.Tensor

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """The latents; ``generator`` is left untouched."""
        del generator
        return self.latents

    def mode(self) -> torch.Tensor:
        """The latents."""
        return self.latents


@dataclass(frozen=True)
class Encoded:
    """The result of `LumaCodec.encode`, with the attribute that diffusers asks for."""

    latent_dist: ExactLatents


@dataclass(frozen=True)
class Decoded:
    """The result of `LumaCodec.decode`, with the attribute that diffusers asks for."""

    sample: torch.Tensor


class LumaCodec(ModelMixin, ConfigMixin):
    """Four latent channels at full size: red, green, blue and luma, with `AutoencoderKL`'s interface.

    Stock inpainting pipelines take four latent channels and nothing else, and a learned autoencoder that is small
    enough for a CPU loses colors and detail. The fourth channel is redundant in what is encoded; in what a network
    predicts it is a second opinion on brightness, and decoding takes the least-squares image of all four.

    Args:
        latent_channels: Four.
        block_out_channels: One entry, by which pipelines conclude that nothing is downscaled.
        scaling_factor: Pipelines multiply latents by it; images in ``[-1, 1]`` need no scaling.
        force_upcast: Whether SDXL pipelines must leave half precision; never needed here.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        block_out_channels: tuple[int, ...] = (4,),
        scaling_factor: float = 1.0,
        force_upcast: bool = False,
    ) -> None:
        super().__init__()
        # A buffer gives the module a dtype and a device, which pipelines ask for, and a file to save.
        self.register_buffer("luma_weights", torch.tensor(LUMA))

    def encode(self, images: torch.Tensor, return_dict: bool = True) -> Encoded | tuple[ExactLatents]:
        """Append luma to ``(N, 3, H, W)`` images; the latents are ``(N, 4, H, W)``."""
        latents = ExactLatents(torch.cat([images, self._luma(images)], dim=1))
        return Encoded(latents) if return_dict else (latents,)

    def decode(
        self, latents: torch.Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> Decoded | tuple[torch.Tensor]:
        """The ``(N, 3, H, W)`` images whose `encode` is nearest to ``(N, 4, H, W)`` latents."""
        del generator
        rgb, luma = latents[:, :3], latents[:, 3:]
        weights = self.luma_weights.to(latents.dtype)
        # min |x - rgb|^2 + (w.x - luma)^2, solved by the Sherman-Morrison formula for (I + w w^T)^-1.
        correction = (luma - self._luma(rgb)) / (1 + weights.square().sum())
        images = rgb + correction * weights.view(1, 3, 1, 1)
        return Decoded(images) if return_dict else (images,)

    def _luma(self, images: torch.Tensor) -> torch.Tensor:
        weights = self.luma_weights.to(images.dtype).view(1, 3, 1, 1)
        return (images * weights).sum(dim=1, keepdim=True)
