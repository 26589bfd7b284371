"""The repository as a whole: modules in sync with notebooks, importable, documented; notebooks clean and readable."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

from conftest import NBS, ROOT, copy_of, notebooks, said

PACKAGE = ROOT / "semsim"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem not in ("__init__", "_modidx")
)
# A package imports only packages to its left.
PACKAGES = ["core", "attack", "metrics", "annotate", "training", "analysis", "paper2309", "study", "cli"]

HEAVY = {"torch", "torchvision", "numpy", "pandas", "matplotlib", "scipy", "sklearn", "skimage"}
# Python in which the development tools are not installed.
RUNTIME_ONLY = """
import sys
from importlib.machinery import PathFinder
absent = {"nbdev", "execnb", "ipykernel", "jupyter", "jupyter_core", "jupyterlab",
          "jupytext", "nbconvert", "nbformat", "notebook", "smalldocs", "pytest"}
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name.partition(".")[0] in absent else find(name, *args)
"""
ABSOLUTE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|tmp|Users|usr|opt|mnt)\b")
REGISTRY = re.compile(r"https?:|pypi|pythonhosted|index-url|find-links", flags=re.I)


def read(notebook):
    "The notebook's cells, each with its source as one string."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def of_type(cells, kind):
    "The cells of one type."
    return [cell for cell in cells if cell["cell_type"] == kind]


def target(notebook):
    "The module that the notebook's `default_exp` names, or None."
    source = "\n".join(cell["source"] for cell in of_type(read(notebook), "code"))
    found = re.search(r"^#\|\s*default_exp\s+(\S+)", source, flags=re.M)
    return found and found[1]


def modules():
    "The exported modules, in the order in which packages and notebooks may build on each other."
    names = [name for path in notebooks() if (name := target(path))]
    return sorted(names, key=lambda name: PACKAGES.index(name.split(".")[0]))


def files(folder):
    "The content of every file, by its path."
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def python(*args, cwd=ROOT):
    "Run Python; its output and errors, and whether it went well."
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True)


# The repository


def test_modules_are_what_clean_notebooks_export(tmp_path):
    copy_of(tmp_path, "nbs", "semsim", "settings.ini")
    before = files(tmp_path)
    result = python(
        "-c", "import nbdev.clean as c, nbdev.doclinks as d; c.nbdev_clean(); d.nbdev_export()", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    after = files(tmp_path)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    assert not changed, f"not what `make export` gives: {changed}"


def test_one_notebook_for_each_module():
    assert MODULES, "no modules"
    assert sorted(modules()) == MODULES


def test_readme_is_current():
    result = python("tools/readme.py", "--check")
    assert result.returncode == 0, result.stderr


def test_sidebar_lists_every_notebook():
    listed = re.findall(r"- (\S+\.ipynb)$", (NBS / "_quarto.yml").read_text(encoding="utf-8"), flags=re.M)
    found = [path for path in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    assert sorted(listed) == sorted(path.relative_to(NBS).as_posix() for path in found)


def test_no_registry_is_named():
    paths = [ROOT / "Makefile", *(ROOT / ".ci").iterdir(), *(ROOT / "tools").glob("*.py")]
    named = {path.name: REGISTRY.findall(path.read_text(encoding="utf-8")) for path in paths}
    assert not any(named.values()), named


def test_a_notebook_is_edited_as_text_and_loses_nothing(tmp_path):
    "`make edit`, a word changed, `make sync`: the notebook differs by that word, and keeps every cell id and output."
    copy_of(tmp_path, "nbs", "semsim", "Makefile", "settings.ini", "setup.py")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/bin").symlink_to(Path(sys.executable).parent)
    for stamp in ("run.stamp", "dev.stamp"):
        (tmp_path / ".venv" / stamp).touch()

    def make(*arguments):
        return subprocess.run(["make", *arguments], cwd=tmp_path, capture_output=True, text=True)

    before = files(tmp_path / "nbs")
    assert "name a notebook of nbs" in make("edit", "NB=nothing").stderr
    made = make("edit", "NB=tutorials/score")
    text = tmp_path / "scratch/tutorials/score.py"
    assert made.returncode == 0 and text.exists(), made.stderr
    text.write_text(
        text.read_text(encoding="utf-8").replace("# Score your reconstructions", "# Score your pictures"),
        encoding="utf-8",
    )
    made = make("sync")
    assert made.returncode == 0 and not text.exists(), made.stderr
    before["tutorials/score.ipynb"] = before["tutorials/score.ipynb"].replace(
        b"# Score your reconstructions", b"# Score your pictures"
    )
    after = files(tmp_path / "nbs")
    assert not [name for name in {*before, *after} if before.get(name) != after.get(name)]


WIDTH = 120
SOURCES = ("*.py", "*.ipynb", "*.md", "*.js", "*.css", "*.html", "*.yaml", "*.yml")
MAY_BE_LONG = re.compile(r"#\| fig-alt: |\s*\||.*!\[")  # a figure's text, a table's row, a picture


def tracked(*patterns):
    "The files of the repository that match."
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def written_lines(path):
    "What people wrote in a file, line by line: of a notebook the sources of its cells."
    if path.suffix == ".ipynb":
        return [line for cell in read(path) for line in cell["source"].splitlines()]
    return path.read_text(encoding="utf-8").splitlines()


def test_lines_are_short():
    "README.md and the index of names are generated."
    paths = [path for path in tracked(*SOURCES) if path.name not in ("_modidx.py", "README.md")]
    long = [
        f"{path.relative_to(ROOT)}: {line[:60]}"
        for path in paths
        for line in written_lines(path)
        if len(line) > WIDTH and not MAY_BE_LONG.match(line)
    ]
    assert len(paths) > 100 and not long


def stacked(source):
    "The lines on which a second statement begins behind the first."
    for node in ast.walk(ast.parse(source)):
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(body, list):
                yield from (after.lineno for before, after in zip(body, body[1:]) if before.end_lineno == after.lineno)


def test_one_statement_a_line():
    sources = [(path.name, path.read_text(encoding="utf-8")) for path in tracked("*.py")]
    for path in tracked("*.ipynb"):
        sources += [(f"{path.name} {cell['id']}", cell["source"]) for cell in of_type(read(path), "code")]
    assert not [(name, line) for name, source in sources for line in stacked(source)]


# The package


def test_import_is_light():
    result = python("-c", f"{RUNTIME_ONLY}\nimport semsim\nprint(*{HEAVY} & set(sys.modules))")
    assert result.returncode == 0, result.stderr
    assert not result.stdout.strip()


IMPORT_ALONE = f"""{RUNTIME_ONLY}
import importlib, os, traceback
import matplotlib.pyplot, pandas, scipy.stats, seaborn, sklearn, torch, torchvision
for name in sys.argv[1:]:
    if os.fork() == 0:  # each module in a process that has seen no other, but has the large libraries
        try:
            importlib.import_module(f"semsim.{{name}}")
        except BaseException:
            print(name, traceback.format_exc()[-500:], flush=True)
        os._exit(0)
    if os.wait()[1]:
        print(name, "was killed", flush=True)
