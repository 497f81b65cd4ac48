import dataclasses

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

import toy_space as toy
from gemkit.search import nasgem
from gemkit.search.interfaces import Candidates, Fitted, Graphs, History, Prediction
from gemkit.search.nasgem import Nasgem, expected_improvement, spread
from gemkit.search.predictor import GraphPredictor, embedding_predictor, nasgem_predictor

SMALL = {"random": 300, "mutants": 60, "crossovers": 30}


def history_of(seed: int, count: int = 25) -> History:
    space = toy.Chains()
    return toy.after(History(), space.sample(np.random.default_rng(seed), count))


@pytest.mark.parametrize("z", [-30.0, -8.0, -2.0, -0.5, 0.0, 0.7, 4.0, 30.0])
def test_expected_improvement_is_the_integral(z: float) -> None:
    std, threshold = 0.3, 1.2
    found = expected_improvement(
        np.array([threshold + z * std]), np.array([std]), np.array([threshold])
    )
    if z > -10:
        value = quad(lambda t: (z + t) * norm.pdf(t), -z, -z + 12)[0] if z < 8 else z
        np.testing.assert_allclose(found[0], np.log(std * value), rtol=1e-6, atol=1e-6)
    assert np.isfinite(found).all()


def test_expected_improvement_increases_everywhere() -> None:
    z = np.linspace(-200, 50, 5001)
    found = expected_improvement(z, np.ones_like(z), np.zeros_like(z))
    assert (np.diff(found) > 0).all()


def test_first_round_is_spread_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.eye(6) * 10, [200, 3, 3, 3, 3, 3], axis=0)
    chosen = spread(clusters + 0.01 * rng.normal(size=clusters.shape), 6, rng)
    assert len(set(np.argmax(clusters[chosen], axis=1))) == 6
    seen = clusters[:1] * 1.0
    again = spread(clusters, 5, rng, seen)
    assert 0 not in np.argmax(clusters[again], axis=1)
    assert len(set(spread(np.zeros((4, 2)), 4, rng))) == 4


def test_removing_encoder_or_predictor_changes_the_cells(seed: int) -> None:
    space, history = toy.Chains(), history_of(seed)

    class Backwards:
        def __init__(self, fitted: object) -> None:
            self.fitted = fitted

        def predict(self, candidates: Candidates) -> Prediction:
            p = self.fitted.predict(candidates)
            return Prediction(-p.mean, p.std, -p.latent, p.latent_std, p.feasible, p.spread)

        def covariance(self, candidates: Candidates) -> np.ndarray:
            return self.fitted.covariance(candidates)

    full = nasgem_predictor(toy.embedding)
    proposals = {
        name: Nasgem(predictor=predictor, embedding=toy.embedding, **SMALL)(
            space, history, 24, np.random.default_rng(seed)
        ).keys.tolist()
        for name, predictor in {
            "full": full,
            "without encoder": GraphPredictor(("flat",), roles=False),
            "encoder alone": embedding_predictor(toy.embedding),
            "replaced": lambda c, v: Backwards(full(c, v)),
        }.items()
    }
    for name, keys in proposals.items():
        if name != "full":
            assert set(keys) != set(proposals["full"]), name
    first = [
        Nasgem(predictor=full, embedding=e)(space, History(), 6, np.random.default_rng(seed)).keys
        for e in (toy.embedding, None)
    ]
    assert set(first[0].tolist()) != set(first[1].tolist())


def test_other_results_lead_to_other_cells(seed: int) -> None:
    space, history = toy.Chains(), history_of(seed)
    propose = Nasgem(predictor=nasgem_predictor(toy.embedding), **SMALL)
    changed = History(history.candidates, history.values[::-1].copy())
    found = [propose(space, h, 4, np.random.default_rng(seed)) for h in (history, changed)]
    assert found[0].keys.tolist() != found[1].keys.tolist()
    assert np.isfinite(found[0].notes["predicted_mean"]).all()
    assert (found[0].notes["predicted_std"] > 0).all()


class Families:
    """A predictor that is sure that all cells of a family are worth the same, and prefers one."""

    families = 4

    def family(self, candidates: Candidates) -> np.ndarray:
        return candidates.payload % self.families

    def predict(self, candidates: Candidates) -> Prediction:
        latent = 0.1 * self.family(candidates)
        std = np.ones(len(latent))
        return Prediction(latent, std, latent, std, np.ones(len(latent)), std)

    def covariance(self, candidates: Candidates) -> np.ndarray:
        family = self.family(candidates)
        return 0.999 * (family[:, None] == family) + 0.001 * np.eye(len(family))


class Recorded(toy.Chains):
    """Remembers what it offered."""

    def __init__(self) -> None:
        self.offered: list[Candidates] = []

    def candidates(self, codes: np.ndarray) -> Candidates:
        self.offered.append(super().candidates(codes))
        return self.offered[-1]


