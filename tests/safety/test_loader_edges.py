"""Both sides of what the loaders look at: each refusal of their own code, by a file that is right but for that."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import members_of, zip_of
from test_hostile import SMALL, made
from test_hostile_more import STORAGE, TABLE, W, entry, storage_of, tensor, unicode_of
from test_models import BUILDER, MACHINE, net_of

from melter.errors import ModelFileError
from melter.machine import load_machine
from melter.safety.bounds import bound_outputs, require_sound
from melter.safety.bundle import MODEL_ZIP, load_policy, manifest_for, save_bundle
from melter.safety.check import _together
from melter.safety.claims import read_counterexample
from melter.safety.limiter import TickLimits, limit_command
from melter.safety.net import PolicyNet
from melter.safety.proof import prove
from melter.safety.stranger import read_sb3_zip
from melter.safety.torchfile import LARGEST_PICKLE_BYTES, read_tensors
from melter.safety.zipreader import StrictZip


def torch_file(pickled: bytes, **members: bytes) -> bytes:
    return zip_of({"archive/data.pkl": pickled} | {f"archive/{key}": value for key, value in members.items()})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (zip_of({"archive/other": b"x"}), "needs one data.pkl, has 0"),
        (zip_of({"a/data.pkl": b"x", "b/data.pkl": b"x"}), "needs one data.pkl, has 2"),
        (torch_file(entry(W, b"K\x01"), byteorder=b"big"), "byte order must be little"),
        (torch_file(bytes(LARGEST_PICKLE_BYTES + 1)), "must be within 1048576"),
        (torch_file(b"\x80\x02)."), "holds no table of weights"),
        (torch_file(entry(W, b"K\x01")), "entry 'w' is not a tensor"),
        (torch_file(TABLE), "data.pkl is damaged"),
        (torch_file(TABLE + b"K\x01b."), "builds something that is no table"),
        (torch_file(b"\x80\x02" + STORAGE + b")R."), "data.pkl calls torch FloatStorage"),
        (torch_file(entry(W, tensor(storage_of()))), "has no member archive/data/0"),
    ],
)
def test_torch_files(content: bytes, said: str) -> None:
    with pytest.raises(ModelFileError, match=said):
        read_tensors(content, "x")


def test_two_tensors_of_one_storage() -> None:
    pair = TABLE + b"(" + W + tensor(storage_of()) + unicode_of("v") + tensor(storage_of()) + b"u."
    content = zip_of({"archive/data.pkl": pair, "archive/data/0": bytes(8)})
    with pytest.raises(ModelFileError, match="two tensors share storage 0"):
        read_tensors(content, "x")


# -- zips ---------------------------------------------------------------------------------------------------------------


def changed_table(content: bytes, place: int, value: int) -> bytes:
    out = bytearray(content)
    at = out.rindex(b"PK\x01\x02") + place
    out[at : at + 4] = struct.pack("<I", value)
    return bytes(out)


def test_a_member_that_is_not_there() -> None:
    with pytest.raises(ModelFileError, match="has no member b"):
        StrictZip(zip_of({"a": b"x"}), "x").read("b")


def test_a_member_that_ends_before_its_time() -> None:
    whole = zip_of({"a": b"hello hello"}, zipfile.ZIP_DEFLATED)
    archive = StrictZip(changed_table(whole, 24, 20), "x")  # its size; the checksum is right
    with pytest.raises(ModelFileError, match="has 11 bytes, its header says 20"):
        archive.read("a")


def test_a_member_that_ends_beyond_the_file() -> None:
    with pytest.raises(ModelFileError, match="ends beyond the file"):
        StrictZip(changed_table(zip_of({"a": b"x" * 50}), 20, 5000), "x")


def test_a_member_within_another() -> None:
    inner = zip_of({"b": b"hi"})
    local = inner[: inner.index(b"PK\x01\x02")]
    outer = zip_of({"a": local})
    table = outer.index(b"PK\x01\x02", 30 + 1 + len(local))
    of_a = outer[table : outer.index(b"PK\x05\x06", table)]
    of_b = bytearray(inner[inner.index(b"PK\x01\x02") : inner.index(b"PK\x05\x06")])
    of_b[42:46] = struct.pack("<I", 31)
    end = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 2, 2, len(of_a) + len(of_b), table, 0)
    with pytest.raises(ModelFileError, match="overlaps another"):
        StrictZip(outer[:table] + of_a + bytes(of_b) + end, "x")


def test_checksums_are_of_the_bytes() -> None:
    content = zip_of({"a": b"hello"})
    assert StrictZip(content, "x").read("a") == b"hello"
    broken = changed_table(content, 16, zlib.crc32(b"other"))
    with pytest.raises(ModelFileError, match="member a is damaged"):
        StrictZip(broken, "x").read("a")


# -- models of others -----------------------------------------------------------------------------------------------------


def sac_with(tmp_path: Path, change: Any, **keywords: Any) -> bytes:
    """A CrossQ zip whose weights went through ``change``."""
    import torch

    pytest.importorskip("sb3_contrib")
    made("sb3_contrib", "CrossQ", **SMALL, policy_kwargs={"net_arch": [8]}).save(tmp_path / "m.zip")
    members = members_of((tmp_path / "m.zip").read_bytes())
    state = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
    change(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = json.loads(members["data"])
    data["policy_kwargs"] = data["policy_kwargs"] | keywords
    return zip_of(members | {"policy.pth": buffer.getvalue(), "data": json.dumps(data).encode()})


def test_normalisations_that_do_not_fit(tmp_path: Path) -> None:
    import torch

    def shorter(state: Any) -> None:
        key = next(key for key in state if key.startswith("actor.latent_pi") and key.endswith("ra_mean"))
        state[key] = torch.zeros(3)

    def all_shorter(state: Any) -> None:
        first = min(key for key in state if key.startswith("actor.latent_pi") and key.endswith("ra_mean"))
        for name in ("ra_mean", "ra_var", "scale", "bias"):
            state[first.replace("ra_mean", name)] = torch.ones(3)

    with pytest.raises(ModelFileError, match="is malformed"):
        read_sb3_zip(sac_with(tmp_path, shorter), "x")
    with pytest.raises(ModelFileError, match="a normalisation of 3 feeds a layer of shape"):
        read_sb3_zip(sac_with(tmp_path, all_shorter), "x")
    with pytest.raises(ModelFileError, match="batch_norm_eps = 'many': must be a number"):
        read_sb3_zip(sac_with(tmp_path, lambda _: None, batch_norm_eps="many"), "x")
    assert read_sb3_zip(sac_with(tmp_path, lambda _: None, batch_norm_eps="0.001"), "x").algorithm == "CrossQ"


def test_no_layers_at_all(tmp_path: Path) -> None:
    import torch

    made("stable_baselines3", "TD3", **SMALL).save(tmp_path / "m.zip")
    members = members_of((tmp_path / "m.zip").read_bytes())
    state = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
    buffer = io.BytesIO()
    torch.save({key: value for key, value in state.items() if not key.startswith("actor.mu")}, buffer)
    with pytest.raises(ModelFileError, match=r"actor\.mu has no layers"):
        read_sb3_zip(zip_of(members | {"policy.pth": buffer.getvalue()}), "x")


# -- folders ----------------------------------------------------------------------------------------------------------------


def test_a_folder_with_a_zip_alone_and_one_with_another_policy(tmp_path: Path) -> None:
    made("stable_baselines3", "PPO", n_steps=64).save(tmp_path / MODEL_ZIP)
    assert load_policy(tmp_path).manifest.algorithm == "actor-critic (PPO, A2C, TRPO)"
    save_bundle(tmp_path, net_of(), manifest_for(net_of(), MACHINE, BUILDER.table, BUILDER.sha256, "PPO"))
    with pytest.raises(ModelFileError, match="hold different policies"):
        load_policy(tmp_path)


# -- what the check says -----------------------------------------------------------------------------------------------------


def test_bounds_with_a_clip_before_the_squash() -> None:
    weight = np.full((8, 2), 50.0, dtype=np.float32)
    net = PolicyNet(((weight, np.zeros(8, dtype=np.float32)),), "tanh", "tanh", 2.0)
    bounds = bound_outputs(net, -np.ones(2), np.ones(2))
    low, high = bounds.actions(net)
    assert high.max() == pytest.approx(np.tanh(2.0), abs=1e-5)
    assert low.min() == pytest.approx(-np.tanh(2.0), abs=1e-5)
    require_sound(net, bounds, np.random.default_rng(0).uniform(-1, 1, (100, 2)).astype(np.float32))


def test_power_of_all_winches_where_it_binds() -> None:
    few = MACHINE.model_copy(update={"limits": MACHINE.limits.model_copy(update={"power_total_max_w": 60.0})})
    claim = _together(few, TickLimits.from_machine(few))
    assert claim.status == "proven"
    assert 30.0 < claim.bound <= 60.0  # type: ignore[operator]


def test_a_counterexample_of_another_format(tmp_path: Path) -> None:
    table = {"claim": "x", "observations": [[0.0]], "actions": [[0.0]], "value": 1, "limit": 0, "unit": "m"}
    for wrong in ({"format": "other"}, {"format": "melter-counterexample-1", "observations": [[0.0], [0.0, 1.0]]}):
        (tmp_path / "x.json").write_text(json.dumps(table | wrong | {"model_sha256": "a"}))
        with pytest.raises(ModelFileError, match="not a counterexample"):
            read_counterexample(tmp_path / "x.json")


def small_limits(longest_m: float) -> TickLimits:
    machine = load_machine()
    control = machine.control.model_copy(update={"rate_hz": 100.0, "action_delay_s": 0.0})
    named = {"speed_normal_m_s": 0.02, "speed_max_m_s": 0.04, "acceleration_max_m_s2": 1.3}
    limits = machine.limits.model_copy(update=named | {"cable_length_max_m": longest_m})
    return TickLimits.from_machine(machine.model_copy(update={"control": control, "limits": limits}))


def test_cables_too_short_to_be_far_from_both_ends() -> None:
    """Then the short form is never used, and there is nothing to compare."""
    limits = small_limits(506_441.5e-6 * 1.005)
    assert 2 * limits.reach_um + 2 >= limits.length_max_um - limits.length_min_um
    assert prove(limits).proven


def test_the_proof_names_the_state_near_an_end_that_breaks() -> None:
    limits = small_limits(4.5)

    def careless(requested: Any, previous: Any, length: Any, *rest: Any, **more: Any) -> Any:
        """Right far from the ends, and a micrometre too fast at the last of them."""
        out = limit_command(requested, previous, length, *rest, **more)
        return out + ((length == limits.length_max_um - 3) & (out == 3))

    result = prove(limits, limit=careless)
    assert result.violations > 0
    assert result.counterexample is not None
    assert f"at length {limits.length_max_um - 3} um" in result.counterexample
