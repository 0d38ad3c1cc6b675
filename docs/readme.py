"""Make README.md from nbs/index.ipynb: `python docs/readme.py`, or `python docs/readme.py --check` to see whether it
has drifted.
"""

import base64
import posixpath
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
IMAGES = "docs/images"
LINK = re.compile(r"\]\((?!https?:|#|/)([^)]+)\)")  # to a place in the repository


def alt_text(cell) -> str:
    "What a cell's picture shows, in words: its directive `#| fig-alt: …`."
    found = re.search(r"^#\| fig-alt: (.+)$", cell.source, re.MULTILINE)
    if found:
        return found[1]
    sys.exit(f"A cell of nbs/index.ipynb has a picture without words: give it a line '#| fig-alt: …'.\n{cell.source}")


def output(cell, number, files):
    "The outputs of a code cell as Markdown: text as a block, tables as they are, pictures as files in docs/images."
    pictured = any("image/png" in out.get("data", {}) for out in cell.outputs)
    for i, out in enumerate(cell.outputs):
        data = out.get("data", {})
        if "image/png" in data:
            path = f"{IMAGES}/index-{number}-{i}.png"
            files[path] = base64.b64decode(data["image/png"])
            yield f"![{alt_text(cell)}]({path})"
        elif "text/markdown" in data:
            yield LINK.sub(from_top, data["text/markdown"])
        elif pictured:  # the text beside a picture is the name of its class
            continue
        elif text := out.get("text") or data.get("text/plain"):
            yield f"```text\n{text.rstrip()}\n```"


def from_top(match):
    "A link of the notebook as one from the top of the repository."
    return f"]({posixpath.normpath(posixpath.join('nbs', match.group(1)))})"


def code(cell) -> str:
    "The code of a cell, without its directives."
    return re.sub(r"^#\|.*\n", "", cell.source, flags=re.MULTILINE).strip()


def readme() -> dict[str, bytes]:  # path from the top of the repository → content
    "README.md and its pictures."
    blocks = ["<!-- Made from nbs/index.ipynb by docs/readme.py; edit the notebook. -->"]
    files = {}
    for number, cell in enumerate(nbformat.read(ROOT / "nbs" / "index.ipynb", 4).cells):
        if cell.source.startswith("#| hide"):
            continue
        if cell.cell_type == "markdown":
            blocks.append(LINK.sub(from_top, cell.source))
        elif cell.cell_type == "code":
            if not cell.source.startswith("#| echo: false"):
                blocks.append(f"```python\n{code(cell)}\n```")
            blocks += output(cell, number, files)
    return {**files, "README.md": ("\n\n".join(blocks) + "\n").encode()}


def left_over(files) -> list[Path]:
    "Pictures of an earlier README."
    return [path for path in (ROOT / IMAGES).glob("index-*.png") if path.relative_to(ROOT).as_posix() not in files]


def write(files):
    for name, content in files.items():
        path = ROOT / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    for path in left_over(files):
        path.unlink()


def check(files):
    "End with a message where a file is not what the notebook says."
    drifted = [
        name for name, content in files.items() if not (ROOT / name).exists() or (ROOT / name).read_bytes() != content
    ]
    drifted += [path.relative_to(ROOT).as_posix() for path in left_over(files)]
    if drifted:
        sys.exit(f"{', '.join(drifted)} drifted from nbs/index.ipynb: run python docs/readme.py")
    print("README.md is what nbs/index.ipynb says.")


if __name__ == "__main__":
    check(readme()) if "--check" in sys.argv else write(readme())
