"""Baselines: published sizes, the budget, and that they learn and export."""

import numpy as np
import pytest
import torch
from torch import nn

from gemkit.baselines import BASELINES, RESNETS, baseline
from gemkit.cost import count_with_fvcore
from gemkit.errors import UserError

IMAGENET = (3, 224, 224)
PUBLISHED = {  # torchvision's model pages: parameters, and G(MACs) to two or three digits
    "mobilenet_v2": (3_504_872, 0.301),
    "mobilenet_v3_small": (2_542_856, 0.057),
    "mobilenet_v3_large": (5_483_032, 0.217),
    "shufflenet_v2": (2_278_604, 0.145),
    "mnasnet": (4_383_312, 0.314),
    "efficientnet_b0": (5_288_548, 0.386),
    "regnet_y_400mf": (4_344_144, 0.402),
}
SEARCHED = {  # the papers' CIFAR-10 tables: params to two digits; MACs as their code counts them
    "darts_v2": (3.3e6, None),
    "p_darts": (3.4e6, 532e6),
    "pc_darts": (3.6e6, 558e6),
}
SMALL = ((1, 8, 8), (3, 32, 32), (3, 28, 30))


def resolutions(network: nn.Module, shape: tuple[int, int, int]) -> set[int]:
    """Sides of all tensors that convolutions read."""
    found: set[int] = set()
    hooks = [
        module.register_forward_hook(lambda _, inputs, __: found.add(inputs[0].shape[-1]))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    network.eval()(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_at_224_pixels_they_have_their_published_size(name: str) -> None:
    params, giga_macs = PUBLISHED[name]
    network = baseline(name, IMAGENET, 1000)
    macs, counted = count_with_fvcore(network, IMAGENET)
    assert counted == sum(weight.numel() for weight in network.parameters()) == params
    assert macs / 1e9 == pytest.approx(giga_macs, abs=0.0006)


@pytest.mark.parametrize("name", SEARCHED)
def test_networks_of_differentiable_search_have_their_published_size(name: str) -> None:
    params, macs = SEARCHED[name]
    found = count_with_fvcore(baseline(name, (3, 32, 32), 10), (3, 32, 32))
    assert found[1] == pytest.approx(params, abs=0.05e6)
    assert macs is None or found[0] == pytest.approx(macs, rel=0.005)


def test_randwire_has_its_published_size() -> None:
    macs, params = count_with_fvcore(baseline("randwire", IMAGENET, 1000), IMAGENET)
    assert params == pytest.approx(5.6e6, abs=0.1e6)  # the paper: 5.6 +- 0.1 M, 583 +- 6.2 M
    assert macs == pytest.approx(583e6, abs=6.2e6)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("resnet20", 0.27e6, 41e6), ("resnet32", 0.46e6, None)],
)
def test_resnets_have_their_published_size(name: str, params: float, macs: float | None) -> None:
    network = baseline(name, (3, 32, 32), 10)
    counted = count_with_fvcore(network, (3, 32, 32))
    assert counted[1] == pytest.approx(params, abs=0.005e6)
    assert macs is None or counted[0] == pytest.approx(macs, rel=0.02)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == int(name.removeprefix("resnet"))
    assert resolutions(network, (3, 32, 32)) == {32, 16, 8}


def test_a_shortcut_of_a_resnet_takes_every_second_pixel(seed: int) -> None:
    torch.manual_seed(seed)
    block = baseline("resnet8", (3, 32, 32), 10).eval().blocks[1]
    x = torch.rand(2, 16, 8, 8)
    with torch.no_grad():
        left = block(x) - torch.relu(block.branch(x))
        block.branch[-1].weight.zero_()
        block.branch[-1].bias.zero_()
        alone = block(x)
    assert left.shape == alone.shape == (2, 32, 4, 4)
    assert torch.equal(alone[:, :16], x[:, :, ::2, ::2])
    assert not alone[:, 16:].any()


@pytest.mark.parametrize("name", BASELINES)
def test_channels_are_multiples_that_processors_like(name: str) -> None:
    network = baseline(name, (3, 32, 32), 10, max_macs=5_000_000)
    found = {m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)}
    # Squeezing, halving and concatenating networks have parts of such numbers and sums of them.
    whole = {n for n in found if n % (4 if n < 32 else 8) == 0}
    assert {n for n in found if n not in whole and 2 * n not in whole} <= {10}  # classes


@pytest.mark.parametrize("name", [*SEARCHED, *RESNETS, "randwire"])
def test_larger_networks_fit_a_budget_too(name: str) -> None:
    for shape, budget in (((1, 8, 8), 3_000_000), ((3, 32, 32), 3_000_000), ((3, 40, 35), 4e7)):
        network = baseline(name, shape, 7, max_macs=int(budget))
        macs, _ = count_with_fvcore(network, shape)
        assert 0.7 * budget < macs <= budget
        assert network.train()(torch.rand(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("name", PUBLISHED)
def test_they_are_as_wide_as_the_budget_allows(name: str) -> None:
    for shape, budget in zip(SMALL, (3_000_000, 40_000_000, 10_000_000), strict=True):
        network = baseline(name, shape, 7, max_macs=budget)
        macs, _ = count_with_fvcore(network, shape)
        assert 0.9 * budget < macs <= budget
        params = sum(weight.numel() for weight in network.parameters())
        narrower = baseline(name, shape, 7, max_macs=budget, max_params=params // 2)
        assert sum(weight.numel() for weight in narrower.parameters()) <= params // 2
        assert network.train()(torch.rand(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("name", PUBLISHED)
def test_small_images_keep_four_pixels_a_side(name: str) -> None:
    assert min(resolutions(baseline(name, (1, 8, 8), 10), (1, 8, 8)) - {1}) == 4
    assert resolutions(baseline(name, (3, 32, 32), 10), (3, 32, 32)) - {1} == {32, 16, 8, 4}


@pytest.mark.parametrize("name", BASELINES)
def test_they_start_from_the_seed_and_take_a_training_step(name: str, seed: int) -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(seed)
        networks.append(baseline(name, (3, 32, 32), 10, max_macs=3_000_000))
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[key], second[key]) for key in first)
    x, y = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    network = networks[0].train()
    optimiser = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(network(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < losses[0]  # some of them have dropout


@pytest.mark.parametrize("name", BASELINES)
def test_they_export_with_any_batch_size(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    network = baseline(name, (1, 8, 8), 10, max_macs=2_000_000).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        network, (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: batch},)
    ).module()
    for count in (1, 5):
        x = torch.rand(count, 1, 8, 8)
        torch.testing.assert_close(program(x), network(x), rtol=1e-4, atol=1e-5)


def test_bad_requests_are_explained() -> None:
    with pytest.raises(UserError, match=r"unknown baseline 'resnet': use one of mobilenet_v2"):
        baseline("resnet", (3, 32, 32), 10)
    with pytest.raises(UserError, match=r"mobilenet_v2 does not fit .* narrowest form takes"):
        baseline("mobilenet_v2", (3, 32, 32), 10, max_macs=1000)
    with pytest.raises(UserError, match="no network for 1 classes"):
        baseline("mobilenet_v2", (3, 32, 32), 1)
