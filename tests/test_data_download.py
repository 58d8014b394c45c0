"""Downloading published files from a server of our own: whole and checked, or one message and nothing left."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torchvision import datasets

from fedkd.base.errors import UserError
from fedkd.data import download as downloading
from fedkd.data import load, loading
from fedkd.data.download import UnreachableError, download
from tests.test_data_published import cifar10_files, idx_files, pickled, tarred

FILES = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in idx_files().items()}
FIRST = "train-images-idx3-ubyte.gz"


class Server(http.server.ThreadingHTTPServer):
    """Serves a dictionary of files and counts what is asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        """files of which half is sent"""
        self.mute: set[str] = set()
        """files about which nothing is said"""
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.removeprefix("/")
        self.server.asked.append(name)
        if name in self.server.mute:
            time.sleep(2)
            return
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if name in self.server.cut else content)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.files = dict(FILES)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDKD_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    loading._RECENT.clear()
    return tmp_path / "cache"


@pytest.fixture
def mnist(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """torchvision's MNIST at our server."""
    monkeypatch.setattr(datasets.MNIST, "mirrors", [server.url])
    known = [(name, hashlib.md5(content).hexdigest()) for name, content in FILES.items()]
    monkeypatch.setattr(datasets.MNIST, "resources", known)
    return server


def left(cache: Path) -> set[str]:
    """Names of all files in the cache but locks, which stay empty."""
    return {path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"}


def refused() -> str:
    """An address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


class TestFirstUse:
    def test_it_is_downloaded_once_with_progress(self, mnist: Server, cache: Path) -> None:
        calls: list[tuple[str, int, int]] = []
        first = load("mnist", lambda *call: calls.append(call))
        assert len(first.images) == 30
        assert sorted(mnist.asked) == sorted(FILES)
        for name, content in FILES.items():
            assert (f"downloading {name}", len(content), len(content)) in calls
            assert (cache / "downloads" / "MNIST" / "raw" / name).read_bytes() == content
        loading._RECENT.clear()
        assert load("mnist").fingerprint == first.fingerprint
        assert len(mnist.asked) == len(FILES)

    def test_what_was_prepared_needs_neither_download_nor_network(self, mnist: Server, cache: Path) -> None:
        first = load("mnist")
        for path in (cache / "downloads" / "MNIST" / "raw").iterdir():
            path.unlink()
        mnist.files = {}
        loading._RECENT.clear()
        assert load("mnist").fingerprint == first.fingerprint

    def test_files_put_into_the_downloads_by_hand_are_taken(self, mnist: Server, cache: Path) -> None:
        folder = cache / "downloads" / "MNIST" / "raw"
        folder.mkdir(parents=True)
        for name, content in FILES.items():
            (folder / name).write_bytes(content)
        load("mnist")
        assert not mnist.asked

    def test_the_mirror_comes_first(self, mnist: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        raw = tmp_path / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name, content in idx_files(size=(3, 3)).items():
            (raw / name).write_bytes(content)
        monkeypatch.setenv("FEDKD_DATA", str(tmp_path))
        assert load("mnist").shape == (1, 3, 3)
        assert not mnist.asked
        (tmp_path / "empty").mkdir()
        monkeypatch.setenv("FEDKD_DATA", str(tmp_path / "empty"))
        assert load("mnist").shape == (1, 5, 4)

    def test_an_archive(self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        name = "cifar-10-python.tar.gz"
        content = tarred(tmp_path / name, cifar10_files(pickled(2)), "cifar-10-batches-py").read_bytes()
        server.files[name] = content
        monkeypatch.setattr(datasets.CIFAR10, "url", server.url + name)
        monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(content).hexdigest())
        assert load("cifar10").shape == (3, 32, 32)


class TestFailures:
    def fails(self, cache: Path, *parts: str) -> None:
        began = time.perf_counter()
        with pytest.raises(UserError) as caught:
            load("mnist")
        assert time.perf_counter() - began < 2
        message = str(caught.value)
        for part in (*parts, "mnist is not on this machine", *FILES, str(cache / "downloads"), "FEDKD_DATA"):
            assert part in message, message
        assert "\n" not in message

    def test_no_network(self, mnist: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        nobody = refused()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [nobody])
        self.fails(cache, f"{nobody}{FIRST}: Connection refused")
        assert not left(cache)
        assert not mnist.asked

    def test_not_there(self, mnist: Server, cache: Path) -> None:
        del mnist.files[FIRST]
        self.fails(cache, f"{FIRST}: HTTP 404")
        assert mnist.asked == [FIRST], "one request, not a storm of them"
        assert not left(cache)

    def test_cut_short(self, mnist: Server, cache: Path) -> None:
        mnist.cut = {FIRST}
        size = len(FILES[FIRST])
        self.fails(cache, f"cut short after {size // 2:,} of {size:,} bytes")
        assert not left(cache)

    def test_another_file(self, mnist: Server, cache: Path) -> None:
        mnist.files[FIRST] = other = FILES[FIRST] + b"x"
        self.fails(cache, f"not the published file (md5 {hashlib.md5(other).hexdigest()}")
        assert not left(cache)

    def test_no_answer(self, mnist: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(downloading, "TIMEOUT", 0.2)
        mnist.mute = {FIRST}
        self.fails(cache, "timed out")
        assert not left(cache)

    def test_what_is_whole_is_kept_for_the_next_time(self, mnist: Server, cache: Path) -> None:
        *_, last = FILES
        content = mnist.files.pop(last)
        self.fails(cache, f"{last}: HTTP 404")
        assert left(cache) == FILES.keys() - {last}
        mnist.files[last] = content
        load("mnist")
        assert mnist.asked == [*FILES, last]

    def test_the_next_server_is_asked(self, mnist: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [refused(), mnist.url])
        assert len(load("mnist").images) == 30

    def test_a_half_downloaded_file_is_never_taken_for_whole(self, mnist: Server, cache: Path) -> None:
        folder = cache / "downloads" / "MNIST" / "raw"
        folder.mkdir(parents=True)
        (folder / FIRST).write_bytes(FILES[FIRST][:100])
        with pytest.raises(UserError, match=rf"{FIRST} is not the published file, or a part of it .*; remove it"):
            load("mnist")
        assert not mnist.asked
        (folder / FIRST).rename(folder / f"{FIRST}.partial")
        load("mnist")
        assert not (folder / f"{FIRST}.partial").exists()

    def test_a_cache_that_cannot_be_written(self, mnist: Server, cache: Path) -> None:
        cache.mkdir()
        (cache / "downloads").write_text("a file where the folder should be")
        with pytest.raises(UserError, match="cannot be written"):
            load("mnist")
        assert not mnist.asked


def test_several_at_once_download_once(server: Server, tmp_path: Path) -> None:
    target, md5 = tmp_path / FIRST, hashlib.md5(FILES[FIRST]).hexdigest()
    threads = [
        threading.Thread(target=download, args=([server.url + FIRST], target, md5, lambda *_: None)) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked == [FIRST]
    assert target.read_bytes() == FILES[FIRST]


def test_every_server_is_named(server: Server, tmp_path: Path) -> None:
    addresses = [refused() + "x", server.url + "x"]
    with pytest.raises(UnreachableError) as caught:
        download(addresses, tmp_path / "x", "0" * 32, lambda *_: None)
    assert all(address in str(caught.value) for address in addresses)


def test_stamps_are_cheap() -> None:
    # They are asked for at every load; torchvision and the hub's library take seconds to import.
    script = """
import sys
from fedkd.data.sources import source
for text in ("mnist", "fashion_mnist", "emnist", "cifar10", "cifar100", "svhn", "tiny_imagenet", "hf:a/b"):
    source(text)[1].stamp()
source("synthetic")[1].stamp()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torchvision", "scipy", "flwr_datasets", "datasets", "pyarrow", "PIL"}
