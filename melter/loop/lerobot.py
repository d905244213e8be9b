"""A recorded run as a LeRobot dataset, version 3.0 of its layout: one episode per stretch of work.

Written with pyarrow and pandas alone; the LeRobot library is not needed. Layout as its ``LeRobotDatasetMetadata`` and
``DatasetWriter`` write it: ``meta/info.json``, ``meta/stats.json``, ``meta/tasks.parquet``, ``meta/episodes/chunk-000/file-000.parquet``,
``data/chunk-000/file-000.parquet``. No pictures: kept frames are fewer than ticks.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput, OutputExists
from melter.loop.run import Run
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]

VERSION = "v3.0"
INSTALL = "pip install 'melter[records]'"
TASK = "keep the light patch on the path"
CHUNK_FILES, DATA_MB, VIDEO_MB = 1000, 100, 200
"""What LeRobot's own writer puts there."""
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
GAP_PERIODS = 3.0
"""Ticks further apart belong to two episodes."""
_SCALARS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def write_lerobot(run: Run, out: Path) -> dict[str, Any]:
    """Write the dataset to the new folder ``out``; return how many episodes and frames it has. Raises BadInput.

    Written beside its name and renamed.
    """
    _require_pyarrow()
    machine = run.machine
    if machine is None or not run.work:
        raise BadInput(f"run {run.folder}: nothing to export: no work on the path, or no machine in config.json")
    if out.exists():
        raise OutputExists(f"--lerobot {out}: exists already; choose another folder")
    if not out.absolute().parent.is_dir():
        raise BadInput(f"--lerobot {out}: no folder {out.absolute().parent}")
    rate_hz = machine.control.rate_hz
    if abs(rate_hz - round(rate_hz)) > 1e-9:
        raise BadInput(f"--lerobot: control rate {rate_hz:g} Hz, must be a whole number for this format")
    columns, features = _columns(run), _features(machine, len(run.work[0].get("observation") or []))
    lengths = _episode_lengths(run, machine.control.period_s)
    columns |= _counters(lengths, round(rate_hz))
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write(part, columns, features, lengths, round(rate_hz), machine.name)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {"lerobot": str(out), "episodes": len(lengths), "frames": sum(lengths)}


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401  # pyright: ignore[reportUnusedImport, reportMissingImports]
    except ImportError:
        raise BadInput(f"--lerobot: pyarrow is not installed; {INSTALL}") from None


def _columns(run: Run) -> dict[str, Array]:
    """(n, size) of each feature, float32 later; a patch that was not seen keeps its last known place, and is marked."""
    work = run.work
    patch = np.concatenate(
        [
            run.column(f"patch_{name}", size, work)
            for name, size in (("centre_m", 2), ("semi_axes_m", 2), ("angle_rad", 1))
        ],
        axis=1,
    )
    seen: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(patch), axis=1)
    last = np.maximum.accumulate(np.where(seen, np.arange(len(seen)), 0))
    patch = np.nan_to_num(patch[last])
    state = np.concatenate([run.column("lengths_m", WINCH_COUNT, work), patch, seen[:, None].astype(float)], axis=1)
    columns = {
        "observation.state": state,
        "observation.environment_state": run.column("target_world_m", 2, work),
        "action": run.column("approved_m_s", WINCH_COUNT, work),
        "action.requested": run.column("requested_m_s", WINCH_COUNT, work),
        "time.host_s": run.column("approved_host_s", 1, work),
    }
    size = len(work[0].get("observation") or [])
    if size:
        columns["observation.policy"] = run.column("observation", size, work)
    return columns


def _features(machine: Machine, policy_size: int) -> dict[str, dict[str, Any]]:
    """``features`` of info.json, in the order of the columns."""
    winches = [winch.name for winch in machine.winch]
    patch = ["patch_x_m", "patch_y_m", "patch_large_m", "patch_small_m", "patch_angle_rad", "patch_seen"]

    def vector(names: list[str], dtype: str = "float32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": [len(names)], "names": names}

    features = {
        "observation.state": vector([f"{name}.length_m" for name in winches] + patch),
        "observation.environment_state": vector(["target_x_m", "target_y_m"]),
        "action": vector([f"{name}.speed_m_s" for name in winches]),
        "action.requested": vector([f"{name}.speed_m_s" for name in winches]),
        "time.host_s": vector(["host_s"], "float64"),
    }
    if policy_size:
        features["observation.policy"] = {"dtype": "float32", "shape": [policy_size], "names": None}
    return features | {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in _SCALARS.items()}


