"""Check a built site: every link leads to a page and a place that exist, and nothing is fetched from elsewhere to show a page.

python docs/check_site.py site
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src"}
"""Elements that make a browser fetch something, with the attribute that says what; of `link`, see `Page`."""


class Page(HTMLParser):
    """Links of a page, places that links can lead to, and what a browser fetches for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = {""}
        self.fetched: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the element points to."""
        values = {name: value or "" for name, value in attrs}
        self.places |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.fetched.append(values.get("href", ""))
        elif tag in FETCHED and FETCHED[tag] in values:
            self.fetched.append(values[FETCHED[tag]])


def faults(site: Path) -> list[str]:
    """One line for each link that leads nowhere and each thing that comes from elsewhere."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        if where.name == "404.html":
            continue  # its links are those of a server's root
        for target in page.links + page.fetched:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https") or target.startswith("//"):
                if target in page.fetched:
                    found.append(f"{where}: {target} is fetched from elsewhere")
                continue
            if parts.scheme:  # data:, mailto:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file():
                found.append(f"{where}: {target} does not exist")
            elif file in pages and unquote(parts.fragment) not in pages[file].places:
                found.append(f"{where}: {target}: the page has no such place")
    return found


def main() -> None:
    """Print the faults; status 1 where there are any."""
    site = Path(sys.argv[1])
    found = faults(site)
    print(*found, sep="\n") if found else None
    number = len(list(site.rglob("*.html")))
    print(f"{site}: {number} pages, {len(found)} faults")
    if found or number < 10:
        sys.exit(1)


if __name__ == "__main__":
    main()
