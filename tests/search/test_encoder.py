"""The graph encoder: what it must not depend on, what it must have learned, and its files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from gemkit.cell import CellArrays
from gemkit.errors import UserError
from gemkit.search import encoder as encoders
from gemkit.search import sampling, similarity


def cosines(vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.einsum("kd,kd->k", unit[first], unit[second])


def fresh(config: encoders.EncoderConfig | None = None, seed: int = 0) -> encoders.GraphEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return encoders.GraphEncoder(config).eval()


@pytest.fixture(scope="module")
def shipped() -> encoders.GraphEncoder:
    return encoders.default_encoder()


def test_order_and_padding_of_nodes_do_not_matter(
    shipped: encoders.GraphEncoder, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cells = sampling.random_cells(rng, 200, 25)
    expected = encoders.embed(shipped, cells.operations, cells.adjacency)
    keys = np.where(cells.operations >= 0, rng.random(cells.operations.shape), 2.0)
    order = np.argsort(keys, axis=1)
    labels = np.take_along_axis(cells.operations, order, axis=1)
    rows = np.arange(len(cells))[:, None, None]
    adjacency = cells.adjacency[rows, order[:, :, None], order[:, None, :]]
    padded = np.pad(labels, ((0, 0), (0, 9)), constant_values=-1)
    adjacency = np.pad(adjacency, ((0, 0), (0, 9), (0, 9)))
    found = encoders.embed(shipped, padded, adjacency)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-4)
    # No sorting, grouping or cutting in the module itself.
    with torch.no_grad():
        whole = shipped(torch.from_numpy(padded), torch.from_numpy(adjacency)).numpy()
    np.testing.assert_allclose(whole / scale, expected / scale, atol=1e-4)


def test_direction_and_operations_of_a_graph_matter(
    shipped: encoders.GraphEncoder, seed: int
) -> None:
    cells = sampling.random_cells(np.random.default_rng(seed), 100, smallest=6)
    changed = cells.operations.copy()
    changed[:, 1] = 3 - changed[:, 1]
    base = encoders.embed(shipped, cells.operations, cells.adjacency)
    reverse = encoders.embed(shipped, cells.operations, cells.adjacency.transpose(0, 2, 1).copy())
    flipped = encoders.embed(shipped, changed, cells.adjacency)
    for other in (reverse, flipped):
        assert (np.abs(other - base).max(axis=1) > 1e-4).mean() > 0.95


def test_the_shipped_encoder_follows_its_target_and_an_untrained_one_less(
    shipped: encoders.GraphEncoder, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cells = sampling.random_cells(rng, 500)
    parts = [cells, sampling.reshuffled(rng, cells)]
    parts.append(sampling.mutate(rng, cells, rng.integers(1, 9, size=500)))
    graphs = CellArrays.concatenate(parts)
    form = similarity.SIMILARITIES[shipped.config.similarity]
    target = form(graphs.operations, graphs.adjacency, 3)
    base = np.arange(500)
    trained = encoders.embed(shipped, graphs.operations, graphs.adjacency)
    # A single start may be lucky: it is the mean of several that says what no training is worth.
    untrained = [
        encoders.embed(fresh(shipped.config, seed + k), graphs.operations, graphs.adjacency)
        for k in range(5)
    ]
    for partner, goal in ((rng.permutation(500), 0.9), (base + 500, 0.8), (base + 1000, 0.85)):
        wanted = similarity.products(target, base, partner)
        different = wanted < 1 - 1e-5
        ours, *others = (
            spearmanr(cosines(vectors, base, partner)[different], wanted[different])[0]
            for vectors in (trained, *untrained)
        )
        assert ours > goal
        assert ours > np.mean(others) + 0.05


def test_training_teaches_any_vocabulary(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    count, places = 800, 8
    labels = rng.integers(0, 5, size=(count, places)).astype(np.int8)
    adjacency = np.triu(rng.random((count, places, places)) < 0.4, 1)
    config = encoders.EncoderConfig(labels=5, hidden=16, rounds=2, dimension=16)
    steps: list[tuple[int, int]] = []
    trained = encoders.train_encoder(
        labels[:600],
        adjacency[:600],
        config,
        steps=150,
        batch=64,
        seed=seed,
        progress=lambda step, total, _: steps.append((step, total)),
    )
    assert steps == [(step, 150) for step in range(1, 151)]
    assert trained.curve[-1]["step"] == 150
    assert trained.curve[-1]["loss"] < 0.8 * trained.curve[0]["loss"]
    target = similarity.continuous(labels[600:], adjacency[600:], 5)
    first, second = np.arange(200), rng.permutation(200)
    wanted = similarity.products(target, first, second)
    errors = [
        np.mean(
            (cosines(encoders.embed(net, labels[600:], adjacency[600:]), first, second) - wanted)
            ** 2
        )
        for net in (trained.encoder, fresh(config, seed))
    ]
    assert errors[0] < 0.5 * errors[1]
    path = tmp_path / "encoder.safetensors"
    encoders.save_encoder(trained.encoder, path, trained.curve)
    assert encoders.load_curve(path) == trained.curve
    first = path.read_bytes()
    encoders.save_encoder(trained.encoder, path, trained.curve)
    assert path.read_bytes() == first
    loaded = encoders.load_encoder(path)
    assert loaded.config == config
    np.testing.assert_array_equal(
        encoders.embed(loaded, labels, adjacency),
        encoders.embed(trained.encoder, labels, adjacency),
    )


def test_another_target_can_be_learned(seed: int) -> None:
    config = encoders.EncoderConfig(hidden=8, dimension=8, similarity="plain")
    trained = encoders.train_for_cells(config, seed=seed, steps=30, families=40)
    assert trained.curve[-1]["loss"] < trained.curve[0]["loss"]


def test_training_repeats_from_its_seed_and_leaves_torch_alone(seed: int) -> None:
    config = encoders.EncoderConfig(hidden=8, dimension=8)
    state = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = [
            encoders.train_for_cells(config, seed=seed + add, steps=8, families=40).encoder
            for add in (0, 0, 1)
        ]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(state, torch.random.get_rng_state())
    weights = [torch.cat([value.ravel() for value in run.parameters()]) for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_gradients_reach_every_weight_for_fine_tuning(seed: int) -> None:
    cells = sampling.random_cells(np.random.default_rng(seed), 64)
    network = fresh(seed=seed)
    network(
        torch.from_numpy(cells.operations), torch.from_numpy(cells.adjacency)
    ).square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--steps", "0"], "at least 1 step"),
        (["--seed", "-1"], "a seed from 0"),
        (["--hidden", "4000"], "hidden is 4000, possible is 1 to 1024"),
        ([], "is a folder; name a file"),
    ],
)
def test_an_encoder_that_cannot_be_trained_or_written_is_refused_at_once(
    tmp_path: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "encoder.safetensors" if words else tmp_path
    assert encoders.main(["--out", str(out), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_embedding_keeps_order_threads_and_mode(shipped: encoders.GraphEncoder, seed: int) -> None:
    cells = sampling.random_cells(np.random.default_rng(seed), 700)
    network = fresh(shipped.config)
    network.load_state_dict(shipped.state_dict())
    network.train()
    threads = torch.get_num_threads()
    together = encoders.embed(network, cells.operations, cells.adjacency, threads=2)
    assert torch.get_num_threads() == threads
    assert network.training
    assert together.dtype == np.float32
    for row in (0, 99, 699):
        alone = encoders.embed(network, cells.operations[[row]], cells.adjacency[[row]])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-3 * np.abs(together).max())
    empty = encoders.embed(network, cells.operations[:0], cells.adjacency[:0])
    assert empty.shape == (0, shipped.config.dimension)


def test_bad_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "encoder.safetensors"
    with pytest.raises(UserError, match=r"no encoder file .*encoder\.safetensors"):
        encoders.load_encoder(path)
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(UserError, match="no readable safetensors file"):
        encoders.load_encoder(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="holds no graph encoder"):
        encoders.load_encoder(path)
    save_file({"weight": torch.zeros(3)}, path, {"gemkit_encoder": "[1]"})
    with pytest.raises(UserError, match="holds no graph encoder"):
        encoders.load_encoder(path)
    save_file({"weight": torch.zeros(3)}, path, {"gemkit_encoder": "[" * 10**5})
    with pytest.raises(UserError, match="no readable safetensors file"):
        encoders.load_encoder(path)
    encoders.save_encoder(fresh(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="no readable safetensors file"):
        encoders.load_encoder(path)
    for size in (0, 10**9, 2.5):
        with pytest.raises(ValueError, match="rounds is"):
            encoders.EncoderConfig(rounds=size)  # type: ignore[arg-type]
    about = {"format": encoders.FORMAT, "config": {"hidden": 8}}
    metadata = {"gemkit_encoder": json.dumps(about)}
    save_file({"weight": torch.zeros(3)}, path, metadata)
    with pytest.raises(UserError, match="damaged encoder file"):
        encoders.load_encoder(path)


def test_the_shipped_file_is_small_and_tells_how_it_was_trained() -> None:
    assert encoders.SHIPPED.stat().st_size < 2_000_000
    curve = encoders.load_curve(encoders.SHIPPED)
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    assert [point["step"] for point in curve] == sorted({point["step"] for point in curve})