"""


def test_every_module_imports_alone_without_the_development_tools():
    result = python("-c", IMPORT_ALONE, *MODULES)
    assert MODULES and result.returncode == 0 and not result.stdout, result.stdout + result.stderr[-500:]


def test_modules_use_only_what_they_import():
    # A notebook may import for its examples what its module forgot; the module would then fail only when used.
    checked = python("-m", "pyflakes", *(str(source_of(name)) for name in MODULES))
    assert not checked.stdout, checked.stdout


def test_every_name_at_the_top_resolves():
    semsim = importlib.import_module("semsim")
    missing = [name for name in semsim.__all__ if not hasattr(semsim, name)]
    assert not missing
    assert set(PACKAGES) <= set(semsim.__all__)


def test_users_names_are_few_and_handed_out_by_their_package():
    "What a module exports is what its package offers; the rest is internal."
    offered = {}
    for package in PACKAGES[:-1]:
        names = importlib.import_module(f"semsim.{package}").__all__
        exported = [
            importlib.import_module(f"semsim.{name}").__all__ for name in MODULES if name.startswith(f"{package}.")
        ]
        offered[package] = sorted(names), sorted(name for part in exported for name in part)
    assert not {package: both for package, both in offered.items() if both[0] != both[1]}
    assert sum(len(names) for names, _ in offered.values()) <= 70


def test_version_is_the_same_everywhere():
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    assert importlib.import_module("semsim").__version__ == config["DEFAULT"]["version"]


def imported_modules(name):
    "The modules of the package that a module imports, at its top or inside a function."
    package = ["semsim", *name.split(".")[:-1]]
    for node in ast.walk(ast.parse(source_of(name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("semsim."))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            path = ".".join([*above, *filter(None, [node.module])])
            if path.startswith("semsim."):
                yield path.partition(".")[2]


def source_of(name):
    "The file of a module."
    return PACKAGE / f"{name.replace('.', '/')}.py"


def test_modules_import_only_modules_before_them():
    "One way between packages, and inside a package from the first notebook to the last."
    order, backwards = modules(), []
    for n, name in enumerate(order):
        backwards += [f"{name} imports {other}" for other in imported_modules(name) if other not in order[:n]]
    assert order and not backwards, backwards


def test_a_package_is_a_folder_of_notebooks():
    "At most a dozen in each, so that a newcomer can hold them."
    folders = {}
    for path in notebooks():
        if "." in (target(path) or ""):
            folders.setdefault(target(path).split(".")[0], set()).add(path.parent)
    assert {package: len(places) for package, places in folders.items()} == dict.fromkeys(PACKAGES[:-1], 1)
    for places in folders.values():
        assert len([*min(places).glob("*.ipynb")]) <= 12


# Each notebook


def test_opens_with_its_purpose(notebook):
    cells = read(notebook)
    if target(notebook):
        first = cells.pop(0)
        assert re.fullmatch(r"#\|\s*default_exp [\w.]+", first["source"]), "the first cell is `#| default_exp` alone"
    title, opening = cells[:2]
    assert title["cell_type"] == opening["cell_type"] == "markdown"
    assert re.fullmatch(r"# \S.*\n\n?> \S.*", title["source"].strip()), (
        "a title, a `>` subtitle, and nothing else (it would not be shown)"
    )
    assert opening["source"].strip() and not opening["source"].startswith("# ")


def test_exports_are_documented_and_shown(notebook):
    name = target(notebook)
    if name is None:
        return
    tree = ast.parse(source_of(name).read_text(encoding="utf-8"))
    public = [
        node
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    sources = [cell["source"] for cell in of_type(read(notebook), "code")]

    def is_shown(name):
        elsewhere = [source for source in sources if not re.search(rf"^(?:def|class) {name}\b", source, flags=re.M)]
        return any(re.search(rf"\b{name}\b", source) for source in elsewhere)

    assert public, "nothing is exported"
    assert not [node.name for node in public if not ast.get_docstring(node)], "without a docstring"
    assert not [node.name for node in public if not is_shown(node.name)], "nowhere but in the cell that defines it"


def test_cells_are_short(notebook):
    long = [cell["id"] for cell in of_type(read(notebook), "code") if len(cell["source"].splitlines()) > 30]
    assert not long


def test_imports_stand_in_cells_of_their_own(notebook):
    "The site's build runs every cell that contains an import."
    bodies = {cell["id"]: ast.parse(cell["source"]).body for cell in of_type(read(notebook), "code")}
    imports = {
        number: sum(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body) for number, body in bodies.items()
    }
    assert not [number for number, count in imports.items() if 0 < count < len(bodies[number])]


def test_prose_outweighs_code(notebook):
    cells = read(notebook)
    words = sum(len(cell["source"].split()) for cell in of_type(cells, "markdown"))
    shown = [cell["source"] for cell in of_type(cells, "code") if not cell["source"].startswith("#| hide")]
    lines = sum(bool(line.strip()) for source in shown for line in source.splitlines())
    assert words >= 2 * lines, f"{words} words for {lines} lines of code"


def test_outputs_are_stored_and_clean(notebook):
    outputs = [output for cell in of_type(read(notebook), "code") for output in cell["outputs"]]
    kinds = {output["output_type"] for output in outputs}
    assert kinds, "no output is stored"
    assert "error" not in kinds
    assert notebook.stat().st_size <= 600_000


PICTURE = re.compile(r"!\[([^\]]*)\]\([^)]+\)|<img\b[^>]*>")


def test_figures_are_described(notebook):
    "Each figure has a text for readers who cannot see it: `fig-alt` for plots, the text in brackets for pictures."
    undescribed = []
    for cell in read(notebook):
        drawn = any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        shown = "".join("".join(output.get("data", {}).get("text/html", "")) for output in cell.get("outputs", []))
        texts = re.findall(r'^#\| fig-alt: "(.+)"$', cell["source"], flags=re.M) if drawn else []
        prose = cell["source"] if cell["cell_type"] == "markdown" else shown
        for found in PICTURE.finditer(prose):
            texts.append(found[1] or "".join(re.findall(r'alt="([^"]*)"', found[0])))
        if (drawn and not texts) or any(len(text) < 20 for text in texts):
            undescribed.append(cell["id"])
    assert not undescribed


def test_stored_outputs_hold_no_progress_and_no_widgets(notebook):
    outputs = [output for cell in of_type(read(notebook), "code") for output in cell["outputs"]]
    assert not [output for output in outputs if re.search(r"\d+%\|", "".join(output.get("text", "")))]
    assert not [output for output in outputs if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]


def shown_numbers(cells):
    "The numbers in the outputs of cells."
    for cell in cells:
        for output in cell["outputs"]:
            text = re.sub(r"<style.*?</style>|base64,[\w+/=\s]+|,", "", said(output), flags=re.S)
            yield from map(float, re.findall(r"-?\d*\.?\d+(?:e-?\d+)?", text))


MEASURED = re.compile(r"(?<![\w.,:/-])(\d*\.\d+|\d+(?= ?%))(?![\w.:/]*\w)( ?%)?")  # a decimal, or a share in per cent
NO_PROSE = re.compile(
    r"```.*?```|`[^`]*`|\]\([^)]*\)|https?://\S+|arXiv[: ]\S+|\$[^$]*\$|95 %", flags=re.S
)  # the last is the intervals' confidence


def test_numbers_in_the_prose_of_results_are_shown_on_the_page(notebook):
    "Numbers are printed by code; one that prose repeats must stand, rounded alike, in an output of the same page."
    if notebook.parent.name != "results":
        return
    cells = read(notebook)
    known, lost = set(shown_numbers(of_type(cells, "code"))), []
    for cell in of_type(cells, "markdown"):
        for number, percent in MEASURED.findall(NO_PROSE.sub("", cell["source"])):
            value, digits = float(number), len(number.partition(".")[2])
            same = {round(abs(one), digits) for one in known} | (
                {round(abs(one) * 100, digits) for one in known} if percent else set()
            )
            if value not in same:
                lost.append((cell["id"], number))
    assert not lost


def texts(cells):
    "All that a reader sees as text: sources, printed output, text and HTML results without the pictures in them."
    for cell in cells:
        yield cell["source"]
        for output in cell.get("outputs", []):
            yield "".join(output.get("text", ""))
            for kind, value in output.get("data", {}).items():
                if kind.startswith("text/"):
                    yield re.sub(r"base64,[\w+/=\s]+", "", "".join(value))


def test_no_absolute_paths(notebook):
    found = [
        text[max(0, m.start() - 20) : m.end() + 40]
        for text in texts(read(notebook))
        for m in ABSOLUTE_PATH.finditer(text)
    ]
    assert not found
