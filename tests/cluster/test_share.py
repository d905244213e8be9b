"""Shared policies: complete, checked, without code, and never trusted with a machine."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from melter.cli.main import main
from melter.cluster import share
from melter.cluster.share import SENDERS_CERTIFICATE, SUMS, allowed, pull, push
from melter.errors import BadInput, ModelFileError, OutputExists
from melter.safety.bundle import load_policy


@pytest.fixture
def run(tmp_path: Path, hand_made: Callable[[Path], Path]) -> Path:
    folder = hand_made(tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "eval.json").write_text(
        json.dumps({"outdoor": {"rms_mm": 0.277, "p95_mm": 0.542, "episodes": 64, "terminated": 0}})
    )
    certificate = {
        "verdict": "pass",
        "machine_sha256": manifest["machine_sha256"],
        "claims": {"layer: cable speed": "proven"},
    }
    (folder / "certificate.json").write_text(json.dumps(certificate))
    (folder / "config.json").write_text(json.dumps({"algorithm": "ppo", "seed": 7, "versions": {"melter": "1"}}))
    (folder / "look.mp4").write_bytes(b"film")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "latest.pt").write_bytes(b"large")
    return folder


@pytest.mark.parametrize("kind", ["folder", "memory", "file"])
def test_there_and_back(kind: str, run: Path, tmp_path: Path) -> None:
    place = {
        "folder": str(tmp_path / "shared"),
        "memory": f"memory://{uuid.uuid4().hex}/policy",
        "file": f"file://{tmp_path}/elsewhere/policy",
    }[kind]
    sent = push(run, place)
    assert set(sent.files) == {
        *(
            "policy.safetensors",
            "manifest.json",
            "eval.json",
            "config.json",
            "certificate.json",
            "look.mp4",
            "README.md",
        ),
    }
    got = pull(place, tmp_path / "got")
    assert got.weights_sha256 == sent.weights_sha256 == load_policy(tmp_path / "got").sha256
    # the sender's certificate does not open this machine's gate
    assert not (tmp_path / "got" / "certificate.json").exists()
    assert (tmp_path / "got" / SENDERS_CERTIFICATE).is_file()
    assert not list((tmp_path / "got").rglob("*.pt"))
    # and what was pulled can be shared again
    again = push(tmp_path / "got", str(tmp_path / "again"))
    assert again.weights_sha256 == sent.weights_sha256


def test_the_card_tells_what_it_is(run: Path, tmp_path: Path) -> None:
    push(run, str(tmp_path / "shared"))
    card = (tmp_path / "shared" / "README.md").read_text()
    manifest = json.loads((run / "manifest.json").read_text())
    for word in (
        "0.277",
        "0.542",
        "corner8",
        manifest["machine_sha256"],
        manifest["weights_sha256"],
        "cable speed",
        "look.mp4",
    ):
        assert word in card
    assert card.startswith("---\nlibrary_name: melter\n")


def test_a_certificate_of_another_machine_is_not_told_as_this_ones(run: Path, tmp_path: Path) -> None:
    (run / "certificate.json").write_text(
        json.dumps({"verdict": "pass", "machine_sha256": "other", "claims": {"x": "proven"}})
    )
    push(run, str(tmp_path / "shared"))
    assert "No certificate" in (tmp_path / "shared" / "README.md").read_text()


def spoil(name: str, content: bytes | None) -> Callable[[Path], None]:
    def do(place: Path) -> None:
        (place / name).unlink() if content is None else (place / name).write_bytes(content)

    return do


def name_in_sums(name: str, content: bytes = b"x") -> Callable[[Path], None]:
    def do(place: Path) -> None:
        import hashlib

        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        with (place / SUMS).open("a") as file:
            file.write(f"{hashlib.sha256(content).hexdigest()}  {name}\n")

    return do


class Bomb:
    """Would leave a file if anything unpickled it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("/tmp/melter-was-here", "w"))


def bomb() -> bytes:
    stream = io.BytesIO()
    pickle.dump(Bomb(), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (spoil("policy.safetensors", b"other"), "policy.safetensors"),
        (spoil("README.md", b"other"), "README.md"),
        (spoil("eval.json", None), "eval.json is missing"),
        (spoil(SUMS, None), SUMS),
        (spoil(SUMS, b""), "lists no"),
        (spoil(SUMS, b"\xff\xfe"), SUMS),
        (name_in_sums("model.pkl", bomb()), "no part of a policy"),
        (name_in_sums("model.zip", bomb()), "no part of a policy"),
        (name_in_sums("../escaped.json"), "no part of a policy"),
        (name_in_sums("setup.py"), "no part of a policy"),
    ],
)
def test_altered_policies_leave_nothing(change: Callable[[Path], None], word: str, run: Path, tmp_path: Path) -> None:
    place = tmp_path / "in" / "shared"
    push(run, str(place))
    change(place)
    with pytest.raises(ModelFileError, match=word) as caught:
        pull(str(place), tmp_path / "got")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "got").exists()
    assert not list(tmp_path.glob(".got*"))
    assert not Path("/tmp/melter-was-here").exists()


