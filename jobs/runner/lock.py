"""Locks on run folders, so that two jobs never write to one output.

Local folders use flock, which ends with the process. On S3 the lock is an object that only one process can
create and that its owner rewrites every few seconds; one not rewritten for LOCK_SECONDS is taken over.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, Protocol

from visvm import storage
from visvm.storage import s3

LOCK_SECONDS = 180.0
"""After so many silent seconds an owner counts as dead. Longer than any retry; see VISVM_LOCK_SECONDS."""

BEATS = 12  # signs of life in LOCK_SECONDS
logger = logging.getLogger(__name__)


class Lock(Protocol):
    """A lock that this process holds on a run folder; ``lost`` says why it holds it no longer."""

    lost: str | None

    def release(self) -> None:
        """Release the folder."""
        ...


def acquire(folder: str) -> Lock:
    """Lock a run folder and return the lock.

    Raises:
        ValueError: another run has it, or it cannot be written to.
    """
    try:
        if folder.startswith("s3://"):
            return S3Lock(folder, seconds=lock_seconds())
        return NoLock(folder) if storage.is_remote(folder) else LocalLock(folder)
    except BlockingIOError:
        raise ValueError(f"{folder} is in use by another run; wait for it or choose another --out") from None
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror or error}") from None


def lock_seconds() -> float:
    """Return after how many silent seconds an owner counts as dead."""
    given = os.environ.get("VISVM_LOCK_SECONDS", LOCK_SECONDS)
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0
    if seconds <= 0:
        raise ValueError(f"VISVM_LOCK_SECONDS = {given!r}: expected a number of seconds above 0")
    return seconds


class NoLock:
    """For stores without conditional writes: it warns, and locks nothing."""

    lost: str | None = None

    def __init__(self, folder: str) -> None:
        logger.warning("%s cannot be locked: make sure that no other run writes there", folder)

    def release(self) -> None:
        """Do nothing."""


class LocalLock:
    """flock on FOLDER/.lock."""

    lost: str | None = None

    def __init__(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = Path(folder, ".lock").open("w")  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise

    def release(self) -> None:
        """Release the folder."""
        self._file.close()


class S3Lock:
    """FOLDER/.lock, rewritten BEATS times per ``seconds`` by a thread; losing it interrupts the job."""

    def __init__(self, folder: str, *, seconds: float) -> None:
        self.path, self.seconds = storage.join(folder, ".lock").removeprefix("s3://"), seconds
        self.lost: str | None = None
        self._owner = {"owner": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
        self._etag = self._take()
        self._beaten = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Release the folder."""
        self._done.set()
        self._thread.join()
        if self.lost is None:
            storage.delete(f"s3://{self.path}")

    def _take(self) -> str:
        """Create the object, or take over a stale one; return its ETag."""
        seen: str | None = None
        while True:
            try:
                return self._put(IfNoneMatch="*")
            except FileExistsError:
                found = self._found()
            if found is None:  # released meanwhile
                continue
            etag, age, owner = found
            if owner.get("owner") == self._owner["owner"]:  # written, but the answer was lost
                return etag
            if seen is not None and etag != seen:
                raise BlockingIOError
            if age >= self.seconds:
                return self._take_over(etag)
            if seen is None:
                logger.warning("%s: waiting to see whether its owner is alive (%s)", self.path, owner)
            seen = etag
            time.sleep(min(1.0, self.seconds / BEATS))

    def _take_over(self, etag: str) -> str:
        logger.warning("%s: nobody wrote it for %.0f s; taken over", self.path, self.seconds)
        try:
            return self._put(IfMatch=etag)
        except (FileExistsError, FileNotFoundError):
            raise BlockingIOError from None

    def _put(self, **condition: str) -> str:
        sign = json.dumps({**self._owner, "sign": uuid.uuid4().hex})
        work = f"locking s3://{self.path}"
        return storage.with_retries(lambda: s3.put(self.path, sign.encode(), **condition), work)

    def _found(self) -> tuple[str, float, dict[str, Any]] | None:
        """Return the object's ETag, its age in seconds by S3's own clock, and its owner."""
        try:
            answer = storage.with_retries(lambda: s3.get(self.path), f"reading s3://{self.path}")
        except FileNotFoundError:
            return None
        now: datetime = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return answer["ETag"], (now - answer["LastModified"]).total_seconds(), json.loads(answer["Body"])

    def _beat(self) -> None:
        while self.lost is None and not self._done.wait(self.seconds / BEATS):
            try:
                self._refresh()
            except (OSError, storage.Unreachable) as error:
                if time.monotonic() - self._beaten >= self.seconds:
                    self._lose(f"could not be written for {self.seconds:g} s: {error}")

    def _refresh(self) -> None:
        """Rewrite the object, trying once: the next beat tries again."""
        sign = json.dumps({**self._owner, "sign": uuid.uuid4().hex}).encode()
        try:
            self._etag = s3.put(self.path, sign, IfMatch=self._etag)
        except (FileExistsError, FileNotFoundError):
            found = self._found()
            if found is None or found[2].get("owner") != self._owner["owner"]:
                return self._lose("another run has taken it")
            self._etag = found[0]
        self._beaten = time.monotonic()

    def _lose(self, why: str) -> None:
        self.lost = f"s3://{self.path}: {why}"
        main = threading.main_thread().ident
        if not self._done.is_set() and main is not None:
            signal.pthread_kill(main, signal.SIGINT)
