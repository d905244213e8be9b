"""A folder of labelled pictures in parts, each written whole or not at all, so that a broken run goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput
from melter.machine import Machine
from melter.vision.calibration import write_text
from melter.vision.pose.canonical import HEIGHT_PX, WIDTH_PX
from melter.vision.pose.draw import FRAMES_A_SCENE, draw_scene
from melter.vision.pose.labels import Poses

Array = NDArray[np.float64]

SCENES_A_PART = 64
IMAGES_A_PART = SCENES_A_PART * FRAMES_A_SCENE
FORMAT = 1
ABOUT = "dataset.json"


@dataclass(frozen=True, eq=False)
class Dataset:
    """n pictures and their truth."""

    pictures: NDArray[np.uint8]
    """(n, 96, 160)"""
    poses: Poses
    sun: Array
    """(n, 3)"""
    markers: NDArray[np.int64]
    """(n,) on the bed."""
    machine: str
    """Name of the machine."""
    machine_sha256: str


def write_dataset(
    machine: Machine, folder: Path, images: int, seed: int, workers: int, done: Callable[[float], None]
) -> int:
    """Render until ``folder`` holds at least ``images`` pictures; return how many it holds. ``done`` gets the share.

    Raises BadInput when the folder holds something else, or pictures of another machine or seed.
    """
    _claim(machine, folder, seed)
    parts = -(-images // IMAGES_A_PART)
    todo = [n for n in range(parts) if not _part(folder, n).exists()]
    finished = parts - len(todo)
    if workers <= 1:
        for n in todo:
            _write_part(machine, folder, seed, n)
            finished += 1
            done(finished / parts)
        return parts * IMAGES_A_PART
    with ProcessPoolExecutor(workers) as pool:
        running = [pool.submit(_write_part, machine, folder, seed, n) for n in todo]
        try:
            for one in as_completed(running):
                one.result()
                finished += 1
                done(finished / parts)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return parts * IMAGES_A_PART


def load_dataset(folder: Path) -> Dataset:
    """Return all complete parts of a folder. Raises BadInput."""
    about = _about(folder)
    files = sorted(folder.glob("part-*.npz"))
    if not files:
        raise BadInput(f"dataset {folder}: holds no part-*.npz; run 'melter vision dataset' first")
    columns: dict[str, list[NDArray[np.generic]]] = {}
    for file in files:
        try:
            with np.load(file, allow_pickle=False) as table:
                for key in ("pictures", "camera_m", "rotation", "lens_m", "lens_rotation", "sun", "markers"):
                    columns.setdefault(key, []).append(table[key])
        except (OSError, ValueError, KeyError, EOFError):
            raise BadInput(f"dataset {file}: damaged; delete it and run 'melter vision dataset' again") from None
    whole = {key: np.concatenate(values) for key, values in columns.items()}
    pictures = whole["pictures"].astype(np.uint8)
    if pictures.shape[1:] != (HEIGHT_PX, WIDTH_PX):
        raise BadInput(f"dataset {folder}: pictures of {pictures.shape[1:]}, must be {(HEIGHT_PX, WIDTH_PX)}")
    camera, rotation, lens, attitude, sun = (
        whole[key].astype(np.float64) for key in ("camera_m", "rotation", "lens_m", "lens_rotation", "sun")
    )
    poses = Poses(camera, rotation, lens, attitude)
    return Dataset(pictures, poses, sun, whole["markers"].astype(np.int64), about["machine"], about["machine_sha256"])


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.npz"


def _about(folder: Path) -> dict[str, str]:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadInput(f"dataset {folder}: has no readable {ABOUT}; run 'melter vision dataset' first") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:  # pyright: ignore[reportUnknownMemberType]
        raise BadInput(f"dataset {folder}: format is not {FORMAT}")
    return about  # pyright: ignore[reportUnknownVariableType]


def _claim(machine: Machine, folder: Path, seed: int) -> None:
    """Make the folder, or see that it holds the beginning of the same dataset."""
    wanted = {"format": FORMAT, "machine": machine.name, "machine_sha256": machine.sha256, "seed": seed}
    if (folder / ABOUT).exists():
        have = _about(folder)
        for key in ("machine_sha256", "seed"):
            if have.get(key) != wanted[key]:
                raise BadInput(
                    f"--out {folder}: holds a dataset with {key} = {have.get(key)}, this one has {wanted[key]}"
                )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"--out {folder}: exists already and is no dataset")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {folder}: cannot be made: {error.strerror}") from None
    write_text(folder / ABOUT, json.dumps(wanted, indent=2) + "\n")


def _write_part(machine: Machine, folder: Path, seed: int, number: int) -> None:
    """Each part has a seed of its own, so that parts are the same in whatever order they are made."""
    from melter.vision.opencv import cv2

    cv2.setNumThreads(1)
    rng = np.random.default_rng((seed, number))
    drawn = [one for _ in range(SCENES_A_PART) for one in draw_scene(machine, rng)]
    names = ("camera_m", "rotation", "lens_m", "lens_rotation", "sun")
    table = {name: np.array([getattr(one, name) for one in drawn], dtype=np.float32) for name in names}
    pictures = np.array([one.picture for one in drawn], dtype=np.uint8)
    markers = np.array([one.markers for one in drawn], dtype=np.int64)
    final = _part(folder, number)
    beside = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            np.savez(file, allow_pickle=False, pictures=pictures, markers=markers, **table)
        beside.replace(final)
    except OSError as error:
        raise BadInput(f"--out {final}: cannot be written: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
