"""Tables as pandas frames, for those who work with pandas. It is not installed with dposcope."""

from importlib.util import find_spec
from typing import Any, Protocol

import polars as pl

from dposcope.errors import DposcopeError


class _Tabular(Protocol):
    def to_polars(self) -> pl.DataFrame: ...


class ToPandas:
    """Gives a value that has `to_polars` a `to_pandas`."""

    def to_pandas(self: _Tabular) -> Any:
        """The table of `to_polars` as a `pandas.DataFrame`.

        Raises:
            DposcopeError: pandas or pyarrow is not installed.
        """
        missing = [name for name in ("pandas", "pyarrow") if find_spec(name) is None]
        if missing:
            raise DposcopeError(f"a pandas frame needs {' and '.join(missing)}; run: pip install {' '.join(missing)}")
        return self.to_polars().to_pandas()