def _episode_lengths(run: Run, period_s: float) -> list[int]:
    """Frames of each stretch of work without a pause in it."""
    host_s = run.column("approved_host_s", 1, run.work)[:, 0]
    ends = np.flatnonzero(np.diff(host_s) > GAP_PERIODS * period_s) + 1
    return np.diff([0, *ends.tolist(), len(host_s)]).tolist()


def _counters(lengths: list[int], fps: int) -> dict[str, Array]:
    """The columns that number frames and episodes. Time is that of an even rate, as the format wants it."""
    frame = np.concatenate([np.arange(length) for length in lengths])
    episode = np.repeat(np.arange(len(lengths)), lengths)
    table: dict[str, NDArray[Any]] = {
        "timestamp": frame / fps,
        "frame_index": frame,
        "episode_index": episode,
        "index": np.arange(len(frame)),
    }
    return {
        name: np.asarray(column)[:, None] for name, column in (table | {"task_index": np.zeros(len(frame))}).items()
    }


def _write(
    folder: Path, columns: dict[str, Array], features: dict[str, Any], lengths: list[int], fps: int, robot: str
) -> None:
    import pandas as pd

    for part in ("meta/episodes/chunk-000", "data/chunk-000"):
        (folder / part).mkdir(parents=True)
    _write_table(folder / "data/chunk-000/file-000.parquet", columns, features)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    episodes = [
        _episode(number, int(starts[number]), int(starts[number + 1]), columns, features)
        for number in range(len(lengths))
    ]
    _write_episodes(folder / "meta/episodes/chunk-000/file-000.parquet", episodes)
    tasks: Any = pd.DataFrame({"task_index": [0]}, index=pd.Index([TASK], name="task"))
    tasks.to_parquet(folder / "meta/tasks.parquet")
    whole = {name: _stats(columns[name], features[name]["dtype"]) for name in features}
    _write_json(folder / "meta/stats.json", whole)
    info = {
        "codebase_version": VERSION,
        "robot_type": robot,
        "total_episodes": len(lengths),
        "total_frames": int(starts[-1]),
        "total_tasks": 1,
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": DATA_MB,
        "video_files_size_in_mb": VIDEO_MB,
        "fps": fps,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": features,
    }
    _write_json(folder / "meta/info.json", info)


def _episode(number: int, start: int, end: int, columns: dict[str, Array], features: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "episode_index": number,
        "tasks": [TASK],
        "length": end - start,
        "data/chunk_index": 0,
        "data/file_index": 0,
        "dataset_from_index": start,
        "dataset_to_index": end,
    }
    for name in features:
        for figure, value in _stats(columns[name][start:end], features[name]["dtype"]).items():
            row[f"stats/{name}/{figure}"] = value
    return row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}


def _stats(column: Array, dtype: str) -> dict[str, list[Any]]:
    """Least, largest, mean, deviation, quantiles and count of each dimension; whole numbers stay whole at the ends."""
    kind = int if dtype == "int64" else float
    table = {
        "min": [kind(v) for v in column.min(axis=0)],
        "max": [kind(v) for v in column.max(axis=0)],
        "mean": column.mean(axis=0).tolist(),
        "std": column.std(axis=0).tolist(),
        "count": [len(column)],
    }
    return table | {name: np.quantile(column, share, axis=0).tolist() for name, share in QUANTILES.items()}


def _write_table(path: Path, columns: dict[str, Array], features: dict[str, Any]) -> None:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    arrow: Any = pa
    arrays: list[Any] = []
    for name, feature in features.items():
        flat = columns[name].astype(feature["dtype"])
        size = flat.shape[1]
        values = arrow.array(flat.ravel())
        arrays.append(values if feature["shape"] == [1] else arrow.FixedSizeListArray.from_arrays(values, size))
    writer: Any = pq
    writer.write_table(arrow.Table.from_arrays(arrays, names=list(features)), path, compression="snappy")


def _write_episodes(path: Path, episodes: list[dict[str, Any]]) -> None:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    table: Any = pa
    writer: Any = pq
    columns = {name: [episode[name] for episode in episodes] for name in episodes[0]}
    writer.write_table(table.Table.from_pydict(columns), path, compression="snappy")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4, allow_nan=False) + "\n", encoding="utf-8")
