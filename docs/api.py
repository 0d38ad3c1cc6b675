"""The API of exported code as Markdown: heading, signature, docstring, a table of the parameters, source. Nothing is imported or run."""

import ast
import io
import re
import tokenize
from textwrap import indent

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def public(source):
    "The public functions and classes of a cell: name to show → syntax tree. `Pool.acquire = acquire` makes a method of a function."
    body, owner = ast.parse(source).body, {}
    for node in (n for n in body if isinstance(n, ast.Assign)):
        targets = getattr(node.targets[0], "elts", node.targets)
        owner |= {t.attr: ast.unparse(t.value) + "." for t in targets if isinstance(t, ast.Attribute)}
    nodes = [n for n in body if isinstance(n, (*FUNCTIONS, ast.ClassDef)) and n.name[0] != "_"]
    return {owner.get(n.name, "") + n.name: n for n in nodes}


def is_property(node):
    return any(ast.unparse(d).endswith("property") for d in node.decorator_list)


def named(source):
    "The names that a cell defines or imports."
    found = set()
    for node in ast.parse(source).body:
        found |= {a.asname or a.name for a in getattr(node, "names", [])} | {getattr(node, "name", "")}
    return found


def only_imports(source):
    return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(source).body)


def fields(node):
    "(line, name, annotation, default) of a function's parameters, or of what a class is made from."
    if isinstance(node, ast.ClassDef):
        init = next((n for n in node.body if isinstance(n, FUNCTIONS) and n.name == "__init__"), None)
        if init:
            return fields(init)
        return [(n.lineno, n.target.id, n.annotation, n.value) for n in node.body if isinstance(n, ast.AnnAssign)]
    a, plain = node.args, node.args.posonlyargs + node.args.args
    named = list(zip(plain + a.kwonlyargs, [None] * (len(plain) - len(a.defaults)) + a.defaults + a.kw_defaults))
    if a.vararg:
        named.insert(len(plain), (a.vararg, None))
    if a.kwarg:
        named.append((a.kwarg, None))
    star = lambda arg: "*" * (1 if arg is a.vararg else 2 if arg is a.kwarg else 0) + arg.arg
    return [
        (arg.lineno, star(arg), arg.annotation, default) for arg, default in named if arg.arg not in ("self", "cls")
    ]


def signature(name, node):
    "As it is called; one parameter a line where one line is too long."
    text = lambda name, kind, default: (
        name + (f": {ast.unparse(kind)}" if kind else "") + (f" = {ast.unparse(default)}" if default else "")
    )
    parts = [text(*field[1:]) for field in fields(node)]
    if isinstance(node, ast.ClassDef) and not parts:
        return f"class {name}({', '.join(map(ast.unparse, node.bases))})"
    if not isinstance(node, ast.ClassDef) and node.args.kwonlyargs and not node.args.vararg:
        parts.insert(-len(node.args.kwonlyargs) - bool(node.args.kwarg), "*")
    end = f") -> {ast.unparse(node.returns)}" if getattr(node, "returns", None) else ")"
    line = f"{name}({', '.join(parts)}{end}"
    return line if len(line) <= 88 else f"{name}(\n    " + ",\n    ".join(parts) + f",\n{end}"


def table(node, source):
    "What the comments behind the parameters say (docments); a comment speaks of the last parameter on its line. '' where there is none."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    said = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    found, returns = fields(node), getattr(node, "returns", None)
    last = {line: name for line, name, *_ in found}
    if returns and said.get(returns.lineno):
        last[returns.lineno] = "**returns**"
    else:
        returns = None
    rows = [
        (name, kind, default, said.get(line, "") if last[line] == name else "") for line, name, kind, default in found
    ]
    if returns:
        rows.append(("**returns**", returns, None, said[returns.lineno]))
    if not any(row[3] for row in rows):
        return ""
    code = lambda tree: f"`{ast.unparse(tree)}`" if tree else ""
    cells = [("parameter", "type", "default", "meaning"), ("---",) * 4]
    cells += [
        (name if name == "**returns**" else f"<code>{name}</code>", code(kind), code(default), plain(meaning))
        for name, kind, default, meaning in rows
    ]
    full = [column for column in zip(*cells) if any(column[2:])]
    return "\n".join(
        ['<div class="parameters" markdown>', "", *("| " + " | ".join(row) + " |" for row in zip(*full)), "", "</div>"]
    )


def plain(text):
    "Text of a comment or docstring for Markdown: `<name>` is no tag, `|` no end of a column."
    return re.sub(r"(`[^`]*`)|([<|])", lambda m: m[1] or {"<": "&lt;", "|": "&#124;"}[m[2]], text)


def members(node):
    "The documented methods and properties of a class, one a line."
    methods = [
        n for n in getattr(node, "body", []) if isinstance(n, FUNCTIONS) and n.name[0] != "_" and ast.get_docstring(n)
    ]
    show = lambda n: n.name if is_property(n) else signature(n.name, n)
    return "\n".join(f"- `.{show(n)}`: {plain(ast.get_docstring(n))}" for n in methods)


def block(source, url):
    "The Markdown of one exported cell; `url(node)` is where a symbol's source lies."
    parts = []
    for name, node in public(source).items():
        parts += [f"### {name} {{ #{node.name} .api }}", f"[source]({url(node)}){{ .source }}"]
        parameters = table(node, source)
        if not (isinstance(node, ast.ClassDef) and parameters or is_property(node)):
            parts.append(f"```python\n{signature(name, node)}\n```")
        parts += [plain(ast.get_docstring(node) or ""), parameters, members(node)]
    code = "```python\n" + source.strip() + "\n```"
    parts.append('??? quote "Source"\n\n' + indent(code, "    ") if public(source) else code)
    return "\n\n".join(p for p in parts if p)