def test_weights_that_do_not_fit_their_manifest_are_refused(run: Path, tmp_path: Path) -> None:
    """Sums that are right do not make a policy sound."""
    place = tmp_path / "shared"
    push(run, str(place))
    (place / "policy.safetensors").write_bytes(bomb())
    sums = "".join(f"{share.sha256_of(p)}  {p.name}\n" for p in sorted(place.iterdir()) if p.name != SUMS)
    (place / SUMS).write_text(sums)
    with pytest.raises(ModelFileError, match=r"policy\.safetensors"):
        pull(str(place), tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_files_that_were_not_sent_are_left_behind(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "shared"
    push(run, str(place))
    (place / "policy.onnx").write_bytes(b"sneaked in")
    pull(str(place), tmp_path / "got")
    assert not (tmp_path / "got" / "policy.onnx").exists()


def test_links_are_not_followed_out(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "shared"
    push(run, str(place))
    assert not allowed("/etc/passwd.json")
    assert not allowed("a/manifest.json")
    assert not allowed(".mp4")
    assert allowed("look.MP4")


def test_nothing_is_overwritten(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "shared"
    push(run, str(place))
    with pytest.raises(OutputExists):
        push(run, str(place))
    with pytest.raises(OutputExists):
        pull(str(place), run)


def test_what_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"policy\.safetensors"):
        push(tmp_path, str(tmp_path / "shared"))
    with pytest.raises(BadInput, match="no such folder"):
        pull(str(tmp_path / "nowhere"), tmp_path / "got")
    with pytest.raises(BadInput, match="hf://OWNER/NAME"):
        pull("hf://only", tmp_path / "got")
    with pytest.raises(BadInput, match="nosuch"):
        pull("nosuch://a/b", tmp_path / "got")


class FakeHub:
    """The parts of huggingface_hub that are used, with a folder in the hub's place."""

    def __init__(self, root: Path) -> None:
        self.root, self.made = root, {}

    def HfApi(self) -> FakeHub:
        return self

    def create_repo(self, name: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert repo_type == "model"
        self.made[name] = private

    def upload_folder(self, *, repo_id: str, folder_path: str, repo_type: str, commit_message: str) -> None:
        if repo_id.startswith("forbidden"):
            raise PermissionError("403 Forbidden: you have\nno rights")
        shutil.copytree(folder_path, self.root / repo_id)

    def snapshot_download(self, name: str, *, repo_type: str, local_dir: str, allow_patterns: list[str]) -> None:
        if not (self.root / name).is_dir():
            raise FileNotFoundError("404 Client Error")
        shutil.copytree(self.root / name, local_dir, dirs_exist_ok=True)


def test_the_hub(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(share, "_hub", lambda: hub)
    push(run, "hf://me/spot")
    push(run, "hf://me/open", private=False)
    assert hub.made == {"me/spot": True, "me/open": False}
    assert pull("hf://me/spot", tmp_path / "got").weights_sha256 == load_policy(run).sha256
    for act in (lambda: push(run, "hf://forbidden/x"), lambda: pull("hf://me/none", tmp_path / "none")):
        with pytest.raises(BadInput, match="hf://") as caught:
            act()
        assert "\n" not in str(caught.value)


def test_the_hub_s_library_has_what_is_used() -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (pip install melter[hub])")
    import inspect

    for function, names in (
        (hub.HfApi.create_repo, {"repo_type", "private", "exist_ok"}),
        (hub.HfApi.upload_folder, {"repo_id", "folder_path", "repo_type", "commit_message"}),
        (hub.snapshot_download, {"repo_type", "local_dir", "allow_patterns"}),
    ):
        assert names <= set(inspect.signature(function).parameters)


def test_without_the_hub_s_library(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(BadInput, match=r"melter\[hub\]"):
        push(run, "hf://me/spot")


def test_the_commands(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, out = str(tmp_path / "shared"), str(tmp_path / "got")
    assert main(["push", str(run), place, "--json"]) == 0
    sent = json.loads(capsys.readouterr().out)
    assert main(["pull", place, "--out", out, "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["weights_sha256"] == sent["weights_sha256"]
    assert main(["pull", place, "--out", out]) == 2
    assert main(["push", str(tmp_path / "nowhere"), place]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert main(["push", str(run), str(tmp_path / "all"), "--whole"]) == 0
    assert (tmp_path / "all" / "checkpoints" / "latest.pt").read_bytes() == b"large"
