import json
from pathlib import Path

import numpy as np
import pytest

from gemkit.app.report import plots
from gemkit.errors import UserError
from gemkit.search import ablation, table_latency
from gemkit.search.kept import Kept
from gemkit.search.tables import Table, load

NAMES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


@pytest.fixture
def table(tmp_path: Path, seed: int) -> Path:
    """300 cells of operations on edges, values from their counts, three noisy runs of another."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(5**6)[:300]
    ops = np.stack([codes // 5**k % 5 for k in range(6)], axis=1).astype(np.uint8)
    value = 80 + (ops == 3).sum(axis=1) * 2.0 - (ops == 0).sum(axis=1) + 0.1 * rng.normal(size=300)
    arrays = {
        "accuracy": value,
        "latency": 1.0 + (ops == 3).sum(axis=1) + 0.5 * (ops == 2).sum(axis=1),
    }
    for run in range(3):
        arrays[f"validation_accuracy_run{run}"] = value / 100 + 0.02 * rng.normal(size=300)
        arrays[f"test_accuracy_run{run}"] = value / 100 + 0.001 * rng.normal(size=300)
    path = tmp_path / "table.npz"
    np.savez(path, ops=ops, op_names=np.array(NAMES), **arrays)
    return path


def without_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick embedding: these tests are not about the encoder."""
    monkeypatch.setattr(ablation, "table_encoder", lambda table: None)
    monkeypatch.setattr(
        ablation,
        "table_embedding",
        lambda table: (
            lambda graphs: np.stack([(graphs.labels == c).sum(axis=1) for c in range(7)], axis=1)
        ),
    )
    ablation.opened.cache_clear()


