"""The format of a file's rows, and fields without a meaning in the format.

One file has one format. Unknown fields are counted over the file, and one error names them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from training.data.formats.catalogue import KINDS, RowFormat, RowKind
from training.data.formats.fields import ExampleError, Row
from training.errors import did_you_mean

OPTION = "--allow-extra-fields"
SHOWN_FIELDS = 8  # of a row without a known format


class FileFormat:
    """Format of one file, found by its first row with a known format, and conversion of its rows.

    Attributes:
        found: the format; None before the first row with a known one.
        unknown: numbers of rows by unknown field.
    """

    def __init__(self, kind: RowKind) -> None:
        self._kind = kind
        self.found: RowFormat | None = None
        self.unknown: Counter[str] = Counter()
        self._first_rows: dict[str, int] = {}

    def convert(self, number: int, row: Row) -> Row:
        """Return our own row.

        Args:
            number: number of the row in the file, from 1.

        Raises:
            ExampleError: the row has no known format or another one than the file, or a field is
                invalid.
        """
        one = self._format_of(row)
        if self.found is None:
            self.found = one
        elif one is not self.found:
            raise ExampleError(
                f"{one.name}, but rows before it are {self.found.name}; a file has one format",
                reason="MISMATCH",
                limit=self.found.name,
            )
        for field in _unknown_fields(row, one, self._kind.known(one)):
            self.unknown[field] += 1
            self._first_rows.setdefault(field, number)
        own = {name: row[name] for name in self._kind.optional if name in row}
        return own | one.convert(row)

    def unknown_fields_error(self, path: Path, rows: int) -> ExampleError:
        """Return an error with all unknown fields in its text, and the first as its field."""
        assert self.found is not None
        known = self._kind.known(self.found)
        shown = [
            f"{name} in {count:,} of {rows:,} rows{_suggestion(name, known)}"
            for name, count in self.unknown.items()
        ]
        first = next(iter(self.unknown))
        return ExampleError(
            f"{path.name}: unknown {'fields' if len(shown) > 1 else 'field'}: {', '.join(shown)}; "
            f"{OPTION} ignores unknown fields",
            field=f"{path.name}:{self._first_rows[first]}:{first}",
            reason="UNKNOWN",
            limit=", ".join(known),
        )

    def _format_of(self, row: Row) -> RowFormat:
        """Return the first fitting format.

        Raises:
            ExampleError: none does; names all missing fields of the nearest one.
        """
        for one in self._kind.formats:
            if not one.missing(row) and one.fits(row):
                return one
        if self.found is not None and self.found.missing(row):
            raise self._missing_error(row, self.found)
        # A file of our own format was written by a tool and lacks no field, so ours is the last.
        ours, *others = self._kind.formats
        incomplete = [one for one in (*others, ours) if one.missing(row)]
        raise self._missing_error(row, max(incomplete, key=lambda one: self._nearness(row, one)))

    def _nearness(self, row: Row, one: RowFormat) -> tuple[float, bool, float]:
        """Return what decides which format a row without a known one is nearest to.

        The largest share of required fields comes first, then values of the right kind, then the
        largest share of the row's fields that the format knows. Of equals the first is taken.
        """
        present = 1 - len(one.missing(row)) / len(one.required)
        known = len(row.keys() & {*self._kind.known(one)}) / max(1, len(row))
        return present, one.fits(row), known

    def _missing_error(self, row: Row, nearest: RowFormat) -> ExampleError:
        missing = nearest.missing(row)
        if len(missing) < len(nearest.required):
            text = f"looks like {nearest.name}, but {_names(missing)} "
            text += f"{'are' if len(missing) > 1 else 'is'} missing"
        else:
            nearest = self.found or self._kind.formats[0]
            missing = nearest.missing(row)
            fields = ", ".join(list(row)[:SHOWN_FIELDS]) or "none"
            text = (
                f"no known format (fields: {fields}); {' and '.join(self._kind.readers)} "
                f"can read {self._kind.names}"
            )
        known = self._kind.known(nearest)
        typed = [
            f"; {name}{hint}"
            for name in row
            if name not in known and (hint := _suggestion(name, missing))
        ]
        text += "".join(typed)
        if not typed and (other := _other_kind(row, self._kind)):
            text += f"; {' and '.join(other[0].readers)} would read {other[1].name}"
        return ExampleError(text, field=missing[0], reason="MISSING", limit=_names(missing))


def _unknown_fields(row: Row, one: RowFormat, known: Collection[str]) -> Iterator[str]:
    """Yield the unknown fields of a row, and those of its messages once each."""
    yield from (name for name in row if name not in known)
    for field in one.required:
        if isinstance(row[field], list):
            yield from {
                f"{field}.{name}": None
                for message in row[field]
                if isinstance(message, dict)
                for name, value in message.items()
                if name not in one.names.fields and value is not None
            }


def _other_kind(row: Row, kind: RowKind) -> tuple[RowKind, RowFormat] | None:
    """Return another kind with a format of several fields for this row, and the format."""
    return next(
        (
            (other, one)
            for other in KINDS
            for one in other.formats
            if other is not kind and len(one.required) > 1
            if not one.missing(row) and one.fits(row)
        ),
        None,
    )


def _suggestion(name: str, known: Collection[str]) -> str:
    """Return the known field with the most similar spelling, as a remark; "" without one."""
    hint = did_you_mean(name, known).removeprefix("; ")
    return f" ({hint})" if hint else ""


def _names(fields: Collection[str]) -> str:
    return " and ".join(f"'{field}'" for field in fields)
