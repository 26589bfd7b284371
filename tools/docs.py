"""Builds the site in _docs: nbdev stages the notebooks, then Quarto renders them if it is on PATH, else smalldocs."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from nbdev.config import get_config
from nbdev.doclinks import _build_modidx
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs

OUTPUT_FILE = re.compile(r"^output-file: (\S+)\.html\n", flags=re.M)
KATEX = "katex@0.16.11"  # what smalldocs asks a content network for
KATEX_HASH = "8c5494c5f7d8e8bf73ff3fe64d4bd09a340e4878b7eec9bbd9ef8d8f3e24193f"  # sha256 of the package
REMOTE_KATEX = re.compile(r"\w+://[\w./]+/katex@[\w.]+/dist/")


def stage():
    "The folder with the notebooks as the site shows them. (nbdev's own commands would first try to install Quarto.)"
    refresh_quarto_yml()
    _build_modidx()
    with tempfile.TemporaryDirectory() as copy:
        notebooks = Path(copy) / "nbs"
        shutil.copytree(get_config().nbs_path, notebooks)
        document_internal_names(notebooks)
        return proc_nbs(notebooks, n_workers=0, force=True)


def document_internal_names(folder):
    "Show the signatures of internal functions too: a reader of the site steps through them as one of JupyterLab does."
    for path in folder.rglob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('"#| exporti\\n"', '"#| export\\n"'), encoding="utf-8")


def rename(folder):
    "Give each staged notebook the name of its page, which nbdev asks for in the front matter; the old and new names."
    names = {}
    for path in sorted(folder.rglob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        front = notebook["cells"][0]
        source = "".join(front["source"])
        names[path.name] = OUTPUT_FILE.search(source)[1] + ".ipynb"
        front["source"] = OUTPUT_FILE.sub("", source)
        path.write_text(json.dumps(notebook), encoding="utf-8")
        path.rename(path.with_name(names[path.name]))
    return names


def relink(folder, names):
    "Point links at the new names, and those with the site's address at this copy of the site."
    settings = get_config()
    address = settings.doc_host + settings.doc_baseurl + "/"
    for path in [folder / "_quarto.yml", *folder.rglob("*.ipynb")]:
        text = path.read_text(encoding="utf-8")
        text = text.replace(address, "../" * (len(path.relative_to(folder).parts) - 1))
        for old, new in names.items():
            text = re.sub(rf"((?:\]\(|- )(?:[\w.]+/)*){re.escape(old)}", rf"\g<1>{new}", text)
        path.write_text(text, encoding="utf-8")


def render(folder):
    "Render the staged folder; any warning of smalldocs is an error."
    if shutil.which("quarto"):
        command = ["quarto", "render", folder, "--no-cache", "-M", "html-math-method:katex"]
    else:
        command = [Path(sys.executable).with_name("smalldocs"), "render", "--strict", folder]
    if code := subprocess.run(command).returncode:
        sys.exit(code)


def fetch_katex(folder):
    "KaTeX, which draws the equations, from the npm registry."
    if not shutil.which("npm"):
        sys.exit("the site's equations need KaTeX from the npm registry: install npm (on Debian: apt-get install npm)")
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["npm", "pack", "--silent", KATEX], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        package = next(Path(scratch).iterdir())
        if hashlib.sha256(package.read_bytes()).hexdigest() != KATEX_HASH:
            sys.exit(f"{package.name} is not the package that was checked when this script was written")
        with tarfile.open(package) as archive:
            archive.extractall(scratch, filter="data")
        shutil.copytree(Path(scratch) / "package/dist", folder)


def serve_katex(site):
    "Take KaTeX from the site itself, so that reading it asks nothing of anybody else."
    fetch_katex(site / "site_libs/katex")
    for path in site.rglob("*.html"):
        local = "../" * (len(path.relative_to(site).parts) - 1) + "site_libs/katex/"
        path.write_text(REMOTE_KATEX.sub(local, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    staged, site = stage(), get_config().doc_path
    relink(staged, rename(staged))
    render(staged)
    serve_katex(staged / site.name)
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(staged / site.name, site)
    print(f"the site is in {site.name}/index.html")
