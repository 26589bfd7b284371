"""Writes README.md from nbs/index.ipynb, the same bytes every time; with --check it only compares."""

import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
FIGURES = "README_files"
CONFIG = Config(
    {"TagRemovePreprocessor": {"enabled": True, "remove_cell_tags": ["hide"], "remove_input_tags": ["no-echo"]}}
)


def tidy(cell):
    "Turn nbdev's directives into tags that nbconvert reads, and tables into plain text."
    if cell.cell_type != "code":
        cell.source = re.sub(r"\]\((?=[\w/]+\.(?:ipynb|png))", "](nbs/", cell.source)  # links are relative to nbs
        return
    directives = re.findall(r"^#\|\s*(.+?)\s*$", cell.source, flags=re.M)
    cell.metadata.tags = ["hide"] * ("hide" in directives) + ["no-echo"] * ("echo: false" in directives)
    cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    for output in cell.outputs:
        if "text/plain" in output.get("data", {}):
            output.data.pop("text/html", None)


def render():
    "The bytes of README.md and of its figures, by path."
    notebook = nbformat.read(ROOT / "nbs/index.ipynb", as_version=4)
    notebook.metadata.language_info = {"name": "python"}
    described = iter(
        re.findall(r'^#\| fig-alt: "(.+)"$', "\n".join(cell.source for cell in notebook.cells), flags=re.M)
    )
    for cell in notebook.cells:
        tidy(cell)
    resources = {"output_files_dir": FIGURES, "unique_key": "figure"}
    text, resources = MarkdownExporter(config=CONFIG).from_notebook_node(notebook, resources)
    text = re.sub(r"!\[png\]", lambda _: f"![{next(described)}]", text)
    return {"README.md": text.strip().encode() + b"\n", **resources["outputs"]}


def written():
    "The same files, as they are on disk."
    paths = [ROOT / "README.md", *(ROOT / FIGURES).glob("*")]
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths if path.exists()}


def write(files):
    "Replace the files on disk."
    shutil.rmtree(ROOT / FIGURES, ignore_errors=True)
    for name, content in files.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_bytes(content)


if __name__ == "__main__":
    if sys.argv[1:] != ["--check"]:
        write(render())
    elif render() != written():
        sys.exit("README.md is not what nbs/index.ipynb gives: run `make readme`")
