"""The report as one HTML page: no script, nothing fetched, readable on a phone, in light and in dark.

Specs, class names and settings come from files and are escaped wherever they appear.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from analysis.drawing.picture import Picture
from analysis.measures.summary import Summary
from analysis.page.captions import caption
from analysis.page.css import CSS
from analysis.page.short import Sentence, explanation, in_short
from analysis.page.wording import PARTS, TextTable, text_tables
from analysis.results.names import Names
from analysis.results.table import finished
from analysis.statistics.comparisons import loses_less

_FACTS = ("models", "clients", "rounds", "transfer", "val", "init", "start")
_SIGNS = {"better": "▲", "worse": "▼", "undecided": "○"}


def page(
    summary: Summary,
    pictures: Sequence[tuple[str, Sequence[Picture]]],
    table: pd.DataFrame,
    study: Mapping[str, Any],
) -> str:
    """The whole page. pictures: by block title, the partitions under an empty title (see `report.draw`)."""
    title = f"fedkd report: {', '.join(dict.fromkeys(table['dataset']))}"
    assumption = _validation(study)
    tables = {part: {each.title: each for each in text_tables(summary, part)} for part in PARTS}
    body = [_header(title, table, summary, study), _warnings(summary.warnings), _in_short(summary)]
    for block, drawn in pictures:
        if not block:
            body += [f"<section>{_figures(drawn, '')}</section>"] if drawn else []
            continue
        body.append(f"<section><h2>{escape(block)}</h2>")
        if block in tables["accuracy"]:
            body.append(_table(tables["accuracy"][block], caption(summary) + assumption))
        else:
            body.append("<p>No federation of this block has finished; the curves go as far as the rounds do.</p>")
        body.append(_figures(drawn, assumption))
        for part in PARTS[1:]:
            if block in tables[part]:
                body.append(_table(tables[part][block], caption(summary, part)))
        body.append("</section>")
    body.append(_provenance(table, study, summary.names))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # Belt and braces: even a mistake in the escaping could fetch or run nothing.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(title: str, table: pd.DataFrame, summary: Summary, study: Mapping[str, Any]) -> str:
    done, every = finished(table)["federation"].nunique(), set(table.attrs.get("rounds", {}))
    every |= {*table["federation"].unique(), *study.get("federations", {})}
    numbers = [(name, table[name].nunique()) for name in ("partition", "method", "seed")]
    facts = [f"{number} {name}{'' if number == 1 else 's'}" for name, number in numbers]
    facts.append(f"{done} of {len(every)} federations finished")
    settings = [each for each in study.get("federations", {}).values() if isinstance(each, Mapping)]
    for key in (key for key in _FACTS if key not in summary.settings):
        values = {json.dumps(each.get(key)) for each in settings}
        if len(values) == 1 and key in settings[0]:
            facts.append(f"{key} = {summary.names.of(key, settings[0][key])}")
    chips = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return f'<header><h1>{escape(title)}</h1><ul class="facts">{chips}</ul></header>'


def _warnings(texts: Sequence[str]) -> str:
    if not texts:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<aside class="warning" role="note"><strong>Before you read on</strong><ul>{items}</ul></aside>'


def _in_short(summary: Summary) -> str:
    """Who beats what in each partition, at what cost, and what is open."""
    items = "".join(
        f"<li><strong>{escape(each.where)}</strong><ul>{''.join(map(_sentence, each.sentences))}</ul></li>"
        for each in in_short(summary)
    )
    if not items:
        return ""
    text = escape(explanation(summary))
    return f'<section><h2>In short</h2><ul>{items}</ul><p class="quiet">{text}</p></section>'


def _sentence(sentence: Sentence) -> str:
    named = [f"<code>{breakable(method)}</code> {_whole(text)}" for method, text in sentence.methods]
    if len(named) > 1:
        return f"<li>{escape(sentence.head)}:<ul>{''.join(f'<li>{each}</li>' for each in named)}</ul></li>"
    return f"<li>{escape(sentence.head)}{''.join(f': {each}' for each in named)}</li>"


def breakable(spec: str) -> str:
    """A spec, escaped, with places where a line may end: behind its signs, so that no word has to be broken."""
    return "<wbr>".join(map(escape, re.split(r"(?<=[,(=:/_+|\[])(?=\w)|(?<=\.)(?=[^\W\d])", spec)))


def _whole(text: str) -> str:
    """Escaped, with numbers that no line ends before the sign or unit of."""
    return escape(re.sub(r"(?<=\d) (?=[±%]|[KMGT]?i?B\b|s\b)|(?<=[±<>]) (?=\d)", "\u00a0", text))


def _table(table: TextTable, text: str) -> str:
    """Partitions are row groups, so that the methods can be the column that stays in view on a phone."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.headers[1:])
    parts: list[str] = []
    group = None
    for row in table.rows:
        if row[0] != group:
            group = row[0]
            span = len(table.headers) - 1
            name = f'<th scope="rowgroup" colspan="{span}"><span>{breakable(group)}</span></th>'
            parts.append(f'<tr class="group">{name}</tr>')
        cells = "".join(_cell(cell) for cell in row[2:])
        parts.append(f'<tr><th scope="row">{breakable(row[1])}</th>{cells}</tr>')
    return (
        '<div class="scroll" tabindex="0"><table><thead><tr>'
        f"{heads}</tr></thead><tbody>{''.join(parts)}</tbody></table></div>"
        f'<p class="caption">{escape(text)}</p>'
    )


