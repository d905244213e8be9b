"""The network: every cell of a coarse map votes where each point is, and how sure it is; a small head tells the angles.

Input (n, 1, 96, 160) from :func:`melter.vision.pose.canonical.normalised`; output (n, 39): 11 points (u, v in pixels of the
small picture), 11 logarithms of their uncertainty (mean absolute error, pixels), 6 numbers for the angles.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from melter.vision.pose.canonical import HEIGHT_PX, WIDTH_PX
from melter.vision.pose.labels import POINTS, TURNS

CELL_PX = 8
ROWS, COLUMNS = HEIGHT_PX // CELL_PX, WIDTH_PX // CELL_PX
OFFSET_PX = 16.0
"""Pixels that a vote's output of 1 stands for."""
OUTPUTS = 3 * POINTS + TURNS


def _layer(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class PoseNet(nn.Module):
    """About 450 000 weights; ``here`` and ``there`` tell the layers where in the picture they are."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_layer(1, 16, 5, 2), _layer(16, 32, 3, 2), _layer(32, 48, 3, 2)])
        self.fine = nn.ModuleList([_layer(48, 48), _layer(48, 48)])
        self.here = nn.Parameter(torch.zeros(1, 48, ROWS, COLUMNS))
        self.deeper = _layer(48, 96, 3, 2)
        self.there = nn.Parameter(torch.zeros(1, 96, ROWS // 2, COLUMNS // 2))
        self.coarse = nn.ModuleList([_layer(96, 96), _layer(96, 96)])
        self.whole = nn.Conv2d(96, 96, 1)
        self.up = nn.Conv2d(96, 48, 1)
        self.join = _layer(48, 64)
        self.vote = nn.Conv2d(64, 4 * POINTS, 1)
        self.squeeze = _layer(96, 20, 1)
        self.turn_1 = nn.Linear(20 * ROWS * COLUMNS // 4, 96)
        self.turn_2 = nn.Linear(96, TURNS)
        v, u = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
        self.cells: Tensor
        self.register_buffer("cells", (torch.stack([u, v]).float() + 0.5).reshape(1, 1, 2, -1) * CELL_PX - 0.5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.down:
            x = layer(x)
        for layer in self.fine:
            x = x + layer(x)
        x = x + self.here
        y = self.deeper(x) + self.there
        for layer in self.coarse:
            y = y + layer(y)
        y = y + torch.relu(self.whole(y.mean(dim=(2, 3), keepdim=True)))
        z = nn.functional.interpolate(self.up(y), scale_factor=2.0, mode="nearest")
        votes = self.vote(self.join(x + z)).reshape(-1, POINTS, 4, ROWS * COLUMNS)
        weight = torch.softmax(votes[:, :, :1], dim=-1)
        places = (weight * (self.cells + OFFSET_PX * votes[:, :, 1:3])).sum(dim=-1)
        doubts = (weight * votes[:, :, 3:]).sum(dim=-1)
        turns = self.turn_2(torch.relu(self.turn_1(self.squeeze(y).flatten(1))))
        return torch.cat([places.flatten(1), doubts.flatten(1), turns], dim=1)


def loss_of(out: Tensor, points: Tensor, turns: Tensor) -> Tensor:
    """Return the mean loss: Laplace likelihood of points (n, 11, 2), NaN where there is none; squares of turns (n, 6)."""
    places, doubts = out[:, : 2 * POINTS].reshape(-1, POINTS, 2), out[:, 2 * POINTS : 3 * POINTS]
    known = torch.isfinite(points).all(dim=-1)
    off = (places - torch.nan_to_num(points)).abs().sum(dim=-1).clamp(max=200.0)
    doubts = doubts.clamp(-4.0, 5.0)
    likelihood = torch.where(known, off * torch.exp(-doubts) + 2 * doubts, torch.zeros_like(off))
    pull = 0.01 * (out[:, 2 * POINTS : 3 * POINTS] - doubts).abs().mean()
    return likelihood.mean() + 6.0 * (out[:, 3 * POINTS :] - turns).square().mean() + pull
