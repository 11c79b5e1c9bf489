"""What torch is asked to do: each operation is a launch on a GPU, and for some the host waits for all before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"}


class Operations(TorchDispatchMode):
    """Takes down what is done in it.

    Attributes
    ----------
    done : Counter
        How often each operation was.
    waited : Counter
        Those for whose result a host waits, to know its value or its size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.done: Counter[str] = Counter()
        self.waited: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        places = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple) else ()
        self.done[name] += 1
        if name in _WAITS or any(torch.is_tensor(place) and place.dtype == torch.bool for place in places):
            self.waited[name] += 1
        return function(*args, **(kwargs or {}))


def operations(work: Callable[[], object]) -> Operations:
    """Return what some work asks of torch."""
    with Operations() as found:
        work()
    return found
