"""Loading a policy for a machine: the safe loader, plus whether the two belong together."""

from __future__ import annotations

from pathlib import Path

from melter.errors import ModelFileError
from melter.machine import Machine
from melter.observation import ObservationBuilder
from melter.safety.bundle import LoadedPolicy, load_policy


def load_for(path: str | Path, machine: Machine, *, same_machine: bool = False) -> LoadedPolicy:
    """Return the policy at ``path``; raise ModelFileError unless it fits this machine's observation.

    ``same_machine``: also refuse a policy that was trained for another machine file.
    """
    policy = load_policy(path)
    builder, manifest = ObservationBuilder(machine), policy.manifest
    if policy.net.sizes[0] != builder.size:
        raise ModelFileError(f"{path}: takes {policy.net.sizes[0]} observations, this machine gives {builder.size}")
    if manifest.observation_sha256 is not None and manifest.observation_sha256 != builder.sha256:
        raise ModelFileError(
            f"{path}: was trained with another observation table; train again with this version and machine"
        )
    if same_machine and manifest.machine_sha256 != machine.sha256:
        raise ModelFileError(
            f"{path}: was trained for machine {manifest.machine_name or 'unknown'}, not for {machine.name} as its file is now"
        )
    return policy
