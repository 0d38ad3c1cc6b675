"""Make the site in _site/ from the notebooks: `python docs/build.py`, then `python -m http.server -d _site`. No
notebook is run.
"""

import ast
import base64
import html
import logging
import os
import re
import shutil
import sys
import tempfile
from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import nbformat

import api

os.environ["NO_MKDOCS_2_WARNING"] = "1"
from mkdocs.commands.build import build  # noqa: E402
from mkdocs.config import load_config  # noqa: E402
from mkdocs.exceptions import Abort  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
SECTIONS = {  # of the navigation: notebooks by pattern, in order
    "Start": ["index.ipynb"],
    "Experiments": [
        "run.ipynb", "features.ipynb", "bo.ipynb", "cross.ipynb", "results.ipynb", "comparison.ipynb", "regimes.ipynb",
        "tutorial.ipynb",
    ],
    "The run": ["[01][0-9]_*.ipynb"],
    "Strategies": ["strategies/*.ipynb"],
    "Hyperparameter search": ["bo/*.ipynb"],
    "Studies": ["studies/*.ipynb"],
    "Results": ["results/*.ipynb"],
    "Cluster": ["slurm/*.ipynb"],
    "Reports": ["reports/*.ipynb"],
    "Benchmarks": ["benchmarks/*.ipynb"],
}


def settings():
    "settings.ini, with its `%(name)s` filled in."
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


BLOB = f"{settings()['git_url']}/blob/{settings()['branch']}"


def navigation(paths):
    "The sections as mkdocs wants them. A notebook that has no section is an error, for nobody would find it."
    nav, left = [], sorted(paths)
    for section, patterns in SECTIONS.items():
        found = list(dict.fromkeys(p for pattern in patterns for p in left if fnmatch(p, pattern)))
        left = [p for p in left if p not in found]
        if found:
            nav.append({section: [{"Overview": page_of(p)} if p == "index.ipynb" else page_of(p) for p in found]})
    if left:
        raise SystemExit(
            f"No section of the navigation for {', '.join(left)}: add a pattern to SECTIONS in docs/build.py."
        )
    return nav


def page_of(path):
    return str(PurePosixPath(path).with_suffix(".md"))


def relative(target, page):
    return os.path.relpath(target, PurePosixPath(page).parent).replace(os.sep, "/")


def directives(cell):
    return set(re.findall(r"^#\|\s*(\w+)", cell.source, re.MULTILINE)) if cell.cell_type == "code" else set()


def exported(nb):
    return [c for c in nb.cells if directives(c) & {"export", "exports"}]


def symbols(notebooks):
    "What `name` in a text links to: name → page and anchor, for names that only one notebook exports."
    found = {}
    for path, nb in notebooks.items():
        for name, node in (item for cell in exported(nb) for item in api.public(code_of(cell)).items()):
            for key in {name, node.name}:
                found.setdefault(key, set()).add((page_of(path), node.name))
    return {name: places.pop() for name, places in found.items() if len(places) == 1}


def code_of(cell):
    return re.sub(r"^#\|.*\n?", "", cell.source, flags=re.MULTILINE).strip()


def words_of(cell):
    "What a cell's picture shows, as its directive `#| fig-alt: …` has it."
    found = re.search(r"^#\| fig-alt: (.+)$", cell.source, re.MULTILINE)
    return found[1] if found else ""


def joined(outputs):
    "Outputs, with texts that were printed one after the other in one piece."
    found = []
    for output in outputs:
        if found and output.get("text") and found[-1].get("text"):
            found[-1] = {"text": found[-1]["text"] + output["text"]}
        else:
            found.append(output)
    return found


