"""S3 and compatible stores, through boto3: one request per file, paged listings, conditional writes.

Endpoint, region and credentials come from the environment, as for every AWS tool: AWS_ENDPOINT_URL,
AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID and so on, or the role of the machine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from visvm.storage.retry import Unreachable, with_retries
from visvm.storage.store import File, Kind

NUM_CONNECTIONS = 32
PAGE = 1000  # objects; the most that S3 lists or deletes per request
_MISSING = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
_EXISTING = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
_TRANSIENT = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
_TRANSIENT |= {"InternalError", "ServiceUnavailable", "503", "500", "RequestTimeTooSkewed"}
_lock = threading.Lock()
_clients: list[Any] = []


def client() -> Any:
    """Return this process's boto3 client. Threads may share a client, but not create one concurrently."""
    with _lock:
        if not _clients:
            import boto3
            from botocore.config import Config

            options = Config(
                retries={"mode": "standard", "total_max_attempts": 3},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=NUM_CONNECTIONS,
            )
            _clients.append(boto3.client("s3", config=options))
        return _clients[0]


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Raise botocore's errors as the matching OSError, or as ``Unreachable`` if they are transient."""
    import botocore.exceptions as boto
    from boto3.exceptions import RetriesExceededError, S3UploadFailedError

    try:
        yield
    except (
        boto.ConnectionError,
        boto.HTTPClientError,
        boto.IncompleteReadError,
        RetriesExceededError,
    ) as error:
        raise Unreachable(f"s3://{path}: {error}") from error
    except boto.ClientError as error:
        raise _error(path, error.response) from error
    except S3UploadFailedError as error:
        response = getattr(error.__context__, "response", {"Error": {"Message": str(error)}})
        raise _error(path, response) from error
    except boto.BotoCoreError as error:  # no credentials, no region, no such profile, ...
        raise PermissionError(f"s3://{path}: {error}") from error


def _error(path: str, response: Any) -> OSError | Unreachable:
    code, message = response["Error"].get("Code", ""), response["Error"].get("Message", "")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = f"s3://{path}: {code}: {message}"
    if code in _EXISTING or status == 412:
        return FileExistsError(text)
    if code in _MISSING or status == 404:
        return FileNotFoundError(text)
    if code in _TRANSIENT or status == 429 or status >= 500:
        return Unreachable(text)
    return PermissionError(text) if status in (401, 403) else OSError(text)


def put(path: str, data: bytes, **condition: str) -> str:
    """Write one object if the condition holds (IfMatch=ETAG or IfNoneMatch="*"); return its new ETag.

    Raises:
        FileExistsError: the condition does not hold.
    """
    bucket, key = _split(path)
    with translated(path):
        return client().put_object(Bucket=bucket, Key=key, Body=data, **condition)["ETag"]


def get(path: str, limit: int | None = None) -> dict[str, Any]:
    """Return the headers of an object, with its bytes (or the first ``limit`` of them) as "Body"."""
    bucket, key = _split(path)
    with translated(path):
        answer = client().get_object(Bucket=bucket, Key=key)
        with answer["Body"] as body:
            return {**answer, "Body": body.read(limit)}


class S3Store:
    """A ``Store`` over S3 objects; a folder exists while there are objects below it."""

    def read(self, path: str, limit: int | None) -> bytes:
        return get(path, limit)["Body"]

    def write(self, path: str, data: bytes, *, new: bool) -> None:
        try:
            put(path, data, **({"IfNoneMatch": "*"} if new else {}))
        except FileExistsError:
            # It may be ours: an earlier attempt succeeded and its answer was lost.
            if self.read(path, None) != data:
                raise

    def kind(self, path: str) -> Kind:
        bucket, key = _split(path)
        with suppress(FileNotFoundError), translated(path):
            if key:
                client().head_object(Bucket=bucket, Key=key)
                return "file"
        return "folder" if _page(path, MaxKeys=1).get("KeyCount") else None

    def walk(self, path: str, *, recursive: bool) -> Iterator[File]:
        start = len(_prefix(path))
        for found in _objects(path, {"MaxKeys": PAGE} | ({} if recursive else {"Delimiter": "/"})):
            if not found["Key"].endswith("/"):  # consoles create such objects as "folders"
                yield File(found["Key"][start:], found["Size"], found["ETag"].strip('"'))

    def delete(self, path: str) -> None:
        bucket, key = _split(path)
        below = (f"{_prefix(path)}{file.name}" for file in self.walk(path, recursive=True))
        names = chain([key] if key else [], below)
        while page := [{"Key": name} for name in islice(names, PAGE)]:
            with translated(path):
                done = client().delete_objects(Bucket=bucket, Delete={"Objects": page, "Quiet": True})
            for error in done.get("Errors", []):
                raise _error(f"{bucket}/{error['Key']}", {"Error": error})

    def fetch(self, path: str, target: Path) -> None:
        with translated(path):
            client().download_file(*_split(path), str(target))

    def send(self, source: Path, path: str) -> None:
        with translated(path):
            client().upload_file(str(source), *_split(path))


def _objects(path: str, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    page = with_retries(lambda: _page(path, **options), f"listing s3://{path}")
    yield from page.get("Contents", [])
    while token := page.get("NextContinuationToken"):
        following = partial(_page, path, ContinuationToken=token, **options)
        page = with_retries(following, f"listing s3://{path}")
        yield from page.get("Contents", [])


def _page(path: str, **options: Any) -> dict[str, Any]:
    """Request one page, of up to PAGE objects, of the listing of a folder."""
    with translated(path):
        return client().list_objects_v2(Bucket=_split(path)[0], Prefix=_prefix(path), **options)


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key


def _prefix(path: str) -> str:
    _, key = _split(path)
    return f"{key.rstrip('/')}/" if key else ""
