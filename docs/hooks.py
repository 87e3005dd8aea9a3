"""What the site needs beyond MkDocs: pages by pattern, formulas without a script, links to files that the site does not hold."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from latex2mathml.converter import convert

CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|(?<![\\$])\$(?P<line>[^$\n]+)\$", re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>(?!\w+:)[^)#\s]+)(?P<place>#[^)]*)?\)")
PART = re.compile(r'^--8<-- "(?P<file>[^":]+\.md):(?P<section>\w+)"$', re.MULTILINE)


def on_config(config: Any) -> Any:
    """Put the pages that there are in place of the patterns of the navigation."""
    folder = Path(config["docs_dir"])
    pages = sorted(str(page.relative_to(folder)) for page in folder.rglob("*.md"))
    sections = [next(iter(entry.items())) for entry in config["nav"]]
    named = {page for _, items in sections for page in ([items] if isinstance(items, str) else items)}
    config["nav"] = [
        {title: items if isinstance(items, str) else [page for item in items for page in _matching(item, pages, named)]}
        for title, items in sections
    ]
    return config


def _matching(item: str, pages: list[str], named: set[str]) -> list[str]:
    """A page that exists, or all that a pattern takes: those of its own folder that are not named."""
    if "*" not in item:
        return [item] if item in pages else []
    folder = PurePosixPath(item).parent
    return [
        page for page in pages if fnmatch(page, item) and PurePosixPath(page).parent == folder and page not in named
    ]


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Parts of other documents are put in, links out of docs/ become paths in the repository, formulas become MathML."""
    root = Path(config["docs_dir"]).parent
    here = PurePosixPath("docs", page.file.src_uri).parent

    def part(match: re.Match[str]) -> str:
        marks = [f"<!-- --8<-- [{end}:{match['section']}] -->" for end in ("start", "end")]
        text = (root / match["file"]).read_text(encoding="utf-8")
        return _linked(text.split(marks[0])[1].split(marks[1])[0], PurePosixPath(match["file"]).parent, here)

    parts = CODE.split(PART.sub(part, _linked(markdown, here, here)))
    return "".join(text if k % 2 else FORMULA.sub(_formula, text) for k, text in enumerate(parts))


def _linked(text: str, written: PurePosixPath, here: PurePosixPath) -> str:
    """Links as a page in the folder `here` needs them, of text from the folder `written`."""

    def link(match: re.Match[str]) -> str:
        target = normpath(str(written / match["target"]))
        if target.startswith("docs/"):
            return f"[{match['text']}]({relpath(target, here)}{match['place'] or ''})"
        return f"`{target}`" if target == match["text"].strip("`") else f"{match['text']} (`{target}`)"

    return LINK.sub(link, text)


def _formula(match: re.Match[str]) -> str:
    whole = match["block"] is not None
    made = convert(" ".join((match["block"] or match["line"]).split()), display="block" if whole else "inline")
    # In a span, since Markdown takes a line that begins with <math> for the end of its paragraph.
    return f"\n<div class='formula'>{made}</div>\n" if whole else f"<span>{made}</span>"
