"""Seeds of their own for each use of randomness, from the seed of a run."""

from __future__ import annotations

import hashlib
import json


def derive(seed: int, *names: object) -> int:
    """Return a seed of its own for each use, from the run's seed."""
    text = json.dumps([seed, *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
