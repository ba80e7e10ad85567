"""MATLAB files of a benchmark: the keys that are wanted, checked as far as a key alone can be.

N: rows, A: attributes, C: classes, k: entries of a list.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from model.errors import DataError, Problem
from model.outside.names import MAX_NAME_LENGTH, clean_name, name_fault

_HDF5 = b"\x89HDF\r\n\x1a\n"
_USER_BLOCK = 512  # MATLAB 7.3 writes its own header before the HDF5 file
_EXACT = 2**53  # whole numbers up to this survive a float64
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class MatFile:
    """Some variables of a MATLAB file.

    Attributes:
        path: the file.
        variables: the wanted ones that are there, as scipy gives them.
        ignored: names of the others, sorted.
        problems: filled by the methods; each names file, key, what was expected and what came.
    """

    path: Path
    variables: Mapping[str, Any]
    ignored: tuple[str, ...]
    problems: list[Problem]

    @classmethod
    def read(cls, path: Path, *, keys: Collection[str], optional: Collection[str] = ()) -> MatFile:
        """Read some variables of a file.

        Args:
            path: the file, of MATLAB 5 to 7.2.
            keys: variables that must be there; one that is not becomes a problem.
            optional: variables that may be there.

        Raises:
            DataError: there is no such file, it is damaged or of MATLAB 7.3.
        """
        if not path.is_file():
            raise DataError(f"{path}: expected a MATLAB file, found no such file")
        with path.open("rb") as file:
            head = file.read(_USER_BLOCK + len(_HDF5))
        if head.startswith(_HDF5) or head[_USER_BLOCK:] == _HDF5:
            raise DataError(
                f"{path}: expected a file of MATLAB 5 to 7.2, found MATLAB 7.3 (HDF5); load it in MATLAB and "
                f"write it again with save('{path.name}', '-v7'), or with scipy.io.savemat"
            )
        wanted = {*keys, *optional}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", scipy.io.matlab.MatReadWarning)  # a variable that is there twice
                found = [name for name, *_ in scipy.io.whosmat(path)]
                variables = scipy.io.loadmat(path, variable_names=sorted(wanted.intersection(found)))
        except Exception as error:  # what a damaged file makes scipy raise has no common class
            raise DataError(f"{path}: not readable as a MATLAB file, damaged or cut short: {error}") from None
        problems = [
            Problem(
                pointer=f"{path.name}, {key}",
                detail=f"expected this variable, found {', '.join(sorted(found)) or 'none at all'}",
            )
            for key in keys
            if key not in found
        ]
        return cls(
            path=path,
            variables={name: variables[name] for name in wanted.intersection(found)},
            ignored=tuple(sorted(set(found) - wanted)),
            problems=problems,
        )

    def __contains__(self, key: str) -> bool:
        return key in self.variables

    def problem(self, key: str, detail: str) -> None:
        """Note that a variable breaks a rule."""
        self.problems.append(Problem(pointer=f"{self.path.name}, {key}", detail=detail))

    def matrix(self, key: str) -> NDArray[Any] | None:
        """A matrix of real numbers, as it is stored; None, with a problem, where it is something else or missing."""
        value = self.variables.get(key)
        if value is None:
            return None
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf" or value.ndim != 2:
            self.problem(key, f"expected a full matrix of real numbers, found {_kind(value)}")
            return None
        if 0 in value.shape:
            self.problem(key, f"expected a matrix of numbers, found an empty one, {shape(value)}")
            return None
        return value

    def whole_numbers(self, key: str) -> NDArray[np.int64] | None:
        """A list of whole numbers, int64 [k]; None, with a problem, where it is something else or missing."""
        value = self.matrix(key)
        if value is None:
            return None
        if 1 not in value.shape:
            self.problem(key, f"expected a list, k x 1, found {shape(value)}")
            return None
        entries = value.reshape(-1)
        # The comparison is false for what is not finite.
        whole = (np.abs(entries.astype(np.float64)) <= _EXACT) & (entries == np.floor(entries))
        if not whole.all():
            at = np.flatnonzero(~whole)
            self.problem(key, f"expected whole numbers, found {first(f'{entries[i]} at entry {i + 1}' for i in at)}")
            return None
        # Signed before anything is subtracted: the files hold uint16.
        return entries.astype(np.int64)

    def names(self, key: str) -> tuple[str, ...] | None:
        """A cell array of texts; None, with a problem, where it is something else or missing."""
        value = self.variables.get(key)
        if value is None:
            return None
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "OU":
            self.problem(key, f"expected a cell array of texts, found {_kind(value)}")
            return None
        found = [_text(cell) for cell in value.reshape(-1)]
        wrong = [i + 1 for i, text in enumerate(found) if text is None or not 1 <= len(text) <= MAX_NAME_LENGTH]
        if wrong:
            rule = f"expected texts of 1 to {MAX_NAME_LENGTH} characters"
            self.problem(key, f"{rule}, found something else at entry {first(wrong)}")
            return None
        faults = [f"entry {i + 1}: {fault}" for i, text in enumerate(found) if text and (fault := name_fault(text))]
        if faults:
            self.problem(key, first(faults))
            return None
        return tuple(text for text in found if text is not None)


def first(items: Iterable[object]) -> str:
    """The first five items, and how many more there are."""
    texts = list(map(str, items))
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def shape(value: NDArray[Any]) -> str:
    """The shape as people write it, `85 x 50`."""
    return " x ".join(map(str, value.shape))


def _kind(value: object) -> str:
    return f"{value.dtype} {shape(value)}" if isinstance(value, np.ndarray) else type(value).__name__


def _text(cell: object) -> str | None:
    texts = np.asarray(cell).reshape(-1)
    return clean_name(str(texts[0]).strip()) if texts.size == 1 and texts.dtype.kind == "U" else None
