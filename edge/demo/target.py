"""The hidden colour of a demo: one that the dyes on its bench can make. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edge.demo.colour import WAVELENGTHS_NM, Mixtures, Recipe, to_recipes

WELL_AREA_MM2 = 32.0
"""Of a flat-bottomed 96-well plate: 200 µl stand 6.25 mm high."""
DYES = ("red-dye", "yellow-dye", "blue-dye")
LEAST_DYE_UL = 15


def hidden_target(liquids: Mapping[str, Any], seed: int, mixtures: Mixtures) -> tuple[Recipe, list[float]]:
    """A recipe with some of every dye, and the absorbances it has at `WAVELENGTHS_NM`, in AU.

    Beer–Lambert through the liquid from above; `liquids` as in a bench file, absorbance of 1 cm.
    """
    rng = np.random.default_rng([seed, 0xC01])
    while True:
        [recipe] = to_recipes(mixtures.sample(rng, 1))
        doses = (recipe.red_ul, recipe.yellow_ul, recipe.blue_ul)
        if min(doses) >= LEAST_DYE_UL and recipe.water_ul >= LEAST_DYE_UL:
            break
    cm_per_ul = 1.0 / (WELL_AREA_MM2 * 10.0)
    absorbances = [
        sum(liquids[dye]["absorbance"][nm] * ul * cm_per_ul for dye, ul in zip(DYES, doses, strict=True))
        for nm in WAVELENGTHS_NM
    ]
    return recipe, absorbances
