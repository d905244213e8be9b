"""Loading policies: our bundles, strangers' zips, hostile and broken files."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hostile import members_of, zip_of
from safetensors.numpy import save as save_safetensors
from test_hostile import Bowl

from melter.errors import ModelFileError
from melter.machine import load_machine
from melter.observation import ObservationBuilder
from melter.safety.bundle import MANIFEST, MODEL_ZIP, WEIGHTS, load_policy, manifest_for, save_bundle
from melter.safety.net import ACTIVATIONS, PolicyNet
from melter.safety.stranger import read_sb3_zip
from melter.safety.torchfile import read_tensors

MACHINE = load_machine()
BUILDER = ObservationBuilder(MACHINE)
OBS = 12


def net_of(sizes: tuple[int, ...] = (BUILDER.size, 16, 8), activation: str = "tanh", seed: int = 0) -> PolicyNet:
    rng = np.random.default_rng(seed)
    layers = itertools.pairwise(sizes)
    return PolicyNet(
        tuple((rng.normal(0, 0.3, (o, i)).astype("f"), rng.normal(0, 0.1, o).astype("f")) for i, o in layers),
        activation,
        "clip",
    )


def sb3_zip(algorithm: str, folder: Path, **options: object) -> tuple[object, Path]:
    import stable_baselines3 as sb3

    warnings.simplefilter("ignore")
    model = getattr(sb3, algorithm)("MlpPolicy", Bowl(), device="cpu", seed=3, **options)
    path = folder / f"{algorithm}.zip"
    model.save(path)
    return model, path


@pytest.fixture(scope="module")
def ppo(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return sb3_zip("PPO", tmp_path_factory.mktemp("ppo"), n_steps=64)[1].read_bytes()


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("PPO", {"n_steps": 64}),
        ("PPO", {"n_steps": 64, "use_sde": True, "policy_kwargs": {"squash_output": True}}),
        ("PPO", {"n_steps": 64, "policy_kwargs": {"net_arch": [24, 16, 8]}}),
        ("PPO", {"n_steps": 64, "policy_kwargs": {"net_arch": []}}),
        ("A2C", {}),
        ("SAC", {"buffer_size": 10}),
        ("SAC", {"buffer_size": 10, "use_sde": True}),
        ("TD3", {"buffer_size": 10}),
        ("DDPG", {"buffer_size": 10, "policy_kwargs": {"net_arch": [20, 10]}}),
    ],
)
def test_agrees_with_predict(algorithm: str, options: dict[str, object], tmp_path: Path) -> None:
    model, path = sb3_zip(algorithm, tmp_path, **options)
    policy = load_policy(path)
    rng = np.random.default_rng(1)
    observations = (rng.uniform(-1, 1, (200, OBS)) * Bowl.observation_space.high).astype(np.float32)
    theirs, _ = model.predict(observations, deterministic=True)  # type: ignore[attr-defined]
    assert np.abs(policy.net.act(observations) - theirs).max() < 1e-6
    assert policy.observation_bounds is not None
    assert policy.observation_bounds[1] == pytest.approx(Bowl.observation_space.high)


@pytest.mark.parametrize("activation", ["Tanh", "ReLU", "ELU", "LeakyReLU", "SiLU", "Sigmoid"])
def test_activations_agree_with_torch(activation: str, tmp_path: Path) -> None:
    import torch

    model, path = sb3_zip("PPO", tmp_path, n_steps=64, policy_kwargs={"activation_fn": getattr(torch.nn, activation)})
    observations = np.random.default_rng(1).normal(0, 9, (100, OBS)).astype(np.float32)
    theirs, _ = model.predict(observations, deterministic=True)  # type: ignore[attr-defined]
    assert np.abs(load_policy(path).net.act(observations) - theirs).max() < 1e-6


# -- our own bundles --------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "run", net_of(), manifest_for(net_of(), MACHINE, BUILDER.table, BUILDER.sha256, "PPO"))
    return tmp_path / "run"


def test_bundle_round_trip(bundle: Path) -> None:
    for path in (bundle, bundle / WEIGHTS):
        policy = load_policy(path)
        observations = np.random.default_rng(0).normal(size=(5, BUILDER.size)).astype("f")
        assert (policy.net.act(observations) == net_of().act(observations)).all()
        assert policy.manifest.machine_sha256 == MACHINE.sha256
        assert policy.manifest.observation_sha256 == BUILDER.sha256
    assert not [path for path in bundle.iterdir() if path.suffix == ".tmp"]


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("activation", "relu", "disagree"),
        ("activation", "evil", "activation"),
        ("squash", "tanh", "disagree"),
        ("layers", [1, 8], "layers"),
        ("layers", [True], "wrong type"),
        ("action_high", [100.0] * 8, "action bounds"),
        ("normalisation", {}, "normalisation"),
        ("format", "other", "format"),
        ("weights_sha256", "0" * 64, "sha256"),
        ("weights_sha256", None, "wrong type"),
        ("mean_clip", 0.5, "disagree"),
        ("extra", 1, "keys"),
    ],
)
def test_manifest_that_lies(bundle: Path, key: str, value: object, what: str) -> None:
    table = json.loads((bundle / MANIFEST).read_text())
    table[key] = value
    (bundle / MANIFEST).write_text(json.dumps(table))
    with pytest.raises(ModelFileError, match=what):
        load_policy(bundle)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"a": NaN}', '{"format": 1, "format": 2}', "[" * 100_000, "\xff"]
)
def test_manifest_that_is_none(bundle: Path, text: str) -> None:
    (bundle / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelFileError, match=MANIFEST):
        load_policy(bundle)


def test_weights_that_are_not_ours(bundle: Path) -> None:
    import hashlib

    for tensors in (
        {},
        {"x": np.zeros(3, "f")},
        {"layer.0.weight": np.zeros((8, BUILDER.size)), "layer.0.bias": np.zeros(8)},
    ):
        content = save_safetensors(tensors)
        (bundle / WEIGHTS).write_bytes(content)
        table = json.loads((bundle / MANIFEST).read_text()) | {"weights_sha256": hashlib.sha256(content).hexdigest()}
        (bundle / MANIFEST).write_text(json.dumps(table))
        with pytest.raises(ModelFileError):
            load_policy(bundle)
    (bundle / WEIGHTS).write_bytes(b"\xff" * 40)
    with pytest.raises(ModelFileError):
        load_policy(bundle)
    (bundle / WEIGHTS).unlink()
    with pytest.raises(ModelFileError, match="no such file"):
        load_policy(bundle)


def test_folder_of_both_must_agree(tmp_path: Path) -> None:
    _, path = sb3_zip("PPO", tmp_path, n_steps=64)
    net = load_policy(path).net
    run = tmp_path / "run"
    save_bundle(run, net, manifest_for(net, MACHINE, BUILDER.table, BUILDER.sha256, "PPO"))
    (run / MODEL_ZIP).write_bytes(path.read_bytes())
    policy = load_policy(run)
    assert policy.path.name == WEIGHTS
    assert policy.also == (load_policy(path).sha256,)
    weight = np.array(net.layers[0][0])
    weight[0, 0] += 0.01
    other = PolicyNet(((weight, net.layers[0][1]), *net.layers[1:]), net.activation, net.squash)
    save_bundle(run, other, manifest_for(other, MACHINE, BUILDER.table, BUILDER.sha256, "PPO"))
    with pytest.raises(ModelFileError, match="different policies"):
        load_policy(run)


@pytest.mark.parametrize("change", ["nan", "inf", "huge", "double", "shape", "seven", "chain", "none"])
def test_nets_that_are_wrong(change: str) -> None:
    (weight, bias), head = net_of().layers
    weight, bias = np.array(weight), np.array(bias)
    layers: tuple[object, ...] = ((weight, bias), head)
    if change in ("nan", "inf", "huge"):
        weight[3, 3] = {"nan": np.nan, "inf": np.inf, "huge": 1e7}[change]
    elif change == "double":
        layers = ((weight.astype(float), bias), head)
    elif change == "shape":
        layers = ((weight, bias[1:]), head)
    elif change == "seven":
        layers = ((weight, bias), (head[0][:7], head[1][:7]))
    elif change == "chain":
        layers = ((weight[:4], bias[:4]), head)
    else:
        layers = ()
    with pytest.raises(ModelFileError):
        PolicyNet(layers, "tanh", "clip")  # type: ignore[arg-type]


def test_unknown_activation_squash_and_clip() -> None:
    layers = net_of().layers
    for arguments in (("cube", "clip", None), ("tanh", "none", None), ("tanh", "clip", -1.0), ("tanh", "clip", np.nan)):
        with pytest.raises(ModelFileError):
            PolicyNet(layers, *arguments)  # type: ignore[arg-type]
    assert set(ACTIVATIONS) >= {"tanh", "relu"}


@pytest.mark.parametrize("what", ["nothing", "folder", "text", "empty", "pickle", "named"])
def test_paths_that_are_no_policy(what: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.safetensors" if what == "named" else "model.zip" if what != "folder" else "")
    if what in ("text", "named"):
        path.write_text("hello")
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelFileError):
        load_policy(path)


# -- strangers' zips --------------------------------------------------------------------------------------------


def with_data(content: bytes, **changes: object) -> bytes:
    members = members_of(content)
    data = json.loads(members["data"])
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) and isinstance(data.get(key), dict) else value
    return zip_of(members | {"data": json.dumps(data).encode()})


class Bomb:
    """Leaves a mark when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_code_in_every_pickled_field_is_never_run(ppo: bytes, tmp_path: Path) -> None:
    import base64

    mark = tmp_path / "mark"
    bomb = base64.b64encode(pickle.dumps(Bomb(mark))).decode()
    members = members_of(ppo)
    data = json.loads(members["data"])
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = bomb
    harmless = read_sb3_zip(zip_of(members | {"data": json.dumps(data).encode()}), "x")
    assert harmless.net.sizes[0] == OBS
    for name in members:
        if name.endswith(".pth"):
            evil = zip_of(members | {name: pickle.dumps(Bomb(mark))})
            inner = zip_of(
                members | {name: zip_of({"archive/data.pkl": pickle.dumps(Bomb(mark), 2), "archive/version": b"3"})}
            )
            for content in (evil, inner):
                if name == "policy.pth":
                    with pytest.raises(ModelFileError):
                        read_sb3_zip(content, "x")
                else:
                    read_sb3_zip(content, "x")
    assert not mark.exists()


