"""EasyOCR imports this module by its bare name and builds ``Model(num_class=..., **network_params)`` of it."""

import torch

from anony_pipeline.models.reader import PlateNet


class Model(PlateNet):
    """`PlateNet` with the call that EasyOCR makes."""

    def __init__(self, input_channel: int, output_channel: int, hidden_size: int, num_class: int) -> None:
        super().__init__(input_channel, output_channel, hidden_size, num_class)

    def forward(self, images: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """``(N, 1, 64, W)`` gray in ``[-1, 1]`` -> ``(N, W / 2, num_class)`` logits; ``text`` is of no use."""
        return super().forward(images)
