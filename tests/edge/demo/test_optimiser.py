"""The planner's mind: its mathematics in closed form, its manners, and that it beats random search."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.demo import optimiser
from edge.demo.colour import Array, Doses, Recipe, colour_distance, to_doses
from edge.demo.optimiser import (
    GaussianProcess,
    Kernel,
    Optimiser,
    Posterior,
    RandomSearch,
    Search,
    cholesky,
    design_batch,
    distance_moments,
    expected_improvement,
    fit_kernel,
    forward,
    log_likelihood,
)

# A small truth of our own: AU of the pure dye at 450, 520, 630 nm (rows) for red, yellow, blue (columns).
DYES = np.array([[0.8, 4.2, 0.5], [4.0, 0.9, 0.9], [0.15, 0.05, 4.6]])
TOTAL_UL = 200
PLANS, WELLS, SEEDS = 6, 8, range(10)


def true_absorbance(parts: Array | Doses) -> Array:
    """Beer–Lambert of parts (n, 4), seen by a photometer with 0.3 % stray light."""
    fractions = parts[:, :3] / parts.sum(axis=1, keepdims=True)
    seen: Array = -np.log10((10 ** -(fractions @ DYES.T) + 0.003) / 1.003)
    return seen


class DistanceSearch(Search):
    """The alternative that was not kept: one Gaussian process on the colour distance itself."""

    def _next(self, rng: np.random.Generator, n: int) -> Doses:
        pool = np.unique(self.mixtures.sample(rng, 1200), axis=0)
        if not self.told:
            return pool[rng.choice(len(pool), n, replace=False)]
        distance = colour_distance(self._measured, self.target)
        level = float(distance.mean())
        noise = np.full(len(distance), 0.1)
        posterior = Posterior(
            GaussianProcess(self._doses[:, :3] / 200, distance - level, noise), pool[:, :3] / 200
        )
        taken: list[int] = []
        for _ in range(n):
            promise = expected_improvement(
                posterior.mean + level, np.sqrt(posterior.variance), float(distance.min())
            )
            promise[taken] = -np.inf
            taken.append(int(np.argmax(promise)))
            posterior.believe(taken[-1], 0.1)
        return pool[taken]


@cache
def campaign(kind: type[Search], seed: int) -> tuple[float, ...]:
    """True colour distance of the recipe held for best after each plan; target and noise follow the seed."""
    rng = np.random.default_rng([seed, 1])
    target = true_absorbance(rng.dirichlet(np.ones(4), 1))[0]
    search = kind(target, TOTAL_UL, seed)
    reached: list[float] = []
    for _ in range(PLANS):
        batch = design_batch(search, WELLS)
        seen = true_absorbance(to_doses(batch.recipes))
        drift, scatter = rng.normal(0, 0.02, 3), rng.normal(0, 1, seen.shape)
        search.tell(*batch.corrected(seen + drift + scatter * (0.003 + 0.005 * seen)))
        best, _ = search.best()
        reached.append(float(colour_distance(true_absorbance(to_doses([best]))[0], target)))
    return tuple(reached)


def last(kind: type[Search]) -> Array:
    return np.array([campaign(kind, seed)[-1] for seed in SEEDS])


def test_better_than_random_search_on_the_same_budget() -> None:
    optimised, random = last(Optimiser), last(RandomSearch)
    assert np.median(optimised) < np.median(random)
    assert (optimised < random).sum() >= 8, (optimised, random)


def test_ends_at_a_colour_that_looks_the_same() -> None:
    assert np.median(last(Optimiser)) < 1.0
    assert last(Optimiser).max() < 5.0


def test_modelling_absorbances_is_better_than_modelling_the_distance() -> None:
    assert np.median(last(Optimiser)) < 0.5 * np.median(last(DistanceSearch))


def test_learning_goes_on_from_plan_to_plan() -> None:
    median = np.median([campaign(Optimiser, seed) for seed in SEEDS], axis=0)
    assert median[1] < 0.5 * median[0]
    assert median[-1] < median[1]


# Mathematics


def test_matern_at_one_length_scale() -> None:
    kernel = Kernel(np.array([0.5, 2.0]), 3.0)
    expected = 9.0 * (1 + math.sqrt(5) + 5 / 3) * math.exp(-math.sqrt(5))
    origin = np.zeros((1, 2))
    assert kernel(origin, np.array([[0.5, 0.0], [0.0, 2.0]])) == pytest.approx(np.full((1, 2), expected))
    assert kernel(origin, origin) == pytest.approx(np.array([[9.0]]))


def test_one_observation_in_closed_form() -> None:
    kernel, noise, y = Kernel(np.array([0.7]), 1.5), 0.2, 0.9
    process = GaussianProcess(np.array([[0.1]]), np.array([y]), np.array([noise]), kernel)
    there = np.array([[0.1], [0.4], [100.0]])
    covariance = kernel(there, np.array([[0.1]]))[:, 0]
    posterior = Posterior(process, there)
    assert posterior.mean == pytest.approx(covariance * y / (1.5**2 + noise))
    assert posterior.variance == pytest.approx(1.5**2 - covariance**2 / (1.5**2 + noise))
    assert process.mean(there) == pytest.approx(posterior.mean)
    assert posterior.mean[2] == pytest.approx(0.0)
    assert posterior.variance[2] == pytest.approx(1.5**2)


def test_many_observations_against_the_inverse() -> None:
    rng = np.random.default_rng(1)
    x, y, noise = rng.random((12, 3)), rng.normal(size=12), rng.uniform(0.01, 0.1, 12)
    there = rng.random((5, 3))
    kernel = Kernel(np.array([0.4, 0.8, 1.6]), 1.2)
    process = GaussianProcess(x, y, noise, kernel)
    inverse = np.linalg.inv(kernel(x, x) + np.diag(noise))
    posterior = Posterior(process, there)
    assert posterior.mean == pytest.approx(kernel(there, x) @ inverse @ y)
    assert process.mean(there) == pytest.approx(posterior.mean)
    full = kernel(there, there) - kernel(there, x) @ inverse @ kernel(x, there)
    assert posterior.variance == pytest.approx(np.diag(full))


def test_without_noise_it_goes_through_the_points() -> None:
    x, y = np.array([[0.0], [0.3], [1.0]]), np.array([0.2, -0.4, 1.1])
    posterior = Posterior(GaussianProcess(x, y, np.zeros(3), Kernel(np.array([0.5]), 1.0)), x)
    assert posterior.mean == pytest.approx(y)
    assert posterior.variance == pytest.approx(np.zeros(3), abs=1e-9)


def test_likelihood_of_two_points_in_closed_form() -> None:
    a, b, c = 2.0, 0.6, 1.0
    y = np.array([0.5, -1.5])
    determinant = a * c - b * b
    quadratic = (c * y[0] ** 2 - 2 * b * y[0] * y[1] + a * y[1] ** 2) / determinant
    expected = -0.5 * quadratic - 0.5 * math.log(determinant) - math.log(2 * math.pi)
    assert log_likelihood(np.array([[a, b], [b, c]]), y) == pytest.approx(expected)


def test_forward_solves_a_lower_system() -> None:
    rng = np.random.default_rng(2)
    root = np.tril(rng.normal(size=(7, 7))) + 5 * np.eye(7)
    for right in (rng.normal(size=7), rng.normal(size=(7, 4))):
        assert root @ forward(root, right) == pytest.approx(right)


def test_fit_finds_which_input_matters_and_a_peak_of_the_likelihood() -> None:
    rng = np.random.default_rng(3)
    x = rng.random((40, 3))
    y, noise = np.sin(6 * x[:, 0]) + 0.01 * rng.normal(size=40), np.full(40, 1e-4)
    kernel = fit_kernel(x, y, noise)
    assert kernel.length_scales[0] < 0.3 * kernel.length_scales[1:].min()

    def score(scales: Array, amplitude: float) -> float:
        return log_likelihood(Kernel(scales, amplitude)(x, x) + np.diag(noise), y)

    peak = score(kernel.length_scales, kernel.amplitude)
    for factor in (0.7, 1.4):
        assert score(kernel.length_scales, kernel.amplitude * factor) < peak
        assert score(kernel.length_scales * np.array([factor, 1, 1]), kernel.amplitude) < peak


def test_believing_is_the_same_as_measuring_what_was_predicted() -> None:
    rng = np.random.default_rng(4)
    x, y, there = rng.random((6, 3)), rng.normal(size=6), rng.random((9, 3))
    kernel, noise = Kernel(np.array([0.5, 0.9, 0.7]), 1.3), np.full(6, 0.05)
    believing = Posterior(GaussianProcess(x, y, noise, kernel), there)
    for index in (2, 7):
        x, y, noise = (
            np.vstack([x, there[index]]),
            np.append(y, believing.mean[index]),
            np.append(noise, 0.03),
        )
        believing.believe(index, 0.03)
    measured = Posterior(GaussianProcess(x, y, noise, kernel), there)
    assert believing.mean == pytest.approx(measured.mean)
    assert believing.variance == pytest.approx(measured.variance)


def test_jitter_helps_twins_but_not_nonsense() -> None:
    twins = np.ones((3, 3))
    root = cholesky(twins)
    assert root @ root.T == pytest.approx(twins, abs=1e-5)
    with pytest.raises(ValueError, match="not positive definite"):
        cholesky(np.array([[1.0, 2.0], [2.0, 1.0]]))


@settings(deadline=None, max_examples=50)
@given(mean=st.floats(-3, 8), deviation=st.floats(0.05, 5), incumbent=st.floats(-1, 5))
def test_expected_improvement_against_integration(mean: float, deviation: float, incumbent: float) -> None:
    d = np.linspace(mean - 10 * deviation, mean + 10 * deviation, 40_001)
    density = np.exp(-0.5 * ((d - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
    expected = float((np.maximum(incumbent - d, 0) * density).sum() * (d[1] - d[0]))
    [got] = expected_improvement(np.array([mean]), np.array([deviation]), incumbent)
    assert got == pytest.approx(expected, abs=1e-6)


def test_expected_improvement_of_the_certain_is_what_is_certain() -> None:
    got = expected_improvement(np.array([1.0, 5.0]), np.full(2, 1e-7), 3.0)
    assert got == pytest.approx([2.0, 0.0])


@pytest.mark.parametrize("deviation_au", [0.002, 0.02, 0.1])
def test_distance_moments_against_integration(deviation_au: float) -> None:
    mean, target = np.array([0.5, 0.3, 0.7]), np.array([0.4, 0.5, 0.6])
    axis = np.linspace(-6, 6, 61)
    weight = np.exp(-0.5 * axis**2) / np.exp(-0.5 * axis**2).sum()
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    weights = np.einsum("i,j,k->ijk", weight, weight, weight)
    distances = colour_distance(mean + deviation_au * grid, target)
    expected = float((distances * weights).sum())
    deviation = math.sqrt(float(((distances - expected) ** 2 * weights).sum()))
    got_mean, got_deviation = distance_moments(mean[None], np.full((1, 3), deviation_au**2), target)
    assert got_mean[0] == pytest.approx(expected, rel=0.01)
    assert got_deviation[0] == pytest.approx(deviation, rel=0.05)


# Manners


def informed(
    kind: type[Search] = Optimiser, seed: int = 5, total_ul: int = TOTAL_UL, minimum_ul: int = 5
) -> Search:
    search = kind([0.6, 0.5, 0.4], total_ul, seed, minimum_ul)
    recipes = search.propose(6)
    search.tell(recipes, true_absorbance(to_doses(recipes)))
    return search


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from([Optimiser, RandomSearch]),
    seed=st.integers(0, 10**6),
    n=st.integers(1, 12),
    minimum_ul=st.integers(1, 15),
    spare_ul=st.integers(0, 200),
)
def test_proposals_can_be_pumped_and_are_new(
    kind: type[Search], seed: int, n: int, minimum_ul: int, spare_ul: int
) -> None:
    total_ul = 10 * minimum_ul + 10 + spare_ul
    search = informed(kind, seed, total_ul, minimum_ul)
    proposed = search.propose(n)
    doses = to_doses(proposed)
    assert len(set(proposed)) == n
    assert (doses.sum(axis=1) == total_ul).all()
    assert ((doses == 0) | (doses >= minimum_ul)).all()
    if kind is Optimiser:
        assert not set(proposed) & {
            *kind([0.6, 0.5, 0.4], total_ul, seed, minimum_ul).propose(6),
            search.water,
        }


@pytest.mark.parametrize("kind", [Optimiser, RandomSearch])
def test_the_seed_decides_everything(kind: type[Search]) -> None:
    assert informed(kind, 7).propose(4) == informed(kind, 7).propose(4)
    assert informed(kind, 7).propose(4) != informed(kind, 8).propose(4)


@pytest.mark.parametrize("kind", [Optimiser, RandomSearch])
def test_asking_again_gives_the_same_until_something_is_told(kind: type[Search]) -> None:
    search = informed(kind)
    first = search.propose(3)
    assert search.propose(3) == first
    search.tell(first, true_absorbance(to_doses(first)))
    assert not set(search.propose(3)) & set(first)


def test_the_first_plan_fills_the_space() -> None:
    def closest(search: Search) -> float:
        doses = to_doses([*search.propose(8), search.water]).astype(np.float64)
        gaps = np.linalg.norm(doses[:, None] - doses[None], axis=-1)
        return float(gaps[np.triu_indices(len(doses), 1)].min())

    spread = [closest(Optimiser([0.5, 0.5, 0.5], seed=seed)) for seed in range(5)]
    drawn = [closest(RandomSearch([0.5, 0.5, 0.5], seed=seed)) for seed in range(5)]
    assert min(spread) > 2 * float(np.median(drawn))


def test_one_batch_spreads_while_little_is_known() -> None:
    def spread(seed: int) -> float:
        search = Optimiser([0.6, 0.5, 0.4], seed=seed)
        known = search.propose(2)
        search.tell(known, true_absorbance(to_doses(known)))
        doses = to_doses(search.propose(6)).astype(np.float64)
        return float(np.linalg.norm(doses[:, None] - doses[None], axis=-1).sum() / 30)

    assert np.median([spread(seed) for seed in SEEDS]) > 50


def test_it_looks_closely_where_the_model_expects_the_target() -> None:
    def miss(seed: int) -> float:
        target = true_absorbance(np.random.default_rng([seed, 1]).dirichlet(np.ones(4), 1))[0]
        search = Optimiser(target, seed=seed)
        for _ in range(2):
            known = search.propose(8)
            search.tell(known, true_absorbance(to_doses(known)))
        return float(colour_distance(true_absorbance(to_doses(search.propose(1)))[0], target))

    assert np.median([miss(seed) for seed in SEEDS]) < 0.8


def test_pure_water_is_known_without_measuring() -> None:
    search = Optimiser([0.01, 0.01, 0.01])
    known = [Recipe(100, 0, 0, 100), Recipe(0, 100, 0, 100), Recipe(0, 0, 100, 100)]
    search.tell(known, true_absorbance(to_doses(known)))
    [proposed] = search.propose(1)
    assert proposed.water_ul > 185


def test_best_averages_replicates_in_random_search() -> None:
    search = RandomSearch([0.5, 0.5, 0.5])
    lucky, steady = Recipe(50, 50, 0, 100), Recipe(50, 0, 50, 100)
    search.tell([lucky, lucky, steady], [[0.5, 0.5, 0.5], [0.9, 0.9, 0.9], [0.55, 0.55, 0.55]])
    best, distance = search.best()
    assert best == steady
    assert distance == pytest.approx(float(colour_distance([0.55] * 3, [0.5] * 3)))


@pytest.mark.parametrize(("wells", "believed"), [(1, False), (40, True)])
def test_a_hit_against_all_neighbours_is_believed_only_if_it_repeats(wells: int, believed: bool) -> None:
    target = true_absorbance(np.array([[40, 40, 40, 80]]))[0]
    search = Optimiser(target)
    odd = Recipe(55, 40, 40, 65)
    known = [*search.propose(12), *[Recipe(r, 40, 40, 120 - r) for r in (30, 44, 52, 58, 62)]]
    seen = true_absorbance(to_doses(known))
    search.tell(known, seen)
    search.tell([known[0]] * 8, seen[0] + np.array([[-0.08] * 3, [0.08] * 3] * 4))
    assert search.best()[0] == Recipe(44, 40, 40, 76)
    search.tell([odd] * wells, [target] * wells)
    assert (search.best()[0] == odd) is believed


def test_a_batch_holds_blanks_replicates_of_the_best_and_new_recipes() -> None:
    search = informed()
    batch = design_batch(search, 9, blanks=2, replicates=3)
    assert batch.recipes[:2] == (search.water,) * 2
    assert batch.recipes[2:5] == (search.best()[0],) * 3
    assert batch.recipes[5:] == tuple(search.propose(4))


def test_the_first_batch_repeats_its_first_new_recipe() -> None:
    batch = design_batch(Optimiser([0.5, 0.5, 0.5]), 8)
    assert len(batch.recipes) == 8
    assert batch.recipes[1] == batch.recipes[2]
    assert len(set(batch.recipes)) == 7


def test_a_batch_is_told_without_its_blanks_and_their_drift() -> None:
    search = RandomSearch([0.5, 0.5, 0.5])
    batch = design_batch(search, 6, blanks=2)
    truth = true_absorbance(to_doses(batch.recipes))
    recipes, corrected = batch.corrected(truth + np.array([0.03, -0.01, 0.2]))
    assert recipes == batch.recipes[2:]
    assert corrected == pytest.approx(truth[2:])
    search.tell(recipes, corrected)
    assert search.told == 4


def test_what_cannot_be_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    search = informed()
    with pytest.raises(ValueError, match="0 recipes were asked for at once"):
        search.propose(0)
    with pytest.raises(ValueError, match="Ask for 1 to 96"):
        search.propose(97)
    with pytest.raises(ValueError, match="Nothing has been measured yet"):
        Optimiser([0.5, 0.5, 0.5]).best()
    with pytest.raises(ValueError, match="1 recipes were told with 2 rows"):
        search.tell([search.water], [[0.0] * 3] * 2)
    with pytest.raises(ValueError, match="does not add up to 200 µl"):
        search.tell([Recipe(1, 1, 1, 1)], [[0.0] * 3])
    with pytest.raises(ValueError, match="shape"):
        Optimiser([0.5, 0.5])
    with pytest.raises(ValueError, match="no room for 1 blanks"):
        design_batch(search, 2)
    with pytest.raises(ValueError, match="The plan has 8 wells, but 1 were measured"):
        design_batch(search, 8).corrected([[0.0] * 3])
    assert search.told == 6
    monkeypatch.setattr(optimiser, "CANDIDATES", 4)
    with pytest.raises(ValueError, match="new recipes are in sight, not 40"):
        search.propose(40)