SAC = {"__module__": "stable_baselines3.sac.policies", "__init__": "<function SACPolicy.__init__ at 0>"}
BOX = "<class 'gymnasium.spaces.box.Box'>"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"action_space": {"low": "[-100. -100. -100. -100. -100. -100. -100. -100.]"}}, "action bounds"),
        ({"action_space": {"_shape": "[7]", "low": "-1.0", "high": "1.0"}}, "7 actions"),
        ({"action_space": {"_shape": "[2, 4]"}}, "shape"),
        ({"action_space": {"dtype": "int64"}}, "float32"),
        ({"action_space": {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>"}}, "Box"),
        ({"action_space": None}, "Box"),
        ({"observation_space": {"_shape": "[13]"}}, "has 12 numbers"),
        ({"observation_space": {"_shape": "[13]", "low": "-1.0", "high": "1.0"}}, "weights take"),
        ({"observation_space": {"low": "evil()"}}, "numbers"),
        ({"policy_class": {"__module__": "os"}}, "module"),
        ({"policy_class": {"__init__": "<function Evil.__init__ at 0x0>"}}, "must be ActorCriticPolicy"),
        ({"policy_class": None}, "module"),
        (
            {
                "policy_class": {
                    "__module__": "stable_baselines3.sac.policies",
                    "__init__": "<function SACPolicy.__init__ at 0>",
                }
            },
            "missing",
        ),
        ({"policy_kwargs": {"activation_fn": "<class '__main__.Evil'>"}}, "activation"),
        ({"policy_kwargs": {"features_extractor_class": "<class '__main__.Evil'>"}}, "features extractor"),
    ],
)
def test_models_that_do_not_fit(ppo: bytes, changes: dict[str, object], what: str) -> None:
    with pytest.raises(ModelFileError, match=what):
        read_sb3_zip(with_data(ppo, **changes), "x")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": Infinity}', b"\xff", b"[" * 200_000]
)
def test_data_that_is_no_json(ppo: bytes, data: bytes) -> None:
    with pytest.raises(ModelFileError, match="data"):
        read_sb3_zip(zip_of(members_of(ppo) | {"data": data}), "x")


def test_truncated_files_say_so(ppo: bytes) -> None:
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.999):
        with pytest.raises(ModelFileError, match="truncated"):
            read_sb3_zip(ppo[: int(len(ppo) * share)], "x")
    inner = members_of(ppo)["policy.pth"]
    with pytest.raises(ModelFileError, match="truncated"):
        read_sb3_zip(inner, "x")
    start = ppo.index(b"policy.pth") - 30
    end = ppo.index(inner) + len(inner)
    assert 0 < start < end
    with pytest.raises(ModelFileError, match=r"truncated|not where|before its first"):
        read_sb3_zip(ppo[:end], "x")


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a\\b", "x/../y", "evil.py", "data2", "é"])
def test_member_names(ppo: bytes, name: str) -> None:
    with pytest.raises(ModelFileError, match=r"name|belongs"):
        read_sb3_zip(zip_of(members_of(ppo) | {name: b"x"}), "x")


