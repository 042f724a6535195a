"""Recipes, the colour model against published values, and blank correction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.demo.colour import (
    PRIOR_NOISE_AU,
    PRIOR_REPLICATES,
    Mixtures,
    Recipe,
    absorbances,
    blank_corrected,
    colour_distance,
    lab,
    summarise,
    to_doses,
    to_recipes,
)

OPAQUE = 10.0
absorbance = st.floats(0.0, 3.0)
colour = st.tuples(absorbance, absorbance, absorbance)


@pytest.mark.parametrize(
    ("absorbance_450_520_630", "published"),
    [
        ((0.0, 0.0, 0.0), (100.0, 0.0, 0.0)),
        ((OPAQUE, OPAQUE, 0.0), (53.24, 80.09, 67.20)),
        ((OPAQUE, 0.0, OPAQUE), (87.73, -86.18, 83.18)),
        ((0.0, OPAQUE, OPAQUE), (32.30, 79.19, -107.86)),
    ],
    ids=["white", "red", "green", "blue"],
)
def test_screen_primaries_have_their_published_lab(
    absorbance_450_520_630: tuple[float, ...], published: tuple[float, ...]
) -> None:
    assert lab(absorbance_450_520_630) == pytest.approx(published, abs=0.05)


def test_grey_has_no_hue_and_the_lightness_of_the_standard() -> None:
    # ISO/CIE 11664-4: L* = 116 Y^(1/3) - 16, and 903.3 Y where Y is below 0.008856.
    assert lab([1.0, 1.0, 1.0]) == pytest.approx((116 * 0.1 ** (1 / 3) - 16, 0, 0), abs=1e-9)
    assert lab([3.0, 3.0, 3.0]) == pytest.approx((0.9033, 0, 0), abs=1e-4)


def test_black_is_a_hundred_from_white() -> None:
    assert colour_distance([OPAQUE] * 3, [0.0] * 3) == pytest.approx(100.0, abs=0.01)


def test_distance_keeps_the_leading_axes() -> None:
    measured = np.zeros((4, 5, 3))
    measured[2, 3] = 0.5
    distance = colour_distance(measured, np.zeros(3))
    assert distance.shape == (4, 5)
    assert np.flatnonzero(distance).tolist() == [2 * 5 + 3]


@settings(deadline=None)
@given(a=colour, b=colour)
def test_distance_is_symmetric_and_zero_only_for_the_same_absorbances(
    a: tuple[float, ...], b: tuple[float, ...]
) -> None:
    distance = float(colour_distance(a, b))
    assert distance == pytest.approx(float(colour_distance(b, a)))
    if np.max(np.abs(np.subtract(a, b))) > 1e-3:
        assert distance > 1e-4
    assert float(colour_distance(a, a)) == 0.0


def test_blank_takes_the_drift_of_its_plan_away() -> None:
    colours = np.array([[0.1, 0.2, 0.3], [1.0, 0.5, 0.0]])
    drift = np.array([0.04, -0.02, 0.01])
    blanks = np.array([drift + 0.001, drift - 0.001])
    assert blank_corrected(colours + drift, blanks) == pytest.approx(colours)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([[0.1, 0.2]], r"one column for each of \(450, 520, 630\) nm.*shape \(1, 2\)"),
        ([0.1, 0.2, 0.3], r"shape \(3,\)"),
        ([[0.1, 0.2, 0.3], [0.1, float("nan"), 0.3]], "row 1 holds nan AU at 520 nm"),
        ([[0.1, 0.2, float("inf")]], "row 0 holds inf AU at 630 nm"),
        ([[-1e9, 0.2, 0.3]], "row 0 holds .* at 450 nm, which no photometer"),
    ],
)
def test_values_that_are_no_absorbances_are_refused(values: list[float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        absorbances(values)


def test_a_plan_without_blank_is_refused() -> None:
    with pytest.raises(ValueError, match="no blank"):
        blank_corrected([[0.1, 0.2, 0.3]], [])


@st.composite
def mixtures(draw: st.DrawFn) -> Mixtures:
    minimum = draw(st.integers(1, 20))
    return Mixtures(draw(st.integers(10 * minimum + 10, 2000)), minimum)


@settings(deadline=None)
@given(mixtures=mixtures(), seed=st.integers(0, 2**32), radius=st.floats(0.1, 100.0))
def test_every_recipe_can_be_pumped(mixtures: Mixtures, seed: int, radius: float) -> None:
    rng = np.random.default_rng(seed)
    sampled = mixtures.sample(rng, 30)
    for doses in (sampled, mixtures.around(rng, sampled[0], radius, 30)):
        assert doses.shape == (30, 4)
        assert (doses.sum(axis=1) == mixtures.total_ul).all()
        assert ((doses == 0) | (doses >= mixtures.minimum_ul)).all()


@settings(deadline=None)
@given(
    parts=st.tuples(*[st.floats(0.0, 1.0)] * 4).filter(lambda p: sum(p) > 0.01),
    mixtures=mixtures(),
)
def test_the_nearest_recipe_is_near(parts: tuple[float, ...], mixtures: Mixtures) -> None:
    ideal = np.array(parts) / sum(parts) * mixtures.total_ul
    [doses] = mixtures.nearest(np.array([parts]))
    # Three parts may each be moved by half the smallest dose; the largest part takes up their sum.
    assert np.abs(doses - ideal).max() <= 1.5 * mixtures.minimum_ul + 2
    untouched = mixtures.nearest(doses[None, :].astype(np.float64))
    assert (untouched == doses).all()


@pytest.mark.parametrize(("total_ul", "minimum_ul"), [(59, 5), (200, 0), (200, -5), (0, 1)])
def test_too_coarse_a_mixture_is_refused(total_ul: int, minimum_ul: int) -> None:
    with pytest.raises(ValueError, match="too coarse to search"):
        Mixtures(total_ul, minimum_ul)


def test_recipes_and_rows_are_the_same_thing() -> None:
    recipes = [Recipe(10, 20, 30, 140), Recipe(0, 0, 0, 200)]
    assert to_doses(recipes).tolist() == [[10, 20, 30, 140], [0, 0, 0, 200]]
    assert to_recipes(to_doses(recipes)) == recipes
    assert recipes[0].total_ul == 200
    assert to_doses([]).shape == (0, 4)


def test_a_negative_volume_is_refused() -> None:
    with pytest.raises(ValueError, match="negative volume"):
        Recipe(-5, 5, 0, 200)


def test_replicates_are_averaged_and_their_scatter_pooled_with_the_prior() -> None:
    doses = to_doses([Recipe(10, 0, 0, 190), Recipe(0, 10, 0, 190), Recipe(10, 0, 0, 190)])
    measured = np.array([[0.10, 0.5, 0.0], [0.7, 0.7, 0.7], [0.12, 0.5, 0.0]])
    summary = summarise(doses, measured)
    assert summary.doses.tolist() == [[0, 10, 0, 190], [10, 0, 0, 190]]
    assert summary.means == pytest.approx(np.array([[0.7, 0.7, 0.7], [0.11, 0.5, 0.0]]))
    assert summary.counts.tolist() == [1, 2]
    prior = PRIOR_REPLICATES * PRIOR_NOISE_AU**2
    freedom = PRIOR_REPLICATES + 1
    assert summary.noise == pytest.approx(
        np.array([(prior + 2e-4) / freedom, prior / freedom, prior / freedom])
    )
