"""A training's figures as a table that other programs read."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter

from melter.policy.files import replacing


class CsvLog(KVWriter):
    """One row per report, columns as they come up; goes on with the file of a resumed run."""

    def __init__(self, path: Path, steps: int = 0) -> None:
        """``steps``: where the run goes on; rows beyond, told after the checkpoint was written, are dropped."""
        self._path = path
        self._rows: list[dict[str, str]] = []
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
            self._rows = [row for row in rows if row["steps"].isdigit() and int(row["steps"]) <= steps]
        self._names = list(self._rows[0]) if self._rows else []
        if path.is_file():
            self._rewrite()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:  # noqa: ARG002
        """Append a row; write the file anew where it has a new column."""
        row = {"steps": str(step), **{name: str(value) for name, value in key_values.items()}}
        self._rows.append(row)
        if set(row) <= set(self._names):
            with self._path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._names).writerow(row)
            return
        self._names = ["steps", *sorted((set(self._names) | set(row)) - {"steps"})]
        self._rewrite()

    def _rewrite(self) -> None:
        with replacing(self._path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._names)
            writer.writeheader()
            writer.writerows(self._rows)

    def close(self) -> None:
        """Nothing is kept open."""
