"""A policy to share: weights, what they are for, how they did, and a card that people read. No code in any of it.

What is fetched is checked by sha256 and by the loader of bundles before it gets its name here. A certificate that came with
it is kept under another name: what may move a machine is checked on that machine's own computer.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melter.cluster.card import model_card
from melter.cluster.follow import VIDEOS
from melter.cluster.store import answered, is_url, one_line, open_store, writable_store
from melter.cluster.upload import download
from melter.errors import BadInput, ModelFileError, OutputExists
from melter.safety.bundle import MANIFEST, WEIGHTS, load_policy

SUMS, CARD = "SHA256SUMS", "README.md"
CERTIFICATE, SENDERS_CERTIFICATE = "certificate.json", "certificate-of-sender.json"
NAMES = frozenset(
    {WEIGHTS, MANIFEST, "config.json", "eval.json", CERTIFICATE, SENDERS_CERTIFICATE, CARD, "policy.onnx"}
)
LARGEST_BYTES = 1 << 29
HUB = "hf://"


@dataclass(frozen=True)
class Shared:
    """What was pushed or pulled."""

    place: str
    files: dict[str, str]
    """sha256 by name."""
    weights_sha256: str


def prepare(run: Path, folder: Path) -> Shared:
    """Write what is shared of the run folder ``run`` into the empty ``folder``. Raises ModelFileError where it has no sound policy."""
    if not (run / WEIGHTS).is_file():
        raise ModelFileError(f"{run}: holds no {WEIGHTS}; push takes a run folder of melter sim-train")
    policy = load_policy(run)
    videos = sorted((p for p in run.rglob("*") if p.suffix.lower() in VIDEOS), key=lambda p: p.stat().st_mtime)
    chosen = [run / name for name in sorted(NAMES - {CARD}) if (run / name).is_file()] + videos[-1:]
    for path in chosen:
        shutil.copyfile(path, folder / path.name)
    config, results, certificate = (_table(run / name) for name in ("config.json", "eval.json", CERTIFICATE))
    if certificate.get("machine_sha256") != policy.manifest.machine_sha256:
        certificate = {}
    video = videos[-1].name if videos else None
    card = model_card(policy.manifest, policy.sha256, config, results, certificate, video)
    (folder / CARD).write_text(card, encoding="utf-8")
    sums = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    (folder / SUMS).write_text("".join(f"{sha}  {name}\n" for name, sha in sums.items()), encoding="utf-8")
    return Shared(str(folder), sums, policy.sha256)


def push(run: Path, place: str, *, private: bool = True) -> Shared:
    """Share the policy of ``run`` at a folder, a URL, or ``hf://OWNER/NAME``. Raises BadInput where that cannot be."""
    with tempfile.TemporaryDirectory(prefix="melter-") as made:
        shared = prepare(run, Path(made))
        if place.startswith(HUB):
            _to_hub(Path(made), _repository(place), private=private)
        elif is_url(place):
            store = writable_store(place, "push")
            for name in [*shared.files, SUMS]:
                path = Path(made) / name
                answered(
                    lambda path=path, name=name: store.put(path, name), f"push {place}", f"{name} cannot be written"
                )
        else:
            _into_folder(Path(made), Path(place), "push")
    return Shared(place, shared.files, shared.weights_sha256)


def pull(place: str, out: Path) -> Shared:
    """Fetch a shared policy into the new folder ``out``; nothing stays there unless every file is as it was sent.

    Raises BadInput where it cannot be had, ModelFileError where a file is missing, altered, or not of a policy.
    """
    require_new(out, "--out")
    with tempfile.TemporaryDirectory(prefix="melter-") as made:
        folder = Path(made)
        if place.startswith(HUB):
            _from_hub(_repository(place), folder)
        elif is_url(place):
            store = open_store(place, "pull")
            held = answered(store.files, f"pull {place}", "cannot be read")
            if sum(held.values()) > LARGEST_BYTES:
                raise BadInput(f"pull {place}: {sum(held.values())} bytes, must be at most {LARGEST_BYTES}")
            answered(lambda: download(store, folder), f"pull {place}", "cannot be fetched")
        else:
            _copy_known(Path(place), folder)
        shared = verified(folder, place)
        _into_folder(folder, out, "--out", only={*shared.files, SUMS})
    return Shared(str(out), shared.files, shared.weights_sha256)


