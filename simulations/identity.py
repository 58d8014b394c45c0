"""The identity of a federation's results: its name for files and the header of its journal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fedkd.base.added import added_defaults, identity
from fedkd.base.numerics import NUMERICS
from fedkd.base.spec import parse
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from simulations.contents import contents
from simulations.recipe import settings_of


def identify(federation: Federation, read: Mapping[str, str] | None = None) -> str:
    """A name for files: the method's name and a hash of all settings, of all `contents`, and of fedkd's numerics.

    Settings that an earlier fedkd did not have enter the hash only if they differ from their default.
    """
    settings = json.dumps(identity(federation), sort_keys=True)
    parts = [settings, contents(federation) if read is None else dict(read), NUMERICS]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    return f"{parse(federation.method).name}-{digest.hexdigest()[:12]}"


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings, perhaps written by an earlier fedkd, completed by the defaults of newer settings."""
    return {**added_defaults(Federation), **settings}


def same_header(one: Any, other: Any) -> bool:
    """Whether two journal headers, read from JSON, belong to the same federation."""
    return bool(_completed(one) == _completed(other))


def _completed(header: Any) -> Any:
    if not (isinstance(header, dict) and isinstance(header.get("settings"), dict)):
        return header
    # Through JSON, in which tuples and lists are equal.
    return json.loads(json.dumps({**header, "settings": with_defaults(header["settings"])}))


def header_of(federation: Federation) -> dict[str, Any]:
    """The header of a federation's journal: everything that its numbers depend on.

    Raises:
        UserError: a file that it depends on cannot be read.
    """
    read = contents(federation)
    return {
        "federation": identify(federation, read),
        "rounds": schedule_of(federation).last_round,
        "settings": settings_of(federation),
        "models": federation.client_models,
        "contents": read,
        "numerics": NUMERICS,
    }