def test_many_parts_are_one_large_pool(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proposed are the best of all that was offered, whatever the parts."""
    space, history = Recorded(), history_of(seed)
    predictor = nasgem_predictor(toy.embedding)
    monkeypatch.setattr(nasgem, "PART", 70)
    choose = Nasgem(
        predictor, toy.embedding, acquisition=lambda mean, *_: mean, **SMALL | {"random": 1000}
    )
    found = choose(space, history, 1, np.random.default_rng(seed))
    assert [len(part) for part in space.offered[:15]] == [70] * 14 + [20]
    assert history.candidates is not None
    pool = history.fresh(Candidates.concatenate(space.offered))
    assert len(pool) > 800
    mean = predictor(history.candidates, history.values).predict(pool).latent
    place = pool.keys.tolist().index(found.keys[0])
    np.testing.assert_allclose(mean[place], mean.max(), rtol=1e-5)


def test_a_batch_asks_different_questions(seed: int) -> None:
    families = Families()
    choose = Nasgem(predictor=lambda candidates, values: families, shortlist=10**6, **SMALL)
    batch = choose(toy.Chains(), history_of(seed), 4, np.random.default_rng(seed))
    # The four of highest acquisition are all of the preferred family: together they ask one thing.
    assert families.family(batch).tolist() == [3, 2, 1, 0]


def test_a_batch_is_what_a_gaussian_process_would_choose_one_by_one(seed: int) -> None:
    """Beside a second implementation: the covariance given all that was taken, by one solve."""
    space, history = Recorded(), history_of(seed)
    predictor = nasgem_predictor(None)
    choose = Nasgem(predictor=predictor, shortlist=10**6, **SMALL)
    batch = choose(space, history, 8, np.random.default_rng(seed))
    assert history.candidates is not None
    fitted = predictor(history.candidates, history.values)
    pool = history.fresh(Candidates.concatenate(space.offered))
    p = fitted.predict(pool)
    threshold = p.scale(np.full(len(pool), history.best) / pool.scores(np.ones(len(pool))))
    covariance = fitted.covariance(pool)
    place = {key: position for position, key in enumerate(pool.keys.tolist())}
    assert len(set(batch.keys.tolist())) == 8
    taken: list[int] = []
    for key in batch.keys.tolist():
        variance = np.diag(covariance).copy()
        if taken:
            known = covariance[np.ix_(taken, taken)] + 1e-9 * np.eye(len(taken))
            beside = covariance[taken]
            variance -= (beside * np.linalg.solve(known, beside)).sum(axis=0)
        std = np.sqrt(np.maximum(variance, 1e-12))
        gain = expected_improvement(p.latent, std, threshold)
        gain += np.log(np.maximum(p.feasible, 1e-12))
        gain[taken] = -np.inf
        assert gain[place[key]] > gain.max() - 1e-3 * max(1.0, abs(gain.max()))
        taken.append(place[key])


def test_what_is_pending_is_not_asked_again(seed: int) -> None:
    """A cell proposed beside pending ones is the one that a batch would have taken after them, or
    one that the predictor cannot tell from it: many cells of this space are described alike."""
    space, history = toy.Chains(), history_of(seed, 20)
    choose = Nasgem(nasgem_predictor(toy.embedding), toy.embedding, **SMALL)
    batch = choose(space, history, 4, np.random.default_rng(seed))
    waiting = dataclasses.replace(history, pending=batch[:3])
    beside = choose(space, waiting, 1, np.random.default_rng(seed))
    assert not set(beside.keys.tolist()) & set(batch.keys[:3].tolist())
    assert np.isfinite(beside.notes["acquisition"]).all()  # chosen, not filled up
    for name in ("predicted_mean", "predicted_std", "acquisition"):
        np.testing.assert_allclose(beside.notes[name], batch.notes[name][3:], rtol=1e-3)


def test_a_first_round_beside_pending_cells_is_far_from_them(seed: int) -> None:
    """Many workers begin at once: nothing is known yet, all is pending."""
    space = toy.Chains()

    def first_label(graphs: Graphs) -> np.ndarray:
        return np.eye(6)[graphs.labels[:, 1]]

    offered = space.sample(np.random.default_rng(seed), 200)
    pending = offered[offered.graphs.labels[:, 1] != 4]
    choose = Nasgem(nasgem_predictor(toy.embedding), first_label, **SMALL)
    found = choose(space, History(pending=pending), 1, np.random.default_rng(seed + 1))
    assert found.graphs.labels[:, 1].tolist() == [4]


def test_factors_steer_the_choice(seed: int) -> None:
    class Priced(toy.Chains):
        def candidates(self, codes: np.ndarray) -> Candidates:
            plain = super().candidates(codes)
            # A node of label 5 costs so much that the best score has none.
            number = (plain.graphs.labels == 5).sum(axis=1)
            return Candidates(plain.graphs, plain.keys, plain.payload, 0.5**number)

    space = Priced()
    history = toy.after(History(), space.sample(np.random.default_rng(seed), 25))
    propose = Nasgem(predictor=nasgem_predictor(None), **SMALL)
    found = propose(space, history, 8, np.random.default_rng(seed))
    plain = propose(toy.Chains(), history_of(seed), 8, np.random.default_rng(seed))
    assert (found.graphs.labels == 5).sum() < (plain.graphs.labels == 5).sum()


def test_too_few_successes_mean_more_random_cells(seed: int) -> None:
    space = toy.Chains()
    failed = toy.after(History(), space.sample(np.random.default_rng(seed), 30), fail=True)

    def asked_in_vain(candidates: Candidates, values: np.ndarray) -> Fitted:
        raise AssertionError("there is nothing to learn from")

    propose = Nasgem(predictor=asked_in_vain, embedding=toy.embedding, **SMALL)
    assert len(propose(space, failed, 3, np.random.default_rng(seed))) == 3


def test_a_batch_is_chosen_not_filled_up(seed: int) -> None:
    space, history = toy.Chains(), history_of(seed)
    choose = Nasgem(nasgem_predictor(toy.embedding), toy.embedding, **SMALL)
    found = choose(space, history, 20, np.random.default_rng(seed))
    assert len(set(found.keys.tolist())) == 20
    # What is filled up has no prediction.
    assert np.isfinite(found.notes["acquisition"]).all()
