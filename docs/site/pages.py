"""The pages of the site that are no files of docs/, and its navigation.

A hook of mkdocs, named in mkdocs.yml. What a page shows is written once, elsewhere: README.md is
the home page, notebooks/ has the notebooks and their results, the public page of the library
(`__init__.pyi`, and `__init__.py` of a namespace) the list of the reference. Links between files of
the repository are turned into links between pages. After the build every link of the finished HTML
is followed.
"""

from __future__ import annotations

import ast
import base64
import html
import json
import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "interp"
log = logging.getLogger("mkdocs.hooks.pages")

# Files of the repository that are pages under another name.
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/README.md": "measured.md",
    "docs/plugin_template": "plugin_template.md",
    "notebooks": "notebooks/index.md",
}
PROJECT = ("architecture.md", "contributing.md", "plugin_template.md", "changelog.md")
FIRST = ("index", "interp")
BARE = "show_root_heading: false, show_root_toc_entry: false"  # the page has a heading of its own
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"^(```|~~~).*?^\1[ ]*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


# ---- links -------------------------------------------------------------------------------------


def page_of(path: str) -> str | None:
    """The page that shows a file of the repository, or None where none does.

    >>> page_of("README.md"), page_of("docs/images/her.png"), page_of("interp/errors.py")
    ('index.md', 'images/her.png', None)
    """
    path = path.rstrip("/")
    if path in PAGES:
        return PAGES[path]
    if path.startswith("notebooks/"):
        return str(Path(path).with_suffix(".md"))
    return path.removeprefix("docs/") if path.startswith("docs/") else None


def relinked(text: str, source: str, page: str) -> str:
    """The Markdown of a file of the repository with its links as links from a page of the site.

    A link to a file that is no page loses its target and keeps its text; one to a file that is not
    there stays as it is, so that the build refuses it.

    >>> relinked("[a](docs/a.md#b), [c](interp/errors.py)", "README.md", "sub/x.md")
    '[a](../a.md#b), c'
    """

    def link(match: re.Match[str]) -> str:
        mark, words, url = match.groups()
        words = LINK.sub(link, words)
        parts = urlsplit(url)
        if parts.scheme or not parts.path:
            return f"{mark}[{words}]({url})"
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), parts.path))
        target = page_of(path)
        if target is None:
            return words if (ROOT / path).exists() else f"{mark}[{words}]({url})"
        target = posixpath.relpath(target, posixpath.dirname(page) or ".")
        return f"{mark}[{words}]({target}{'#' + parts.fragment if parts.fragment else ''})"

    out, end = [], 0
    for code in CODE.finditer(text):  # what looks like a link in code is none
        out += [LINK.sub(link, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*out, LINK.sub(link, text[end:])])


# ---- pages -------------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """Every page that is made, by its path: Markdown."""
    made = {page: _read(path, page) for path, page in PAGES.items() if path.endswith(".md")}
    made["plugin_template.md"] = template_page()
    sources = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
    for path in sources:
        made[f"notebooks/{path.stem}.md"] = notebook_page(path)
    made["notebooks/index.md"] = notebook_index(sources)
    return made | reference()


def _read(path: str, page: str) -> str:
    return relinked((ROOT / path).read_text(encoding="utf-8"), path, page)


def template_page() -> str:
    """The plug-in template: what its README says, and every file of it."""
    folder = DOCS / "plugin_template"
    parts = [(folder / "README.md").read_text(encoding="utf-8").rstrip()]
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".toml")):
        language = {".py": "python", ".toml": "toml"}[path.suffix]
        text = path.read_text(encoding="utf-8").rstrip()
        parts.append(f"## {path.relative_to(folder)}\n\n```{language}\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def cells(text: str) -> Iterator[tuple[str, str]]:
    """The cells of a notebook in the percent format: kind ("markdown", "code") and text.

    >>> list(cells("# ---\\n# %% [markdown]\\n# # Title\\n#\\n# Text.\\n\\n# %%\\nx = 1\\n"))
    [('markdown', '# Title\\n\\nText.'), ('code', 'x = 1')]
    """
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        if "[markdown]" in head:
            yield "markdown", re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip()
        else:
            yield "code", body.strip()


def notebook_page(path: Path) -> str:
    """A notebook as text, code, and the results that are stored with it."""
    results = stored_results(path)
    shown = []
    for i, (kind, text) in enumerate(cells(path.read_text(encoding="utf-8"))):
        if kind == "markdown":
            shown.append(relinked(text, f"notebooks/{path.name}", f"notebooks/{path.name}"))
        else:
            shown.append(f"```python\n{text}\n```")
        shown += [result_shown(r, picture_name(path, i, k)) for k, r in enumerate(results[i])]
    where = f"*The notebook is `notebooks/{path.stem}.ipynb`; its results are stored with it.*"
    return "\n\n".join([shown[0], where, *shown[1:]]) + "\n"


def stored_results(path: Path) -> list[list[dict[str, Any]]]:
    """What each cell of a notebook gave when docs/notebooks.py ran it, in the form of an .ipynb."""
    notebook = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))
    return [cell.get("outputs", []) for cell in notebook["cells"]]


