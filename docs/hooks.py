"""What the site needs beyond MkDocs: pages by pattern, formulas without a script, links to files that the site does not hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from latex2mathml.converter import convert
from markdown.extensions.toc import slugify
from mkdocs.exceptions import PluginError

FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|(?<![\\$])\$(?P<line>[^$\n]+)\$", re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>(?!\w+:)[^)#\s]+)(?P<place>#[^)]*)?\)")
PART = re.compile(r"^\[[^\]]*\]\((?P<target>\.\./[^)#\s]+)(?:#(?P<heading>[\w-]+))?\)$", re.MULTILINE)
"""A line that is a link out of docs/ and nothing else: what it leads to is put in its place."""

TOGETHER = re.compile(r"<tr[^>]*>\s*<td>\s*<code>[^<]*,[^<]*</code>.*?</tr>", re.DOTALL)
"""A row of a table that describes several parameters."""


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
    here = PurePosixPath("docs", page.file.src_uri).parent
    whole = _linked(_included(markdown, here, Path(config["docs_dir"]).parent), here, here)
    return _outside(CODE, whole, lambda text: FORMULA.sub(_formula, text))


def on_page_content(html: str, **_: Any) -> str:
    """Parameters that are described together have defaults of their own, in the signature: they are not called required."""
    return TOGETHER.sub(lambda row: row[0].replace("<em>required</em>", ""), html)


def _outside(code: re.Pattern[str], text: str, change: Callable[[str], str]) -> str:
    return "".join(part if k % 2 else change(part) for k, part in enumerate(code.split(text)))


def _included(markdown: str, here: PurePosixPath, root: Path) -> str:
    """Scripts become code; of a document comes what stands under the heading."""

    def part(match: re.Match[str]) -> str:
        target = normpath(str(here / match["target"]))
        text = (root / target).read_text(encoding="utf-8")
        if target.endswith(".py"):
            return f"```python\n{text}```"
        return _linked(_under(match["heading"], text, target), PurePosixPath(target).parent, here)

    return _outside(FENCED, markdown, lambda text: PART.sub(part, text))


def _under(heading: str, text: str, target: str) -> str:
    """What stands under a heading of the second level."""
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        if slugify(title, "-") == heading:
            return body
    raise PluginError(f"{target} has no heading #{heading}")


def _linked(text: str, written: PurePosixPath, here: PurePosixPath) -> str:
    """Links as a page in the folder `here` needs them, of text from the folder `written`."""

    def link(match: re.Match[str]) -> str:
        target = normpath(str(written / match["target"]))
        if target.startswith("docs/"):
            return f"[{match['text']}]({relpath(target, here)}{match['place'] or ''})"
        return f"`{target}`" if target == match["text"].strip("`") else f"{match['text']} (`{target}`)"

    return _outside(FENCED, text, lambda part: LINK.sub(link, part))


def _formula(match: re.Match[str]) -> str:
    whole = match["block"] is not None
    made = convert(" ".join((match["block"] or match["line"]).split()), display="block" if whole else "inline")
    # In a span, since Markdown takes a line that begins with <math> for the end of its paragraph.
    return f"\n<div class='formula'>{made}</div>\n" if whole else f"<span>{made}</span>"
