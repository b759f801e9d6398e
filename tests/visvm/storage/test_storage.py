"""Files and folders alike here and in S3 (a real server on loopback): whole, found, waited for."""

from __future__ import annotations

import pickle
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.conftest import free_port
from visvm import images, storage
from visvm.storage import arrow, mirror, retry
from visvm.storage import s3 as s3_store


@pytest.fixture(params=["here", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a local folder, then one in S3."""
    if request.param == "here":
        return str(tmp_path)
    return request.getfixturevalue("s3") + "/some/folder"


def test_written_files_are_read_and_listed(place: str) -> None:
    file = storage.join(place, "a b#1%20ü", "x.bin")
    assert not storage.exists(file) and not storage.is_folder(storage.parent(file))
    storage.write(file, b"one")
    storage.write(file, "zwei")
    assert (
        storage.read(file) == b"zwei" and storage.read(file, 2) == b"zw" and storage.read(file, 99) == b"zwei"
    )
    assert storage.is_file(file) and storage.is_folder(place) and storage.is_folder(storage.parent(file))
    storage.write(storage.join(place, "empty"), b"")
    assert storage.read(storage.join(place, "empty"), 10) == b""
    assert sorted((one.name, one.size) for one in storage.walk(place)) == [
        ("a b#1%20ü/x.bin", 4),
        ("empty", 0),
    ]
    assert storage.names(place, "*") == storage.names(place, "em*") == ["empty"]
    storage.delete(place)
    storage.delete(place)
    assert not storage.exists(place) and list(storage.walk(place)) == []
    with pytest.raises(FileNotFoundError):
        storage.read(file)


def test_new_refuses_an_existing_file(place: str) -> None:
    file = storage.join(place, "part")
    storage.write(file, b"mine", new=True)
    with pytest.raises(FileExistsError):
        storage.write(file, b"other", new=True)
    assert storage.read(file) == b"mine"


def test_a_local_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, seen = tmp_path / "manifest.json", []

    def sync(path: str) -> None:
        seen.append((Path(path).suffix, file.exists(), Path(path).is_dir() or Path(path).read_bytes()))

    monkeypatch.setattr(arrow.local, "sync", sync)
    storage.write(str(file), b"all of it")
    assert seen == [(".tmp", False, b"all of it"), ("", True, True)]


def test_readers_never_see_a_part_of_a_file(place: str) -> None:
    file, stop = storage.join(place, "x"), threading.Event()
    versions = [bytes([i]) * 300_000 for i in range(2)]
    storage.write(file, versions[0])

    def write() -> None:
        while not stop.is_set():
            for version in versions:
                storage.write(file, version)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = {storage.read(file) for _ in range(30)}
    finally:
        stop.set()
        thread.join()
    assert seen <= set(versions)
    assert storage.names(place, "*") == ["x"]


def test_tables_and_images_in_tables(place: str) -> None:
    file = storage.join(place, "t.parquet")
    storage.write_table(file, pa.table({"bytes": [b"one", b"two"], "n": [1, 2]}))
    assert storage.read_table(file, ["n"]).to_pydict() == {"n": [1, 2]}
    assert storage.parquet(file).metadata.num_rows == 2
    assert images.read(f"{file}#bytes=1") == b"two"
    with pytest.raises(ValueError, match=r"cannot read .*fewer rows"):
        images.read(f"{file}#bytes=2")
    with pytest.raises(ValueError, match="cannot read"):
        images.read(storage.join(place, "gone.png"))


def test_a_new_folder_replaces_the_old_one_unless_it_fails(place: str) -> None:
    model = storage.join(place, "model")
    for version in ("1", "2"):
        with storage.new_folder(model) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / version).write_text(version)
            (folder / "config.json").write_text(version)
    assert sorted(file.name for file in storage.walk(model)) == ["config.json", "sub/2"]
    with pytest.raises(RuntimeError, match="half way"), storage.new_folder(model) as folder:
        (folder / "config.json").write_text("3")
        raise RuntimeError("half way")
    assert storage.read(storage.join(model, "config.json")) == b"2"


def test_listings_have_all_pages(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_store, "PAGE", 3)
    for i in range(8):
        storage.write(f"{s3}/many/{i}/x", b"")
    found = storage.walk(f"{s3}/many")
    assert next(found).name == "0/x"
    storage.write(f"{s3}/many/9/x", b"")
    assert [file.name[0] for file in found] == [*"1234567", "9"], "a page is asked for when its turn comes"
    assert storage.names(f"{s3}/many", "*") == []
    storage.delete(f"{s3}/many")
    assert not storage.exists(f"{s3}/many")


def test_a_remote_model_is_fetched_once_and_again_when_it_changes(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VISVM_CACHE", str(tmp_path))
    monkeypatch.setattr(mirror, "SETTINGS_BYTES", 10)
    model = f"{s3}/model"
    storage.write(f"{model}/config.json", "{}")
    storage.write(f"{model}/weights", b"w" * 100)
    caplog.set_level("INFO")
    assert [path.name for path in Path(mirror.settings(model)).iterdir()] == ["config.json"]
    first = mirror.local(model)
    assert Path(first, "weights").read_bytes() == b"w" * 100
    assert mirror.local(model) == first and caplog.text.count("fetching") == 2
    storage.write(f"{model}/weights", b"v" * 100)
    assert Path(mirror.local(model), "weights").read_bytes() == b"v" * 100
    assert Path(first, "weights").read_bytes() == b"w" * 100, "whoever reads the old one is not disturbed"
    assert mirror.local("org/name") == "org/name"
    with pytest.raises(ValueError, match="no such directory"):
        mirror.local(f"{s3}/none")


def test_a_remote_model_stays_in_its_folder(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISVM_CACHE", str(tmp_path / "cache"))
    s3_store.put(f"{s3.removeprefix('s3://')}/model/../../evil", b"x")
    with pytest.raises(ValueError, match="leads out of its folder"):
        mirror.local(f"{s3}/model")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("work", [storage.read, storage.is_file])
def test_an_unreachable_store_is_retried(
    work: Callable[[str], object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server starts during the retries; then its answer about the missing file is final."""
    from moto.server import ThreadedMotoServer

    caplog.set_level("WARNING")
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(s3_store, "_clients", [])
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    starter = threading.Timer(1.5, server.start)
    starter.start()
    try:
        assert work("s3://bucket-of-nobody/x.parquet") is False
    except FileNotFoundError:
        pass
    finally:
        starter.join()
        server.stop()
    assert "trying again" in caplog.text


def test_retries_end_and_permanent_errors_are_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "SECONDS", 1.0)
    calls: list[float] = []

    def away() -> None:
        calls.append(time.monotonic())
        raise storage.Unreachable("away")

    with pytest.raises(storage.Unreachable):
        storage.with_retries(away, "asking")
    assert len(calls) > 1
    for code, status, expected in (
        ("AccessDenied", 403, PermissionError),
        ("InvalidAccessKeyId", 403, PermissionError),
        ("NoSuchKey", 404, FileNotFoundError),
        ("PreconditionFailed", 412, FileExistsError),
        ("SlowDown", 503, storage.Unreachable),
        ("InternalError", 500, storage.Unreachable),
        ("EntityTooLarge", 400, OSError),
    ):
        answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        assert type(s3_store._error("bucket/key", answer)) is expected


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect", True),
        ("AWS Error SLOW_DOWN during GetObject operation: reduce your rate", True),
        ("AWS Error UNKNOWN (HTTP status 503) during GetObject operation: no response body", True),
        ("AWS Error ACCESS_DENIED during GetObject operation: Access Denied", False),
    ],
)
def test_transient_errors_of_arrow_are_recognised(words: str, passes: bool) -> None:
    with (
        pytest.raises(storage.Unreachable if passes else OSError, match=re.escape(words)),
        arrow.transient_errors(),
    ):
        raise OSError(words)


def test_functions_of_storage_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(storage.read)) is storage.read