def test_report_has_the_names_that_programs_read(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_encoder(monkeypatch)
    report = ablation.run(
        table,
        "accuracy",
        queries=30,
        seeds=3,
        strategies=("nasgem", "evolution", "random"),
        samples=(20, 50),
        correlation_seeds=2,
        results=tmp_path / "runs.json",
    )
    json.dumps(report)
    assert {"table", "metric", "protocol", "strategies"} <= set(report)
    nasgem, random = report["strategies"]["nasgem"], report["strategies"]["random"]
    assert set(nasgem["regret_after"]) == set(nasgem["best_after"]) == {"10", "20", "30"}
    assert len(nasgem["queries_to_best"]) == 3
    assert set(nasgem["kendall_tau"]) == {"20", "50"}
    assert random["kendall_tau"] == {}
    assert nasgem["regret_after"]["30"] <= random["regret_after"]["30"]
    best = load(table).metric("accuracy").max()
    for mark in ("10", "30"):
        assert np.isclose(nasgem["best_after"][mark] + nasgem["regret_after"][mark], best)
    assert len(report["figures"]["curves"]["nasgem"]["regret"]) == 30
    assert len(report["figures"]["map"]["x"]) == 300


def test_figures_are_those_of_the_queries(table: Path) -> None:
    opened = load(table)
    values = opened.metric("accuracy")
    order = np.argsort(values)
    searched = [order[::-1][:20].tolist(), order[:20].tolist()]
    one, curve = ablation.summary(opened, "accuracy", searched, 20)
    assert one["queries_to_best"] == [1, None]
    assert one["median_queries_to_best"] is None
    assert one["found"] == 1
    np.testing.assert_allclose(
        one["regret_after"]["20"], (0 + values.max() - values[order[19]]) / 2
    )
    assert (np.diff(curve["regret"]) <= 0).all()
    both, _ = ablation.summary(opened, "accuracy", [searched[0], searched[0]], 20)
    assert both["median_queries_to_best"] == 1


def test_no_regret_where_no_search_has_met_a_value(table: Path, tmp_path: Path) -> None:
    opened = load(table)
    values = opened.metric("accuracy")
    values[[3, 4]] = np.nan
    best, worst = int(np.nanargmax(values)), int(np.nanargmin(values))
    searched = [[3, 4, *[worst] * 8], [4, best, *[worst] * 8]]
    one, curve = ablation.summary(opened, "accuracy", searched, 10)
    assert curve["regret"][0] is curve["low"][0] is curve["high"][0] is None
    # From the second query on one search has a value, from the third both.
    assert curve["regret"][1] == curve["low"][1] == curve["high"][1] == 0
    gap = values[best] - values[worst]
    np.testing.assert_allclose(curve["regret"][2:], gap / 2)
    np.testing.assert_allclose([curve["low"][2], curve["high"][2]], [0, gap])
    nothing, nowhere = ablation.summary(opened, "accuracy", [[3, 4]], 10)
    assert nothing["best_after"] == nothing["regret_after"] == {"10": None}
    assert nothing["regret_after_interval"] == {"10": [None, None]}
    json.dumps([one, curve, nothing, nowhere], allow_nan=False)
    plots.save(plots.regret_figure({"a": curve, "b": nowhere}, "accuracy"), tmp_path / "a.png")


def test_protocol_of_several_runs(table: Path) -> None:
    report = ablation.run(table, "validation_accuracy", queries=20, seeds=3, strategies=("random",))
    assert report["reported"] == "test_accuracy"
    assert "one of 3 runs" in report["protocol"]
    opened: Table = load(table)
    # The searcher chose by what it was shown; it is judged by the mean test accuracy.
    mean = np.mean([opened.runs["test_accuracy"].T[r] for r in range(3)], axis=0)
    assert np.isclose(report["best"], mean.max())
    rows, values = ablation.search(
        opened, ablation.TableSpace(opened), "validation_accuracy", "random", 0, 20
    )
    chosen = rows[int(np.argmax(values))]
    alone, _ = ablation.summary(opened, "validation_accuracy", [rows], 20)
    assert np.isclose(alone["best_after"]["20"], mean[chosen])


def test_each_cell_is_paid_once_by_every_strategy(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_encoder(monkeypatch)
    at = ablation.opened(str(table), False, True)
    for name in ablation.STRATEGIES:
        rows, values = ablation.search(at.table, at.space, "accuracy", name, 1, 25, at.embedding)
        assert len(set(rows)) == len(rows) == len(values) == 25


def test_a_table_can_be_searched_to_its_end(table: Path) -> None:
    at = ablation.opened(str(table), False, False)
    rows, _ = ablation.search(at.table, at.space, "accuracy", "random", 0, 1000, batch=50)
    assert sorted(rows) == list(range(300))


def test_an_interrupted_run_goes_on(table: Path, tmp_path: Path) -> None:
    settings = {"queries": 20, "seeds": 4, "strategies": ("random", "local")}
    whole = ablation.run(table, "accuracy", **settings)
    results = tmp_path / "kept.json"

    class Stop(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        ablation.run(table, "accuracy", results=results, progress=stop, **settings)
    assert len(json.loads(results.read_text())["found"]) == 3
    steps: list[int] = []
    again = ablation.run(
        table,
        "accuracy",
        results=results,
        progress=lambda what, done, total: steps.append(done),
        **settings,
    )
    assert steps == [4, 5, 6, 7, 8]
    assert again == whole
    with pytest.raises(UserError, match="results of another run"):
        ablation.run(table, "latency", results=results, **settings)
    results.write_text(json.dumps({"settings": json.loads(results.read_text())["settings"]}))
    with pytest.raises(UserError, match="is damaged: remove it"):
        ablation.run(table, "accuracy", results=results, **settings)


def test_processes_give_the_same(table: Path) -> None:
    settings = {"queries": 15, "seeds": 2, "strategies": ("random", "evolution")}
    assert ablation.run(table, "accuracy", workers=2, **settings) == ablation.run(
        table, "accuracy", **settings
    )


def test_latency_report(table: Path) -> None:
    report = table_latency.latency(table, "latency", samples=40, seeds=2)
    assert report["latency"] == "latency"
    assert report["spearman"] > 0.95
    assert report["within_10_percent"] > 0.9
    assert set(report["baselines"]) == {
        "ridge on counts",
        "ridge on counts and positions",
        "Gaussian process on the flat encoding",
    }
    with pytest.raises(UserError, match="must be between 5 and 280"):
        table_latency.latency(table, "latency", samples=290)


def test_wrong_questions_are_refused(table: Path) -> None:
    for settings, sentence in (
        ({"metric": "speed"}, "no metric 'speed'; it has"),
        ({"metric": "accuracy", "strategies": ("magic",)}, "unknown strategy 'magic'"),
        ({"metric": "accuracy", "queries": 0}, "at least 1"),
    ):
        with pytest.raises(UserError, match=sentence):
            ablation.run(table, **settings)


def test_a_metric_that_says_nothing_is_refused_and_ranks_that_tie_are_left_out(
    table: Path, tmp_path: Path
) -> None:
    with np.load(table) as file:
        arrays = dict(file)
    cells = len(arrays["ops"])
    arrays["flat"] = np.full(cells, 0.5)
    arrays["rare"] = np.where(np.arange(cells) == 7, 0.9, 0.1)
    np.savez(tmp_path / "t.npz", **arrays)
    for ask in (ablation.run, table_latency.latency):
        with pytest.raises(UserError, match=r"'flat' is 0\.5 for every cell"):
            ask(tmp_path / "t.npz", "flat")
    report = ablation.run(
        tmp_path / "t.npz",
        "rare",
        queries=10,
        seeds=1,
        strategies=("bo",),
        samples=(20,),
        correlation_seeds=2,
    )
    json.dumps(report, allow_nan=False)


def test_the_encoder_of_a_table_is_trained_once(table: Path, tmp_path: Path) -> None:
    opened = load(table)
    encoder = ablation.table_encoder(opened, steps=3)
    kept = list(tmp_path.glob("*.safetensors"))
    assert len(kept) == 1
    written = kept[0].stat().st_mtime_ns
    again = ablation.table_encoder(opened, steps=3)
    assert kept[0].stat().st_mtime_ns == written
    same = zip(encoder.parameters(), again.parameters(), strict=True)
    assert all((one == two).all() for one, two in same)
    vectors = ablation.table_embedding(opened)(opened.graphs[:7])
    assert vectors.shape[0] == 7
    assert np.isfinite(vectors).all()


def test_keeping_needs_no_file() -> None:
    kept = Kept(None, {})
    kept.complete([("a", lambda x: x + 1, (1,))], 1, None)
    assert kept.found == {"a": 2}
