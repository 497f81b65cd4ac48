import numpy as np
import pytest

from gemkit.errors import UserError
from gemkit.search.cell_space import efficiency_factor
from gemkit.search.interfaces import Candidates, Graphs, History, Space
from gemkit.search.predictor import GraphPredictor
from gemkit.search.strategies import STRATEGIES, Evolution, LocalSearch, strategy
from toy_space import LABELS, Chains, accuracy, after, embedding


def searched(name: str, seed: int, trials: int, batch: int = 1, **options: object) -> History:
    space: Space = Chains()
    propose = strategy(name, embedding, **options)
    history = History()
    while len(history) < trials:
        rng = np.random.default_rng([seed, len(history)])
        history = after(history, propose(space, history, batch, rng))
    return history


FAST = {
    "nasgem": {"random": 300, "mutants": 60, "crossovers": 30},
    "bo": {"random": 300, "mutants": 60, "crossovers": 30},
    "bo+embedding": {"random": 300, "mutants": 60, "crossovers": 30},
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_cells_are_new_and_a_stopped_search_goes_on_identically(name: str, seed: int) -> None:
    options = FAST.get(name, {})
    whole = searched(name, seed, 40, 4, **options)
    assert whole.candidates is not None
    assert len(set(whole.candidates.keys.tolist())) == 40
    # A new process knows nothing but the history: the same strategy built anew must agree.
    propose = strategy(name, embedding, **options)
    for done in (4, 20, 36):
        before = History(whole.candidates[:done], whole.values[:done])
        found = propose(Chains(), before, 4, np.random.default_rng([seed, done]))
        assert found.keys.tolist() == whole.candidates.keys[done : done + 4].tolist()


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "random"])
def test_every_strategy_beats_random_search(name: str, seed: int) -> None:
    # Without a predictor it takes longer to be sure.
    trials = 45 if name in ("nasgem", "bo") else 120
    gains = [
        searched(name, seed + k, trials, 1, **FAST.get(name, {})).best
        - searched("random", seed + k, trials).best
        for k in range(3)
    ]
    assert np.mean(gains) > 0


def test_failed_trials_and_exhausted_spaces(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in STRATEGIES:
        propose = (
            strategy(name, embedding, initial=5, **FAST.get(name, {}))
            if name != "random"
            else (strategy(name))
        )
        failed = after(History(), Chains().sample(rng, 12), fail=True)
        assert len(propose(Chains(), failed, 3, rng)) == 3
        mixed = after(failed, Chains().sample(rng, 12))
        assert len(propose(Chains(), mixed, 3, rng)) == 3

        class Tiny(Chains):
            size = 14

        every = after(History(), Tiny().sample(rng, 12))
        left = propose(Tiny(), every, 5, rng)
        assert 0 < len(left) <= 5 if name not in ("evolution", "local") else len(left) <= 5
        assert not set(left.keys.tolist()) & set(every.candidates.keys.tolist())


def test_busy_cells_are_not_proposed_again(seed: int) -> None:
    space = Chains()
    cells = space.candidates(np.arange(20))
    history = History(cells[:3], accuracy(cells.payload[:3]), busy=cells.keys[5:15])
    fresh = history.fresh(Candidates.concatenate([cells, cells]))
    assert fresh.payload.tolist() == [3, 4, 15, 16, 17, 18, 19]


def test_factors_turn_values_into_scores(seed: int) -> None:
    cells = Chains().candidates(np.arange(4))
    factors = efficiency_factor([10.0, 20.0, 40.0, 80.0], 20.0)
    assert factors[1] == 1.0
    np.testing.assert_allclose(factors[2], 2**-0.07)
    scored = Candidates(cells.graphs, cells.keys, cells.payload, factors)
    history = History(scored, np.array([0.5, 0.5, np.nan, 0.5]))
    assert history.ranking().tolist() == [0, 1, 3]
    assert history.best == 0.5 * 2**0.07
    joined = Candidates.concatenate([scored, cells])
    assert joined.factors is not None
    np.testing.assert_array_equal(joined.factors, [*factors, 1, 1, 1, 1])


def test_evolution_lets_the_oldest_die(seed: int) -> None:
    space = Chains()
    best = 3 * (LABELS**6 - 1) // 3
    history = after(History(), space.candidates(np.array([best])))
    history = after(history, space.candidates(np.arange(1, 31)))
    rng = np.random.default_rng(seed)
    propose = Evolution(population=30, tournament=30, initial=30)
    children = propose(space, history, 8, rng)
    # The best cell is older than the population: nothing descends from it.
    assert history.candidates is not None
    parent = history.candidates.payload[1 + int(np.argmax(history.values[1:]))]
    changed = (children.graphs.labels != space.candidates(np.array([parent])).graphs.labels).sum(1)
    assert np.median(changed) == 1


def test_local_search_climbs_and_restarts(seed: int) -> None:
    # Codes of six digits that differ in at least three of them: no one is a neighbour's neighbour.
    digits = ("000000", "111111", "222222", "333333", "012301", "123012")
    codes = np.array([int(text, LABELS) for text in digits])
    space = Chains()

    def climbs_from(*values: float) -> set[int]:
        """Positions of the cells of which all proposals are neighbours."""
        history = History(space.candidates(codes[: len(values)]), np.array(values))
        climb = LocalSearch(initial=2, patience=3)
        found = climb(space, history, 12, np.random.default_rng(seed)).graphs.labels
        assert history.candidates is not None
        known = history.candidates.graphs.labels
        apart = (found[:, None] != known[None]).sum(axis=2)
        return set(np.flatnonzero((apart == 1).all(axis=0)).tolist())

    assert climbs_from(0.1, 0.3, 0.2, 0.4) == {3}
    assert climbs_from(0.1, 0.3, 0.2) == {1}
    # After three failures cells are random (twelve of 4,096 are not all neighbours of one), and
    # the next one begins a new climb although it is worse.
    assert climbs_from(0.1, 0.3, 0.2, 0.2, 0.1) == set()
    assert climbs_from(0.1, 0.3, 0.2, 0.2, 0.1, 0.15) == {5}
    assert climbs_from(np.nan, np.nan) == set()


def test_wrong_names_and_missing_embeddings(seed: int) -> None:
    with pytest.raises(UserError, match="unknown strategy 'magic': choose one of nasgem"):
        strategy("magic")
    with pytest.raises(ValueError, match="needs an embedding"):
        strategy("nasgem")
    assert strategy("nasgem", predictor=GraphPredictor(("counts",)))


def test_concatenating_pads_graphs_and_notes() -> None:
    small = Graphs(np.array([[0, 2]], dtype=np.int8), np.zeros((1, 2, 2), dtype=bool))
    cells = Chains().candidates(np.array([1]))
    one = Candidates(small, np.array([b"a"]), np.array([7])).noted(predicted_mean=np.array([0.5]))
    both = Candidates.concatenate([one, cells])
    assert both.graphs.labels[0].tolist() == [0, 2, -1, -1, -1, -1, -1, -1]
    assert np.isnan(both.notes["predicted_mean"][1])
    assert both[1].payload.tolist() == [1]