class Pages:
    "Writes the Markdown page of each notebook below `folder`."

    def __init__(self, notebooks, folder):
        self.notebooks, self.folder, self.symbols = notebooks, Path(folder), symbols(notebooks)

    def write(self, path):
        "The page of one notebook, with its pictures beside it."
        nb, self.page, self.pictures = self.notebooks[path], page_of(path), 0
        file = self.folder / self.page
        file.parent.mkdir(parents=True, exist_ok=True)
        if not nb.cells[0].source.startswith("# "):
            raise SystemExit(f"nbs/{path} must begin with a title, '# …', got {nb.cells[0].source[:40]!r}.")
        self.named = set().union(*(api.named(code_of(c)) for c in nb.cells if c.cell_type == "code"))
        url = self.source_of(
            next((m[1] for c in nb.cells if (m := re.search(r"^#\|\s*default_exp (\S+)", c.source))), None)
        )
        blocks = [block for cell in nb.cells for block in self.cell(cell, url)]
        title, _, rest = blocks[0].partition("\n")
        blocks[0] = f"{title}\n\n[notebook]({BLOB}/nbs/{path}){{ .source }}\n{rest}"
        file.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")

    def source_of(self, module):
        "A function: where on the web the source of a syntax tree's symbol lies."
        file = Path("dal_nb", *(module or "").split(".")).with_suffix(".py")
        lines = (
            {n.name: n.lineno for n in ast.parse((ROOT / file).read_text(encoding="utf-8")).body if hasattr(n, "name")}
            if module
            else {}
        )
        return lambda node: f"{BLOB}/{file.as_posix()}#L{lines[node.name]}"

    def cell(self, cell, url):
        "The Markdown blocks of one cell."
        flags, code = directives(cell), code_of(cell)
        if cell.cell_type == "markdown":
            yield self.linked(cell.source)
        elif cell.cell_type != "code" or flags & {"hide", "default_exp"} or not code:
            return
        elif flags & {"export", "exports", "exporti"}:
            if not api.only_imports(code):
                yield self.linked(api.block(code, url))
        else:
            if "echo" not in flags:
                yield f"```python\n{code}\n```"
            for output in joined(cell.outputs):
                yield self.output(output, words_of(cell))

    def output(self, output, words):
        "A stored output: table, picture, or text."
        data = output.get("data", {})
        if "image/png" in data:
            return self.picture(base64.b64decode(data["image/png"]), words)
        if "text/html" in data:  # pandas' own style and class keep the site's from its tables
            styles = r"<style scoped>.*?</style>|\s(border|class|style)=\"[^\"]*\""
            table = re.sub(styles, "", data["text/html"], flags=re.DOTALL).strip()
            table = re.sub(r"<td>([^<]{30,})</td>", r'<td class="long">\1</td>', table)
            return f'<div class="output">\n{table}\n</div>' if table else ""
        if markdown := data.get("text/markdown"):
            return self.linked(markdown.replace(" ± ", "\u00a0±\u00a0"))  # a cell stays on its line
        text = output.get("text") or data.get("text/plain") or ""
        return f"```{{ .text .output }}\n{text.rstrip()}\n```" if text.strip() else ""

    def picture(self, png, words):
        "Write a picture, and the tag that shows it in its own size and says in words what it shows."
        self.pictures += 1
        file = (self.folder / self.page).with_suffix(f".{self.pictures}.png")
        file.write_bytes(png)
        width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
        size = f'width="{width}" height="{height}" loading="lazy"'
        words = html.escape(words or f"Picture {self.pictures} of this notebook")
        return f'<p class="output"><img src="{file.name}" {size} alt="{words}"></p>'

    def linked(self, text):
        "Links lead to the pages of notebooks, other files to the repository, `name` of a symbol to its documentation."
        here = PurePosixPath("nbs", self.page).parent

        def target(m):
            path, _, anchor = m[1].partition("#")
            file = PurePosixPath(os.path.normpath(here / path))
            if path.endswith(".ipynb"):
                return f"]({page_of(path)}{'#' + anchor if anchor else ''})"
            return f"]({BLOB}/{file})" if (ROOT / file).exists() else m[0]

        def symbol(m):
            ordinary = (
                re.fullmatch("[a-z]+", m[2]) and m[2] not in self.named
            )  # a word like `published`, unless this notebook uses the symbol
            if m[1] or ordinary or m[2] not in self.symbols:
                return m[0]
            page, anchor = self.symbols[m[2]]
            return f"[{m[0]}]({relative(page, self.page) if page != self.page else ''}#{anchor})"

        def line(text):
            if text.startswith("#"):
                return text
            text = re.sub(r"\]\((?!https?:|#|/)([^)\s]+)\)", target, text)
            return re.sub(r"(\[[^\]]*)?`([\w.]+)(?:\(\))?`", symbol, text)

        fenced, lines = False, []
        for one in text.splitlines():
            fence = one.lstrip().startswith("```")
            lines.append(one if fenced or fence else line(one))
            fenced ^= fence
        return "\n".join(lines)


def main():
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # what strict counts
    paths = sorted(
        p.relative_to(NBS).as_posix()
        for p in NBS.rglob("*.ipynb")
        if not any(part[0] in "._" or part == "runs" for part in p.relative_to(NBS).parts)
    )
    notebooks = {p: nbformat.read(NBS / p, 4) for p in paths}
    with tempfile.TemporaryDirectory() as folder:
        pages = Pages(notebooks, folder)
        for path in notebooks:
            pages.write(path)
        shutil.copy(ROOT / "docs" / "style.css", folder)
        config = load_config(
            str(ROOT / "docs" / "mkdocs.yml"),
            docs_dir=folder,
            site_dir=str(ROOT / "_site"),
            nav=navigation(paths),
            strict=True,
        )
        config.plugins.on_startup(command="build", dirty=False)
        try:
            build(config)
        except Abort as error:
            sys.exit(f"The site is not built. {error}")
    print(f"{len(paths)} notebooks in {ROOT / '_site'}")


if __name__ == "__main__":
    main()
