"""The policy bundle: ``policy.safetensors`` and ``manifest.json``, a policy without code in it.

The one loader for everything that melter runs or checks, its own bundles and strangers'
stable-baselines3 zips alike. Files are read once, into memory; nothing in them is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from melter.errors import ModelFileError
from melter.machine import WINCH_COUNT, Machine
from melter.safety.net import PolicyNet
from melter.safety.stranger import StrangersPolicy, read_sb3_zip

WEIGHTS, MANIFEST, MODEL_ZIP = "policy.safetensors", "manifest.json", "model.zip"
FORMAT = "melter-policy-1"
LARGEST_FILE_BYTES = 1 << 27
AGREEMENT = 1e-5
"""Weights of a bundle and of the zip beside it may differ by this (float32 rounding of folded layers)."""


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about its weights. Fields that a stranger's file cannot tell are None."""

    layers: tuple[int, ...]
    """Length of the observation, of each hidden layer, and of the action."""
    activation: str
    squash: str
    mean_clip: float | None = None
    action_low: tuple[float, ...] = (-1.0,) * WINCH_COUNT
    action_high: tuple[float, ...] = (1.0,) * WINCH_COUNT
    observation: tuple[dict[str, Any], ...] | None = None
    """The observation table: name, size, scale, bound, unit and meaning of each entry, in order."""
    observation_sha256: str | None = None
    normalisation: None = None
    """Observations are scaled by the table; there is no other normalisation."""
    control_rate_hz: float | None = None
    machine_name: str | None = None
    machine_sha256: str | None = None
    algorithm: str | None = None
    weights_sha256: str | None = None
    """Of ``policy.safetensors``; filled in by :func:`save_bundle`."""
    format: str = FORMAT


@dataclass(frozen=True, eq=False)
class LoadedPolicy:
    """A policy that has passed every check of the loader."""

    net: PolicyNet
    manifest: Manifest
    sha256: str
    """Of the file the weights were read from."""
    path: Path
    """That file."""
    observation_bounds: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    """(obs,) lowest and highest observation that a stranger's file names, to eight decimals."""
    also: tuple[str, ...] = ()
    """sha256 of files beside it that hold the same policy."""


def manifest_for(
    net: PolicyNet, machine: Machine, table: tuple[Any, ...], table_sha256: str, algorithm: str
) -> Manifest:
    """Return the manifest of ``net``, trained for ``machine`` on an observation table of dataclass entries."""
    return Manifest(
        layers=net.sizes,
        activation=net.activation,
        squash=net.squash,
        mean_clip=net.mean_clip,
        observation=tuple(asdict(entry) for entry in table),
        observation_sha256=table_sha256,
        control_rate_hz=machine.control.rate_hz,
        machine_name=machine.name,
        machine_sha256=machine.sha256,
        algorithm=algorithm,
    )


def save_bundle(folder: str | Path, net: PolicyNet, manifest: Manifest) -> Manifest:
    """Write the bundle into ``folder`` (made if need be); return the manifest with the weights' sha256.

    Each file is written beside its final name and renamed; the manifest last, so that a kill between the two
    leaves a pair that does not load rather than one that lies.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, NDArray[Any]] = {}
    for index, (weight, bias) in enumerate(net.layers):
        tensors[f"layer.{index}.weight"], tensors[f"layer.{index}.bias"] = weight, bias
    content = _in_order(save_safetensors(tensors, metadata=_behaviour(net)))
    full = replace(manifest, layers=net.sizes, activation=net.activation, squash=net.squash, mean_clip=net.mean_clip)
    full = replace(full, weights_sha256=hashlib.sha256(content).hexdigest())
    write_beside(place / WEIGHTS, content)
    write_beside(place / MANIFEST, (json.dumps(asdict(full), indent=1) + "\n").encode())
    return full


def load_policy(path: str | Path) -> LoadedPolicy:
    """Return the policy of a run folder, a bundle folder, a ``policy.safetensors`` or a stable-baselines3 zip.

    A folder that holds both a bundle and ``model.zip`` must hold the same policy in both. Raises
    ModelFileError, on one line, for everything else than one sound policy of eight actions.
    """
    place = Path(path)
    if _is_folder(place):
        return _load_folder(place)
    if place.name == WEIGHTS:
        return _load_bundle(place.parent)
    if place.suffix == ".safetensors":
        raise ModelFileError(f"{place}: must be called {WEIGHTS} and lie beside its {MANIFEST}")
    return _load_zip(place)


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except OSError as error:  # a name that is too long, links in a circle
        raise ModelFileError(f"{str(place)[:80]}: cannot be read: {error.strerror}") from None


def _load_folder(folder: Path) -> LoadedPolicy:
    has_bundle, has_zip = (folder / WEIGHTS).exists() or (folder / MANIFEST).exists(), (folder / MODEL_ZIP).exists()
    if not has_bundle and not has_zip:
        raise ModelFileError(f"{folder}: holds no policy (neither {WEIGHTS} nor {MODEL_ZIP})")
    if not has_bundle:
        return _load_zip(folder / MODEL_ZIP)
    bundle = _load_bundle(folder)
    if not has_zip:
        return bundle
    zipped = _load_zip(folder / MODEL_ZIP)
    if not _same(bundle.net, zipped.net):
        raise ModelFileError(f"{folder}: {WEIGHTS} and {MODEL_ZIP} hold different policies")
    return replace(bundle, also=(zipped.sha256,))


def _load_zip(path: Path) -> LoadedPolicy:
    content = _read(path)
    found: StrangersPolicy = read_sb3_zip(content, str(path))
    net = found.net
    manifest = Manifest(net.sizes, net.activation, net.squash, net.mean_clip, algorithm=found.algorithm)
    bounds = np.array(found.observation_low), np.array(found.observation_high)
    return LoadedPolicy(net, manifest, hashlib.sha256(content).hexdigest(), path, bounds)


def _load_bundle(folder: Path) -> LoadedPolicy:
    weights_path, manifest_path = folder / WEIGHTS, folder / MANIFEST
    content = _read(weights_path)
    manifest = _parse_manifest(_read(manifest_path), str(manifest_path))
    sha256 = hashlib.sha256(content).hexdigest()
    if manifest.weights_sha256 != sha256:
        raise ModelFileError(
            f"{weights_path}: sha256 {sha256[:12]}… is not the {str(manifest.weights_sha256)[:12]}… of {MANIFEST}"
        )
    net = _net(content, manifest, str(weights_path))
    if net.sizes != manifest.layers:
        raise ModelFileError(
            f"{manifest_path}: layers {str(list(manifest.layers))[:60]}, weights have {list(net.sizes)}"
        )
    if manifest.action_low != (-1.0,) * WINCH_COUNT or manifest.action_high != (1.0,) * WINCH_COUNT:
        raise ModelFileError(f"{manifest_path}: action bounds must be -1 to 1 for each of {WINCH_COUNT} winches")
    return LoadedPolicy(net, manifest, sha256, weights_path)


def _net(content: bytes, manifest: Manifest, name: str) -> PolicyNet:
    try:
        tensors = load_safetensors(content)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ModelFileError(f"{name}: not a safetensors file: {str(error)[:80]}") from None
    count = len(tensors) // 2
    names = {f"layer.{index}.{part}" for index in range(count) for part in ("weight", "bias")}
    if set(tensors) != names or not names:
        shown = [key[:40] for key in sorted(tensors)[:4]]
        raise ModelFileError(f"{name}: tensors {shown}: must be layer.0.weight, layer.0.bias, …")
    pairs = tuple((tensors[f"layer.{index}.weight"], tensors[f"layer.{index}.bias"]) for index in range(count))
    try:
        net = PolicyNet(pairs, manifest.activation, manifest.squash, manifest.mean_clip)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from None
    if _metadata(content) != _behaviour(net):
        raise ModelFileError(f"{name}: its own header and {MANIFEST} disagree about activation or squashing")
    return net


def _behaviour(net: PolicyNet) -> dict[str, str]:
    """What is needed beside the weights to evaluate them; kept in the weights' file, under the same hash."""
    return {"format": FORMAT, "activation": net.activation, "squash": net.squash, "mean_clip": repr(net.mean_clip)}


