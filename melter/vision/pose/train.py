"""Fit the network to a dataset, epoch by epoch, so that it can be stopped and gone on with; write the best as ONNX."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from melter.errors import BadInput
from melter.geometry.pose import rotation_from_vector
from melter.vision.opencv import cv2
from melter.vision.pose.canonical import HEIGHT_PX, MATRIX, WIDTH_PX, normalised
from melter.vision.pose.dataset import Dataset
from melter.vision.pose.labels import POINTS, Poses, encode
from melter.vision.pose.network import PoseNet, loss_of

Floats = NDArray[np.float32]

HELD_OUT = 0.05
"""Share of the dataset, its end, that chooses the best epoch."""
SHAKE_RAD = (0.03, 0.03, 0.03)
"""Standard deviations of the turns that each picture gets anew in each epoch, camera axes."""
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train."""

    epochs: int = 22
    batch: int = 32
    rate: float = 3e-3
    """Adam's largest step size; it rises in the first tenth and then falls along a cosine."""
    threads: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """After an epoch."""

    epoch: int
    epochs: int
    loss: float
    held_out_px: float
    """Median distance of points, pixels of the small picture."""
    seconds: float
    """Trained so far, all runs together."""
    cpu_seconds: float
    """The same in processor time, all threads: on a busy machine less than the clock says."""


class Training:
    """A training that can be stopped after any epoch; its state lies in ``folder``."""

    def __init__(self, data: Dataset, folder: Path, settings: Settings) -> None:
        """Begin, or go on where ``folder`` says. Raises BadInput when what lies there belongs to other settings."""
        torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        self._data, self._folder, self._settings = data, folder, settings
        count = len(data.pictures)
        self._held = max(int(HELD_OUT * count), 1)
        if count - self._held < settings.batch:
            raise BadInput(f"dataset: {count} pictures, must be {int(settings.batch / (1 - HELD_OUT)) + 2} or more")
        self.net = PoseNet().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._adam = torch.optim.AdamW(self.net.parameters(), lr=settings.rate, weight_decay=1e-4)
        self.epoch, self.seconds, self.cpu_seconds = 0, 0.0, 0.0
        self.best_px = float("inf")
        self.best: dict[str, Any] = {}
        self._resume()

    @property
    def done(self) -> bool:
        """Whether all epochs are."""
        return self.epoch >= self._settings.epochs

    def run_epoch(self, progress: Callable[[float], None]) -> Report:
        """Train one epoch, check it on what is held out, keep the state; ``progress`` gets the share of all epochs."""
        begun_s, begun_cpu_s, s = time.monotonic(), time.process_time(), self._settings
        rng = np.random.default_rng((s.seed, self.epoch))
        order = rng.permutation(len(self._data.pictures) - self._held)
        batches = len(order) // s.batch
        total = 0.0
        self.net.train()
        for n in range(batches):
            self._set_rate((self.epoch + n / batches) / s.epochs)
            total += self._step(*shaken(self._data, order[n * s.batch : (n + 1) * s.batch], rng))
            progress((self.epoch + (n + 1) / batches) / s.epochs)
        held_px = self._held_out_px()
        self.epoch += 1
        self.seconds += time.monotonic() - begun_s
        self.cpu_seconds += time.process_time() - begun_cpu_s
        if held_px <= self.best_px:
            self.best_px = held_px
            self.best = {k: v.clone() for k, v in self.net.state_dict().items()}
        self._keep()
        return Report(self.epoch, s.epochs, total / batches, held_px, self.seconds, self.cpu_seconds)

    def best_net(self) -> PoseNet:
        """Return the network of the best epoch, for use. Raises BadInput before the first is done."""
        if not self.best:
            raise BadInput("training: stopped before the first epoch was done, nothing to keep")
        net = PoseNet()
        net.load_state_dict(self.best)
        return net.eval()

    def _step(self, pictures: Floats, points: Floats, turns: Floats) -> float:
        x = torch.from_numpy(pictures).contiguous(memory_format=torch.channels_last)
        loss = loss_of(self.net(x), torch.from_numpy(points), torch.from_numpy(turns))
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self._adam.step()
        return float(loss.detach())

    def _set_rate(self, share: float) -> None:
        rise = min(share / 0.1, 1.0)
        rate = self._settings.rate * rise * (0.5 * (1 + np.cos(np.pi * max(share - 0.1, 0) / 0.9)) + 1e-3)
        for group in self._adam.param_groups:
            group["lr"] = float(rate)

    def _held_out_px(self) -> float:
        self.net.eval()
        first = len(self._data.pictures) - self._held
        points, _ = encode(_some(self._data.poses, np.arange(first, len(self._data.pictures))))
        off: list[NDArray[np.float64]] = []
        with torch.no_grad():
            for n in range(0, self._held, 256):
                out = self.net(torch.from_numpy(normalised(self._data.pictures[first + n : first + n + 256]))).numpy()
                places = out[:, : 2 * POINTS].reshape(-1, POINTS, 2)
                off.append(np.linalg.norm(places - points[n : n + 256], axis=-1))
        return float(np.nanmedian(np.concatenate(off)))

    def _about(self) -> dict[str, int | float | str]:
        s = self._settings
        return {
            "epochs": s.epochs, "batch": s.batch, "rate": s.rate, "seed": s.seed,
            "images": len(self._data.pictures), "machine_sha256": self._data.machine_sha256,
        }  # fmt: skip

    def _keep(self) -> None:
        state = {
            "about": self._about(), "epoch": self.epoch, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "net": self.net.state_dict(),
            "adam": self._adam.state_dict(), "best_px": self.best_px, "best": self.best,
        }  # fmt: skip
        beside = self._folder / f".{CHECKPOINT}.tmp"
        try:
            torch.save(state, beside)
            beside.replace(self._folder / CHECKPOINT)
        except (OSError, RuntimeError) as error:
            raise BadInput(f"{self._folder / CHECKPOINT}: cannot be written: {error}") from None

    def _resume(self) -> None:
        path = self._folder / CHECKPOINT
        if not path.exists():
            return
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
            about = state["about"]
        except Exception as error:  # torch raises whatever its unpickler met
            raise BadInput(f"{path}: cannot be read ({type(error).__name__}); delete it to begin anew") from None
        for key, value in self._about().items():
            if about.get(key) != value:
                raise BadInput(
                    f"{path}: was trained with {key} = {about.get(key)}, now it is {value}; delete it to begin anew"
                )
        self.net.load_state_dict(state["net"])
        self._adam.load_state_dict(state["adam"])
        self.epoch, self.seconds = int(state["epoch"]), float(state["seconds"])
        self.cpu_seconds = float(state["cpu_seconds"])
        self.best_px, self.best = float(state["best_px"]), state["best"]