def picture_name(path: Path, cell: int, result: int) -> str:
    """The file of a picture, beside the page of its notebook."""
    return f"{path.stem}_{cell:02d}_{result}.png"


def result_shown(result: dict[str, Any], picture: str) -> str:
    """A stored result as Markdown; a picture is a link to its file.

    >>> result_shown({"output_type": "stream", "text": ["a\\n", "b"]}, "")
    '```text\\na\\nb\\n```'
    """
    data = result.get("data", {})
    if "image/png" in data:
        says = html.escape("".join(data["text/plain"]))
        return f'<p><img src="{picture}" alt="{says}"></p>'
    if "text/html" in data:
        return f'<div class="notebook-result">\n{"".join(data["text/html"])}\n</div>'
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    return f"```text\n{''.join(data.get('text/plain', result.get('text', ''))).rstrip()}\n```"


def pictures() -> dict[str, bytes]:
    """The pictures of all notebooks by their path."""
    return {
        f"notebooks/{picture_name(path, i, k)}": base64.b64decode(result["data"]["image/png"])
        for path in sorted((ROOT / "notebooks").glob("[0-9]*.py"))
        for i, results in enumerate(stored_results(path))
        for k, result in enumerate(results)
        if "image/png" in result.get("data", {})
    }


def title_of(text: str) -> str:
    """The first heading of a page, as text."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1] if found else ""


def notebook_index(sources: list[Path]) -> str:
    """A list of the notebooks by title."""
    lines = [f"- [{title_of(notebook_page(p))}]({p.stem}.md)" for p in sources]
    about = (
        "Each has the question, the formula, the figure, its control, and what it does not show. "
        "They run on the embedded models as they are; put another name in the first line."
    )
    return "# Notebooks\n\n" + about + "\n\n" + "\n".join(lines) + "\n"


# ---- reference ---------------------------------------------------------------------------------


def exported(path: Path, package: str) -> dict[str, str]:
    """Names that a public page imports, with the module that each comes from.

    >>> exported(PACKAGE / "__init__.pyi", "interp")["run"]
    'interp.runs.run'
    """
    found: dict[str, str] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            module = f"{package}.{node.module}" if node.level else str(node.module)
            module = package if node.module is None else module
            found |= {alias.asname: module for alias in node.names if alias.asname}
    return found


def reference() -> dict[str, str]:
    """The pages of the reference: the names at the top, and each namespace."""
    top = exported(PACKAGE / "__init__.pyi", "interp")
    spaces = sorted(name for name, module in top.items() if module == "interp")
    names = {name: module for name, module in top.items() if module != "interp"}
    made = {"reference/index.md": _index(spaces)}
    made["reference/interp.md"] = _page("interp", names, {})
    for space in spaces:
        page = PACKAGE / space / "__init__.py"
        own = exported(page, f"interp.{space}") if page.is_file() else {}
        text = _page(f"interp.{space}", own, names) if own else _room(space)
        made[f"reference/{space}.md"] = text
    return made


def _index(spaces: list[str]) -> str:
    rows = [f"| [`interp`](interp.md) | {summary(PACKAGE / '__init__.py')} |"]
    rows += [f"| [`interp.{s}`]({s}.md) | {summary(_source(s))} |" for s in spaces]
    head = "# Reference\n\nEvery public name, from its docstring.\n\n| page | about |\n|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _source(space: str) -> Path:
    folder = PACKAGE / space
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def summary(path: Path) -> str:
    """The first line of a module's docstring."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.split("\n\n")[0].replace("\n", " ")


