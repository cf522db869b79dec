"""pandas returns the same results for a snapshot, whose arrays are read-only and shared, as for a copy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from notebook_rt.model.rows import Upsert
from notebook_rt.model.types import Backend, Column, Schema
from notebook_rt.store.table import Table

ROWS = 30
COLUMNS = {
    "id": ("int8", lambda n: n),
    "i": ("int8", lambda n: n % 7),
    "i_null": ("int8", lambda n: n if n % 5 else None),
    "f": ("float8", lambda n: n * 1.5),
    "f_null": ("float8", lambda n: n / 3 if n % 4 else None),
    "b": ("bool", lambda n: n % 2 == 0),
    "b_null": ("bool", lambda n: True if n % 3 else None),
    "t": ("text", lambda n: f"x{n % 4}"),
    "t_null": ("text", lambda n: f"y{n % 3}" if n % 6 else None),
    "at": ("timestamptz", lambda n: f"2024-01-{n % 28 + 1:02d}T00:00:00+00:00"),
    "at_null": (
        "timestamptz",
        lambda n: f"2024-02-{n % 28 + 1:02d}T00:00:00+00:00" if n % 7 else None,
    ),
    "day": ("date", lambda n: f"2024-03-{n % 28 + 1:02d}"),
    "numeric": ("numeric", lambda n: str(n / 7)),
    "json": ("json", lambda n: {"n": n}),
    "array": ("int4[]", lambda n: [n, n + 1]),
}
THIRDS = np.arange(ROWS) % 3


def written(series: pd.Series, key: object, value: object) -> pd.Series:
    """A shallow copy that was written to."""
    copy = series.copy(deep=False)
    copy.loc[key] = value
    return copy


SERIES: dict[str, Callable[[pd.Series], Any]] = {
    **{
        name: lambda s, name=name: getattr(s, name)()
        for name in (
            *(
                "abs",
                "all",
                "any",
                "argsort",
                "autocorr",
                "bfill",
                "convert_dtypes",
                "count",
                "cummax",
            ),
            *(
                "cummin",
                "cumprod",
                "cumsum",
                "describe",
                "diff",
                "drop_duplicates",
                "dropna",
                "duplicated",
            ),
            *(
                "explode",
                "factorize",
                "ffill",
                "idxmax",
                "infer_objects",
                "interpolate",
                "isna",
                "kurt",
            ),
            *(
                "max",
                "mean",
                "median",
                "min",
                "mode",
                "nlargest",
                "nsmallest",
                "nunique",
                "pct_change",
            ),
            *(
                "prod",
                "quantile",
                "rank",
                "round",
                "sem",
                "shift",
                "skew",
                "sort_values",
                "std",
                "sum",
            ),
            *(
                "to_csv",
                "to_frame",
                "to_json",
                "to_list",
                "to_numpy",
                "unique",
                "value_counts",
                "var",
            ),
        )
    },
    "cumsum of all": lambda s: s.cumsum(skipna=False),
    "fillna": lambda s: s.fillna(s.iloc[3]),
    "replace": lambda s: s.replace(s.iloc[1], s.iloc[2]),
    "clip": lambda s: s.clip(s.iloc[2], s.iloc[9]),
    "where": lambda s: s.where(s == s.iloc[1]),
    "descending": lambda s: s.sort_values(ascending=False, kind="stable"),
    "rolling": lambda s: s.rolling(3).median(),
    "rolling, applied": lambda s: s.rolling(3).apply(lambda window: window.sum()),
    "expanding": lambda s: s.expanding().sum(),
    "ewm": lambda s: s.ewm(2).mean(),
    "groupby": lambda s: s.groupby(s).count(),
    "group cumsum": lambda s: s.groupby(THIRDS).cumsum(),
    "group cummax": lambda s: s.groupby(THIRDS).cummax(),
    "group rank": lambda s: s.groupby(THIRDS).rank(),
    "group ffill": lambda s: s.groupby(THIRDS).ffill(),
    "group shift": lambda s: s.groupby(THIRDS).shift(),
    "isin": lambda s: s.isin([s.iloc[1]]),
    "between": lambda s: s.between(s.iloc[1], s.iloc[5]),
    "searchsorted": lambda s: s.sort_values().searchsorted(s.iloc[3]),
    "category": lambda s: s.astype("category"),
    "object": lambda s: s.astype(object),
    "string": lambda s: s.astype("string"),
    "map": lambda s: s.map(lambda value: value),
    "add": lambda s: s + s,
    "negative": lambda s: -s,
    "invert": lambda s: ~s,
    "combine_first": lambda s: s.combine_first(s.shift(1)),
    "corr": lambda s: s.corr(s),
    "reindex": lambda s: s.reindex(range(ROWS + 10)),
    "cut": lambda s: pd.cut(s, 3),
    "qcut": lambda s: pd.qcut(s, 3, duplicates="drop"),
    "dummies": lambda s: pd.get_dummies(s),
    "hash": lambda s: pd.util.hash_pandas_object(s),
    "set one": lambda s: written(s, 3, s.iloc[1]),
    "set several": lambda s: written(s, slice(1, 4), s.iloc[1]),
    "upper": lambda s: s.str.upper(),
    "split": lambda s: s.str.split("1", expand=True),
    "floor": lambda s: s.dt.floor("2D"),
}
FRAMES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "cumsum": lambda df: df[["i", "i_null", "f", "f_null"]].cumsum(),
    "cumsum of columns": lambda df: df[["i_null", "f_null"]].cumsum(axis=1),
    "rank": lambda df: df[["i", "i_null", "f"]].rank(axis=1),
    "corr": lambda df: df[["i", "i_null", "f", "f_null"]].corr("spearman"),
    "pivot_table": lambda df: df.pivot_table(index="i", columns="t", values="f"),
    "melt": lambda df: df.melt(value_vars=["i", "f"]),
    "agg": lambda df: df.groupby("t").agg({"i": "sum", "f_null": "mean", "i_null": ["min", "max"]}),
    "group cumsum": lambda df: df.groupby("t")[["i", "i_null", "f"]].cumsum(),
    "resample": lambda df: df.set_index("at").resample("7D")[["f", "i_null"]].sum(),
    "merge": lambda df: df.merge(df[["t", "i"]], on="t"),
    "merge_asof": lambda df: pd.merge_asof(
        df.sort_values("at"), df[["at", "i"]].sort_values("at"), on="at"
    ),
    "stack": lambda df: df[["i", "i_null"]].stack(),
    "fillna": lambda df: df.fillna({"i_null": 0}),
    "interpolate": lambda df: df[["f", "f_null"]].interpolate(),
    "query": lambda df: df.query("i > 3"),
    "eval": lambda df: df.eval("z = i + f"),
    "assign": lambda df: df.assign(z=df["i"].cumsum()),
    "sort_values": lambda df: df.sort_values(["t", "i"]),
    "rolling": lambda df: df[["f", "f_null", "i", "i_null"]].rolling(3).sum(),
    "transpose": lambda df: df[["f", "i"]].T,
    "describe": lambda df: df.describe(),
    "crosstab": lambda df: pd.crosstab(df["t"], df["b"]),
    "explode": lambda df: df.explode("array"),
}


def snapshot(backend: Backend) -> pd.DataFrame:
    """A snapshot of a table that has changed, as ``LiveFrame.df`` returns it."""
    schema = Schema(
        tuple(Column(name, kind) for name, (kind, _) in COLUMNS.items()), ("id",), "float"
    )
    table = Table(schema, backend)
    load = table.load()
    load.extend([{name: make(n) for name, (_, make) in COLUMNS.items()} for n in range(ROWS)])
    load.commit()
    table.snapshot()
    table.apply([Upsert(3, {"i": 99, "i_null": 5, "f_null": 2.5})])
    return table.snapshot().copy(deep=False)


def outcome(call: Callable[[Any], Any], of: Any) -> Any:
    """What a call returns, or the name of what it raises."""
    try:
        return call(of)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def same(one: Any, other: Any) -> None:
    assert type(one) is type(other), (one, other)
    if isinstance(one, pd.Series):
        pd.testing.assert_series_equal(one, other)
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other)
    elif isinstance(one, str):
        assert one == other


@pytest.mark.parametrize("backend", [None, "numpy_nullable", "pyarrow"])
def test_methods_of_pandas_give_the_same_for_a_snapshot_and_a_copy(backend: Backend) -> None:
    shared = snapshot(backend)
    copied = shared.copy(deep=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for call in SERIES.values():
            for name in shared.columns:
                same(outcome(call, shared[name]), outcome(call, copied[name]))
        for frames_call in FRAMES.values():
            same(outcome(frames_call, shared), outcome(frames_call, copied))
    pd.testing.assert_frame_equal(shared, snapshot(backend))
