"""A mkdocs hook: formulas become MathML, which browsers draw by themselves, without a script."""
import html
import re
import unicodedata

from latex2mathml.converter import convert


def mathml(match):
    "One formula, found by pymdownx.arithmatex as \\(…\\) in a span or \\[…\\] in a div."
    tex = html.unescape(match[2]).strip()[2:-2]
    drawn = convert(re.sub(r"\\arg\s*\\(max|min)", r"\\arg\1", tex), display="block" if match[1] == "div" else "inline")
    drawn = re.sub(r'<m[in] mathvariant="double-struck">(\w)</m[in]>', double_struck, drawn)
    if "\\" in drawn or 'mathvariant="' in drawn.replace('mathvariant="normal"', ""): raise SystemExit(f"docs/formulas.py cannot draw {tex}: {drawn}")
    return f'<div class="formula">{drawn}</div>' if match[1] == "div" else drawn


def double_struck(match):
    "Browsers ignore mathvariant; Unicode has the letter itself."
    kind = "DIGIT" if match[1].isdigit() else "CAPITAL"
    for name in (f"DOUBLE-STRUCK {kind} {match[1]}", f"MATHEMATICAL DOUBLE-STRUCK {kind} {unicodedata.name(match[1]).split()[-1]}"):
        try: return f"<mi>{unicodedata.lookup(name)}</mi>"
        except KeyError: pass
    return match[0]


def on_page_content(text, **_): return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', mathml, text, flags=re.DOTALL)