def _in_order(content: bytes) -> bytes:
    """The same safetensors file with its free text in alphabetical order, so that one policy has one sha256."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _metadata(content: bytes) -> Any:
    """The free text in the header of a safetensors file (8 bytes of length, then JSON)."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]).get("__metadata__")


def _parse_manifest(content: bytes, name: str) -> Manifest:
    try:
        table = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{name}: not JSON: {str(error)[:80]}") from None
    fields = set(Manifest.__dataclass_fields__)
    if not isinstance(table, dict) or set(cast("dict[str, Any]", table)) != fields:
        raise ModelFileError(f"{name}: keys must be exactly {', '.join(sorted(fields))}")
    given = cast("dict[str, Any]", table)
    if given["format"] != FORMAT:
        raise ModelFileError(f"{name}: format {str(given['format'])[:40]!r}, must be {FORMAT!r}")
    if given["normalisation"] is not None:
        raise ModelFileError(f"{name}: normalisation must be null")
    for key, kind in _KINDS.items():
        value = given[key]
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and abs(value) > _LARGEST):
            raise ModelFileError(f"{name}: {key} = {str(value)[:40]!r} is of the wrong type or size")
    for key, kind in (
        ("layers", int),
        ("action_low", float | int),
        ("action_high", float | int),
        ("observation", dict),
    ):
        entries = given[key]
        if entries is not None and not all(
            isinstance(entry, kind) and not isinstance(entry, bool) for entry in entries
        ):
            raise ModelFileError(f"{name}: {key} holds an entry of the wrong type")
        given[key] = None if entries is None else tuple(entries)
    return Manifest(**given)


_LARGEST = 1 << 53
_KINDS: dict[str, Any] = {
    "layers": list,
    "activation": str,
    "squash": str,
    "mean_clip": float | int | None,
    "action_low": list,
    "action_high": list,
    "observation": (list, type(None)),
    "observation_sha256": str | None,
    "control_rate_hz": float | int | None,
    "machine_name": str | None,
    "machine_sha256": str | None,
    "algorithm": str | None,
    "weights_sha256": str,
}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("duplicate keys")
    return table


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"contains {constant}")


def _same(one: PolicyNet, other: PolicyNet) -> bool:
    if (one.sizes, one.activation, one.squash, one.mean_clip) != (
        other.sizes,
        other.activation,
        other.squash,
        other.mean_clip,
    ):
        return False
    pairs = zip(one.layers, other.layers, strict=True)
    return all(
        np.allclose(a, b, rtol=AGREEMENT, atol=AGREEMENT)
        for mine, theirs in pairs
        for a, b in zip(mine, theirs, strict=True)
    )


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(
            status.st_mode
        ):  # one could wait for its bytes forever
            raise ModelFileError(f"{path}: not a file but a device, a pipe or a socket")
        if status.st_size > LARGEST_FILE_BYTES:
            raise ModelFileError(f"{path}: {status.st_size} bytes, must be within {LARGEST_FILE_BYTES}")
        with path.open("rb") as file:
            return file.read(LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelFileError(f"{path}: cannot be read: {reason}") from None


def write_beside(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path`` and rename it, so that a kill leaves the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_bytes(content)
    beside.replace(path)
