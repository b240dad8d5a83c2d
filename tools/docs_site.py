"""What mkdocs needs beside docs/: the README as the first page, and files that pages link to.

mkdocs calls `on_files` and `on_page_markdown` (mkdocs.yml, `hooks`). A link to a folder of the tree
becomes plain text, as a site has no listing of it.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
TREE = "tree"


def in_tree(page: Path, target: str) -> Path:
    """Return the file of the repository that a page's link names."""
    return (page.parent / target).resolve()


def pages() -> list[Path]:
    """Return the Markdown files that make the site."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def links(page: Path) -> list[tuple[Path, str]]:
    """Return the file, and the anchor or "", of each of a page's links within the repository."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return [(in_tree(page, m[2]), (m[3] or "").lstrip("#")) for m in LINK.finditer(text)]


def on_files(files: Any, config: Any) -> Any:
    """Add the README and what pages link to outside docs/."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    outside = {file for page in pages() for file, _ in links(page)}
    for file in sorted(outside):
        if file.is_file() and file.parent != ROOT / "docs" and file != ROOT / "README.md":
            name = f"{TREE}/{file.relative_to(ROOT)}"
            name += ".txt" if file.suffix == ".md" else ""  # no page of the site
            files.append(File.generated(config, name, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point a page's links to the places that files have in the site."""
    source = ROOT / (
        "README.md" if page.file.src_uri == "index.md" else f"docs/{page.file.src_uri}"
    )

    def placed(match: re.Match[str]) -> str:
        file, anchor = in_tree(source, match[2]), match[3] or ""
        if file == ROOT / "README.md":
            return f"[{match[1]}](index.md{anchor})"
        if file.parent == ROOT / "docs":
            return f"[{match[1]}]({file.name}{anchor})"
        if not file.is_file():
            return match[1]
        end = ".txt" if file.suffix == ".md" else ""
        return f"[{match[1]}]({TREE}/{file.relative_to(ROOT)}{end})"

    return LINK.sub(placed, markdown)
