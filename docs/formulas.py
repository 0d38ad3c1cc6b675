"""A mkdocs hook: formulas become MathML, which browsers draw by themselves, without a script, in a font that the site brings along."""

import html
import re
import unicodedata
from importlib.resources import files

from fontTools import subset
from latex2mathml.converter import convert

used = set()  # characters in formulas


def mathml(match):
    "One formula, found by pymdownx.arithmatex as \\(…\\) in a span or \\[…\\] in a div."
    tex = html.unescape(match[2]).strip()[2:-2]
    drawn = convert(re.sub(r"\\arg\s*\\(max|min)", r"\\arg\1", tex), display="block" if match[1] == "div" else "inline")
    drawn = re.sub(r'<m[in] mathvariant="double-struck">(\w)</m[in]>', double_struck, drawn)
    drawn = drawn.replace(
        "<mo>&#x02016;</mo>", '<mo stretchy="false" lspace="0" rspace="0">&#x02016;</mo>'
    )  # else a norm's bars grow as they like
    if "\\" in drawn or 'mathvariant="' in drawn.replace('mathvariant="normal"', ""):
        raise SystemExit(f"docs/formulas.py cannot draw {tex}: {drawn}")
    used.update(html.unescape(re.sub(r"<[^>]*>", "", drawn)))
    return f'<div class="formula">{drawn}</div>' if match[1] == "div" else drawn


def double_struck(match):
    "Browsers ignore mathvariant; Unicode has the letter itself."
    kind = "DIGIT" if match[1].isdigit() else "CAPITAL"
    for name in (
        f"DOUBLE-STRUCK {kind} {match[1]}",
        f"MATHEMATICAL DOUBLE-STRUCK {kind} {unicodedata.name(match[1]).split()[-1]}",
    ):
        try:
            return f"<mi>{unicodedata.lookup(name)}</mi>"
        except KeyError:
            pass
    return match[0]


def write_font(path):
    "STIX Two Math, cut down to what the formulas use."
    italic = [
        0x210E,
        *range(0x1D434, 0x1D468),
        *range(0x1D6E2, 0x1D71C),
    ]  # browsers take these for letters that stand alone,
    root = [0x221A]  # and this for a tag
    options = subset.Options(flavor="woff")
    font, cut = (
        subset.load_font(str(files("ziamath.fonts") / "STIXTwoMath-Regular.ttf"), options),
        subset.Subsetter(options),
    )
    cut.populate(text="".join(used), unicodes=italic + root)
    cut.subset(font)
    subset.save_font(font, path, options)


def on_post_build(config):
    write_font(f"{config.site_dir}/math.woff")


def on_page_content(text, **_):
    return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', mathml, text, flags=re.DOTALL)
