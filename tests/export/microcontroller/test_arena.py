"""Places in the array of activations, against a simulation of what is alive."""

from hypothesis import given
from hypothesis import strategies as st

from gemkit.cost import Step, peak_memory
from gemkit.export.microcontroller.arena import arena


@st.composite
def executions(draw: st.DrawFn) -> list[Step]:
    """Steps that each write a tensor and read some of those before."""
    sizes = draw(st.lists(st.integers(1, 50), min_size=1, max_size=12))
    steps = [Step((), (("0", sizes[0]),))]
    for index, size in enumerate(sizes[1:], start=1):
        reads = draw(st.sets(st.integers(0, index - 1), max_size=3))
        steps.append(Step(tuple(map(str, sorted(reads))), ((str(index), size),)))
    unread = {str(i) for i in range(len(sizes))} - {n for step in steps for n in step.reads}
    return [*steps, Step(tuple(sorted(unread)))]


@given(executions())
def test_what_is_alive_at_once_does_not_overlap(steps: list[Step]) -> None:
    placed = arena(steps)
    sizes = {name: size for step in steps for name, size in step.writes}
    born = {name: i for i, step in enumerate(steps) for name, _ in step.writes}
    dies = {name: i for i, step in enumerate(steps) for name in step.reads}
    for moment in range(len(steps)):
        taken: set[int] = set()
        for name, size in sizes.items():
            if born[name] <= moment <= dies[name]:
                place = range(placed.offsets[name], placed.offsets[name] + size)
                assert taken.isdisjoint(place)
                taken.update(place)
    assert placed.size == max(placed.offsets[name] + size for name, size in sizes.items())
    assert placed.size >= peak_memory(steps)


def test_a_chain_takes_two_places() -> None:
    chain = [Step((), (("0", 8),)), *(Step((str(i),), ((str(i + 1), 8),)) for i in range(9))]
    assert arena(chain).size == 16 == peak_memory(chain)
