"""Make nbs/reports from nbs/records: `python docs/reports.py` for all studies that have a report of their own, or with
their names. The reports are executed here and kept with their outputs; tests do not execute them again.
"""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill

from dal_nb.files import ARCHIVES

LINK = re.compile(r"\]\((?!https?:|#|\.\./)(?=[\w/]+\.ipynb)")  # to another notebook
NBS = Path(__file__).resolve().parents[1] / "nbs"
REPORTS = {  # study → the notebook that it is rendered by
    "strategies-features": "comparison.ipynb",
    "cifar10-linear": "results.ipynb",
    "cifar100-linear": "results.ipynb",
    "cifar10-mlp": "results.ipynb",
    "regimes-digits": "regimes.ipynb",
    "regimes-features": "regimes.ipynb",
    "regimes-features-mlp": "regimes.ipynb",
    "regimes-features100": "regimes.ipynb",
    "cifar10-small": "results.ipynb",
}


def make(study):
    "Execute the notebook on the records of a study."
    path = NBS / "reports" / f"{study}.ipynb"
    path.parent.mkdir(exist_ok=True)
    papermill.execute_notebook(NBS / REPORTS[study], path, dict(study=study), cwd=NBS, progress_bar=False)
    notebook = nbformat.read(path, 4)
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    command = f"`python docs/reports.py {study}`"
    words = f"Rendered from its records by {command}, as [{REPORTS[study]}](../{REPORTS[study]}) does it."
    notebook.cells[0].source = f"# The study {study}\n\n> {words}"
    notebook.cells.insert(1, nbformat.v4.new_raw_cell("---\nskip_exec: true\n---", id="skip-exec"))
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"  # the same in the next rendering
        if cell.cell_type == "markdown":
            cell.source = LINK.sub("](../", cell.source)
        cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
    nbformat.write(notebook, path)
    subprocess.run(["nbdev_clean", "--fname", str(path)], check=True)
    print(path)


if __name__ == "__main__":
    for study in sys.argv[1:] or REPORTS:
        if any((NBS / "records" / f"{study}{ending}").exists() for ending in ("", *ARCHIVES)):
            make(study)
