"""One published file from the network: whole and with the right checksum, or not there at all."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from fedkd.base.errors import UserError
from fedkd.base.store import alone
from fedkd.data.source import Progress

TIMEOUT = 10.0
"""Seconds without an answer after which a server is given up."""
BLOCK = 2**20


class UnreachableError(Exception):
    """No server gave the file: the message says what each of them did instead."""


def download(urls: Sequence[str], target: Path, md5: str, progress: Progress) -> None:
    """Get `target` from the first of the `urls` that has it, unless it is there already.

    One process at a time; it is written beside its place and moved there when its checksum is right.

    Raises:
        UnreachableError: every server failed, gave a part only, or gave something else.
        UserError: the file that is there is another one, or the folder cannot be written.
    """
    with alone(target):
        if target.exists():
            if (found := md5_of(target)) != md5:
                raise UserError(
                    f"{target} is not the published file, or a part of it (md5 {found}, not {md5}); remove it"
                )
            return
        partial = target.with_name(target.name + ".partial")
        failures = []
        try:
            for url in urls:
                try:
                    with partial.open("wb") as file:
                        _fetch(url, file, md5, target.name, progress)
                    partial.replace(target)
                except _FetchError as error:
                    failures.append(f"{url}: {error}")
                else:
                    return
        except OSError as error:
            raise UserError(
                f"{target}: cannot be written ({error.strerror}); free some space, or set FEDKD_CACHE to another folder"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        raise UnreachableError("; ".join(failures))


def md5_of(path: Path) -> str:
    """The md5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        # The checksums of the data sets were published as md5: against damage, not as a signature.
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class _FetchError(Exception):
    """This server does not give the file."""


def _fetch(url: str, file: BinaryIO, md5: str, name: str, progress: Progress) -> None:
    """Write what is at `url`; _FetchError where it is not all there or not what was published."""
    digest, done = hashlib.md5(usedforsecurity=False), 0
    request = urllib.request.Request(url, headers={"User-Agent": "fedkd"})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise _FetchError(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _FetchError(_reason(error)) from error
    with answer:
        total = answer.length or 0
        while block := _block(answer):
            # Outside of the network's own errors: a full disk is not the server's.
            file.write(block)
            digest.update(block)
            done += len(block)
            progress(f"downloading {name}", done, max(total, done))
    if done < total:
        raise _FetchError(f"cut short after {done:,} of {total:,} bytes")
    if digest.hexdigest() != md5:
        raise _FetchError(f"what is there is not the published file (md5 {digest.hexdigest()}, not {md5})")


def _block(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(BLOCK)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _FetchError(_reason(error)) from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
