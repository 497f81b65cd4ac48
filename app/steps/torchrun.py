"""Training in processes that torchrun started: the first leads, the others train along.

torchrun --nproc-per-node 4 -m gemkit.app train RUN
"""

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from gemkit.train import communication_device, distributed

Result = TypeVar("Result")
Message = dict[str, Any]


def ranks() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def lead_or_follow(
    lead: Callable[[], Result], follow: Callable[[Message], object]
) -> Result | None:
    """Call `lead` in the first process, and `follow` in all others with each of its messages.

    Returns:
        what `lead` returns; None in the other processes.
    """
    with distributed() as (rank, many):
        if rank:
            while message := broadcast(None):
                follow(message)
            return None
        found = lead()
        if many > 1:  # after an error torchrun ends the others
            broadcast({})
        return found


def broadcast(value: Message | None) -> Message:
    """Send the first process's value to all others, as JSON; None in those that receive."""
    text = json.dumps(value).encode()
    device = communication_device()
    length = torch.tensor([len(text)], device=device)
    torch.distributed.broadcast(length, 0)
    content = torch.zeros(int(length), dtype=torch.uint8, device=device)
    if value is not None:
        content[:] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    torch.distributed.broadcast(content, 0)
    found: Message = json.loads(bytes(content.tolist()))
    return found
