"""Which trained network of a run is the best on the hold-out, found or known; which of its files.

The hold-out (`gemkit.data.final_split`) are training images that no network of the run has seen.
The test images decide nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from gemkit.records import Baseline, HoldOut, Measurement, Model, Network, Recommendation

TOLERATED_LOSS = 0.01
"""Accuracy that a file of a network may lose against its fp32 file."""
WORTH_WHILE = 1.02
"""By which factor a file must be faster than the fp32 one to be taken for it."""
_Z = 1.959964
"""Of a 95 % interval."""


def recommend(models: Sequence[Model], baselines: Sequence[Baseline]) -> Recommendation | None:
    """The best network on the hold-out and its distance from the best one of the other kind.

    Of networks with equal accuracy the one of the lowest loss there is taken, which tells more of
    few images; where a loss is not known, the one with fewer MACs. Networks that failed or could
    not be delivered do not take part; None where no network was judged on the hold-out.
    """
    equal, chosen_by = _best([*models, *baselines])
    if not equal or equal[0].holdout is None:
        return None
    first, own = equal[0], equal[0].holdout
    is_found = any(one is first for one in models)
    result = Recommendation(
        first.id,
        "found" if is_found else "known",
        own.images,
        own.accuracy,
        first.accuracy,
        equal=tuple(one.id for one in equal[1:]),
        chosen_by=chosen_by,
    )
    rivals, _ = _best(baselines if is_found else models)
    if not rivals or rivals[0].holdout is None:
        return result
    better_by, interval = difference(own, rivals[0].holdout)
    result = replace(result, rival=rivals[0].id, better_by=better_by, interval=interval)
    if first.accuracy is None or rivals[0].accuracy is None:
        return result
    return replace(result, test_better_by=first.accuracy - rivals[0].accuracy)


def fastest_file(measured: Sequence[Measurement]) -> Measurement | None:
    """The fastest of a network's files that loses at most TOLERATED_LOSS of accuracy.

    Measurements at batch 1, one thread, on the CPU count. The first fp32 file is kept where no
    other is faster by WORTH_WHILE; None where there is nothing to choose between.
    """
    usual = [
        one
        for one in measured
        if (one.provider, one.threads, one.batch) == ("CPUExecutionProvider", 1, 1)
    ]
    first = next((one for one in usual if one.precision == "fp32"), None)
    if first is None or len(usual) < 2:
        return None
    rivals = [
        one
        for one in usual
        if one.latency_ms.p50 * WORTH_WHILE < first.latency_ms.p50
        and (one.accuracy or 0.0) >= (first.accuracy or 0.0) - TOLERATED_LOSS
    ]
    return min(rivals, key=lambda one: one.latency_ms.p50, default=first)


def _best(
    networks: Sequence[Network],
) -> tuple[list[Network], Literal["loss", "macs"] | None]:
    """The networks of the highest accuracy on the hold-out, the one to take first, and by what."""
    judged = [
        (one, one.holdout) for one in networks if one.state == "done" and one.holdout is not None
    ]
    highest = max((holdout.accuracy for _, holdout in judged), default=None)
    equal = [(one, holdout) for one, holdout in judged if holdout.accuracy == highest]
    losses = {holdout.loss for _, holdout in equal}
    by_loss = None not in losses and len(losses) > 1

    def order(pair: tuple[Network, HoldOut]) -> tuple[float, int]:
        one, holdout = pair
        return (holdout.loss or 0.0) if by_loss else 0.0, one.macs or 0

    networks = [one for one, _ in sorted(equal, key=order)]
    return networks, None if len(networks) < 2 else "loss" if by_loss else "macs"


def difference(ours: HoldOut, theirs: HoldOut) -> tuple[float, tuple[float, float]]:
    """By how much one network is more accurate than another on the same images, with a 95 %
    interval of matched pairs (Agresti and Min 2005), which holds for few images too."""
    only_ours = len(set(theirs.wrong) - set(ours.wrong))
    only_theirs = len(set(ours.wrong) - set(theirs.wrong))
    images = ours.images
    # Half an image more in each of the four fields of the table.
    gained, lost, count = only_ours + 0.5, only_theirs + 0.5, images + 2
    middle = (gained - lost) / count
    half = _Z * math.sqrt(gained + lost - (gained - lost) ** 2 / count) / count
    interval = (max(middle - half, -1.0), min(middle + half, 1.0))
    return (only_ours - only_theirs) / images, interval
