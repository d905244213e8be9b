"""``melter export``: a policy as an ONNX file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from melter.cli.common import Common, emit, parse, require_in


@dataclass(frozen=True, kw_only=True)
class Export(Common):
    """Write a policy as an ONNX file with everything between observation and action inside, checked against the original."""

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, bundle folder, policy.safetensors, or a stable-baselines3 zip."""
    onnx: str | None = None
    """File to write (.onnx). Default: policy.onnx beside the model."""
    force: bool = False
    """Overwrite the file if it exists."""


def run(argv: list[str]) -> int:
    """Export; return the exit code: 1 where the file does not agree with the original to 1e-5 (it is not kept then)."""
    options = parse(Export, argv, "export")
    require_in("--seed", options.seed, 0, 2**31 - 1)
    from melter.machine import load_machine
    from melter.policy.export import export_onnx
    from melter.policy.load import load_for

    machine = load_machine(options.machine)
    policy = load_for(options.model, machine)
    path = policy.path.with_name("policy.onnx") if options.onnx is None else Path(options.onnx)
    found = export_onnx(policy, machine, path, seed=options.seed, overwrite=options.force)
    words = (
        f"{path}: {found.bytes / 1024:.0f} KiB; within {found.largest_difference:.1g} of the original "
        f"on {found.checked} observations ({found.runtime})"
    )
    result = {**asdict(found), "model": options.model, "model_sha256": policy.sha256, "machine": machine.name}
    emit(result, options.json, words)
    return 0
