"""What a stopped run goes on from, and the model file: written beside, renamed, the same bytes for the same training."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from melter.env.sb3 import SandMelterVecEnv
from melter.errors import ModelFileError
from melter.observation import ObservationBuilder
from melter.policy.files import replacing
from melter.policy.request import TrainRequest
from melter.safety.bundle import load_policy, manifest_for, save_bundle

Best = tuple[float, dict[str, torch.Tensor]]
_THE_SAME_MOMENT = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip can tell."""


def save_checkpoint(path: Path, model: Any, env: SandMelterVecEnv, counts: dict[str, Any], best: Best | None) -> None:
    """Write everything that ``model`` and ``env`` need to go on as if never stopped."""
    path.parent.mkdir(exist_ok=True)
    names, variables = model._get_torch_save_params()
    kept = {
        "networks": {name: _member(model, name).state_dict() for name in names},
        "variables": {name: getattr(model, name).detach() for name in variables},
        "learner": _packed(model.state()),
        "env": _packed(env.env.state()),
        "observation": torch.from_numpy(np.array(model._last_obs)),
        "starts": torch.from_numpy(np.array(model._last_episode_starts)),
        "returns": torch.from_numpy(env.running()),
        "rng": json.dumps(model.rng.bit_generator.state),
        "torch_rng": torch.get_rng_state(),
        "numpy_rng": _packed(_global_state()),
        "counts": counts | {"steps": model.num_timesteps, "updates": model._n_updates},
        "best": None if best is None else list(best),
    }
    with replacing(path) as beside:
        torch.save(kept, beside)


def load_checkpoint(path: Path, model: Any, env: SandMelterVecEnv) -> tuple[dict[str, Any], Best | None]:
    """Bring ``model`` and ``env`` to where the checkpoint was written; return its counts and the best policy.

    Raises ModelFileError where it is damaged or does not fit.
    """
    try:
        kept = torch.load(path, weights_only=True)
        model.set_parameters(kept["networks"], exact_match=True, device="cpu")
        for name, value in kept["variables"].items():
            getattr(model, name).data.copy_(value)
        model.restore(_unpacked(kept["learner"]))
        model._last_obs = kept["observation"].numpy()
        env.env.restore(_unpacked(kept["env"]))
        model._last_episode_starts = kept["starts"].numpy()
        env.go_on(kept["returns"].numpy())
        model.rng.bit_generator.state = json.loads(kept["rng"])
        torch.set_rng_state(kept["torch_rng"])
        np.random.set_state(tuple(_unpacked(kept["numpy_rng"])))  # noqa: NPY002
        counts = kept["counts"]
        model.num_timesteps, model._n_updates = counts["steps"], counts["updates"]
        return counts, None if kept["best"] is None else tuple(kept["best"])
    except Exception as error:
        raise ModelFileError(f"{path}: not a checkpoint of this version ({type(error).__name__})") from None


def save_model(model: Any, request: TrainRequest, folder: Path) -> Path:
    """Write ``model.zip``, then the bundle that melter itself loads; return the zip's path."""
    path = folder / "model.zip"
    with replacing(path) as beside:
        model.save(beside)
        _without_time(beside)
    net = load_policy(path).net
    builder = ObservationBuilder(request.machine)
    manifest = manifest_for(net, request.machine, builder.table, builder.sha256, request.settings.algo)
    save_bundle(folder, net, manifest)
    return path


def _without_time(path: Path) -> None:
    """Write the zip again with members that do not tell when they were written."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, _THE_SAME_MOMENT), content)


def _member(model: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        model = getattr(model, name)
    return model


def _global_state() -> list[Any]:
    """NumPy's global generator, which stable-baselines3 shuffles with."""
    return list(np.random.get_state())  # noqa: NPY002


def _packed(value: Any) -> Any:
    """Arrays as tensors, which a checkpoint can hold without pickled code; unsigned ones as the same bits, signed."""
    if isinstance(value, np.ndarray):
        return _tensor(value)
    if isinstance(value, dict):
        return {key: _packed(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [_packed(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _tensor(array: NDArray[Any]) -> dict[str, Any]:
    kind = array.dtype.str
    signed = array.view(kind.replace("u", "i")) if array.dtype.kind == "u" and array.dtype.itemsize > 1 else array
    return {"array": torch.from_numpy(np.ascontiguousarray(signed)), "kind": kind}


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"array", "kind"}:  # pyright: ignore[reportUnknownArgumentType]
        return value["array"].numpy().view(value["kind"])  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        return {key: _unpacked(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_unpacked(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
