"""What all tests share: a fresh, printed seed and the way to real data."""

import secrets
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="repeat a run's random tests with its printed seed")
    parser.addoption(
        "--inputs",
        type=int,
        default=10,
        help="damaged inputs for each reader",
    )
    parser.addoption(
        "--kills", type=int, default=0, help="how often test_torture.py kills commands"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--seed") is None:
        config.option.seed = secrets.randbelow(2**31)


def pytest_report_header(config: pytest.Config) -> str:
    return f"random tests: --seed {config.getoption('--seed')}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A new seed every session; `pytest --seed N` repeats it."""
    value = int(request.config.getoption("--seed"))
    print(f"seed {value}")
    return value


@pytest.fixture
def inputs(request: pytest.FixtureRequest) -> int:
    """How many inputs a fuzz test tries."""
    return int(request.config.getoption("--inputs"))


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data that lies beside the checkout; tests are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data for tests is not on this machine (no ../shared/data)")
    return SHARED_DATA
