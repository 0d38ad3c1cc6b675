"""Make README.md from nbs/index.ipynb: `python docs/readme.py`, or `python docs/readme.py --check` to see whether it has drifted."""
import base64
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


def output(cell, number):
    "The outputs of a code cell as Markdown: text as a block, pictures as files in docs/images."
    for i, out in enumerate(cell.outputs):
        data = out.get("data", {})
        if "image/png" in data:
            path = ROOT / "docs" / "images" / f"index-{number}-{i}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(base64.b64decode(data["image/png"]))
            yield f"![]({path.relative_to(ROOT).as_posix()})"
        elif "text/markdown" in data: yield data["text/markdown"]
        elif text := out.get("text") or data.get("text/plain"): yield f"```text\n{text.rstrip()}\n```"


def readme():
    "The text of README.md. Links to notebooks become links from the top of the repository."
    blocks = ["<!-- Made from nbs/index.ipynb by docs/readme.py; edit the notebook. -->"]
    for number, cell in enumerate(nbformat.read(ROOT / "nbs" / "index.ipynb", 4).cells):
        if cell.source.startswith("#| hide"): continue
        shown = not cell.source.startswith("#| echo: false")
        if cell.cell_type == "markdown": blocks.append(re.sub(r"\]\((?!https?:|#|/)([^)]+)\)", r"](nbs/\1)", cell.source))
        elif cell.cell_type == "code": blocks += [f"```python\n{cell.source}\n```"] * shown + list(output(cell, number))
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    text, path = readme(), ROOT / "README.md"
    if "--check" in sys.argv:
        if path.read_text(encoding="utf-8") != text: sys.exit("README.md has drifted from nbs/index.ipynb: run python docs/readme.py")
        print("README.md is what nbs/index.ipynb says.")
    else: path.write_text(text, encoding="utf-8")
