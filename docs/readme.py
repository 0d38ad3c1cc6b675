"""README.md from nbs/index.ipynb, without Quarto: `python docs/readme.py`, or `--check` to fail where it has drifted.

Markdown cells as they are, code as fenced blocks, outputs as text, Markdown or pictures (written below docs/readme/).
Cells that begin with `#| hide` or `#| default_exp` are left out; `#| echo: false` keeps only the output."""
import argparse
import base64
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def text(value):
    return "".join(value) if isinstance(value, list) else value


def output(out, name, files):
    "One output as Markdown; a picture is added to `files`."
    data = out.get("data", {})
    if "image/png" in data:
        files[name] = base64.b64decode(text(data["image/png"]))
        return f"![{Path(name).stem}](docs/readme/{name})"
    if "text/markdown" in data: return text(data["text/markdown"])
    plain = text(out.get("text") or data.get("text/plain", ""))
    return f"```text\n{plain.rstrip()}\n```" if plain.strip() and out.get("name") != "stderr" else ""


def link(match):
    "A link between notebooks, seen from the root of the repository."
    target = match[2]
    return match[0] if re.match(r"[a-z]+:|#|/", target) or not target.split("#")[0].endswith(".ipynb") else f"{match[1]}nbs/{target})"


def render(path):
    "A notebook as Markdown, and its pictures by name."
    parts, files = [], {}
    for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        lines = text(cell["source"]).split("\n")
        flags = [line for line in lines if line.startswith("#|")]
        if any(re.match(r"#\|\s*(hide|default_exp)", flag) for flag in flags): continue
        source = "\n".join(line for line in lines if not line.startswith("#|")).strip()
        if cell["cell_type"] == "markdown": parts.append(re.sub(r"(\]\()([^)\s]+)\)", link, source))
        elif cell["cell_type"] == "code":
            if source and not any("echo: false" in flag for flag in flags): parts.append(f"```python\n{source}\n```")
            parts += [output(out, f"{path.stem}-{i}-{j}.png", files) for j, out in enumerate(cell["outputs"])]
    return "\n\n".join(part for part in parts if part) + "\n", files


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", nargs="?", type=Path, default=ROOT / "nbs/index.ipynb")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the file or a picture differs")
    a = parser.parse_args()
    markdown, files = render(a.notebook)
    pictures = a.readme.parent / "docs/readme"
    wanted = {a.readme: markdown.encode(), **{pictures / name: data for name, data in files.items()}}
    stale = set(pictures.glob("*.png")) - set(wanted)
    if a.check:
        drifted = [p for p, data in wanted.items() if not p.exists() or p.read_bytes() != data] + sorted(stale)
        if drifted: sys.exit("Not as the notebook says: " + ", ".join(map(str, drifted)) + ". Run: python docs/readme.py")
        return
    for path, data in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in stale: path.unlink()


if __name__ == "__main__": main()
