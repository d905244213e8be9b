"""``melter calibrate``: the camera's lens, the bed's pose, boards to print, the machine's parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tyro.conf import Positional

from melter.cli.common import Common, emit, parse, require_in, require_new, say
from melter.errors import BadInput, CameraError
from melter.machine import load_machine

LITTLE_COVERAGE = 0.5
HELP = """usage: melter calibrate camera|bed|board|machine [options]

  camera SOURCE   lens distortion from pictures of a board
  bed SOURCE      camera pose and homography from the markers of the machine file
  board           a calibration board, or a marker of the machine file, to print at true size (PDF or PNG)
  machine SOURCE  machine parameters from recorded runs

melter calibrate camera --help tells the options of each.
"""


@dataclass(frozen=True, kw_only=True)
class CameraConfig(Common):
    """Camera intrinsics from pictures of a ChArUco board or a chessboard: image folder, video, camera index or URL."""

    source: Positional[str]
    """Folder of images, video file, camera index or URL."""
    out: str = "calibration.json"
    """File to write."""
    columns: int = 9
    """Squares across the board (3 to 60)."""
    rows: int = 6
    """Squares down the board (3 to 60)."""
    square_mm: float = 30.0
    """Edge of a square in millimetres."""
    marker_mm: float = 22.0
    """Edge of the markers in the squares in millimetres; 0 for a plain chessboard."""
    dictionary: str = "DICT_5X5_250"
    """OpenCV's name of the board's marker dictionary."""
    views: int = 20
    """Stop when this many different views are collected and the board was in most of the image (5 to 200)."""
    frames: int = 3000
    """Stop after this many frames in any case."""
    max_rms_px: float = 1.0
    """Refuse a calibration whose corners are further off than this, RMS, in pixels (exit code 1)."""
    force: bool = False
    """Replace an existing file."""


@dataclass(frozen=True, kw_only=True)
class BoardConfig(Common):
    """A board for 'calibrate camera', or a marker of the machine file, to print at true size."""

    out: str = "board.pdf"
    """File to write: .pdf or .png."""
    marker: int | None = None
    """Print this marker of the machine file instead of a board."""
    columns: int = 9
    """Squares across (3 to 60)."""
    rows: int = 6
    """Squares down (3 to 60)."""
    square_mm: float = 30.0
    """Edge of a square in millimetres."""
    marker_mm: float = 22.0
    """Edge of the markers in the squares in millimetres; 0 for a plain chessboard."""
    dictionary: str = "DICT_5X5_250"
    """OpenCV's name of the board's marker dictionary."""
    force: bool = False
    """Replace an existing file."""


def run(argv: list[str]) -> int:
    """Calibrate; return 0 when a file was written."""
    kinds = {"camera": _camera, "bed": _bed, "board": _board, "machine": _machine}
    if not argv or argv[0] in ("-h", "--help"):
        import sys

        sys.stdout.write(HELP)
        return 0
    if argv[0] not in kinds:
        raise BadInput(f"calibrate {argv[0]}: must be {', '.join(kinds)}")
    return kinds[argv[0]](argv[1:])


def _camera(argv: list[str]) -> int:
    config = parse(CameraConfig, argv, "calibrate camera")
    require_in("--views", config.views, 5, 200)
    require_in("--max-rms-px", config.max_rms_px, 0.01, 100, " px")
    require_new(config.out, config.force)
    from melter.vision.calibration import save_calibration
    from melter.vision.intrinsics import Board, calibrate

    board = Board(
        columns=config.columns,
        rows=config.rows,
        square_m=config.square_mm / 1000,
        marker_m=config.marker_mm / 1000,
        dictionary=config.dictionary,
    )
    views, size_px = _collect_views(config, board)
    if size_px is None:
        raise CameraError(f"source {config.source}: no frame that can be read")
    found = calibrate(views, size_px)
    good = found.calibration.rms_px <= config.max_rms_px
    if good:
        save_calibration(found.calibration, config.out)
    result = {
        "file": config.out if good else None,
        "residual": found.calibration.rms_px,
        "confidence": found.coverage,
        "rms_px": found.calibration.rms_px,
        "coverage": found.coverage,
        "views": found.views,
        "left_out": found.left_out,
        "focal_px": found.calibration.camera_matrix[0, 0],
        "focal_std_px": found.focal_std_px,
    }
    text = (
        f"{config.out if good else 'nothing written'}: RMS {found.calibration.rms_px:.3f} px over {found.views} views ({found.left_out} left out), "
        f"the board reached {100 * found.coverage:.0f} % of the image"
    )
    emit(result, config.json, text)
    if not good:
        say(
            f"RMS {found.calibration.rms_px:.2f} px is more than --max-rms-px {config.max_rms_px:g}: is the board flat?"
        )
    elif found.coverage < LITTLE_COVERAGE:
        say(f"the board reached only {100 * found.coverage:.0f} % of the image: distortion is guessed elsewhere")
    return 0 if good else 1


def _collect_views(config: CameraConfig, board: Any) -> tuple[list[Any], tuple[int, int] | None]:
    """Views that differ, until there are enough and they cover the image."""
    from melter.vision.camera import BrokenFrame, open_camera
    from melter.vision.intrinsics import adds_something, coverage_of, find_board

    views: list[Any] = []
    size_px: tuple[int, int] | None = None
    with open_camera(config.source) as stream:
        for count, frame in enumerate(stream.frames(), start=1):
            if isinstance(frame, BrokenFrame):
                say(f"left out: {frame.reason}")
                continue
            height, width = frame.image.shape[:2]
            size_px = size_px or (width, height)
            if size_px != (width, height):
                raise CameraError(
                    f"{frame.source}: {width} x {height} px, the frames before had {size_px[0]} x {size_px[1]} px"
                )
            view = find_board(frame.image, board)
            if view is not None and adds_something(view, views, size_px):
                views.append(view)
                say(
                    f"view {len(views)}: {len(view.image_px)} corners, "
                    f"{100 * coverage_of(views, size_px):.0f} % of the image covered"
                )
            if count >= config.frames or (len(views) >= config.views and coverage_of(views, size_px) > 0.8):
                break
    return views, size_px


def _bed(argv: list[str]) -> int:
    from melter.cli import calibrate_bed

    return calibrate_bed.run(argv)


def _board(argv: list[str]) -> int:
    config = parse(BoardConfig, argv, "calibrate board")
    require_new(config.out, config.force)
    from melter.vision.boards import board_cells, marker_cells, write_print
    from melter.vision.intrinsics import Board

    if config.marker is not None:
        known = {marker.id: marker for marker in load_machine(config.machine).bed.marker}
        if config.marker not in known:
            raise BadInput(f"--marker {config.marker}: the machine file has {sorted(known)}")
        marker = known[config.marker]
        cells = marker_cells(marker.dictionary, marker.id)
        cell_m = marker.size_m / (cells.shape[0] - 2)
    else:
        board = Board(
            columns=config.columns,
            rows=config.rows,
            square_m=config.square_mm / 1000,
            marker_m=config.marker_mm / 1000,
            dictionary=config.dictionary,
        )
        cells, cell_m = board_cells(board)
    write_print(cells, cell_m, config.out)
    width_m, height_m = cells.shape[1] * cell_m, cells.shape[0] * cell_m
    emit(
        {"file": config.out, "width_m": width_m, "height_m": height_m},
        config.json,
        f"{config.out}: {1000 * width_m:.1f} x {1000 * height_m:.1f} mm; print at 100 %, then measure a square",
    )
    return 0


def _machine(argv: list[str]) -> int:
    """Handed on to whoever fits machines."""
    try:
        from melter.cli import calibrate_machine  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        raise BadInput("calibrate machine: not part of this version") from None
    return int(calibrate_machine.run(argv))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
