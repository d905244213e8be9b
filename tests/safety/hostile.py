"""A folder full of model files that are broken or mean harm, each with what is wrong with it."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

MARK = "mark-of-code-that-ran"


class Bomb:
    """Leaves a mark when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def hostile_files(good: bytes, mark: Path) -> Iterator[tuple[str, bytes, bool]]:
    """Yield name, content, and whether it may load because it is harmless; made from a good stable-baselines3 zip."""
    members = members_of(good)
    yield from _pickles(members, mark)
    yield from _archives(good, members)
    yield from _data(members)
    yield from _weights(members)
    yield from _other(good, mark)


def _pickles(members: dict[str, bytes], mark: Path) -> Iterator[tuple[str, bytes, bool]]:
    data = json.loads(members["data"])
    for number, protocol in enumerate((0, 2, 4)):
        bomb = base64.b64encode(pickle.dumps(Bomb(mark), protocol)).decode()
        for key in [key for key, value in data.items() if isinstance(value, dict) and ":serialized:" in value]:
            changed = json.loads(members["data"])
            changed[key][":serialized:"] = bomb
            yield f"pickled-{key}-{number}.zip", zip_of(members | {"data": json.dumps(changed).encode()}), True
    for name in [name for name in members if name.endswith(".pth")]:
        raw = pickle.dumps(Bomb(mark), 2)
        harmless = name != "policy.pth"
        yield f"raw-{name}.zip", zip_of(members | {name: raw}), harmless
        inner = members_of(members[name])
        root = next(key for key in inner if key.endswith("data.pkl"))
        yield f"inner-{name}.zip", zip_of(members | {name: zip_of(inner | {root: raw})}), harmless
        mixed = raw[:-1] + inner[root][2:]
        yield f"mixed-{name}.zip", zip_of(members | {name: zip_of(inner | {root: mixed})}), harmless
    yield "extra-member.zip", zip_of(members | {"evil.pkl": pickle.dumps(Bomb(mark))}), False
    yield "normalise.zip", zip_of(members | {"vecnormalize.pkl": pickle.dumps(Bomb(mark))}), False


def _archives(good: bytes, members: dict[str, bytes]) -> Iterator[tuple[str, bytes, bool]]:
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 0.999):
        yield f"truncated-{share}.zip", good[: int(len(good) * share)], False
    yield "doubled.zip", good + good, False
    yield "prefixed.zip", b"#!/bin/sh\n" + good, False
    yield "zeros.zip", bytes(len(good)), False
    for name in ("../evil", "/etc/passwd", "a/../../b", "..\\evil", "C:evil", "data/", "x" * 300):
        yield f"name-{abs(hash(name)) % 10**6}.zip", zip_of(members | {name: b"x"}), False
    bomb = members | {"policy.optimizer.pth": bytes(80_000_000)}
    yield "zip-bomb.zip", zip_of(bomb, zipfile.ZIP_DEFLATED), False
    yield "bzip2.zip", zip_of(members, zipfile.ZIP_BZIP2), False
    yield "lzma.zip", zip_of(members, zipfile.ZIP_LZMA), False
    nested = zip_of({"data": good, "policy.pth": good})
    yield "nested.zip", zip_of({"data": nested, "policy.pth": nested}), False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("data", "policy.pth"):
            buffer = io.BytesIO(good)
            with zipfile.ZipFile(buffer, "a") as archive:
                archive.writestr(name, members[name])
            yield f"duplicate-{name}.zip", buffer.getvalue(), False
    for place, size, value in ((42, 4, 0), (24, 4, 0xFFFFFFFF), (20, 4, 1), (16, 4, 0), (10, 2, 99), (8, 2, 1)):
        changed = bytearray(good)
        entry = changed.rindex(b"PK\x01\x02")
        changed[entry + place : entry + place + size] = struct.pack("<I" if size == 4 else "<H", value)
        yield f"table-{place}-{value}.zip", bytes(changed), place == 16
    flipped = bytearray(good)
    flipped[good.index(b"policy_class") + 3] ^= 1
    yield "checksum.zip", bytes(flipped), False
    yield "many-members.zip", zip_of(members | {f"x{i}.pth": b"" for i in range(600)}), False


