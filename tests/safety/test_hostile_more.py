"""Model files that spell something endless, wait for ever, or lie about what their parts are: one line each, soon, in little memory."""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import members_of, zip_of
from test_hostile import made
from test_models import BUILDER, MACHINE, net_of

from melter.errors import ModelFileError
from melter.safety.bundle import MANIFEST, WEIGHTS, load_policy, manifest_for, save_bundle
from melter.safety.stranger import read_sb3_zip
from melter.safety.torchfile import read_tensors

MOST_S = 10.0


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("good") / "good.zip"
    made("stable_baselines3", "PPO", n_steps=64).save(path)
    return members_of(path.read_bytes())


def refused(read: Callable[[], object]) -> str:
    """What is said, on one short line, in time and without a gibibyte."""
    started_s, before_kib = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelFileError) as error:
        read()
    assert time.monotonic() - started_s < MOST_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 1 << 20
    said = str(error.value)
    assert "\n" not in said
    assert said.isprintable()
    assert len(said) < 500
    return said


# -- pickles that only a stack machine of few words sees -----------------------------------------------------------


def endless() -> bytes:
    """A tuple of two tuples of two tuples … sixty deep: a few hundred bytes, and text without end."""
    return b")q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"h\x00"


def unicode_of(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


STORAGE = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
TABLE = b"\x80\x02ccollections\nOrderedDict\n)R"


def entry(key: bytes, value: bytes) -> bytes:
    return TABLE + key + value + b"s."


def tensor(storage: bytes, shape: bytes = b"K\x02\x85", strides: bytes = b"K\x01\x85") -> bytes:
    return REBUILD + b"(" + storage + b"K\x00" + shape + strides + b"\x89}tR"


def storage_of(kind: bytes = unicode_of("storage"), name: bytes = STORAGE, key: bytes = unicode_of("0")) -> bytes:
    return b"(" + kind + name + key + unicode_of("cpu") + b"K\x02tQ"


W = unicode_of("w")
PICKLES: dict[str, bytes] = {
    "endless key": entry(endless(), b"K\x01"),
    "endless value": entry(W, endless()),
    "endless storage": entry(W, tensor(storage_of(name=endless()))),
    "endless storage key": entry(W, tensor(storage_of(key=endless()))),
    "endless storage kind": entry(W, tensor(storage_of(kind=endless()))),
    "endless in place of a storage": entry(W, tensor(endless())),
    "endless shape": entry(W, tensor(storage_of(), shape=endless())),
    "endless call": TABLE[:2] + endless() + b")R.",
    "a pair in place of a storage": entry(W, tensor(unicode_of("0") + b"K\x01K\x02\x86\x86")),
    "a table in place of a storage": entry(W, tensor(unicode_of("0") + b"}\x86")),
    "a number in place of a storage": entry(W, tensor(b"K\x07")),
    "a name in place of a storage": entry(W, tensor(STORAGE)),
    "huge numbers": entry(W, tensor(storage_of(), shape=b"\x8a\xff" + b"\x7f" * 255 + b"\x85")),
    "negative shape": entry(W, tensor(storage_of(), shape=b"J\xfe\xff\xff\xff\x85")),
    "a truth in a shape": entry(W, tensor(storage_of(), shape=b"\x88\x85")),
    "many dimensions": entry(W, tensor(storage_of(), shape=b"(" + b"K\x01" * 500_000 + b"t")),
    "a table in itself": TABLE + b"q\x00" + W + b"h\x00s.",
    "a million instructions": b"\x80\x02" + b"K\x01" * 500_000 + b".",
    "no end": TABLE,
    "after the end": entry(W, b"K\x01") + b"cos\nsystem\n(X\x01\x00\x00\x00xtR.",
    "persistent text": b"\x80\x02P0\n.",
    "an instance": b"(ios\nsystem\n.",
    "extension": b"\x80\x02\x82\x01.",
    "a global off the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b".",
    "long text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b".",
    "bytes": b"\x80\x03C\x02ab.",
    "surrogates": entry(b"X\x03\x00\x00\x00\xed\xa0\x80", b"K\x01"),
    "escapes in a name": entry(unicode_of("\x1b[31m\n\u202e"), b"K\x01"),
    "odd names": b"\x80\x02c\x1b[31mos\nsy\xc2\x85stem\n.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(name: str, good: dict[str, bytes]) -> None:
    inner = members_of(good["policy.pth"])
    root = next(member for member in inner if member.endswith("data.pkl"))
    content = zip_of(inner | {root: PICKLES[name], f"{root.removesuffix('data.pkl')}data/0": bytes(8)})
    assert refused(lambda: read_tensors(content, "policy.pth")).startswith("policy.pth: ")


def test_the_words_of_these_pickles_do_spell_a_table(good: dict[str, bytes]) -> None:
    """The same words in the right order are read: the refusals above are not for a slip in the test."""
    inner = members_of(good["policy.pth"])
    root = next(member for member in inner if member.endswith("data.pkl"))
    pickled = entry(W, tensor(storage_of()))
    content = zip_of(inner | {root: pickled, f"{root.removesuffix('data.pkl')}data/0": struct.pack("<2f", 1.5, -2.0)})
    assert read_tensors(content, "x")["w"].tolist() == [1.5, -2.0]


# -- archives and their text ------------------------------------------------------------------------------------------


def test_a_million_members(good: dict[str, bytes], tmp_path: Path) -> None:
    """A table of members that alone would take gigabytes to take in."""
    record = b"PK\x01\x02" + bytes(42)
    table = record * 1_000_000
    end = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, len(table), 30, 0)
    path = tmp_path / "many.zip"
    path.write_bytes(zip_of(good)[:30] + table + end)
    assert "1000000 entries" in refused(lambda: load_policy(path))


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'"",', b'[{"a":[]}],', b"1e5,", b'{"":{}},'])
def test_text_that_unpacks_to_gigabytes(unit: bytes, good: dict[str, bytes]) -> None:
    data = b"[" + unit * ((100 << 20) // len(unit)) + b"0]"
    content = zip_of(good | {"data": data}, zipfile.ZIP_STORED)
    assert "data has" in refused(lambda: read_sb3_zip(content, "x.zip"))


@pytest.mark.parametrize(
    "value",
    ["x" * 10_000_000, "\x1b[31m", "a\nb", "\ud800", "[" * 1000, "9" * 5000, "(8,) of float32"],
    ids=["long", "colour", "lines", "surrogate", "brackets", "digits", "words"],
)
@pytest.mark.parametrize("key", ["_shape", "dtype", "low", ":type:"])
def test_what_a_space_says_is_not_repeated_at_length(key: str, value: str, good: dict[str, bytes]) -> None:
    data: dict[str, Any] = json.loads(good["data"])
    data["observation_space"][key] = value
    content = zip_of(good | {"data": json.dumps(data).encode()})
    if (key, value[:1]) == ("low", "9"):  # one number for all: infinity
        assert np.isinf(read_sb3_zip(content, "x.zip").observation_low).all()
    else:
        refused(lambda: read_sb3_zip(content, "x.zip"))


def test_digits_without_end(good: dict[str, bytes]) -> None:
    refused(lambda: read_sb3_zip(zip_of(good | {"data": b'{"x": ' + b"9" * 5_000_000 + b"}"}), "x.zip"))


# -- what is no file ---------------------------------------------------------------------------------------------------


def odd_places(folder: Path) -> Iterator[Path]:
    pipe = folder / "pipe.zip"
    os.mkfifo(pipe)
    yield pipe
    for name, target in (("zero.zip", "/dev/zero"), ("null.zip", "/dev/null"), ("loop.zip", str(folder / "loop.zip"))):
        (folder / name).symlink_to(target)
        yield folder / name
    (folder / "run").mkdir()
    (folder / "run" / WEIGHTS).symlink_to("/dev/zero")
    (folder / "run" / MANIFEST).write_text("{}")
    yield folder / "run"
    (folder / "both").mkdir()
    (folder / "both" / WEIGHTS).mkdir()
    yield folder / "both"
    sparse = folder / "sparse.zip"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    yield sparse
    yield folder / ("x" * 300)
    yield folder / "nul\0.zip"


def test_places_that_are_no_file(tmp_path: Path) -> None:
    for path in odd_places(tmp_path):
        started_s = time.monotonic()
        with pytest.raises(ModelFileError) as error:
            load_policy(path)
        assert time.monotonic() - started_s < 1.0
        assert "\n" not in str(error.value)


# -- our own format, by a stranger ----------------------------------------------------------------------------------------


def safetensors(header: Any, data: bytes = b"", *, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def one(**changes: Any) -> dict[str, Any]:
    return {"layer.0.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


HEADERS: dict[str, bytes] = {
    "no numbers": safetensors(one(dtype="BF16", shape=[4]), bytes(8)),
    "eighths": safetensors(one(dtype="F8_E4M3", shape=[8]), bytes(8)),
    "quarters": safetensors(one(dtype="F4", shape=[16]), bytes(8)),
    "complex": safetensors(one(dtype="C64", shape=[1]), bytes(8)),
    "unknown": safetensors(one(dtype="EVIL"), bytes(8)),
    "truths": safetensors(one(dtype="BOOL", shape=[8]), bytes(8)),
    "too long": safetensors(one(shape=[1 << 62, 4]), bytes(8)),
    "backwards": safetensors(one(data_offsets=[8, 0]), bytes(8)),
    "beyond": safetensors(one(data_offsets=[0, 1 << 62]), bytes(8)),
    "negative": safetensors(one(shape=[-2]), bytes(8)),
    "fractions": safetensors(one(shape=[2.0]), bytes(8)),
    "long names": safetensors({"x" * 5_000_000: one()["layer.0.weight"]}, bytes(8)),
    "lines in names": safetensors({"a\nb\x1b[31m": one()["layer.0.weight"]}, bytes(8)),
    "many tensors": safetensors(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}
    ),
    "nested": safetensors(b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
    "twice": safetensors(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":1}', bytes(8)),
    "odd free text": safetensors(one() | {"__metadata__": {"format": 3}}, bytes(8)),
    "no free text": safetensors(one() | {"__metadata__": None}, bytes(8)),
    "huge header": safetensors({}, size=1 << 62),
    "empty": safetensors({}),
    "null": safetensors(b"null"),
    "not text": safetensors(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_safetensors(name: str, tmp_path: Path) -> None:
    import hashlib
    from dataclasses import asdict, replace

    manifest = manifest_for(net_of(), MACHINE, BUILDER.table, BUILDER.sha256, "PPO")
    manifest = replace(manifest, weights_sha256=hashlib.sha256(HEADERS[name]).hexdigest())
    (tmp_path / WEIGHTS).write_bytes(HEADERS[name])
    (tmp_path / MANIFEST).write_text(json.dumps(asdict(manifest)))
    refused(lambda: load_policy(tmp_path))


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), 1e308 * 10, "x" * 1_000_000, "\ud800", [[[]]], {"a": {}}, [10**300] * 8, True, -0.0],
    ids=["big", "negative", "infinite", "long", "surrogate", "nested", "table", "row", "truth", "zero"],
)
def test_manifests(value: Any, tmp_path: Path) -> None:
    """Whatever one field says, it is refused on one line or it says nothing that matters."""
    save_bundle(tmp_path, net_of(), manifest_for(net_of(), MACHINE, BUILDER.table, BUILDER.sha256, "PPO"))
    table = json.loads((tmp_path / MANIFEST).read_text())
    for key in table:
        text = json.dumps(table | {key: value}, allow_nan=True).replace("Infinity", "1e999")
        (tmp_path / MANIFEST).write_text(text)
        try:
            policy = load_policy(tmp_path)
        except ModelFileError as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert len(str(error)) < 1000  # noqa: PT017
        else:
            assert policy.net.sizes == net_of().sizes


def test_mutants_of_every_layer_raise_one_kind_of_error(good: dict[str, bytes]) -> None:
    """Bytes changed, lost, doubled and copied at random, in the pickle, its archive, the text and the whole."""
    rng, whole = random.Random(7), zip_of(good)
    inner = members_of(good["policy.pth"])
    root = next(member for member in inner if member.endswith("data.pkl"))
    makers: list[Callable[[], object]] = [
        lambda: read_tensors(zip_of(inner | {root: mutant(inner[root], rng)}), "x"),
        lambda: read_sb3_zip(mutant(whole, rng), "x"),
        lambda: read_sb3_zip(zip_of(good | {"data": mutant(good["data"], rng)}), "x"),
        lambda: read_sb3_zip(zip_of(good | {"policy.pth": mutant(good["policy.pth"], rng)}), "x"),
    ]
    outcomes = {"read": 0, "refused": 0}
    for turn in range(1200):
        try:
            makers[turn % 4]()
            outcomes["read"] += 1
        except ModelFileError as error:
            outcomes["refused"] += 1
            assert "\n" not in str(error)  # noqa: PT017
    assert min(outcomes.values()) > 20


def mutant(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 2, 5])):
        at, way = rng.randrange(len(changed)), rng.randrange(4)
        if way == 0:
            changed[at] = rng.randrange(256)
        elif way == 1:
            del changed[at]
        elif way == 2:
            changed.insert(at, rng.randrange(256))
        else:
            start, size = rng.randrange(len(changed)), rng.randrange(1, 40)
            changed[at : at + size] = changed[start : start + size]
    return bytes(changed)


def test_a_good_model_is_still_read(good: dict[str, bytes]) -> None:
    assert np.isfinite(read_sb3_zip(zip_of(good), "x").net.layers[0][0]).all()
