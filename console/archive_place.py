"""Where the archive is, and the file in the data folder that remembers which version of it was there last."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from schemas.errors import UsageError

if TYPE_CHECKING:
    from console.settings import ArchiveSettings
    from replay.archive.table import Archive

__all__ = ["open_archive"]

FOLDER = "archive"


def open_archive(data: Path, settings: ArchiveSettings, named: str | None) -> Archive:
    """Return the archive that --archive names, else the configuration, else the data folder's own.

    UsageError where nothing can be there.
    """
    from replay.archive.files import Location
    from replay.archive.table import Archive

    own = data / FOLDER
    url = _place(named or settings.url or str(own))
    if "://" in url:
        return Archive(Location(url, settings.values()), expected=data / _remembered(url))
    folder = Path(url)
    if folder.exists() and not folder.is_dir():
        raise UsageError("the archive's place is a file", where=url, next_step="name a folder with --archive")
    is_own = folder.absolute() == own.absolute()
    return Archive(Location(url), expected=data / (f"{FOLDER}.json" if is_own else _remembered(str(folder.resolve()))))


def _place(url: str) -> str:
    """Return a URL of a file as the folder that it is."""
    parts = urlsplit(url)
    return unquote(parts.path) if parts.scheme == "file" else url.rstrip("/") or url


def _remembered(place: str) -> str:
    # Two archives that are used from one data folder must not take each other's file.
    return f"{FOLDER}-{blake2b(place.encode(), digest_size=8).hexdigest()}.json"