def verified(folder: Path, place: str) -> Shared:
    """Check everything in ``folder`` that was shared; a certificate in it gets another name. Raises ModelFileError."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ModelFileError(f"pull {place}: holds no {SUMS}; it was not shared by melter push") from None
    sums: dict[str, str] = {}
    for line in lines:
        sha, _, name = line.partition("  ")
        if not allowed(name):
            raise ModelFileError(f"pull {place}: {SUMS} names {name!r}, which is no part of a policy")
        if not (folder / name).is_file() or (folder / name).is_symlink():
            raise ModelFileError(f"pull {place}: {name} is missing")
        if sha256_of(folder / name) != sha:
            raise ModelFileError(f"pull {place}: {name} is not what was sent (sha256 differs)")
        sums[name] = sha
    if WEIGHTS not in sums or MANIFEST not in sums:
        raise ModelFileError(f"pull {place}: {SUMS} lists no {WEIGHTS} with its {MANIFEST}")
    policy = load_policy(folder / WEIGHTS)
    if CERTIFICATE in sums:
        (folder / CERTIFICATE).replace(folder / SENDERS_CERTIFICATE)
        sums[SENDERS_CERTIFICATE] = sums.pop(CERTIFICATE)
        text = "".join(f"{sha}  {name}\n" for name, sha in sorted(sums.items()))
        (folder / SUMS).write_text(text, encoding="utf-8")
    return Shared(str(folder), sums, policy.sha256)


def allowed(name: str) -> bool:
    """Return whether a file of this name may be part of a shared policy: no path, no code, no pickle."""
    plain = name == Path(name).name and not name.startswith(".") and "\\" not in name
    return plain and (name in NAMES or Path(name).suffix.lower() in VIDEOS)


def sha256_of(path: Path) -> str:
    """Return a file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_new(folder: Path, option: str) -> None:
    """Raise OutputExists where ``folder`` holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExists(f"{option} {folder}: is not an empty folder; choose another")


def _copy_known(source: Path, folder: Path) -> None:
    if not source.is_dir():
        raise BadInput(f"pull {source}: no such folder")
    for path in source.iterdir():
        if (path.name == SUMS or allowed(path.name)) and path.is_file():
            shutil.copyfile(path, folder / path.name)


def _into_folder(made: Path, out: Path, option: str, only: set[str] | None = None) -> None:
    """Copy files beside ``out`` and rename them all at once."""
    require_new(out, option)
    beside = out.with_name(f".{out.name}.part")
    try:
        beside.mkdir(parents=True)
        for path in made.iterdir():
            if only is None or path.name in only:
                shutil.copyfile(path, beside / path.name)
        if out.exists():
            out.rmdir()
        beside.replace(out)
    except OSError as error:
        raise BadInput(f"{option} {out}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _table(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _repository(place: str) -> str:
    name = place.removeprefix(HUB).strip("/")
    if len(name.split("/")) != 2 or not all(name.split("/")):
        raise BadInput(f"{place}: must be hf://OWNER/NAME")
    return name


def _hub() -> Any:
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
    except ImportError:
        raise BadInput("hf://: needs the package huggingface_hub; pip install 'melter[hub]'") from None
    return huggingface_hub


def _to_hub(folder: Path, name: str, *, private: bool) -> None:
    hub = _hub()
    try:
        api = hub.HfApi()
        api.create_repo(name, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder), repo_type="model", commit_message="melter push")
    except Exception as error:
        raise BadInput(f"push hf://{name}: {one_line(error)}") from None


def _from_hub(name: str, folder: Path) -> None:
    hub = _hub()
    patterns = [*sorted(NAMES), SUMS, *(f"*{suffix}" for suffix in VIDEOS)]
    try:
        hub.snapshot_download(name, repo_type="model", local_dir=str(folder), allow_patterns=patterns)
    except Exception as error:
        raise BadInput(f"pull hf://{name}: {one_line(error)}") from None
