"""The configuration: `ledger-replay.toml` in the data folder or named by --config, checked as it is read.

    store = "postgresql://ledger@db/points"    # where events and read models are; default: ledger.db beside it

    [import]                                   # how rows of the old system are read; see `import --map`
    timezone = "Europe/Berlin"

Options win over environment variables, and those over the file. Secrets belong into the environment or into a
file that the database's own client reads, not into arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from schemas.errors import ConfigurationError

__all__ = ["FILE_NAME", "Settings", "load_settings"]

FILE_NAME = "ledger-replay.toml"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"imports": "import"}):
    """What the file may say. `imports` is the table `[import]`, whose keys are those of a mapping file."""

    store: str | None = None
    imports: dict[str, Any] = {}

    @property
    def timezone(self) -> str:
        """The zone that times without one are taken in."""
        return str(self.imports.get("timezone", "UTC"))


def load_settings(data: Path, config: Path | None) -> Settings:
    """Return the settings of `config`, else of the data folder's own file, else the defaults.

    ConfigurationError names file and key where something is wrong, or the file where it was named and is missing.
    """
    path = config or data / FILE_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        if config is None and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return Settings()
        raise ConfigurationError(f"cannot read the configuration: {error.strerror}", where=str(path)) from error
    try:
        return msgspec.toml.decode(content, type=Settings)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigurationError(f"the configuration is wrong: {error}", where=str(path)) from error
