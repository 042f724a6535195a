"""What a colour-matching planner knows and measures: recipes, absorbances, and how far off a colour is.

A photometer with three narrow channels sees no colour as an eye does. To get a distance that means
something to a reader, the three transmittances are taken for the three channels of a screen: light left
at 630 nm is linear red, at 520 nm linear green, at 450 nm linear blue, pure water is white:

    T_i = 10 ** -A_i,    (R, G, B) = (T_630, T_520, T_450)
    XYZ = M (R, G, B),   M: linear RGB to XYZ of IEC 61966-2-1 (sRGB)
    L*a*b* of XYZ relative to white: ISO/CIE 11664-4
    distance = |L*a*b*(measured) - L*a*b*(target)|

The last line is the formula of ΔE*ab (1976), and its size reads like one: about 2 is just visible, 100 is
black against white. It is not a colorimetric ΔE, because three narrow bands stand in for the CIE observer
and illuminant. It is zero only where all three absorbances agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Doses = NDArray[np.int64]

WAVELENGTHS_NM = (450, 520, 630)
HIGHEST_AU = 10.0
# Before replicates say otherwise: a photometer and a syringe repeat to about 5 mAU. Weighs as two replicates.
PRIOR_NOISE_AU = 0.005
PRIOR_REPLICATES = 2

_RGB_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], dtype=np.float64
)
_CHANNEL_ORDER = (2, 1, 0)
# From transmittances in the order of WAVELENGTHS_NM to XYZ relative to white, so that water is (1, 1, 1).
_TO_RELATIVE_XYZ = (_RGB_TO_XYZ / _RGB_TO_XYZ.sum(axis=1, keepdims=True))[:, _CHANNEL_ORDER]
_XYZ_TO_LAB = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]], dtype=np.float64)
_LAB_OFFSET = np.array([-16.0, 0.0, 0.0], dtype=np.float64)
_LINEAR_BELOW = (6 / 29) ** 3


@dataclass(frozen=True, order=True)
class Recipe:
    """What goes into one well, in whole µl."""

    red_ul: int
    yellow_ul: int
    blue_ul: int
    water_ul: int

    def __post_init__(self) -> None:
        if min(self.red_ul, self.yellow_ul, self.blue_ul, self.water_ul) < 0:
            raise ValueError(f"{self} has a negative volume.")

    @property
    def total_ul(self) -> int:
        return self.red_ul + self.yellow_ul + self.blue_ul + self.water_ul


@dataclass(frozen=True)
class Mixtures:
    """The recipes that a pump can make: whole µl, `total_ul` in sum, each part 0 or at least `minimum_ul`."""

    total_ul: int = 200
    minimum_ul: int = 5

    def __post_init__(self) -> None:
        least = 10 * max(self.minimum_ul, 1) + 10
        if self.minimum_ul < 1 or self.total_ul < least:
            raise ValueError(
                f"A well of {self.total_ul} µl in doses of at least {self.minimum_ul} µl is too coarse to "
                f"search. Let the smallest dose be 1 µl or more, and the total at least {least} µl."
            )

    def nearest(self, parts: Array) -> Doses:
        """Recipes (n, 4) near the proportions (n, 4), which are non-negative and not all zero in a row."""
        ideal = parts / parts.sum(axis=1, keepdims=True) * self.total_ul
        dosed = np.where(ideal < self.minimum_ul / 2, 0.0, np.maximum(ideal, self.minimum_ul))
        doses = np.rint(dosed).astype(np.int64)
        # The largest part is a quarter of the total or more and can take up what the rounding left over.
        doses[np.arange(len(doses)), doses.argmax(axis=1)] += self.total_ul - doses.sum(axis=1)
        return doses

    def sample(self, rng: np.random.Generator, n: int) -> Doses:
        """n recipes (n, 4), uniform over the simplex."""
        return self.nearest(rng.dirichlet(np.ones(4), n))

    def around(self, rng: np.random.Generator, centre: Doses, radius_ul: float, n: int) -> Doses:
        """n recipes (n, 4) scattered about one recipe (4,)."""
        moved = np.maximum(centre + rng.normal(0.0, radius_ul, (n, 4)), 0.0)
        return self.nearest(moved + np.finfo(np.float64).tiny)


def to_doses(recipes: Sequence[Recipe]) -> Doses:
    """Recipes as rows (n, 4): red, yellow, blue, water in µl."""
    rows = [(r.red_ul, r.yellow_ul, r.blue_ul, r.water_ul) for r in recipes]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def to_recipes(doses: Doses) -> list[Recipe]:
    """Rows (n, 4) as recipes."""
    return [Recipe(*(int(part) for part in row)) for row in doses]


def lab(absorbances: ArrayLike) -> Array:
    """L*a*b* of the model above; absorbances (..., 3) in AU, blank-corrected, gives (..., 3)."""
    transmittance = 10.0 ** -np.asarray(absorbances, dtype=np.float64)
    xyz = transmittance @ _TO_RELATIVE_XYZ.T
    response: Array = np.where(xyz > _LINEAR_BELOW, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return response @ _XYZ_TO_LAB.T + _LAB_OFFSET


def colour_distance(measured: ArrayLike, target: ArrayLike) -> Array:
    """Distance of blank-corrected absorbances (..., 3) in AU from a target (3,), in ΔE-like units: (...)."""
    distance: Array = np.linalg.norm(lab(measured) - lab(target), axis=-1)
    return distance


def blank_corrected(measured: ArrayLike, blanks: ArrayLike) -> Array:
    """Absorbances (n, 3) of one plan less the mean of that plan's blanks (m, 3), all in AU.

    Subtracting the blank of the same plan removes what plate, water and lamp drift add to every well.
    Raises ValueError if a plan has no blank or a value is no absorbance.
    """
    if not np.size(blanks):
        raise ValueError("This plan has no blank. Measure at least one well of pure water in every plan.")
    corrected: Array = absorbances(measured) - absorbances(blanks).mean(axis=0)
    return corrected


def absorbances(values: ArrayLike) -> Array:
    """The values as an array (n, 3) in AU, or a ValueError that says what is wrong with them."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != len(WAVELENGTHS_NM):
        raise ValueError(
            f"Absorbances need one row a well and one column for each of {WAVELENGTHS_NM} nm, "
            f"but the values have the shape {array.shape}."
        )
    wrong = np.argwhere(~(np.abs(array) <= HIGHEST_AU))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"Absorbance row {row} holds {array[row, column]} AU at {WAVELENGTHS_NM[column]} nm, which no "
            "photometer can measure. Leave that well out."
        )
    return array


@dataclass(frozen=True)
class Summary:
    """What has been measured: distinct recipes (n, 4), mean absorbances (n, 3), how often (n,), noise (3,).

    The noise is the variance of one measurement, in AU², pooled over all replicates with the prior.
    """

    doses: Doses
    means: Array
    counts: Array
    noise: Array


def summarise(doses: Doses, measured: Array) -> Summary:
    """Replicates averaged and their scatter pooled; recipes (n, 4), absorbances (n, 3)."""
    distinct, group = np.unique(doses, axis=0, return_inverse=True)
    group = group.reshape(-1)
    counts = np.bincount(group).astype(np.float64)
    means = np.stack([np.bincount(group, channel) / counts for channel in measured.T], axis=1)
    scatter = ((measured - means[group]) ** 2).sum(axis=0)
    freedom = float((counts - 1).sum())
    noise = (PRIOR_REPLICATES * PRIOR_NOISE_AU**2 + scatter) / (PRIOR_REPLICATES + freedom)
    return Summary(distinct, means, counts, noise)
