"""The wheel and the sdist: built as a release builds them, installed into an empty environment, and used from there."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from configparser import ConfigParser

import pytest
import torch
from conftest import ROOT

from semsim.core.seeds import generator
from semsim.core.files import write_image


def run(*command, **options):
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def known():
    "The files that are committed, or would be."
    return [
        name
        for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
        if (ROOT / name).is_file()
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "The sdist of what git knows, and the wheel that is built from it."
    folder = tmp_path_factory.mktemp("release")
    for name in known():
        (folder / "clean" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "clean" / name)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "clean")
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return sdist, wheel


def test_sdist_holds_what_setup_reads(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "settings.ini", "README.md", "LICENSE", "semsim/__init__.py"} <= names
    assert not [name for name in names if name.startswith(("nbs/", "tests/", "benchmarks/"))]


def test_wheel_holds_all_of_the_package(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = {name for name in archive.namelist() if name.startswith("semsim/")}
    assert names == {name for name in known() if name.startswith("semsim/")}


def test_wheel_asks_for_what_it_imports(built):
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    with zipfile.ZipFile(built[1]) as archive:
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    asked = {
        line.removeprefix("Requires-Dist: ").strip()
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist") and "extra" not in line
    }
    assert asked == set(config["DEFAULT"]["requirements"].split())


def test_score_works_from_an_empty_environment(built, tmp_path):
    "Only the wheel is installed; the libraries, which are gigabytes, come from the environment of the tests."
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps", "--no-index", built[1])
    site = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    random = generator("distribution")
    for folder in ("originals", "reconstructions"):
        for number in range(2):
            write_image(torch.rand(3, 32, 32, generator=random), tmp_path / folder / f"{number}.png")
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SEMSIM_WEIGHTS")} | {
        "HOME": str(tmp_path)
    }
    where = run(python, "-c", "import semsim; print(semsim.__file__)", cwd=tmp_path, env=env)
    assert where.startswith(str(site))
    said = run(
        tmp_path / "venv/bin/semsim",
        "score",
        "originals",
        "reconstructions",
        "--metric",
        "psnr",
        "--metric",
        "lpips[alex]",
        "--metric",
        "semsim",
        cwd=tmp_path,
        env=env,
    )
    assert "semsim" in said and "2 pairs" in said
