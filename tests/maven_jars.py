"""Jars that servers under test are made of, resolved with Maven once for each content of their pom."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["MavenError", "resolved"]

RESOLVE_SECONDS_MAX = 600


class MavenError(Exception):
    """Maven is not there, or did not get what the pom names; the message says which."""


def resolved(pom: Path, cache: Path, finish: Callable[[Path], None] = lambda _: None) -> Path:
    """Return the folder below `cache` with the jars of a pom, or what `finish` has made of them there.

    The folder survives a run. Worker processes of one run come here at the same time; the first resolves, the others
    wait for it.
    """
    folder = cache / hashlib.sha256(pom.read_bytes()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(prefix="resolving-", dir=cache) as made:
                jars = Path(made) / "lib"
                _resolve(pom, jars)
                finish(jars)
                jars.rename(folder)
    return folder


def _resolve(pom: Path, jars: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MavenError("there is no `mvn` on PATH")
    # -U: what was not found the last time is asked for again.
    command = [maven, "-B", "-q", "-U", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RESOLVE_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise MavenError(f"Maven took over {RESOLVE_SECONDS_MAX} s") from None
    if done.returncode != 0:
        # The first line of its errors says why; colours have no place in a reason.
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        why = re.search(r"^\[ERROR\] *(.*)$", said, re.MULTILINE)
        raise MavenError(f"Maven did not resolve it ({why[1] if why else f'exit {done.returncode}'})")
