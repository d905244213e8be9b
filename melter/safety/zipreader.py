"""Reading a stranger's zip: strictly, from memory, and only members that are asked for."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib

from melter.errors import ModelFileError

MOST_MEMBERS = 512
LARGEST_MEMBER_BYTES = 1 << 27
LARGEST_RATIO = 100
"""Unpacked over packed; weights hardly compress at all."""
_TABLE_ENTRY, _TABLE_ENTRIES = b"PK\x01\x02", 4 * MOST_MEMBERS
"""What begins each entry of the table, and how many of them there may be, those of archives inside included."""
_LOCAL = struct.Struct("<4s5H3I2H")
_NAME = re.compile(r"[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.\-]+)*")


class StrictZip:
    """A zip archive in memory whose every member has been checked before anything is unpacked.

    Raises ModelFileError for what is no zip, truncated, encrypted, has duplicate or odd names, members that
    overlap, are too large or too compressed.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._content, self._name = content, name
        if not content.startswith(b"PK\x03\x04"):
            raise self._wrong("not a zip archive")
        if content.count(_TABLE_ENTRY) > _TABLE_ENTRIES:
            raise self._wrong(f"{content.count(_TABLE_ENTRY)} entries in its tables, must be within {_TABLE_ENTRIES}")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
            infos = self._zip.infolist()
        except (
            zipfile.BadZipFile,
            ValueError,
            struct.error,
            UnicodeDecodeError,
            NotImplementedError,
            OverflowError,
            EOFError,
        ):
            raise self._wrong("truncated or damaged: no readable table of members at its end") from None
        self._infos = {info.filename: info for info in infos}
        self._check_table(infos)
        self._check_places(infos)

    @property
    def names(self) -> list[str]:
        """Names of all members."""
        return list(self._infos)

    def size(self, member: str) -> int:
        """Unpacked size, bytes."""
        return self._infos[member].file_size

    def read(self, member: str) -> bytes:
        """Return a member's bytes, checksum verified."""
        info = self._infos.get(member)
        if info is None:
            raise self._wrong(f"has no member {member}")
        try:
            with self._zip.open(info) as file:
                content = file.read(info.file_size + 1)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            ValueError,
            NotImplementedError,
            RuntimeError,
            OSError,
            struct.error,
        ):
            raise self._wrong(f"member {member} is damaged") from None
        if len(content) != info.file_size:
            raise self._wrong(f"member {member} has {len(content)} bytes, its header says {info.file_size}")
        return content

    def _check_table(self, infos: list[zipfile.ZipInfo]) -> None:
        if not infos or len(infos) > MOST_MEMBERS:
            raise self._wrong(f"{len(infos)} members, must be 1 to {MOST_MEMBERS}")
        if len(self._infos) != len(infos):
            raise self._wrong("duplicate member names")
        for info in infos:
            member = info.orig_filename
            if not _NAME.fullmatch(member) or ".." in member.split("/"):
                raise self._wrong(f"member name {member[:60]!r} is not allowed")
            if info.flag_bits & 0x1:
                raise self._wrong(f"member {member} is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise self._wrong(f"member {member}: compression {info.compress_type} is not allowed")
            if info.file_size > LARGEST_MEMBER_BYTES:
                raise self._wrong(
                    f"member {member} unpacks to {info.file_size} bytes, must be within {LARGEST_MEMBER_BYTES}"
                )
            if info.file_size > LARGEST_RATIO * max(info.compress_size, 16):
                raise self._wrong(
                    f"member {member} unpacks {info.compress_size} to {info.file_size} bytes, over {LARGEST_RATIO}x"
                )

    def _check_places(self, infos: list[zipfile.ZipInfo]) -> None:
        """Each member must lie where the table says, under the same name, apart from all others, from byte 0 on."""
        end = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            start = info.header_offset
            header = self._content[start : start + _LOCAL.size]
            if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
                raise self._wrong(f"member {info.filename} is not where the table says")
            fields = _LOCAL.unpack(header)
            name_size, extra_size = fields[9], fields[10]
            name_start = start + _LOCAL.size
            if self._content[name_start : name_start + name_size] != info.orig_filename.encode():
                raise self._wrong(f"member {info.filename} has another name in its own header")
            if start < end:
                raise self._wrong(f"member {info.filename} overlaps another")
            if end == 0 and start != 0:
                raise self._wrong(f"truncated, or not a zip archive of its own: {start} bytes before its first member")
            end = name_start + name_size + extra_size + info.compress_size
        if end > len(self._content):
            raise self._wrong("truncated: a member ends beyond the file")

    def _wrong(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self._name}: {what}")