def test_missing_members(ppo: bytes) -> None:
    for name in ("data", "policy.pth"):
        members = members_of(ppo)
        del members[name]
        with pytest.raises(ModelFileError, match=f"no member {name}"):
            read_sb3_zip(zip_of(members), "x")


def test_bombs_duplicates_and_overlaps(ppo: bytes) -> None:
    members = members_of(ppo)
    with pytest.raises(ModelFileError, match="over 100x"):
        read_sb3_zip(zip_of(members | {"policy.optimizer.pth": bytes(50_000_000)}, zipfile.ZIP_DEFLATED), "x")
    buffer = io.BytesIO(zip_of(members))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr("data", b"{}")
    with pytest.raises(ModelFileError, match="duplicate"):
        read_sb3_zip(buffer.getvalue(), "x")
    plain = bytearray(zip_of({"data": b"A" * 100, "policy.pth": b"B" * 100}))
    entry = plain.rindex(b"PK\x01\x02")
    plain[entry + 42 : entry + 46] = struct.pack("<I", 0)
    with pytest.raises(ModelFileError, match=r"overlaps|another name|not where"):
        read_sb3_zip(bytes(plain), "x")
    damaged = bytearray(ppo)
    damaged[ppo.index(b"policy_class") + 3] ^= 1
    with pytest.raises(ModelFileError, match="damaged"):
        read_sb3_zip(bytes(damaged), "x")
    with pytest.raises(ModelFileError, match="before its first"):
        read_sb3_zip(b"PK\x03\x04" + b"x" * 30 + ppo, "x")


