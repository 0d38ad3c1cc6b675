"""The code is to be read: rules for the exported modules that no linter has, the order of the rooms, and how a
notebook opens.
"""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = [p for p in sorted((ROOT / "dal_nb").rglob("*.py")) if p.name not in ("_modidx.py", "__init__.py")]
NOTEBOOKS = [
    p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if not {".ipynb_checkpoints", "runs", "records"} & set(p.parts)
]
ENDS = (ast.Raise, ast.Return, ast.Continue, ast.Break)
ROOMS = ("", "strategies", "", "bo", "studies", "results", "slurm")  # each uses only what stands before it


def short(path):
    return path.relative_to(ROOT).as_posix()


def on_one_line(node, body):
    return body and body[0].lineno == node.lineno


def broken_rules(node):
    "What of the reading rules a syntax node breaks."
    if isinstance(node, ast.Assign):
        if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield "two assignments on a line"
        if len(node.targets) > 1:
            yield "a chained assignment"
        if isinstance(node.value, ast.Lambda) and isinstance(node.targets[0], ast.Name):
            yield "a lambda with a name: use def"
    if isinstance(node, ast.If) and on_one_line(node, node.body) and not isinstance(node.body[0], ENDS):
        yield "a one-line if that neither raises nor returns"
    if isinstance(node, ast.For | ast.While | ast.With) and on_one_line(node, node.body):
        yield "a one-line block"
    if isinstance(node, ast.Try) and on_one_line(node, node.body):
        yield "a one-line try"
    if isinstance(node, ast.ExceptHandler) and on_one_line(node, node.body):
        if not isinstance(node.body[0], (*ENDS, ast.Pass)):
            yield "a one-line except that does something"
    if isinstance(node, ast.FunctionDef) and on_one_line(node, node.body):
        first = node.body[0]
        stub = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)  # a docstring, or ...
        if not stub and not isinstance(first, ast.Return | ast.Raise):
            yield "a one-line def that neither returns nor raises"
    for body in (getattr(node, "body", None), getattr(node, "orelse", None)):
        if isinstance(body, list) and any(a.end_lineno == b.lineno for a, b in zip(body, body[1:])):
            yield "two statements on a line"


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_a_module_can_be_read(path):
    lines = path.read_text().splitlines()
    found = [
        f"{short(path)}:{n}: {len(line)} characters, at most 120"
        for n, line in enumerate(lines, 1)
        if len(line) > 120 and not line.startswith("# %%")
    ]
    for node in ast.walk(ast.parse("\n".join(lines))):
        found += [f"{short(path)}:{node.lineno}: {rule}" for rule in broken_rules(node)]
    assert not found, "\n".join(found)


def names_used(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"\w+", node.value)


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_a_module_imports_what_it_uses(path):
    tree = ast.parse(path.read_text())
    exported = next(
        (ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__"), []
    )
    used = {*names_used(tree), *exported}
    unused = [
        (a.asname or a.name).split(".")[0]
        for n in tree.body
        if isinstance(n, ast.Import | ast.ImportFrom)
        for a in n.names
    ]
    unused = [name for name in unused if name not in used]
    assert not unused, (
        f"{short(path)} imports {', '.join(unused)} for nothing: tests have a cell of imports of their own"
    )


def imports_of(path):
    "The modules of the package that a module imports, also inside its functions."
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            if module[:1] == ["dal_nb"]:
                yield ".".join(module)
                yield from (".".join([*module, a.name]) for a in node.names)


GRAPH = {".".join(p.relative_to(ROOT).with_suffix("").parts): set(imports_of(p)) for p in MODULES}
GRAPH = {name: {other for other in found if other in GRAPH and other != name} for name, found in GRAPH.items()}


def test_no_circle_between_modules():
    def walk(name, way):
        assert name not in way, f"a circle: {' -> '.join([*way[way.index(name) :], name])}"
        if name in done:
            return
        for other in sorted(GRAPH[name]):
            walk(other, [*way, name])
        done.add(name)

    done = set()
    for name in GRAPH:
        walk(name, [])


def room_of(module):
    "The package of a module; the command line of the tables is a part of the results."
    if module == "dal_nb.tables":
        return "results"
    return module.split(".")[1] if module.count(".") > 1 else ""


def test_rooms_use_what_stands_before_them():
    order = list(
        dict.fromkeys(ROOMS[2:])
    )  # the run, bo, studies, results, slurm; strategies and the run are one storey
    for name, found in GRAPH.items():
        for other in found:
            here, there = (("" if room_of(m) == "strategies" else room_of(m)) for m in (name, other))
            assert order.index(there) <= order.index(here), f"{name} imports {other}"
    below = {m for m in GRAPH if room_of(m) == "strategies"}
    for name in below:
        for other in GRAPH[name]:
            assert other in below or other in ("dal_nb.lookup", "dal_nb.config"), (
                f"{name} imports {other}: strategies see outputs only"
            )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=short)
def test_a_notebook_opens_with_its_idea(path):
    cells = json.loads(path.read_text())["cells"]
    first = "".join(cells[0]["source"])
    assert re.match(r"# \S.*\n\n?> \S", first), (
        f"{short(path)} must begin with '# Title' and '> one sentence', got {first[:60]!r}"
    )
    errors = [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    assert not errors, f"{short(path)} has the output of an error in it"


@pytest.mark.parametrize("text", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "slurm/README.md"])
def test_links_lead_somewhere_and_pictures_have_words(text):
    path = ROOT / text
    found = re.findall(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)[^)]*\)", path.read_text())
    lost = [target for _, _, target in found if not (path.parent / target).exists()]
    assert not lost, f"{text} has links to {', '.join(lost)}, which are not there"
    mute = [target for picture, words, target in found if picture and len(words) < 20]
    assert not mute, f"{text} shows {', '.join(mute)} without saying in words what it is"


def test_the_readme_names_every_notebook():
    text = (ROOT / "README.md").read_text()
    missing = [short(p) for p in NOTEBOOKS if f"({short(p)})" not in text and p.name != "index.ipynb"]
    assert not missing, f"README.md (from nbs/index.ipynb) does not name {', '.join(missing)}"
