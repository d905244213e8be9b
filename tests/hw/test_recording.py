import json

import pytest

from melter.errors import BadInput
from melter.hw.recording import Piece, Recorder, read_recording, summarise

PIECES = [
    Piece("tx", 1.0, b"?$J=G91G21X1.500V-0.250F600.000\n"),
    Piece("rx", 1.004, b"<Idle|MPos:0.000,0.000,0.000,0.000,0.000,0.000,0.000,0.000|Bf:100,1023>\r\n"),
    Piece("rx", 1.006, b"o"),
    Piece("rx", 1.007, b"k\r\n"),
    Piece("tx", 2.0, b"$J=G91G21X9.000F600.000\n\x85"),
    Piece("rx", 2.01, b"error:9\r\ngarb\x01age\r\n<Jog|MPos:1.500,0.000,0.000,0.000,0.000,0.000,0.000,-0.250>\r\n"),
]


def written(path, pieces=PIECES):
    with Recorder(path) as recorder:
        for piece in pieces:
            recorder.on_bytes(piece.direction, piece.time_s, piece.data)
    recorder.on_bytes("rx", 9.0, b"after the end")


def test_what_is_written_is_read(tmp_path):
    written(tmp_path / "link.jsonl")
    assert list(read_recording(tmp_path / "link.jsonl")) == PIECES


def test_recordings_are_appended_to(tmp_path):
    written(tmp_path / "link.jsonl")
    written(tmp_path / "link.jsonl")
    assert list(read_recording(tmp_path / "link.jsonl")) == PIECES * 2


def test_a_recording_cut_short_keeps_all_but_its_last_line(tmp_path):
    path = tmp_path / "link.jsonl"
    written(path)
    path.write_bytes(path.read_bytes()[:-5])
    assert list(read_recording(path)) == PIECES[:-1]


def test_replayed_into_the_protocol():
    result = summarise(PIECES)
    assert result["jogs_mm"] == [1.5, 0, 0, 0, 0, 0, 0, -0.25]
    assert result["last_reported_mm"][0] == 1.5
    assert result["events"] == {"cancels": 1, "report": 2, "ok": 1, "error": 1, "garbage": 1}
    assert result["answer_worst_ms"] == pytest.approx(10)
    assert len(result["remarks"]) == 2
    json.dumps(result)
    assert summarise([])["answer_median_ms"] is None


@pytest.mark.parametrize(
    "text",
    ["{}\n", "nonsense\n", '{"t_s": 1, "dir": "up", "hex": ""}\n', '{"t_s": 1, "dir": "rx", "hex": "0g"}\n', "\xff\n"],
)
def test_what_is_no_recording(tmp_path, text):
    path = tmp_path / "other"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=r"recording .*other"):
        list(read_recording(path))


def test_no_such_recording(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        list(read_recording(tmp_path / "none"))
    with pytest.raises(BadInput, match="cannot be written"):
        Recorder(tmp_path / "none" / "link")