def test_deflated_but_honest(ppo: bytes) -> None:
    assert read_sb3_zip(zip_of(members_of(ppo), zipfile.ZIP_DEFLATED), "x").net.sizes == (OBS, 64, 64, 8)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_weights_that_are_not_sound(ppo: bytes, value: float) -> None:
    import torch

    members = members_of(ppo)
    state = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
    for key in ("action_net.weight", "value_net.weight"):
        changed = {name: tensor.clone() for name, tensor in state.items()}
        changed[key].view(-1)[0] = value
        buffer = io.BytesIO()
        torch.save(changed, buffer)
        content = zip_of(members | {"policy.pth": buffer.getvalue()})
        if key.startswith("value") and value == 1e9:
            read_sb3_zip(content, "x")  # finite, and no part of what acts
            continue
        with pytest.raises(ModelFileError):
            read_sb3_zip(content, "x")


def test_odd_tensors(ppo: bytes) -> None:
    import torch

    members = members_of(ppo)
    state = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
    whole = state["action_net.weight"]
    shared = torch.zeros(8)
    for odd in (
        {"extra.weight": torch.zeros(3)},
        {"action_net.weight": whole.double()},
        {"action_net.weight": whole.t()},
        {"action_net.weight": torch.zeros(9, 64)[1:]},
        {"action_net.bias": shared, "log_std": shared},
        {"action_net.weight": torch.zeros(1).expand(8, 64)},
        {"action_net.weight": whole.half()},
        {"lstm.weight": torch.zeros(2)},
        {"action_net.bias": 3},
        {"features_extractor.x": torch.zeros(1)},
    ):
        buffer = io.BytesIO()
        torch.save({**state, **odd}, buffer)
        with pytest.raises(ModelFileError):
            read_sb3_zip(zip_of(members | {"policy.pth": buffer.getvalue()}), "x")


def test_torch_reader_agrees_with_torch(ppo: bytes) -> None:
    import torch

    for name, content in members_of(ppo).items():
        if name == "policy.pth":
            theirs = torch.load(io.BytesIO(content), weights_only=True)
            ours = read_tensors(content, name)
            assert list(ours) == list(theirs)
            assert all((ours[key] == theirs[key].numpy()).all() for key in ours)


def test_mutated_files_never_crash(ppo: bytes) -> None:
    """Any damage: a ModelFileError, or a policy. The instructions of the weights' pickle are damaged on purpose."""
    rng = np.random.default_rng(0)
    members = members_of(ppo)
    inner = members_of(members["policy.pth"])
    for _ in range(400):
        pickled, outer = bytearray(inner["archive/data.pkl"]), bytearray(ppo)
        for _ in range(rng.integers(1, 5)):
            pickled[rng.integers(len(pickled))] = rng.integers(256)
        outer[rng.integers(len(outer))] = rng.integers(256)
        mutant = zip_of(members | {"policy.pth": zip_of(inner | {"archive/data.pkl": bytes(pickled)})})
        for each in (mutant, bytes(outer)):
            try:
                assert read_sb3_zip(each, "x").net.sizes[-1] == 8
            except ModelFileError as error:
                assert "\n" not in str(error)  # noqa: PT017
