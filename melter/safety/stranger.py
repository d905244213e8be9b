"""A stable-baselines3 zip as a :class:`~melter.safety.net.PolicyNet`, without running anything in it.

Of ``data`` only the JSON's own text is used, never its pickled parts; the weights come from ``policy.pth``
through :mod:`melter.safety.torchfile`. Which algorithm it was is read off the module that the policy's class
names, and must agree with the weights' names.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from melter.errors import ModelFileError
from melter.machine import WINCH_COUNT
from melter.safety.net import PolicyNet, Weights
from melter.safety.torchfile import read_tensors
from melter.safety.zipreader import StrictZip

Tensors = dict[str, NDArray[Any]]

_ON_POLICY = "stable_baselines3.common.policies"
_FAMILIES = {
    _ON_POLICY: ("ActorCriticPolicy", "actor-critic (PPO, A2C, TRPO)"),
    "stable_baselines3.sac.policies": ("SACPolicy", "SAC"),
    "stable_baselines3.td3.policies": ("TD3Policy", "TD3 or DDPG"),
    "sb3_contrib.tqc.policies": ("TQCPolicy", "TQC"),
    "sb3_contrib.crossq.policies": ("CrossQPolicy", "CrossQ"),
}
_MEMBERS = re.compile(r"data|[a-z_0-9.]+\.pth|_stable_baselines3_version|system_info\.txt")
_ACTIVATIONS = {
    "<class 'torch.nn.modules.activation.Tanh'>": "tanh",
    "<class 'torch.nn.modules.activation.ReLU'>": "relu",
    "<class 'torch.nn.modules.activation.ELU'>": "elu",
    "<class 'torch.nn.modules.activation.LeakyReLU'>": "leaky_relu",
    "<class 'torch.nn.modules.activation.SiLU'>": "silu",
    "<class 'torch.nn.modules.activation.Sigmoid'>": "sigmoid",
}
LARGEST_DATA_BYTES = 1 << 24
"""Text of three bytes becomes an object of sixty."""
_NORM_EPS = 1e-3
"""CrossQ's batch_norm_eps unless said otherwise."""


@dataclass(frozen=True)
class StrangersPolicy:
    """What a stable-baselines3 zip holds, as far as it can be told without running it."""

    net: PolicyNet
    algorithm: str
    observation_low: tuple[float, ...]
    """As printed in the file, to eight decimals."""
    observation_high: tuple[float, ...]
    version: str


def read_sb3_zip(content: bytes, name: str) -> StrangersPolicy:
    """Return the policy of a stable-baselines3 zip's bytes; raise ModelFileError, which starts with ``name``."""
    archive = StrictZip(content, name)
    for member in ("data", "policy.pth"):
        if member not in archive.names:
            inner = any(known.endswith("data.pkl") for known in archive.names)
            what = "truncated, or a torch file" if inner else "not a stable-baselines3 model"
            raise ModelFileError(f"{name}: {what}: has no member {member}")
    odd = [member for member in archive.names if not _MEMBERS.fullmatch(member)]
    if odd:
        raise ModelFileError(f"{name}: member {odd[0][:60]!r} belongs to no stable-baselines3 model")
    if archive.size("data") > LARGEST_DATA_BYTES:
        raise ModelFileError(f"{name}: data has {archive.size('data')} bytes, must be within {LARGEST_DATA_BYTES}")
    data = _json_object(archive.read("data"), name)
    family = _family(data, name)
    low, high = _box(data, "observation_space", name)
    _require_actions(data, name)
    tensors = read_tensors(archive.read("policy.pth"), f"{name}: policy.pth")
    try:
        net = _net(data, family, tensors, name)
    except ModelFileError as error:
        raise error if str(error).startswith(name) else ModelFileError(f"{name}: {error}") from None
    if net.sizes[0] != len(low):
        raise ModelFileError(f"{name}: weights take {net.sizes[0]} observations, observation_space has {len(low)}")
    version = "_stable_baselines3_version"
    shown = archive.read(version)[:20].decode("ascii", "replace").strip() if version in archive.names else "unknown"
    return StrangersPolicy(net, _FAMILIES[family][1], tuple(low.tolist()), tuple(high.tolist()), shown)