def shaken(data: Dataset, which: NDArray[np.int64], rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Return pictures with the camera turned a little about its own place, other contrast and noise; and their labels."""
    poses = _some(data.poses, which)
    turn = rotation_from_vector(rng.normal(0, SHAKE_RAD, (len(which), 3)))
    poses = Poses(poses.camera_m, turn @ poses.rotation, poses.lens_m, poses.lens_rotation)
    warps = MATRIX @ turn @ np.linalg.inv(MATRIX)
    out = np.empty((len(which), HEIGHT_PX, WIDTH_PX), dtype=np.uint8)
    ramp = np.arange(256) / 255
    for n, index in enumerate(which):
        picture = data.pictures[index]
        picture = cv2.LUT(picture, (255 * ramp ** np.exp(rng.normal(0, 0.25))).astype(np.uint8))
        fill = float(np.median(picture[::4, ::4]))
        out[n] = cv2.warpPerspective(
            picture, warps[n], (WIDTH_PX, HEIGHT_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        )  # fmt: skip
        if rng.random() < 0.15:
            _blot(out[n], rng)
    noise = rng.standard_normal(out.shape, dtype=np.float32) * rng.uniform(0, 3, (len(which), 1, 1)).astype(np.float32)
    noisy = np.clip(out.astype(np.float32) + noise, 0, 255).astype(np.uint8)
    points, turns = encode(poses)
    return normalised(noisy), points.astype(np.float32), turns.astype(np.float32)


def _blot(picture: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Something in the way, in place."""
    u, v = int(rng.uniform(0, WIDTH_PX)), int(rng.uniform(0, HEIGHT_PX))
    w, h = int(rng.uniform(4, 30)), int(rng.uniform(4, 30))
    picture[v : v + h, u : u + w] = int(rng.uniform(0, 255))


def _some(poses: Poses, which: NDArray[np.int64]) -> Poses:
    return Poses(poses.camera_m[which], poses.rotation[which], poses.lens_m[which], poses.lens_rotation[which])
