"""One published file from the network: whole and with the right checksum, or not there at all."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from fedkd.base.disk import alone, replacing
from fedkd.base.errors import UserError
from fedkd.data.source import Progress

TIMEOUT = 10.0
"""Seconds without an answer after which a server is given up."""
BLOCK = 2**20


class UnreachableError(Exception):
    """No server gave the file: the message has the reason for each."""


def download(urls: Sequence[str], target: Path, md5: str, progress: Progress) -> None:
    """Get `target` from the first of the `urls` that has it, unless it is there already.

    One process at a time downloads. It writes a temporary file and renames it when the checksum is right.

    Raises:
        UnreachableError: every server failed, gave a part only, or gave something else.
        UserError: the file that is there is another one, or the folder cannot be written.
    """
    with alone(target):
        if target.exists():
            if (actual := md5_of(target)) != md5:
                raise UserError(
                    f"{target} is not the published file, or a part of it (md5 {actual}, not {md5}); remove it"
                )
            return
        failures = []
        for url in urls:
            digest = hashlib.md5(usedforsecurity=False)
            try:
                with replacing(target, locked=True) as partial:
                    fetch(url, partial, digest.update, progress)
                    if digest.hexdigest() != md5:
                        raise FetchError(
                            f"what is there is not the published file (md5 {digest.hexdigest()}, not {md5})"
                        )
            except FetchError as error:
                failures.append(f"{url}: {error}")
            else:
                return
        raise UnreachableError("; ".join(failures))


def md5_of(path: Path) -> str:
    """The md5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        # The checksums of the data sets were published as md5: against damage, not as a signature.
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class FetchError(Exception):
    """This server does not give the file."""


def fetch(url: str, target: Path, digest: Callable[[bytes], object], progress: Progress | None = None) -> None:
    """Write what is at `url` to `target`, and give its bytes to `digest`, block by block.

    Raises:
        FetchError: the server does not answer, or the file is not all there.
        OSError: `target` cannot be written.
    """
    done = 0
    request = urllib.request.Request(url, headers={"User-Agent": "fedkd"})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(_reason(error)) from error
    with answer, target.open("wb") as file:
        total = answer.length or 0
        while block := _block(answer):
            # Outside of the network's own errors: a full disk is not the server's.
            file.write(block)
            digest(block)
            done += len(block)
            if progress:
                progress(f"downloading {url.rpartition('/')[2]}", done, max(total, done))
    if done < total:
        raise FetchError(f"cut short after {done:,} of {total:,} bytes")


def _block(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(BLOCK)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(_reason(error)) from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
