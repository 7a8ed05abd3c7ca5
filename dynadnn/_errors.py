"""Exceptions of the package; the C core raises the same classes."""

from __future__ import annotations


class Error(Exception):
    """Base of the exceptions that only this package raises."""


class FormatError(Error, ValueError):
    """A file that is not what it should be: foreign, truncated, corrupt or newer."""


class GraphError(Error, ValueError):
    """A network that cannot be."""


class PointError(Error, LookupError):
    """An operating point that a network does not have or cannot have."""


class InfeasibleError(PointError):
    """A search that found no operating point within all its constraints."""


class NonFiniteError(Error, ArithmeticError):
    """NaN or infinity where none may be."""


class UnsupportedError(Error, NotImplementedError):
    """Something outside what is built."""