def _cell(text: str) -> str:
    if text.startswith(loses_less("")):
        return f'<td><span class="undecided">△ {escape(text)}</span></td>'
    if text in _SIGNS:
        return f'<td><span class="{text}">{_SIGNS[text]} {text}</span></td>'
    return f"<td>{_whole(text)}</td>"


def _figures(pictures: Iterable[Picture], assumption: str) -> str:
    parts = []
    for picture in pictures:
        data = base64.b64encode(picture.svg.read_bytes()).decode()
        text = picture.caption
        if "alidation accuracy" in text or "common" in assumption:
            text += assumption
        # Between readable on a phone, where the card scrolls, and not blown up on a wide screen.
        least, most = round(72 * picture.inches), round(125 * picture.inches)
        parts.append(
            f'<figure><div class="scroll" tabindex="0" style="max-width:{most}px">'
            f'<img style="min-width:{least}px" alt="{escape(picture.title)}" '
            f'src="data:image/svg+xml;base64,{data}"></div>'
            f"<figcaption><strong>{escape(picture.title)}.</strong> {escape(text)}</figcaption></figure>"
        )
    return "".join(parts)


def _validation(study: Mapping[str, Any]) -> str:
    """What choosing by validation assumes here; starts with a space."""
    settings = [each for each in study.get("federations", {}).values() if isinstance(each, Mapping)]
    known = sorted({str(each["val"]) for each in settings if "val" in each})
    texts = {
        "local": " Validation is local: a held-out part of each client's own shard.",
        "common": " Assumption: a common, uniform validation set at the server, which few deployments have.",
        "none": " No validation samples are held out.",
    }
    return "".join(texts.get(name, f" Validation: {name}.") for name in known)


def _provenance(table: pd.DataFrame, study: Mapping[str, Any], names: Names) -> str:
    seeds = ", ".join(str(seed) for seed in sorted(table["seed"].unique()))
    facts: dict[str, Any] = {"commit": study.get("commit", "unknown"), "seeds": seeds}
    facts |= {"swept": ", ".join(study["swept"])} if study.get("swept") else {}
    parts = ["<section><h2>Provenance</h2>", _pairs(facts)]
    if names.by_key:
        arms = {name: f"{key} = {spec}" for key, given in names.by_key.items() for spec, name in given.items()}
        parts.append(f"<h3>Names</h3>{_pairs(arms)}")
    for name in ("versions", "hardware"):
        if study.get(name):
            content = study[name] if isinstance(study[name], Mapping) else {name: study[name]}
            parts.append(f"<h3>{name.capitalize()}</h3>{_pairs(content)}")
    if study.get("recipe"):
        text = json.dumps(study["recipe"], indent=2, ensure_ascii=False)
        parts.append(f"<details><summary>Recipe</summary><pre>{escape(text)}</pre></details>")
    if study.get("partitions"):
        parts.append(_partitions(study["partitions"]))
    if not study:
        parts.append("<p>There is no study.json in this folder: recipe, versions and hardware are not known.</p>")
    return "".join([*parts, "</section>"])


def _pairs(content: Mapping[str, Any]) -> str:
    texts = {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in content.items()}
    return f"<dl>{''.join(f'<dt>{escape(key)}</dt><dd>{escape(text)}</dd>' for key, text in texts.items())}</dl>"


def _partitions(partitions: Sequence[Mapping[str, Any]]) -> str:
    names = ["dataset", "partition", "seed", "clients", "transfer", "val", "sha256"]
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(str(entry.get(name, '–')))}</td>" for name in names) + "</tr>"
        for entry in partitions
    )
    return (
        f'<details><summary>Partitions and their hashes</summary><div class="scroll" tabindex="0">'
        f'<table class="hashes"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )
