"""Can a bright spot be the light patch? Its size, sharpness and power against what this lens and this exposure allow.

Sparkles on glass and grains are as small as the camera's blur; the patch is never smaller than the sun's image, and its
power stands in a known ratio to the sunlit sand. What rejects true patches in focus, or accepts sparkles, was looked for
with ``melter vision bench``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from melter.vision.bed import BedView
from melter.vision.cut import Array, Cut, Sums
from melter.vision.hue import Hues
from melter.vision.outline import Outline
from melter.vision.sharpness import CUT_FROM, SMALLEST, Blur, Edges, fineness, roundness, sharp_edges

LARGEST_SEMI_AXIS_M = 0.40
MAX_AXIS_RATIO = 5.0
FINENESS_LEAST = 0.72
"""A spot whose structure is finer than this share of the smallest patch is a sparkle."""
CLIPPED_AREAS = (2.0, 7.0, 14.0, 24.0, 35.0, 60.0)
CLIPPED_LEAST = (1.5, 1.9, 2.2, 2.5, 2.8, 3.3)
"""The same for saturated spots by their saturated area over the smallest patch: the brighter, the more of a patch's
aureole is in its flank, and the larger looks a sparkle's."""
SMALL, SMALL_CLIPPED, SMALL_PALE, SMALL_WHITE = 2.0, 3.6, 6.0, 6.0
"""Coarseness below which the flatness of a spot counts: one that is not saturated; one that is, which looks larger than it
is; one whose colour is not the sand's; and one that is as white as the sun."""
SPARKLE_WHITE = 2.2
"""Below this coarseness a white spot that is not saturated is a sparkle, however the bed is seen."""
ROUND, ROUND_WHITE = (-0.1, 0.3), (-0.25, 0.55)
"""Flatness between which a small spot is a sparkle; the same for a white one."""
WHITE, PALE, SANDY, RED = 0.55, 0.45, 0.3, -0.6
"""Whiteness above which a spot is white, above which it is too pale for sand, below which (either way) it has the sand's
colour, and below which it glows."""
SHARP_COARSENESS, SHARP_ALL_AROUND = 3.0, 1.25
"""Coarseness below which, and length of sharp edges above which, a saturated spot is a sparkle."""
SHARP_PALE, SHARP_WHITE = 6.0, 10.0
"""The same coarseness for one whose colour is known not to be the sand's, and for a white one."""
FINE_STRUCTURE = 4.0
"""Coarseness below which that of a spot that is not saturated must agree with its size: sand's grain looks coarser."""
COHERENCE_LEAST = 0.18
"""Finest structure over whole size, as areas: 1 for a Gaussian, small for many sparkles together."""
OPEN_SUN = 0.7
"""Background over sunlit sand from which a spot does not lie in the lens's shadow."""
LEAST_LIGHT, LEAST_LIGHT_DOUBT = 0.2, 0.04
"""Light of a spot that is not saturated over what the lens gathers; less on dark glass. When a part is hidden or the sand
is dark, where cameras' responses differ most, much less."""
SAND_CLEAR = 0.01
"""Linear light (code 25 of 255) from which the responses of cameras agree well enough."""
SAND_TELLS, SAND_CLIPS = 0.002, 0.9
"""Linear light (codes 7 and 243 of 255) of sand between which its brightness can be relied on."""
SAND_FLOOR = 0.001
"""Darker sand drowns in noise and black level."""
WHOLE_SHARE = 0.5
"""A saturated patch is one region, but for what is in front of it."""
OVEREXPOSED = 0.8
"""Linear light of sunlit sand from which only what lies in the lens's shadow can be told from it."""
POWER_RANGE = (0.25, 2.5)
"""The patch's power over what the machine file and the sand's brightness say: dirt, haze, dark and bright sand."""
FLANK_IS_GAUSSIAN = 4.5
"""Coarseness up to which a saturated spot's flank tells its width; above, flare and aureole make much of it."""
AREA_SHARE = (0.55, 0.35)
"""Least saturated area over what the flank and the power make one expect, below and above that."""


@dataclass(frozen=True)
class Level:
    """What one frame says about its exposure."""

    sand: float
    """Linear light of sunlit sand."""
    threshold: float
    """Linear light above which something is brighter than sand or white paper can be."""
    flux_expected_m2: float
    """Power of the patch over irradiance of open sand, from the machine file."""
    floor_semi_axis_m: float
    """No patch of this lens is smaller: the sun's disc and good facets."""
    hues: Hues | None = None
    """Of sand and paper, where they are known."""

    @property
    def flux_m2(self) -> float | None:
        """The patch's light summed over the bed, full scale times m²; None when the sand is too dark or clipped."""
        return self.flux_expected_m2 * self.sand if SAND_TELLS < self.sand < SAND_CLIPS else None


