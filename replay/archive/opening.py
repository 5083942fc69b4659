"""Opening an archive: by a folder or a URL, with the file beside it that remembers which version was there last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from replay.archive.files import Location
from replay.archive.table import Archive
from schemas.errors import UsageError

__all__ = ["open_archive", "place_of"]


def open_archive(
    place: str | Path, *, options: Mapping[str, str] | None = None, expected: Path | None = None
) -> Archive:
    """Return the archive at a place, which is read when it is asked for something.

    `place` is a folder, or the URL of an object store with its `options` (credentials, endpoint). `expected` is the
    file that remembers the version which the archive reached last, so that a log that lost its end is noticed: of a
    folder by default the one beside it, `archive.json` of `archive`; of a URL there is none unless it is named.

    The command line keeps that file in its data folder: `archive.json` for the archive that is there too, and
    `archive-....json`, with a hash, for one elsewhere. Name that as `expected` for an archive which the command line
    made elsewhere, or its lost end is not noticed. UsageError where nothing can be there.
    """
    url = place_of(place)
    if "://" in url:
        return Archive(Location(url, dict(options or {})), expected=expected)
    folder = Path(url)
    if folder.exists() and not folder.is_dir():
        raise UsageError("the archive's place is a file", where=url, next_step="name a folder")
    return Archive(Location(url), expected=expected or folder.with_name(f"{folder.absolute().name}.json"))


def place_of(place: str | Path) -> str:
    """Return a place as a folder or a URL: a URL of a file is the folder that it names."""
    url = str(place)
    parts = urlsplit(url)
    return unquote(parts.path) if parts.scheme == "file" else url.rstrip("/") or url
