"""Run the notebooks with the exported modules in place of the exported cells, to count lines that tests reach.

`coverage run tests/notebooks_on_modules.py && coverage combine && coverage report`;
arguments are notebooks, else all.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLAGS = {"slow", "gpu"}
FILL = """
import importlib
globals().update({{k: v for k, v in vars(importlib.import_module("{}")).items() if not k.startswith("__")}})
"""


def run(path: Path):
    "One notebook, in this process and in its folder; a cell that exports becomes an import of its module."
    from execnb.shell import CaptureShell
    from nbdev.config import get_config
    from nbdev.process import NBProcessor

    nb = NBProcessor(path, process=True).nb
    module = next((c.directives_["default_exp"][0] for c in nb.cells if "default_exp" in c.directives_), None)

    def skip(cell):
        if cell.cell_type != "code":
            return True
        if {"export", "exports", "exporti"} & cell.directives_.keys():
            cell.source = FILL.format(f"{get_config().lib_name}.{module}")
        return FLAGS & cell.directives_.keys()

    shell = CaptureShell(path)
    os.environ["IN_TEST"] = "1"  # as nbdev_test has it
    os.chdir(path.parent)
    shell.run_all(nb, preproc=skip)  # on, after a cell that fails
    if shell.exc:
        sys.exit(shell.prettytb(fname=path))


def main(paths):
    """Each notebook in a process of its own. A test that changes a global of its notebook does not reach the module,
    and fails here without harm: this counts lines, and `nbdev_test` tests."""
    failed = []
    for path in paths:  # in a session of its own: some send signals to their group
        if subprocess.run([sys.executable, __file__, "--one", path], start_new_session=True).returncode:
            failed.append(path)
    print(f"{len(paths)} notebooks; cells failed in {len(failed)}: {' '.join(failed)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run(Path(sys.argv[2]).resolve())
    else:
        main(sys.argv[1:] or [str(p) for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if "records" not in p.parts])