@dataclass(frozen=True, eq=False)
class Look:
    """A spot, measured but not yet judged."""

    cut: Cut
    sums: Sums
    blur: Blur
    outline: Outline | None
    edges: Edges
    coarseness: float
    """The finest structure over the smallest patch's, as areas: large for patches, about 1 or less for sparkles."""
    clipped: float
    """The saturated area over the smallest patch's."""
    place_px: tuple[float, float]
    flatness: float | None
    """0: as round in the image as sparkles are, 1: as flat as a round patch on the bed looks; None seen from above."""
    whiteness: float | None
    """0: of the sand's hue, 1: as white as paper; None where colour does not tell."""

    @property
    def white(self) -> bool:
        """Whether it shines like the sun itself rather than like sand."""
        return self.whiteness is not None and self.whiteness > WHITE

    @property
    def pale(self) -> bool:
        """Whether its colour is known not to be the sand's, but not quite white either."""
        return self.whiteness is not None and PALE < self.whiteness <= WHITE

    @property
    def sandy(self) -> bool:
        """Whether its light has the sand's colour."""
        return self.whiteness is not None and abs(self.whiteness) < SANDY


def look_at(
    cut: Cut,
    sums: Sums,
    blur: Blur,
    outline: Outline | None,
    view: BedView,
    place_px: tuple[float, float],
    white: Callable[[], float | None] = lambda: None,
) -> Look:
    """Measure what a spot is judged by; ``white`` gives its whiteness, and is asked only where that counts."""
    per_px_m2 = abs(float(np.linalg.det(view.jacobian_m_per_px(place_px))))
    smallest_m2 = float(np.sqrt(np.linalg.det(blur.sunlight_px2))) * per_px_m2
    coarseness = fineness(cut, sums, blur) if outline is None else outline.flank_m2 / smallest_m2
    clipped = 0.0 if outline is None else outline.clipped_m2 / smallest_m2
    edges = sharp_edges(cut, sums, blur, coarseness)
    large = coarseness > SHARP_WHITE
    flatness = None if large and outline is None else roundness(cut, sums, blur)
    return Look(
        cut,
        sums,
        blur,
        outline,
        edges,
        coarseness,
        clipped,
        place_px,
        flatness,
        None if large else white(),
    )


def reason_against(look: Look, level: Level, view: BedView) -> str:
    """Return why a spot cannot be the patch; empty when it can."""
    return (
        _wrong_size(look, level, view)
        or _too_sharp(look)
        or _scattered(look)
        or _sparkle_shape(look, level)
        or _wrong_power(look, level)
    )


def _wrong_size(look: Look, level: Level, view: BedView) -> str:
    cut, sums = look.cut, look.sums
    small, large = 2 * np.sqrt(np.linalg.eigvalsh(sums.moments_m2))
    if large > LARGEST_SEMI_AXIS_M:
        return f"semi-axis {1000 * large:.0f} mm, larger than any patch ({1000 * LARGEST_SEMI_AXIS_M:.0f} mm)"
    if large / small > MAX_AXIS_RATIO:
        return f"axis ratio {large / small:.1f}, longer than any patch ({MAX_AXIS_RATIO})"
    bright = cut.usable & sums.inside & (cut.light >= level.threshold)
    area = float(cut.area[bright].sum())
    spread = 2 * np.pi * (level.floor_semi_axis_m / 2) ** 2
    least = 0.5 * spread * np.log(max(level.flux_expected_m2 * level.sand / (spread * level.threshold), np.e))
    if look.outline is not None and area < least:
        return f"{1e6 * area:.0f} mm² bright, less than a patch would be at this exposure ({1e6 * least:.0f} mm²)"
    jacobian = view.jacobian_m_per_px(look.place_px)
    blur = jacobian @ jacobian.T * view.blur_px**2
    across = _across_sight(view, sums.centre_m)
    net = float(across @ (sums.moments_m2 - blur) @ across)
    if net < (0.5 * level.floor_semi_axis_m / 2) ** 2:
        return f"narrower than the sun's image ({1000 * level.floor_semi_axis_m:.1f} mm): a glint"
    return ""


def _across_sight(view: BedView, point_m: Array) -> Array:
    """Unit vector on the bed at right angles to the line of sight: where the camera resolves best."""
    away = view.sight_on_bed(point_m)
    length = float(np.linalg.norm(away))
    return np.array([-away[1], away[0]]) / length if length > 1e-6 else np.array([1.0, 0.0])


