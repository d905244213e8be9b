"""Random numbers that depend only on a key and a counter, for many simulations at once.

Each simulation has a key (its seed and episode); a draw is a hash of key, counter and lane. So the numbers
of one simulation are the same alone, in a batch and at any thread count, nothing has to be stored to resume,
and no Python loop runs over simulations. The hash is SplitMix64's finaliser (Steele, Lea, Flood: Fast
Splittable Pseudorandom Number Generators, OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Keys = NDArray[np.uint64]
Array = NDArray[np.float64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_MASK16 = np.uint64(0xFFFF)


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finalised hash of 64-bit integers, elementwise."""
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))


def keys_of(seeds: ArrayLike, episodes: ArrayLike) -> Keys:
    """Return one key per simulation from non-negative integer seeds and episode numbers."""
    seed = np.asarray(seeds).astype(np.uint64)
    episode = np.asarray(episodes).astype(np.uint64)
    return mix(mix((seed + np.uint64(1)) * _GAMMA) + (episode + np.uint64(1)) * _M1)


def _bits(keys: Keys, counter: ArrayLike, lanes: int) -> NDArray[np.uint64]:
    """(n, lanes) hashes; ``counter`` () or (n,) must differ between draws of one key."""
    start = mix(keys + np.asarray(counter).astype(np.uint64) * _GAMMA)
    return mix(start[:, None] + np.arange(1, lanes + 1, dtype=np.uint64) * _GAMMA)


def uniform(keys: Keys, counter: ArrayLike, lanes: int) -> Array:
    """Return (n, lanes) uniform numbers in [0, 1)."""
    return (_bits(keys, counter, lanes) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(keys: Keys, counter: ArrayLike, lanes: int) -> Array:
    """Return (n, lanes) numbers with mean 0 and variance 1, bell-shaped within ±3.5 (sum of four uniform ones)."""
    bits = _bits(keys, counter, lanes)
    total = (bits & _MASK16) + ((bits >> np.uint64(16)) & _MASK16) + ((bits >> np.uint64(32)) & _MASK16)
    total += bits >> np.uint64(48)
    return (total.astype(np.float64) - 131070.0) * (1.7320508075688772 / 65536.0)
