"""The site that `python docs/build.py` made in _site/: links, pictures, no foreign host,
and every page opened in a browser.

`DAL_NB_SCREENSHOTS=folder pytest tests/test_docs.py` leaves a picture of every page at both widths."""

import ast
import importlib.util
import json
import os
import re
import shutil
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_site"
SCREENSHOTS = os.environ.get("DAL_NB_SCREENSHOTS")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREENS = {"laptop": (1366, 800), "phone": (390, 844)}
FOREIGN_LINK = {"a"}  # a reader may be led to another site; the page itself loads nothing from one


@pytest.fixture(scope="module")
def api():
    "The module docs/api.py."
    spec = importlib.util.spec_from_file_location("api", ROOT / "docs" / "api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FUNCTION = """
def fold(
    near: Tensor, rows: int = 2,  # points a block
    *names,
    k: "int | None" = None,  # `None` | <all>
) -> list[str]:  # one a row
    "Do it."

Pool.fold = fold
"""

CLASS = """
@dataclass
class Run:
    "A run."
    lr: float = 0.1  # peak
    path: Path = None

    @property
    def done(self): "Is it?"
    def go(self, n: int = 1): "On."
    def _hidden(self): "No."
"""


def test_api_of_a_function(api):
    ((name, node),) = api.public(FUNCTION).items()
    assert name == "Pool.fold"
    assert (
        api.signature(name, node)
        == "Pool.fold(near: Tensor, rows: int = 2, *names, k: 'int | None' = None) -> list[str]"
    )
    rows = api.table(node, FUNCTION).splitlines()[2:-2]
    assert rows == [
        "| parameter | type | default | meaning |",
        "| --- | --- | --- | --- |",
        "| <code>near</code> | `Tensor` |  |  |",
        "| <code>rows</code> | `int` | `2` | points a block |",
        "| <code>*names</code> |  |  |  |",
        "| <code>k</code> | `'int | None'` | `None` | `None` &#124; &lt;all> |",
        "| **returns** | `list[str]` |  | one a row |",
    ]
    assert api.table(ast.parse("def f(a: int = 1) -> int: pass").body[0], "def f(a: int = 1) -> int: pass") == ""


def test_api_of_a_class(api):
    text = api.block(CLASS, lambda node: f"there#{node.name}")
    assert text.startswith("### Run { #Run .api }\n\n[source](there#Run){ .source }\n\nA run.\n\n")
    assert "| <code>lr</code> | `float` | `0.1` | peak |\n| <code>path</code> | `Path` | `None` |  |" in text
    assert "- `.done`: Is it?\n- `.go(n: int = 1)`: On.\n" in text and text.count("_hidden") == 1
    assert (
        "*" in api.signature("f", ast.parse("def f(a, *, b): pass").body[0])
        and api.signature("A", ast.parse("class A(B): pass").body[0]) == "class A(B)"
    )


class Parser(HTMLParser):
    "What a page refers to, its anchors, and its text outside of code."

    def __init__(self, text):
        super().__init__()
        self.ids, self.references, self.text, self.open = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in ("pre", "code", "script", "style"):
            self.open.append(tag)
        if "id" in attributes:
            self.ids.add(attributes["id"])
        self.references += [(tag, attributes[key]) for key in ("href", "src") if attributes.get(key)]
        if "srcset" in attributes:
            self.references.append((tag, attributes["srcset"].split()[0]))

    def handle_endtag(self, tag):
        if self.open and tag == self.open[-1]:
            self.open.pop()

    def handle_data(self, data):
        if not self.open:
            self.text.append(data)


@pytest.fixture(scope="module")
def pages():
    "Path → parsed page. 404.html is served from any path, and has absolute links for that."
    if not SITE.exists():
        pytest.skip("no _site: run python docs/build.py")
    return {
        path: Parser(path.read_text(encoding="utf-8"))
        for path in sorted(SITE.rglob("*.html"))
        if path.name != "404.html"
    }


def test_every_notebook_is_a_page(pages):
    notebooks = {
        p.relative_to(ROOT / "nbs").with_suffix(".html")
        for p in (ROOT / "nbs").rglob("*.ipynb")
        if not {".ipynb_checkpoints", "runs"} & set(p.parts)
    }
    assert {p.relative_to(SITE) for p in pages} == notebooks


def test_links_anchors_and_files(pages):
    wrong = []
    for path, page in pages.items():
        for tag, reference in page.references:
            parts = urlsplit(reference)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                if tag not in FOREIGN_LINK:
                    wrong.append(f"{path.relative_to(SITE)} loads {reference}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                wrong.append(f"{path.relative_to(SITE)}: no {reference}")
            elif target in pages and parts.fragment and unquote(parts.fragment) not in pages[target].ids:
                wrong.append(f"{path.relative_to(SITE)}: no anchor {reference}")
    assert not wrong, "\n".join(wrong)


def test_styles_load_nothing_from_elsewhere(pages):
    for path in SITE.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_nothing_raw_is_left(pages):
    "No directive, Quarto fence, formula or table that was not understood."
    raw = re.compile(r"^.*(?:#\||:::|\$\$|\\\(|\\frac|\|---|\]\().*$", re.MULTILINE)
    wrong = [
        f"{path.relative_to(SITE)}: {line}" for path, page in pages.items() for line in raw.findall("".join(page.text))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def address():
    "The site over HTTP, on a free port of this machine."
    handler = partial(type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}), directory=SITE)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium: install the Debian package chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def opened(browser, screen, errors):
    "An empty page of that width. Errors of scripts, failed and foreign requests are appended to `errors`."
    width, height = SCREENS[screen]
    page = browser.new_page(
        viewport=dict(width=width, height=height), is_mobile=screen == "phone", has_touch=screen == "phone"
    )
    tell = lambda what: errors.append(f"{page.url}: {what}")
    page.on("console", lambda message: message.type == "error" and tell(message.text))
    page.on("pageerror", lambda error: tell(error))
    page.on(
        "requestfailed", lambda request: request.failure != "net::ERR_ABORTED" and tell(f"failed: {request.url}")
    )  # aborted: the next page was opened
    page.on("response", lambda response: response.status >= 400 and tell(f"{response.status}: {response.url}"))
    page.on(
        "request",
        lambda request: urlsplit(request.url).hostname not in ("127.0.0.1", None) and tell(f"foreign: {request.url}"),
    )
    return page


PICTURES = """Promise.all([...document.images].map(i => {
    i.loading = 'eager'; return i.decode().then(() => '', () => i.src) })).then(bad => bad.filter(Boolean))"""
WIDER = """width => [...document.querySelectorAll('.md-content *')].filter(e =>
    e.getBoundingClientRect().right > width + 1
    && !e.closest('pre, .highlight, .output, .formula, .md-typeset__scrollwrap, .md-typeset__table')
    ).map(e => e.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("screen", SCREENS)
def test_every_page_in_a_browser(screen, pages, address, browser):
    "No error, every picture decodes, the page is no wider than the screen."
    errors, width = [], SCREENS[screen][0]
    page = opened(browser, screen, errors)
    index = json.loads((SITE / "search" / "search_index.json").read_text())
    short = {**index, "docs": index["docs"][:3]}  # of each page its script would index the whole site
    page.route("**/search_index.json", lambda route: route.fulfill(json=short))
    for path in pages:
        name = path.relative_to(SITE).as_posix()
        page.goto(f"{address}/{name}")
        errors += [f"{name}: does not decode: {src}" for src in page.evaluate(PICTURES)]
        if page.evaluate("document.documentElement.scrollWidth") > width:
            errors.append(f"{name} is wider than the screen")
        errors += [f"{name}: wider than the screen: {element}" for element in page.evaluate(WIDER, width)]
        if SCREENSHOTS:
            page.screenshot(path=Path(SCREENSHOTS, screen, name.replace("/", "-")).with_suffix(".png"), full_page=True)
    page.close()
    assert not errors, "\n".join(errors)


def test_search_finds_a_strategy(pages, address, browser):
    errors = []
    page = opened(browser, "laptop", errors)
    page.goto(f"{address}/index.html")
    page.click(".md-search__input")
    page.keyboard.type("BADGE")
    page.wait_for_selector(".md-search-result__link[href*='badge']", timeout=10_000)
    page.close()
    assert not errors, "\n".join(errors)
