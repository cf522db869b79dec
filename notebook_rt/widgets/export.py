"""Rows as files that spreadsheets open: CSV and Excel.

Input: a DataFrame with the columns shown, in their order. Output: bytes. Cells contain other people's input:
a text that a spreadsheet would read as a formula never runs, and a number stays a number.
"""

from __future__ import annotations

import datetime as dt
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pandas as pd

from notebook_rt.model.coerce import missing
from notebook_rt.widgets.columns import text_of
from notebook_rt.widgets.order import column_of

EXCEL_ROWS: Final = 1_048_576
EXCEL_TEXT: Final = 32_767
"""Limits of one sheet, and of one cell, of an Excel file."""
EXCEL_EXTRA: Final = 'Excel files need the extra "excel": pip install "notebook_rt[excel]"'
_FORMULA: Final = frozenset("=+-@＝＋－＠")
_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_DAYS: Final = (1900, 9999)
"""Years for which Excel has dates."""


def guarded(text: str) -> str:
    """Return a text that no spreadsheet reads as a formula: such a text gets a leading apostrophe.

    >>> guarded("=1+1"), guarded("-5.5"), guarded("a=b")
    ("'=1+1", '-5.5', 'a=b')
    """
    begins = text[:1] in ("\t", "\r", "\n") or text.lstrip()[:1] in _FORMULA
    return f"'{text}" if begins and text and not _NUMBER.fullmatch(text) else text


def csv_text(df: pd.DataFrame, types: Mapping[str, str]) -> str:
    """Return comma-separated lines with a heading, according to RFC 4180.

    A text is in quotation marks, a null is empty, a time is in ISO 8601 with its zone.

    Parameters
    ----------
    df
        What is shown; the index is left out.
    types
        Columns to PostgreSQL types.
    """
    lines = [",".join(_quoted(guarded(str(name))) for name in df.columns)]
    columns = [
        _fields(df.iloc[:, n], types.get(str(name), "")) for n, name in enumerate(df.columns)
    ]
    lines += [",".join(line) for line in zip(*columns, strict=True)]
    return "\r\n".join(lines) + "\r\n"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _fields(series: pd.Series[Any], pg_type: str) -> list[str]:
    """Return a column's cells as they are written to the file."""
    if pd.api.types.is_bool_dtype(series.dtype):
        return ["" if missing(value) else str(bool(value)).lower() for value in series]
    if pd.api.types.is_numeric_dtype(series.dtype):
        return ["" if missing(value) else str(value) for value in series.to_numpy(dtype=object)]
    return ["" if missing(value) else _field(value, pg_type) for value in series]


def _field(value: object, pg_type: str) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, int | float | Decimal | np.number):
        return str(value)
    if isinstance(value, dt.date | dt.time):
        return text_of(value, pg_type)
    return _quoted(guarded(text_of(value, pg_type)))


def excel_bytes(df: pd.DataFrame, types: Mapping[str, str], sheet: str = "") -> bytes:
    """Return one sheet with a frozen heading.

    Numbers, booleans and times are Excel's own; a time with a zone is in UTC, as its heading says, since
    Excel has no zones. Everything else is text, and never a formula.

    Raises
    ------
    ModuleNotFoundError
        If openpyxl is not installed; the message says what to install.
    ValueError
        If there are more rows than a sheet can hold.
    """
    try:
        from openpyxl import Workbook
        from openpyxl.cell import WriteOnlyCell
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
        from openpyxl.styles import Font
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(EXCEL_EXTRA, name=error.name) from error
    if len(df) >= EXCEL_ROWS:
        raise ValueError(
            f"An Excel sheet holds {EXCEL_ROWS - 1:,} rows and there are {len(df):,}: save as CSV"
        )
    book = Workbook(write_only=True)
    page = book.create_sheet(re.sub(r"[\[\]:*?/\\']", "_", sheet)[:31] or "Sheet1")
    page.freeze_panes = "A2"

    def text(value: str) -> Any:
        cell = WriteOnlyCell(page, ILLEGAL_CHARACTERS_RE.sub("", value)[:EXCEL_TEXT])
        cell.data_type = "s"  # openpyxl would make a formula from a text that begins with "="
        return cell

    def heading(name: str, zoned: bool) -> Any:
        cell = text(f"{name} (UTC)" if zoned else name)
        cell.font = Font(bold=True)
        return cell

    zoned = [isinstance(dtype, pd.DatetimeTZDtype) for dtype in df.dtypes]
    page.append([heading(str(name), z) for name, z in zip(df.columns, zoned, strict=True)])
    columns = [
        [_native(value, types.get(str(name), ""), text) for value in df.iloc[:, n]]
        for n, name in enumerate(df.columns)
    ]
    for line in zip(*columns, strict=True):
        page.append(line)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _native(value: Any, pg_type: str, text: Callable[[str], Any]) -> Any:
    """Return a value for an Excel cell."""
    if missing(value):
        return None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value) if abs(int(value)) <= 10**15 else text(str(value))
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else text(str(value))
    if isinstance(value, Decimal):
        return value if value.is_finite() else text(str(value))
    if isinstance(value, dt.datetime):  # also pandas'
        if not _DAYS[0] <= value.year <= _DAYS[1]:
            return text(text_of(value, pg_type))
        if value.tzinfo is not None:
            value = value.astimezone(dt.UTC).replace(tzinfo=None)
        value = value.to_pydatetime(warn=False) if isinstance(value, pd.Timestamp) else value
        return value.date() if pg_type == "date" else value
    if isinstance(value, dt.date):
        return value if value.year >= _DAYS[0] else text(value.isoformat())
    return text(text_of(value, pg_type))


def file_name(name: str, ending: str) -> str:
    """Return a name for a file about ``name``, which may be hostile."""
    plain = re.sub(r"[^\w-]+", "_", name).strip("_")[:60]
    return f"{plain or 'table'}.{ending}"


MAKERS: Final[dict[str, Callable[[pd.DataFrame, Mapping[str, str], str], bytes]]] = {
    "csv": lambda df, types, name: ("\ufeff" + csv_text(df, types)).encode("utf-8", "replace"),
    "xlsx": excel_bytes,
}
"""Suffixes to the functions that make such a file; CSV begins with the mark by which Excel detects UTF-8."""


def chosen(df: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return columns of ``df``, including its index, under their names and in this order."""
    parts = [column_of(df, name).reset_index(drop=True) for name in names]
    return pd.concat(parts, axis=1, keys=list(names)) if parts else df.iloc[:, :0]
