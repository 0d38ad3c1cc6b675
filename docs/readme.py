"""Make README.md from nbs/index.ipynb: `python docs/readme.py`, or `python docs/readme.py --check` to see whether it has drifted."""
import base64
import posixpath
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


def output(cell, number, files):
    "The outputs of a code cell as Markdown: text as a block, tables as they are, pictures as files in docs/images."
    for i, out in enumerate(cell.outputs):
        data = out.get("data", {})
        if "image/png" in data:
            path = f"docs/images/index-{number}-{i}.png"
            files[path] = base64.b64decode(data["image/png"])
            yield f"![picture]({path})"
        elif "text/markdown" in data: yield data["text/markdown"]
        elif text := out.get("text") or data.get("text/plain"): yield f"```text\n{text.rstrip()}\n```"


def from_top(match):
    "A link of the notebook as one from the top of the repository."
    return f"]({posixpath.normpath(posixpath.join('nbs', match.group(1)))})"


def readme() -> dict:  # path from the top of the repository → content
    "README.md and its pictures."
    blocks, files = ["<!-- Made from nbs/index.ipynb by docs/readme.py; edit the notebook. -->"], {}
    for number, cell in enumerate(nbformat.read(ROOT / "nbs" / "index.ipynb", 4).cells):
        if cell.source.startswith("#| hide"): continue
        if cell.cell_type == "markdown": blocks.append(re.sub(r"\]\((?!https?:|#|/)([^)]+)\)", from_top, cell.source))
        elif cell.cell_type == "code":
            if not cell.source.startswith("#| echo: false"): blocks.append(f"```python\n{cell.source}\n```")
            blocks += output(cell, number, files)
    return {**files, "README.md": ("\n\n".join(blocks) + "\n").encode()}


if __name__ == "__main__":
    for name, content in readme().items():
        path = ROOT / name
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        elif not path.exists() or path.read_bytes() != content: sys.exit(f"{name} has drifted from nbs/index.ipynb: run python docs/readme.py")
    if "--check" in sys.argv: print("README.md is what nbs/index.ipynb says.")
