"""What the ranks of a training tell each other, also where there is only one."""

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

SECONDS_FOR_AN_ANSWER = 10
"""For a rank that others have waited for in vain, before it is called missing."""


def distributed() -> bool:
    """Whether there is a group of ranks; without one this process is all of it."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if distributed() else 1


def summed(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The sum over ranks, on the CPU; their messages go by the given device."""
    if not distributed():
        return values.cpu().clone()
    on_device = values.to(device, copy=True)
    dist.all_reduce(on_device)
    return on_device.cpu()


def from_rank_0(values: list[Any]) -> list[Any]:
    """The list of rank 0, of whatever can be pickled; those of the others count for their length alone."""
    if distributed():
        dist.broadcast_object_list(values, src=0)
    return values


def fill_from_rank_0(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite tensors by those of rank 0."""
    for tensor in tensors if distributed() else ():
        dist.broadcast(tensor, src=0)


def from_all_ranks(value: Any) -> list[Any]:
    """The values of all ranks, in their order, of whatever can be pickled."""
    if not distributed():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def unshared(model: nn.Module) -> AbstractContextManager[None]:
    """Backward passes within leave gradients on their rank; the first one after it shares the sums."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


@contextmanager
def missing_ranks_named(timeout_s: float) -> Iterator[None]:
    """Where ranks have waited in vain for another, say for which, so that its log can be read.

    Raises:
        RuntimeError: With the ranks that did not come.
    """
    group: Any = dist.new_group(backend="gloo") if distributed() else None
    try:
        yield
    except RuntimeError as error:
        if group is None or "timed out" not in str(error).lower():
            raise
        try:
            dist.monitored_barrier(group, timedelta(seconds=SECONDS_FOR_AN_ANSWER), wait_all_ranks=True)
        except RuntimeError as barrier:
            silent = re.search(r"Ranks ([\d, ]*\d) failed|from rank (\d+)", str(barrier))
            named = next(filter(None, silent.groups())) if silent else str(barrier)
            raise RuntimeError(
                f"no answer within scale.collective_timeout_s {timeout_s:g} from rank {named}"
            ) from error
        raise
