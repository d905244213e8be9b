"""Boards and markers to print, at true size: PDF (vector squares) or PNG (with its resolution written inside)."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from melter.errors import CameraError
from melter.vision.intrinsics import Board
from melter.vision.markers import dictionary_of
from melter.vision.opencv import cv2

Cells = NDArray[np.bool_]

POINTS_PER_M = 72 / 0.0254
"""PDF's unit (ISO 32000: 1/72 inch)."""
PNG_PIXELS_PER_M = 11811
"""300 dots per inch."""


def marker_cells(dictionary: str, number: int) -> Cells:
    """Return the (n, n) squares of a marker with its black border and one white cell around; True is black."""
    book = dictionary_of(dictionary)
    if not 0 <= number < book.bytesList.shape[0]:
        raise CameraError(f"marker {dictionary} {number}: this dictionary has 0 to {book.bytesList.shape[0] - 1}")
    cells = int(book.markerSize) + 2
    picture = np.asarray(cv2.aruco.generateImageMarker(book, number, cells, None, 1))
    return np.pad(picture == 0, 1, constant_values=False)


def board_cells(board: Board) -> tuple[Cells, float]:
    """Return a board as a raster of True (black), and the length of one raster cell in metres."""
    per_square = 120
    if board.marker_m > 0:
        picture = np.asarray(
            board.charuco().generateImage(
                (board.columns * per_square, board.rows * per_square), marginSize=0, borderBits=1
            )
        )
        return picture < 128, board.square_m / per_square
    row, column = np.mgrid[0 : board.rows, 0 : board.columns]
    return (row + column) % 2 == 0, board.square_m


def write_print(cells: Cells, cell_m: float, path: str | Path) -> None:
    """Write black cells at true size as .pdf or .png. Raises CameraError."""
    suffix = Path(path).suffix.lower()
    if suffix == ".pdf":
        data = _pdf(cells, cell_m)
    elif suffix == ".png":
        data = _png(cells, cell_m)
    else:
        raise CameraError(f"{path}: must end in .pdf or .png")
    beside = Path(path).with_name(f".{Path(path).name}.tmp")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        raise CameraError(f"{path}: cannot be written: {error.strerror}") from None


def _runs(cells: Cells) -> list[tuple[int, int, int]]:
    """(row, first column, length) of each horizontal run of black."""
    edges = np.diff(np.pad(cells.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    return [(int(r), int(a), int(b - a)) for r, a, b in zip(rows, starts, ends, strict=True)]


def _pdf(cells: Cells, cell_m: float) -> bytes:
    """One page of exactly the drawing's size."""
    unit = cell_m * POINTS_PER_M
    height, width = cells.shape[0] * unit, cells.shape[1] * unit
    boxes = "\n".join(
        f"{a * unit:.4f} {height - (r + 1) * unit:.4f} {n * unit:.4f} {unit:.4f} re" for r, a, n in _runs(cells)
    )
    content = zlib.compress(f"0 g\n{boxes}\nf\n".encode())
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width:.4f} {height:.4f}] "
        "/Contents 4 0 R /Resources << >> >>".encode(),
        f"<< /Length {len(content)} /Filter /FlateDecode >>\nstream\n".encode() + content + b"\nendstream",
    ]
    out, places = bytearray(b"%PDF-1.4\n"), list[int]()
    for number, part in enumerate(parts, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n".encode() + part + b"\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    trailer = f"trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    out += f"xref\n0 5\n0000000000 65535 f \n{table}{trailer}".encode()
    return bytes(out)


def _png(cells: Cells, cell_m: float) -> bytes:
    per_cell = cell_m * PNG_PIXELS_PER_M
    rows, columns = (
        np.floor((np.arange(round(n * per_cell)) + 0.5) / per_cell).astype(int).clip(0, n - 1) for n in cells.shape
    )
    picture = np.where(cells[np.ix_(rows, columns)], 0, 255).astype(np.uint8)
    good, coded = cv2.imencode(".png", picture)
    if not good:
        raise CameraError("PNG: cannot be encoded")
    data = coded.tobytes()
    body = b"pHYs" + struct.pack(">IIB", PNG_PIXELS_PER_M, PNG_PIXELS_PER_M, 1)
    chunk = struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]
