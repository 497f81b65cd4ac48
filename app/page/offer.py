"""Which network of a run to take, and how it compares with the best of the other kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gemkit.records import Baseline, Latency, Model, Network, Recommendation

_NOTICEABLE = 1.05
"""Times that differ by less are called alike."""


@dataclass(frozen=True)
class Offer:
    """The best found network beside the best known one of the same limits.

    Attributes:
        known: None where none was trained.
        more_accurate: the one of the two that is surely the better by images that were kept aside;
            None where neither is.
        faster: likewise, by what was measured of both.
        offered: the one to take.
    """

    found: Model
    known: Network | None
    more_accurate: Network | None
    faster: Network | None
    offered: Network


def choose(
    models: Sequence[Model],
    known: Sequence[Network],
    recommended: Recommendation | None,
    has_file: Callable[[str], bool],
) -> Offer | None:
    """Judge a run's trained networks; None where no found one is among them.

    The one that the run recommends is offered; of a run without a hold-out (before 0.2), the first
    of its search.

    Args:
        known: networks that were not found; those of a comparison do not count.
        has_file: whether a network has a file that can be taken.
    """
    if not models:
        return None
    rivals = [one for one in known if isinstance(one, Baseline)]
    if recommended is None:
        found = next((one for one in models if has_file(one.id)), models[0])
        with_file = [one for one in rivals if has_file(one.id)]
        rival = max(with_file, key=lambda one: one.accuracy or 0.0, default=None)
        return Offer(found, rival, None, rival and _faster(found, rival), found)
    pair = (recommended.id, recommended.rival)
    found = next((one for one in models if one.id in pair), models[0])
    rival = next((one for one in rivals if one.id in pair), None)
    offered = rival if recommended.kind == "known" and rival is not None else found
    sure = recommended.interval is not None and recommended.interval[0] > 0
    better = offered if sure else None
    return Offer(found, rival, better, rival and _faster(found, rival), offered)


def _faster(first: Network, second: Network) -> Network | None:
    one, other = first.latency_ms, second.latency_ms
    if one is None or other is None:
        return None
    if one.p50 > other.p50:
        first, one, other = second, other, one
    apart = _end(one, "p50_high") < _end(other, "p50_low")
    return first if apart and other.p50 > _NOTICEABLE * one.p50 else None


def _end(latency: Latency, name: str) -> float:
    found = getattr(latency, name)
    return latency.p50 if found is None else float(found)