def _too_sharp(look: Look) -> str:
    least = SMALLEST if look.edges.length > CUT_FROM else FINENESS_LEAST
    if look.outline is not None:
        least = max(least, float(np.interp(look.clipped, CLIPPED_AREAS, CLIPPED_LEAST)))
        sharp = SHARP_WHITE if look.white else SHARP_PALE if look.pale else SHARP_COARSENESS
        if look.coarseness < sharp and look.edges.length > SHARP_ALL_AROUND and not look.edges.cut:
            return f"saturated and sharp all around ({100 * look.coarseness:.0f} % of the sun's image's area): a glint"
    if look.coarseness < least:
        return f"sharper than the sun's image ({100 * look.coarseness:.0f} % of its area, least {100 * least:.0f} %)"
    return ""


def _scattered(look: Look) -> str:
    """Several sharp things together have fine structure over a large area."""
    cut, sums = look.cut, look.sums
    if look.outline is not None:
        everywhere = float(cut.area[cut.saturated & sums.inside].sum())
        many = not look.edges.cut and look.outline.clipped_m2 < WHOLE_SHARE * everywhere
        return "saturated in many places" if many else ""
    if look.coarseness > FINE_STRUCTURE:
        return ""
    smallest = float(np.sqrt(np.linalg.det(look.blur.sunlight_px2)) * np.median(cut.area[sums.inside])) / cut.stride**2
    coherence = look.coarseness * smallest / float(np.sqrt(np.linalg.det(sums.moments_m2)))
    if coherence < COHERENCE_LEAST:
        return f"many sharp spots together (structure {100 * coherence:.0f} % of the whole)"
    return ""


def _sparkle_shape(look: Look, level: Level) -> str:
    if look.whiteness is not None and look.whiteness < RED and look.outline is None:
        return "redder than sand in the sun can be: it glows"
    if look.white and look.outline is None and look.coarseness < SPARKLE_WHITE:
        return "as white as the sun and hardly larger than its image: a glint"
    if look.flatness is None or look.sandy:
        return ""
    if look.outline is None and (look.edges.cut or look.coarseness > SMALL) and not (look.white or look.pale):
        return ""
    open_sun = level.sand > SAND_TELLS and look.sums.background > OPEN_SUN * level.sand
    usual = SMALL if look.outline is None else SMALL_CLIPPED
    small = SMALL_WHITE if look.white else SMALL_PALE if look.pale else usual
    low, high = ROUND_WHITE if look.white else ROUND
    if (look.coarseness < small or open_sun) and low < look.flatness < high:
        return "round although the bed is seen obliquely, and hardly larger than the sun's image: a glint"
    return ""


def _wrong_power(look: Look, level: Level) -> str:
    """Power as the sunlit sand tells it.

    A saturated region whose flank is as steep as a Gaussian's of variance s² has the area 2 pi s² ln(flux / 2 pi s²).
    """
    sums, outline = look.sums, look.outline
    if level.sand > OVEREXPOSED and sums.background > OVEREXPOSED / 2:
        return f"overexposed: sunlit sand is at {100 * level.sand:.0f} % of full scale"
    most = POWER_RANGE[1] * level.flux_expected_m2 * max(level.sand, SAND_FLOOR)
    if sums.flux > most:
        return f"{sums.flux / most:.1f} times as bright as the lens can be at this exposure"
    if outline is None:
        share = LEAST_LIGHT if level.sand > SAND_CLEAR and not look.edges.cut else LEAST_LIGHT_DOUBT
        little = level.sand > SAND_TELLS and sums.flux < share * level.flux_expected_m2 * level.sand
        return "much darker than the lens's light at this exposure" if little else ""
    if not np.isfinite(outline.flank_m2):
        return ""
    width = 2 * np.pi * outline.flank_m2
    if level.sand > SAND_TELLS / 4:
        least = POWER_RANGE[0] * level.flux_expected_m2 * level.sand
        area = width * np.log(max(least / width, 1.0))
        if outline.clipped_m2 < AREA_SHARE[int(look.coarseness > FLANK_IS_GAUSSIAN)] * area:
            return f"{1e6 * outline.clipped_m2:.0f} mm² saturated, a patch would have {1e6 * area:.0f} mm² or more"
    elif (
        look.coarseness < FLANK_IS_GAUSSIAN
        and outline.clipped_m2 > 1.5 * width * np.log(max(most / width, 1.0)) + 0.1 * width
    ):
        return "saturated although the exposure is too short for that"
    return ""
