import numpy as np
import torch
from torch import nn

from anony_pipeline.fitting.reader import legible, reading_errors
from anony_pipeline.fitting.rendering import Plates
from anony_pipeline.models.reader import MAX_CHARACTERS, encode


class Says(nn.Module):
    """Reads one text on every plate, a class at each place."""

    def __init__(self, text):
        super().__init__()
        self.table = nn.functional.one_hot(encode([text])[0].long(), 37).float() * 9

    def forward(self, crops):
        table = torch.zeros(MAX_CHARACTERS, self.table.shape[1])
        table[:, 0] = 5
        table[: len(self.table)] = self.table
        return table.expand(len(crops), -1, -1)


def test_errors_are_the_edit_distances_to_what_can_be_read():
    serials = ["AB-123", "AB 124", "XAB123", "京A9"]
    plates = Plates(np.zeros((4, 80, 240, 3), np.uint8), serials, np.ones(4), np.full(4, 30.0))
    assert reading_errors(Says("AB123"), plates, torch.device("cpu")).tolist() == [0, 1, 1, 4]
    assert [legible(serial) for serial in serials] == ["AB123", "AB124", "XAB123", "A9"]
