"""Where the archive is, and the file in the data folder that remembers which version of it was there last."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from schemas.errors import ConfigurationError, RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from console.run import Run
    from console.settings import ArchiveSettings
    from ledger.store import Store
    from replay.archive.table import Archive

__all__ = ["archive_to_ask", "ask_ledger", "open_archive"]

Found = TypeVar("Found")

FOLDER = "archive"


def open_archive(data: Path, settings: ArchiveSettings, named: str | None) -> Archive:
    """Return the archive that --archive names, else the configuration, else the data folder's own.

    UsageError where nothing can be there.
    """
    from replay.archive.opening import open_archive as opened
    from replay.archive.opening import place_of

    own = data / FOLDER
    url = place_of(named or settings.url or own)
    if "://" in url:
        return opened(url, options=settings.values(), expected=data / _remembered(url))
    is_own = Path(url).absolute() == own.absolute()
    return opened(url, expected=data / (f"{FOLDER}.json" if is_own else _remembered(str(Path(url).resolve()))))


def archive_to_ask(run: Run, named: str | None) -> Archive:
    """Return the archive that is asked; RefusedError where it is of another ledger than the one that is here.

    UsageError where there is no archive.
    """
    from replay.archive.full_replay import snapshot_of
    from replay.archive.rebuild import refuse_other_ledger

    found = run.archive(named)
    state = snapshot_of(found).held
    ask_ledger(run, lambda store: refuse_other_ledger(store, found, state))
    return found


def ask_ledger(run: Run, question: Callable[[Store], Found]) -> Found | None:
    """Return what the ledger beside an archive answers, None where none is here.

    None too where it cannot be read, which is said: an archive is there for the day when the ledger is damaged.
    """
    from console.failure import named

    try:
        with run.ledger() as store:
            return question(store)
    except (ConfigurationError, RefusedError):
        raise
    except UsageError:
        return None
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the ledger, the archive still answers.
        run.warn(f"the ledger here cannot be read, so the archive is held against nothing: {named(error).what}")
        return None


def _remembered(place: str) -> str:
    # Two archives that are used from one data folder must not take each other's file.
    return f"{FOLDER}-{blake2b(place.encode(), digest_size=8).hexdigest()}.json"