def _data(members: dict[str, bytes]) -> Iterator[tuple[str, bytes, bool]]:
    text = members["data"].decode()
    for number, data in enumerate(
        (b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 100_000, b'{"x": 1, "x": 2}', b'{"x": NaN}',
         b'{"x": Infinity}', text.replace("{", '{"policy_class": 1, "policy_class": 2, ', 1).encode())
    ):  # fmt: skip
        yield f"data-{number}.zip", zip_of(members | {"data": data}), False
    changes: tuple[dict[str, Any], ...] = (
        {"action_space": {"low": "[-100. -100. -100. -100. -100. -100. -100. -100.]"}},
        {"action_space": {"_shape": "[7]", "low": "-1.0", "high": "1.0"}},
        {"action_space": {"high": "[1. 1. 1. 1. 1. 1. 1. nan]"}},
        {"action_space": {"dtype": "float64"}},
        {"action_space": {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>"}},
        {"observation_space": {"_shape": "[99999999]"}},
        {"observation_space": {"_shape": "[2, 6]"}},
        {"observation_space": {"low": "__import__('os').system('x')"}},
        {"observation_space": {":type:": "<class 'gymnasium.spaces.dict.Dict'>"}},
        {"policy_class": {"__module__": "os"}},
        {"policy_class": {"__module__": "stable_baselines3.dqn.policies"}},
        {"policy_class": {"__init__": "<function Evil.__init__ at 0x0>"}},
        {"policy_class": {"__module__": "sb3_contrib.common.recurrent.policies"}},
        {"policy_kwargs": {"activation_fn": "<class 'os.system'>"}},
        {"policy_kwargs": {"features_extractor_class": "<class '__main__.Evil'>"}},
        {"policy_kwargs": {"clip_mean": "many"}},
    )
    for number, change in enumerate(changes):
        data = json.loads(text)
        for key, value in change.items():
            data[key] = {**(data.get(key) or {}), **value}
        yield f"described-{number}.zip", zip_of(members | {"data": json.dumps(data).encode()}), number == 15
    for key in ("action_space", "observation_space", "policy_class"):
        data = json.loads(text)
        del data[key]
        yield f"without-{key}.zip", zip_of(members | {"data": json.dumps(data).encode()}), False


def _weights(members: dict[str, bytes]) -> Iterator[tuple[str, bytes, bool]]:
    import torch

    state = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
    whole = state["action_net.weight"]
    shared = torch.zeros(8)
    odd: tuple[dict[str, Any], ...] = (
        {"action_net.weight": whole * np.nan}, {"action_net.bias": shared + np.inf}, {"value_net.bias": torch.tensor([np.nan])},
        {"action_net.weight": whole * 1e9}, {"action_net.weight": whole.double()}, {"action_net.weight": whole.half()},
        {"action_net.weight": whole.to(torch.int64)}, {"action_net.weight": whole.t()}, {"action_net.weight": whole[:7]},
        {"action_net.weight": torch.zeros(9, whole.shape[1])[1:]}, {"action_net.weight": torch.zeros(1).expand_as(whole)},
        {"action_net.bias": shared, "log_std": shared}, {"action_net.bias": 3}, {"action_net.bias": "text"},
        {"extra.weight": torch.zeros(3)}, {"lstm.weight": torch.zeros(2)}, {"features_extractor.x": torch.zeros(1)},
        {"action_net.weight": torch.zeros(0, 0)}, {"mlp_extractor.policy_net.0.weight": torch.zeros(64, 5)},
    )  # fmt: skip
    for number, change in enumerate(odd):
        buffer = io.BytesIO()
        torch.save({**state, **change}, buffer)
        yield f"weights-{number}.zip", zip_of(members | {"policy.pth": buffer.getvalue()}), False
    for key in ("action_net.weight", "mlp_extractor.policy_net.0.bias"):
        buffer = io.BytesIO()
        torch.save({name: value for name, value in state.items() if name != key}, buffer)
        yield f"missing-{key}.zip", zip_of(members | {"policy.pth": buffer.getvalue()}), False
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    yield "list.zip", zip_of(members | {"policy.pth": buffer.getvalue()}), False


def _other(good: bytes, mark: Path) -> Iterator[tuple[str, bytes, bool]]:
    yield "empty.zip", b"", False
    yield "text.zip", b"hello\n", False
    yield "pickle.zip", pickle.dumps(Bomb(mark)), False
    yield "torch.zip", members_of(good)["policy.pth"], False
    yield "picture.zip", b"\x89PNG\r\n\x1a\n" + bytes(200), False
    yield "no-members.zip", zip_of({}), False
    yield "model.safetensors", struct.pack("<Q", 2**63) + b"{}", False