def _json_object(content: bytes, name: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ModelFileError(f"{name}: data has duplicate keys")
        return table

    def refuse(constant: str) -> Any:
        raise ModelFileError(f"{name}: data contains {constant}")

    try:
        data = json.loads(content.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise ModelFileError(f"{name}: data is not JSON text") from None
    if not isinstance(data, dict):
        raise ModelFileError(f"{name}: data is not a JSON object")
    return cast("dict[str, Any]", data)


def _family(data: dict[str, Any], name: str) -> str:
    described = data.get("policy_class")
    module = described.get("__module__") if isinstance(described, dict) else None
    if not isinstance(module, str) or module not in _FAMILIES:
        raise ModelFileError(
            f"{name}: policy_class is of module {str(module)[:60]!r}, must be one of {', '.join(_FAMILIES)}"
        )
    made_by = str(cast("dict[str, Any]", described).get("__init__", ""))
    expected = _FAMILIES[module][0]
    if not made_by.startswith(f"<function {expected}.__init__ "):
        raise ModelFileError(f"{name}: policy_class is {made_by[:60]!r}, must be {expected}")
    return module


def _box(data: dict[str, Any], key: str, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the bounds of a one-dimensional float32 Box from its printed form."""
    space = data.get(key)
    if not isinstance(space, dict) or space.get(":type:") != "<class 'gymnasium.spaces.box.Box'>":
        raise ModelFileError(f"{name}: {key} is not a gymnasium Box")
    printed = cast("dict[str, Any]", space)
    shape = re.fullmatch(r"[\[(](\d{1,6}),?[\])]", str(printed.get("_shape")))
    if shape is None or printed.get("dtype") != "float32":
        raise ModelFileError(
            f"{name}: {key} has shape {str(printed.get('_shape'))[:40]!r} of {str(printed.get('dtype'))[:40]!r}, "
            "must be one row of float32"
        )
    bounds: list[NDArray[np.float64]] = []
    for side in ("low", "high"):
        text = str(printed.get(side)).strip("[] \n")
        short = str(printed.get(f"{side}_repr"))
        try:
            values = np.array([float(word) for word in text.split()]) if "..." not in text else np.array([float(short)])
        except ValueError:
            raise ModelFileError(f"{name}: {key}.{side} is not a row of numbers") from None
        if np.isnan(values).any() or values.size not in (1, int(shape[1])):
            raise ModelFileError(f"{name}: {key}.{side} has {values.size} numbers, must be {shape[1]} numbers")
        bounds.append(np.broadcast_to(values, (int(shape[1]),)))
    return bounds[0], bounds[1]


def _require_actions(data: dict[str, Any], name: str) -> None:
    low, high = _box(data, "action_space", name)
    if len(low) != WINCH_COUNT:
        raise ModelFileError(f"{name}: {len(low)} actions, must be {WINCH_COUNT} (one for each winch)")
    if not ((low == -1).all() and (high == 1).all()):
        raise ModelFileError(f"{name}: action bounds {low.min():g} to {high.max():g}, must be -1 to 1")


def _keywords(data: dict[str, Any]) -> dict[str, str]:
    """The policy's keyword arguments as text."""
    given = data.get("policy_kwargs")
    return (
        {str(key): str(value) for key, value in cast("dict[str, Any]", given).items()}
        if isinstance(given, dict)
        else {}
    )


def _net(data: dict[str, Any], family: str, tensors: Tensors, name: str) -> PolicyNet:
    keywords = _keywords(data)
    default = "tanh" if family == _ON_POLICY else "relu"
    activation = _ACTIVATIONS.get(keywords["activation_fn"]) if "activation_fn" in keywords else default
    if activation is None:
        raise ModelFileError(
            f"{name}: activation {keywords['activation_fn'][:80]!r}: must be one of {', '.join(_ACTIVATIONS.values())}"
        )
    extractor = keywords.get("features_extractor_class", "FlattenExtractor")
    if not re.search(r"\bFlattenExtractor\b", extractor) or any("features_extractor." in key for key in tensors):
        raise ModelFileError(f"{name}: features extractor {extractor[:80]!r}: only FlattenExtractor can be read")
    used = _Used(tensors, name)
    if family == _ON_POLICY:
        if any(word in key for key in tensors for word in ("lstm", "shared_net")):
            raise ModelFileError(f"{name}: recurrent or shared layers cannot be read")
        layers = used.stack("mlp_extractor.policy_net", into=used.layer("action_net"))
        used.require_all(("log_std", "mlp_extractor.value_net.", "value_net."))
        return PolicyNet(tuple(layers), activation, "tanh" if keywords.get("squash_output") == "True" else "clip")
    if family == "stable_baselines3.td3.policies":
        layers = used.stack("actor.mu")
        clip = None
    else:
        sde = "actor.mu.0.weight" in tensors
        head = used.layer("actor.mu.0" if sde else "actor.mu")
        layers = used.stack("actor.latent_pi", into=head, eps=_number(keywords, "batch_norm_eps", _NORM_EPS, name))
        clip = _number(keywords, "clip_mean", 2.0, name) if sde else None
        clip = clip if clip is None or clip > 0 else None
    used.require_all(("actor.log_std", "actor_target.", "critic.", "critic_target."))
    return PolicyNet(tuple(layers), activation, "tanh", clip)


def _number(keywords: dict[str, str], key: str, default: float, name: str) -> float:
    try:
        return float(keywords.get(key, default))
    except ValueError:
        raise ModelFileError(f"{name}: policy_kwargs.{key} = {keywords[key][:40]!r}: must be a number") from None


class _Used:
    """Takes layers out of a table of weights and knows what was taken."""

    def __init__(self, tensors: Tensors, name: str) -> None:
        self._left, self._name = dict(tensors), name

    def layer(self, prefix: str) -> tuple[Weights, Weights]:
        """The linear layer of that name."""
        return self._take(f"{prefix}.weight"), self._take(f"{prefix}.bias")

    def stack(
        self, prefix: str, *, into: tuple[Weights, Weights] | None = None, eps: float = 0.0
    ) -> list[tuple[Weights, Weights]]:
        """The linear layers of a Sequential, ``into`` last; normalisations fold into the layer that follows."""
        indices = sorted(
            {
                int(key.removeprefix(f"{prefix}.").split(".")[0])
                for key in self._left
                if re.match(re.escape(prefix) + r"\.\d{1,3}\.", key)
            }
        )
        layers: list[tuple[Weights, Weights]] = []
        scale_shift: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        for index in indices:
            if f"{prefix}.{index}.ra_mean" in self._left:
                scale_shift = self._normalisation(f"{prefix}.{index}", eps)
                continue
            layers.append(_folded(self.layer(f"{prefix}.{index}"), scale_shift, self._name))
            scale_shift = None
        if into is not None:
            layers.append(_folded(into, scale_shift, self._name))
        elif scale_shift is not None or not layers:
            raise ModelFileError(f"{self._name}: {prefix} has no layers that can be read")
        return layers

    def require_all(self, others: tuple[str, ...]) -> None:
        """Raise ModelFileError when weights are left that belong to nothing known."""
        odd = [key for key in self._left if not key.startswith(others)]
        if odd:
            raise ModelFileError(f"{self._name}: weights {odd[0][:60]!r} belong to no layer that can be read")
        for key, values in self._left.items():
            if values.dtype == np.float32 and not np.isfinite(values).all():
                raise ModelFileError(f"{self._name}: weights {key[:60]!r} are not finite everywhere")

    def _normalisation(self, prefix: str, eps: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and shift of a batch normalisation in use (not in training)."""
        mean, variance = self._take(f"{prefix}.ra_mean").astype(float), self._take(f"{prefix}.ra_var").astype(float)
        gain, bias = self._take(f"{prefix}.scale").astype(float), self._take(f"{prefix}.bias").astype(float)
        self._left.pop(f"{prefix}.steps", None)
        if (
            not (mean.shape == variance.shape == gain.shape == bias.shape)
            or mean.ndim != 1
            or not (variance + eps > 0).all()
        ):
            raise ModelFileError(f"{self._name}: normalisation {prefix} is malformed")
        scale = gain / np.sqrt(variance + eps)
        return scale, bias - mean * scale

    def _take(self, key: str) -> Weights:
        if key not in self._left:
            raise ModelFileError(f"{self._name}: weights {key!r} are missing")
        return self._left.pop(key)


def _folded(
    layer: tuple[Weights, Weights], scale_shift: tuple[NDArray[np.float64], NDArray[np.float64]] | None, name: str
) -> tuple[Weights, Weights]:
    if scale_shift is None:
        return layer
    weight, bias = layer
    scale, shift = scale_shift
    if weight.ndim != 2 or weight.shape[1] != len(scale):
        raise ModelFileError(f"{name}: a normalisation of {len(scale)} feeds a layer of shape {weight.shape}")
    return (weight * scale).astype(np.float32), (bias + weight.astype(float) @ shift).astype(np.float32)
