"""Pages that are made from the code say what the code says."""

from __future__ import annotations

import re

from fedkd.base.spec import terms
from simulations.listing import CATALOGUES, markdown
from tests.conftest import ROOT

DOCS = ROOT / "docs"


def test_the_catalogue_is_current() -> None:
    assert (DOCS / "catalogue.md").read_text(encoding="utf-8") == markdown(), "run `make docs`"


def test_the_catalogue_names_everything() -> None:
    text = markdown()
    for kind, catalogue in CATALOGUES.items():
        section = text.split(f"## {kind.capitalize()}\n")[1].split("\n## ")[0]
        for name in catalogue.names:
            assert re.search(rf"^### `{name}\b", section, re.MULTILINE), name


def test_the_gallery_shows_every_strategy_with_a_picture() -> None:
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"^## `(.+)`$", text, re.MULTILINE)
    names = {part.split("(")[0] for spec in shown for part in terms(spec, "+")}
    assert names == set(CATALOGUES["partitions"].names), "add it to docs/gallery.py and run `make docs`"
    pictures = re.findall(r"!\[.*\]\((.+)\)$", text, re.MULTILINE)
    assert len(pictures) == len(shown)
    for picture in pictures:
        assert (DOCS / picture).read_bytes().startswith(b"\x89PNG")
    kept = {f"figures/gallery/{file.name}" for file in (DOCS / "figures" / "gallery").iterdir()}
    assert kept == set(pictures), "pictures that no page shows"


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*DOCS.glob("*.md"), *ROOT.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
