"""Locks on run folders: two jobs never write to one output.

Local: flock, which the system ends with the process. S3: an object that only one can create and that
its owner writes anew every few seconds; one that nobody has written for LOCK_SECONDS is taken over.
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
"""Longer than a store is waited for; VISVM_LOCK_SECONDS sets another."""

BEATS = 12  # signs of life in LOCK_SECONDS
logger = logging.getLogger(__name__)


class Lock(Protocol):
    """A run folder in use by this process; ``lost`` says why it no longer is."""

    lost: str | None

    def release(self) -> None:
        """Let others have it."""
        ...


def acquire(folder: str) -> Lock:
    """The lock of a run folder.

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
    """How long an owner may be silent."""
    given = os.environ.get("VISVM_LOCK_SECONDS", LOCK_SECONDS)
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0
    if seconds <= 0:
        raise ValueError(f"VISVM_LOCK_SECONDS = {given!r}: expected a number of seconds above 0")
    return seconds


class NoLock:
    """Of stores that cannot write on a condition."""

    lost: str | None = None

    def __init__(self, folder: str) -> None:
        logger.warning("%s cannot be locked: see to it that no other run writes there", folder)

    def release(self) -> None:
        """Nothing."""


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
        """Let others have it."""
        self._file.close()


class S3Lock:
    """FOLDER/.lock, written anew BEATS times in ``seconds`` by a thread; losing it interrupts the job."""

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
        """Let others have it."""
        self._done.set()
        self._thread.join()
        if self.lost is None:
            storage.delete(f"s3://{self.path}")

    def _take(self) -> str:
        """Create the object, or take over a stale one; its ETag."""
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
                logger.warning("%s: waiting whether its owner is alive (%s)", self.path, owner)
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
        return storage.patiently(lambda: s3.put(self.path, sign.encode(), **condition), work)

    def _found(self) -> tuple[str, float, dict[str, Any]] | None:
        """The object's ETag, its age in seconds by S3's own clock, and who wrote it."""
        try:
            answer = storage.patiently(lambda: s3.get(self.path), f"reading s3://{self.path}")
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
        """Write the object anew, once: the next beat is the next attempt."""
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
