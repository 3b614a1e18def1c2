"""The errors geouq raises on purpose, and the exit code each one ends the command line with.

::

    GeouqError                 1   something geouq could not finish
    ├── InputError             2   what the caller gave cannot be used as given
    │   ├── SceneError         2   a raster cannot be read, or its grid or bands not be understood
    │   ├── UnitsError         2   pixel units unknown, or not convertible to what the model expects
    │   └── ModelError         2   a model file or name is unusable, or asked for what it has not got
    ├── OutputError            2   an output exists, cannot be written, or belongs to another run
    └── TileError              1   a tile could not be computed or written; the run can be continued

Each message is one line: what was found (naming the file), and what to do about it.
"""

from __future__ import annotations


class GeouqError(Exception):
    """Root of all errors raised on purpose; ``exit_code`` is what the command line exits with."""

    exit_code = 1


class InputError(GeouqError):
    """What the caller gave cannot be used as given."""

    exit_code = 2


class SceneError(InputError):
    """A raster cannot be read, or its grid or bands cannot be understood."""


class UnitsError(InputError):
    """Pixel units are unknown, or cannot be converted to what the model expects."""


class ModelError(InputError):
    """A model file or name is unusable, or was asked for something it has not got."""


class OutputError(GeouqError):
    """An output exists already, cannot be written, or belongs to a run with other settings."""

    exit_code = 2


class TileError(GeouqError):
    """A tile could not be computed or written; what is finished is kept and the run can be continued."""
