"""Checks of arguments; every message names the argument, what came and what would be right."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rng = int | np.integer[Any] | np.random.Generator | np.random.SeedSequence | None

_LOOKS_LIKE_COLOUR = (1, 3, 4)


def as_array(x: Any, name: str) -> NDArray[Any]:
    """View of anything with ``__array__`` or ``__dlpack__`` on the CPU; never casts."""
    if isinstance(x, np.ndarray):
        return x
    if hasattr(x, "detach") and hasattr(x, "numpy"):
        x = x.detach()
    if not hasattr(x, "__array__") and hasattr(x, "__dlpack__"):
        array: NDArray[Any] = np.from_dlpack(x)
        return array
    if isinstance(x, str | bytes | dict):
        raise TypeError(f"{name} must be an array, not {type(x).__name__}")
    try:
        array = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array on the CPU: {error}") from None
    if array.dtype == object:
        raise TypeError(f"{name} must be an array of numbers, not of {type(x).__name__}")
    return array


def check_images(x: Any, name: str, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Contiguous images, uint8 or float32, of the given shape per image; at least one."""
    array = as_array(x, name)
    if array.dtype not in (np.uint8, np.float32):
        raise TypeError(
            f"{name} must be uint8 (raw) or float32 (preprocessed), not {array.dtype}"
            + (f": pass {name}.astype(np.float32)" if array.dtype.kind == "f" else "")
        )
    rank = f"(n, {', '.join(map(str, shape))})" if shape else "(n, features), (n, time, channels) or (n, h, w, c)"
    if (shape and array.ndim != len(shape) + 1) or (not shape and array.ndim not in (2, 3, 4)):
        raise ValueError(f"{name} must have shape {rank}, not {array.shape}")
    if looks_like_nchw(array.shape) and (not shape or tuple(array.shape[1:]) != shape):
        raise ValueError(
            f"{name} has shape {array.shape}, which looks like channels first (NCHW): channels come last, "
            f"pass np.moveaxis({name}, 1, -1)"
        )
    if shape and tuple(array.shape[1:]) != shape:
        raise ValueError(f"{name} must have shape {rank}, not {array.shape}")
    if len(array) == 0:
        raise ValueError(f"{name} holds no images: at least one is needed")
    if min(array.shape) == 0:
        raise ValueError(f"{name} has shape {array.shape}: no axis may be empty")
    return array


def looks_like_nchw(shape: tuple[int, ...]) -> bool:
    """Whether four axes look like (n, colours, side, side)."""
    return (
        len(shape) == 4
        and shape[1] in _LOOKS_LIKE_COLOUR
        and shape[3] not in _LOOKS_LIKE_COLOUR
        and shape[2] == shape[3]
    )


def check_finite(array: NDArray[Any], name: str) -> None:
    """Raise NonFiniteError if a float array holds NaN or infinity."""
    from ._errors import NonFiniteError

    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.argmin(np.isfinite(array.reshape(len(array), -1)).all(axis=1))) if array.ndim else 0
        raise NonFiniteError(f"{name} holds NaN or infinity, first in row {bad}")


def seed_of(rng: Rng, name: str = "rng") -> int:
    """Non-negative 63-bit seed: an int as it is, None is fresh entropy, a Generator draws one."""
    if rng is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> np.uint64(1))
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**63))
    if isinstance(rng, np.random.SeedSequence):
        return int(rng.generate_state(1, np.uint64)[0] >> np.uint64(1))
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer):
        raise TypeError(f"{name} must be None, an int or a numpy.random.Generator, not {type(rng).__name__}")
    if not 0 <= int(rng) < 2**63:
        raise ValueError(f"{name} must be from 0 to 2**63 - 1, not {int(rng)}")
    return int(rng)


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Independent random numbers for one purpose of one seed."""
    return np.random.default_rng([seed, *stream])


def thread_count(threads: int | None) -> int:
    """How many threads to use: None is the cores this process may use."""
    if threads is None:
        return available_cores()
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or threads < 1:
        raise ValueError(f"threads must be None or an integer from 1, not {threads!r}")
    return int(threads)


_sharing = 1


def share_cores(processes: int) -> None:
    """Leave this process its part of the cores, because so many processes like it work at the same time."""
    global _sharing
    _sharing = max(1, processes)


def available_cores() -> int:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // _sharing)


def positive_int(value: Any, name: str, least: int = 1) -> int:
    """Return the value as an int, or raise an error that names the argument."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return int(value)


def missing_extra(module: str, extra: str) -> ImportError:
    """Return what to raise when an optional dependency is not installed."""
    return ImportError(f'{module} is not installed: pip install "dynadnn[{extra}]"')
