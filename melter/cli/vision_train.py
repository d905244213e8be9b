"""``melter vision train``: the pose network, from a dataset to an ONNX file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from melter.cli.common import Common, emit, parse, require_in, say
from melter.cli.progress import ShareDone
from melter.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Train(Common):
    """Fit the pose network to a dataset and write the best epoch as ONNX. Stopped with Ctrl-C it keeps the best so far,
    and the same command goes on after the last whole epoch.
    """

    dataset: Positional[str]
    """Folder that 'melter vision dataset' wrote, for the same machine."""
    out: str = "pose.onnx"
    """File to write."""
    epochs: int = 22
    """Times that every picture is looked at (1 to 1000)."""
    threads: int = 0
    """Threads of the processor (1 to 256); 0: one per core, four at most. On a busy machine 1 is fastest."""
    force: bool = False
    """Replace an existing file."""


def run(argv: list[str]) -> int:
    """Train; return 0 when all epochs are done, raise KeyboardInterrupt when stopped, the best so far written."""
    options = parse(Train, argv, "vision train")
    require_in("--epochs", options.epochs, 1, 1000)
    require_in("--threads", options.threads, 0, 256)
    require_in("--seed", options.seed, 0, 2**31 - 1)
    out, folder = Path(options.out), Path(options.dataset)
    if out.suffix.lower() != ".onnx":
        raise BadInput(f"--out {out}: must end in .onnx")
    if not out.absolute().parent.is_dir():
        raise BadInput(f"--out {out}: its folder does not exist")
    if out.exists() and not options.force:
        from melter.errors import OutputExists

        raise OutputExists(f"--out {out}: exists already; --force replaces it")
    return _train(options, folder, out)


def _train(options: Train, folder: Path, out: Path) -> int:
    from melter.machine import load_machine
    from melter.vision.pose.dataset import load_dataset
    from melter.vision.pose.model import machine_facts
    from melter.vision.pose.train import Settings, Training

    machine, data = load_machine(options.machine), load_dataset(folder)
    if data.machine_sha256 != machine.sha256:
        raise BadInput(
            f"dataset {folder}: is of machine {data.machine}, not of --machine {options.machine} as it is now"
        )
    training = Training(
        data,
        folder,
        Settings(epochs=options.epochs, threads=options.threads or min(os.cpu_count() or 1, 4), seed=options.seed),
    )
    if training.epoch:
        say(f"going on after epoch {training.epoch} of {options.epochs}")
    stopped, first = None, training.epoch / options.epochs
    try:
        with ShareDone("training") as done:
            while not training.done:
                report = training.run_epoch(lambda share: done((share - first) / (1 - first)))
                say(
                    f"epoch {report.epoch} of {report.epochs}: loss {report.loss:.3f}, points of the held-out pictures "
                    f"{report.held_out_px:.2f} px off (median), {report.seconds:.0f} s ({report.cpu_seconds:.0f} s of processor)"
                )
    except KeyboardInterrupt as stop:
        stopped = stop
        if not training.best:
            raise
    result = _written(training, machine_facts(machine), data, out)
    if stopped is not None:
        say(f"stopped after epoch {training.epoch}; {out}: the best so far")
        raise KeyboardInterrupt
    emit(
        result,
        options.json,
        f"{out}: {result['bytes']} bytes, {result['held_out_px']:.2f} px, {result['seconds']:.0f} s",
    )
    return 0


def _written(training: Any, facts: dict[str, Any], data: Any, out: Path) -> dict[str, Any]:
    """Write the best network; return what it came to."""
    from melter.vision.pose.export import write_pose_onnx

    came_to = {
        "images": len(data.pictures),
        "epochs": training.epoch,
        "seconds": round(training.seconds, 1),
        "cpu_seconds": round(training.cpu_seconds, 1),
        "held_out_px": round(training.best_px, 4),
    }
    size = write_pose_onnx(training.best_net(), {**facts, **came_to}, out)
    return {"file": str(out), "bytes": size, **came_to}