def _page(space: str, own: dict[str, str], top: dict[str, str]) -> str:
    """A public page with its names in the order of the file; those at the top are shown there."""
    parts = [_head(space)]
    for name, module in own.items():
        if top.get(name) == module:
            parts.append(f"## `{name}`\n\nSee [`interp.{name}`][interp.{name}].")
        else:
            parts.append(f"::: {space}.{name}")
    return "\n\n".join(parts) + "\n"


def _room(space: str) -> str:
    """A room that lists no names: what its modules define."""
    folder = PACKAGE / space
    if not folder.is_dir():
        return f"# interp.{space}\n\n::: interp.{space}\n    options: {{{BARE}}}\n"
    modules = sorted(p for p in folder.rglob("*.py") if not p.name.startswith("_"))
    dotted = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in modules]
    options = f"options: {{{BARE}, heading_level: 3}}"
    shown = [f"## `{name}`\n\n::: {name}\n    {options}" for name in dotted]
    return "\n\n".join([_head(f"interp.{space}"), *shown]) + "\n"


def _head(space: str) -> str:
    return f"# {space}\n\n::: {space}\n    options: {{members: false, {BARE}}}"


# ---- navigation --------------------------------------------------------------------------------


def navigation(made: dict[str, str]) -> list[Any]:
    """The tabs and their pages, by what is there."""

    def under(folder: str) -> list[str]:
        """Files of docs/ and made pages in a folder; the page of the whole comes first."""
        there = [p.relative_to(DOCS).as_posix() for p in (DOCS / folder).glob("*.md")]
        there += [page for page in made if posixpath.dirname(page) == folder]
        return sorted(there, key=lambda p: (Path(p).stem not in FIRST, p))

    guide = sorted(p.name for p in DOCS.glob("*.md") if p.name != "README.md")
    parts = [{"Analyses": under("analyses")}, {"Experiments": under("experiments")}]
    return [
        {"Home": "index.md"},
        {"Guide": guide},
        {"Measured": ["measured.md", *parts]},
        {"Notebooks": under("notebooks")},
        {"Reference": under("reference")},
        {"Project": list(PROJECT)},
    ]


# ---- what mkdocs calls ---------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Set the navigation."""
    config.nav = navigation(pages())
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made; docs/README.md is one of them under another name."""
    from mkdocs.structure.files import File

    files.remove(files.get_file_from_path("README.md"))
    for path, content in (pages() | pictures()).items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the links of a file of docs/ into links between pages."""
    path = page.file.src_uri
    return markdown if page.file.generated_by else relinked(markdown, f"docs/{path}", path)


def on_post_build(config: Any) -> None:
    """Follow every link of the finished pages; a warning, so that `--strict` fails on it."""
    for problem in problems(Path(config.site_dir)):
        log.warning(problem)


# ---- links of the finished pages -----------------------------------------------------------------

ATTRIBUTE = re.compile(r"<(\w+)\b[^>]*?\s(href|src)=(?:\"([^\"]*)\"|([^\s>]+))")
ANCHOR = re.compile(r"\s(?:id|name)=(?:\"([^\"]*)\"|([^\s>]+))")


def problems(site: Path) -> list[str]:
    """What is wrong with the links of a built site, in sentences.

    A link within the site leads to a file, and its fragment to an element there; nothing is
    fetched from elsewhere when a page is opened.
    """
    texts = {p: p.read_text(encoding="utf-8") for p in sorted(site.rglob("*.html"))}
    anchors = {p: {html.unescape(a or b) for a, b in ANCHOR.findall(t)} for p, t in texts.items()}
    found = []
    for path, text in texts.items():
        where = path.relative_to(site)
        if path.name == "404.html":  # its links are from the root of a server
            continue
        for tag, _, quoted, bare in ATTRIBUTE.findall(text):
            url = html.unescape(quoted or bare)
            what = _wrong(path, tag, url, anchors)
            if what:
                found.append(f"{where}: <{tag}> {url}: {what}")
    return found


def _wrong(path: Path, tag: str, url: str, anchors: dict[Path, set[str]]) -> str:
    parts = urlsplit(url)
    if parts.scheme == "data":
        return ""
    if parts.scheme or parts.netloc:
        return "" if tag == "a" else "is fetched from elsewhere"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "leads to no file"
    fragment = unquote(parts.fragment)
    if fragment and target in anchors and fragment not in anchors[target]:
        return "leads to no element"
    return ""
