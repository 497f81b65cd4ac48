"""What networks are called on the page: names that one can say, beside the ids of the run."""

import re
from collections.abc import Iterable, Mapping

from gemkit.records import Compared, Model, Network, TrialSummary

_KNOWN = {
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_small": "MobileNetV3-small",
    "mobilenet_v3_large": "MobileNetV3-large",
    "shufflenet_v2": "ShuffleNetV2",
    "mnasnet": "MnasNet",
    "efficientnet_b0": "EfficientNet-B0",
    "regnet_y_400mf": "RegNetY-400MF",
    "resnet8": "ResNet-8",
    "resnet14": "ResNet-14",
    "resnet20": "ResNet-20",
    "resnet32": "ResNet-32",
    "darts_v2": "DARTS",
    "pc_darts": "PC-DARTS",
    "p_darts": "P-DARTS",
    "randwire": "RandWire",
    "found": "Found, compared",
    "narrow": "Found, narrowed",
    "random": "Random cells",
}
_KEY = re.compile(r"[0-9a-f]{10}")


def known_name(id: str) -> str:
    """A known network's name as its authors write it; its id where that is not known."""
    return _KNOWN.get(id, id)


def design_name(trial: TrialSummary) -> str:
    """The name of a candidate: designs are numbered in the order tried."""
    return f"Design {trial.index + 1}"


def network_names(models: Iterable[Model], others: Iterable[Network]) -> Mapping[str, str]:
    """Names of trained networks by their id: found ones are numbered in the run's order."""
    names = {}
    for number, model in enumerate(models, start=1):
        names[model.id] = f"Found {number}" if _KEY.fullmatch(model.id) else model.id
    for other in others:
        if isinstance(other, Compared):
            seed = other.id.rpartition("@")[2]
            names[other.id] = f"{known_name(other.network)} (seed {seed})"
        else:
            names[other.id] = known_name(other.id)
    return names


def file_stem(run: str, name: str) -> str:
    """How downloads begin: the run and the network in letters that every system allows."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") for text in (run, name))
