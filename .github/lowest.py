"""The oldest versions that settings.ini allows, as a constraints file of pip: `python .github/lowest.py > lowest.txt`."""

import re
from configparser import ConfigParser
from pathlib import Path

parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(Path(__file__).resolve().parents[1] / "settings.ini", encoding="utf-8")
for name, value in parser["DEFAULT"].items():
    if name != "requirements" and not name.endswith("_requirements"):
        continue
    for requirement in value.split():
        if bound := re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", requirement):
            print(f"{bound[1]}=={bound[2]}")
