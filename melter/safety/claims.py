"""What a safety check says: claims with a status each, and the verdict that follows from them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from melter.errors import ModelFileError
from melter.machine import Machine
from melter.safety.bundle import LoadedPolicy, load_policy, write_beside
from melter.safety.drill import DarkDrill, Drill
from melter.safety.proof import ProofResult

Status = Literal["proven", "falsified", "not proven"]
Section = Literal["layer", "raw policy", "behind the layer"]
CERTIFICATE = "certificate.json"
CERTIFICATE_FORMAT = "melter-certificate-1"


@dataclass(frozen=True)
class Counterexample:
    """Observations that break a claim, and what the policy answers to them."""

    claim: str
    observations: tuple[tuple[float, ...], ...]
    actions: tuple[tuple[float, ...], ...]
    value: float
    limit: float
    unit: str

    def write(self, path: Path, model_sha256: str, machine_sha256: str) -> None:
        """Write it as JSON; what is no number is written as text."""
        table = {"format": "melter-counterexample-1", "model_sha256": model_sha256, "machine_sha256": machine_sha256}
        content = json.dumps(_texts(table | asdict(self)), indent=1, allow_nan=False)
        write_beside(path, (content + "\n").encode())


@dataclass(frozen=True)
class Claim:
    """One line of the report."""

    name: str
    section: Section
    status: Status
    bound: float | None
    """What is proven of the quantity: it never exceeds this."""
    limit: float | None
    unit: str
    method: str
    """How, over which box, under which assumptions."""
    best: float | None = None
    """The worst that the search found."""
    required: bool = True
    """Whether the verdict depends on it."""
    counterexample: Counterexample | None = None


@dataclass(frozen=True, eq=False)
class Report:
    """All that one check found."""

    model: str
    model_sha256: str
    machine: str
    machine_sha256: str
    claims: tuple[Claim, ...]
    proof: ProofResult
    drill: Drill
    interventions: dict[str, float]
    """Share of winch commands that each stage changed, over the policy's own rollouts."""
    seconds: float
    dark: DarkDrill | None = None
    """Going dark in a simulator with dynamics, where that was tried."""
    speeds: dict[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    """By winch, m/s: lowest and highest found for the policy, driven in simulation; tension (lowest, highest), N."""

    @property
    def verdict(self) -> Literal["pass", "fail"]:
        """Pass: the whole layer is proven and no limit that the raw policy must keep is falsified."""
        layer = all(claim.status == "proven" for claim in self.claims if claim.section == "layer" and claim.required)
        others = all(claim.status != "falsified" for claim in self.claims if claim.required)
        return "pass" if layer and others else "fail"


def certify(report: Report, policy: LoadedPolicy, folder: Path) -> Path:
    """Write the certificate of a passed check into ``folder``; return its path."""
    path = folder / CERTIFICATE
    table = {
        "format": CERTIFICATE_FORMAT,
        "verdict": report.verdict,
        "model_sha256": report.model_sha256,
        "same_policy_sha256": list(policy.also),
        "machine_sha256": report.machine_sha256,
        "machine": report.machine,
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "claims": {f"{claim.section}: {claim.name}": claim.status for claim in report.claims},
    }
    write_beside(path, (json.dumps(table, indent=1) + "\n").encode())
    return path


def find_certificate(model: str | Path, machine: Machine) -> dict[str, Any] | None:
    """Return the certificate that covers this model and machine file, or None where there is none.

    Looked for beside the model's file. A certificate gives integrity, not authorship. Raises ModelFileError
    for a model that cannot be loaded.
    """
    policy = load_policy(model)
    try:
        found = json.loads((policy.path.parent / CERTIFICATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    table = cast("dict[str, Any]", found)
    same = table.get("same_policy_sha256")
    covered = [table.get("model_sha256"), *(cast("list[Any]", same) if isinstance(same, list) else [])]
    fits = table.get("format") == CERTIFICATE_FORMAT and table.get("verdict") == "pass"
    return table if fits and policy.sha256 in covered and table.get("machine_sha256") == machine.sha256 else None


def read_counterexample(path: str | Path) -> tuple[Counterexample, str]:
    """Return the counterexample of a file, and the sha256 of its model; raise ModelFileError."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        observations = tuple(tuple(float(value) for value in row) for row in table["observations"])
        actions = tuple(tuple(float(value) for value in row) for row in table["actions"])
        found = Counterexample(
            str(table["claim"]), observations, actions, float(table["value"]), float(table["limit"]), str(table["unit"])
        )
        if table["format"] != "melter-counterexample-1" or len({len(row) for row in observations}) != 1:
            raise ValueError(table["format"])
        return found, str(table["model_sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ModelFileError(f"{path}: not a counterexample that melter safety-check wrote") from None


def as_rows(values: NDArray[Any]) -> tuple[tuple[float, ...], ...]:
    """Return an (n, m) array as tuples."""
    return tuple(tuple(float(value) for value in row) for row in np.atleast_2d(values))


def _texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _texts(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_texts(item) for item in cast("list[Any]", value)]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
