"""Installs semsim from settings.ini, the one place where names, versions and requirements stand."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]

# What only some users need: `pip install "semsim[annotate,study]"`, or "semsim[all]".
extras = {name: settings[f"{name}_requirements"].split() for name in ("annotate", "study", "dask", "clip")}
extras["all"] = sorted({package for packages in extras.values() for package in packages})
extras["dev"] = [*settings["dev_requirements"].split(), *extras["all"]]

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    license="MIT",
    url=settings["git_url"],
    keywords=settings["keywords"],
    packages=find_packages(include=["semsim", "semsim.*"]),
    package_data={"semsim": ["weights/*", "templates/*", "recipes/*", "studies/*"]},
    python_requires=f">={settings['min_python']}",
    install_requires=settings["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": settings["console_scripts"].split(),
        "nbdev": ["semsim=semsim._modidx:d"],  # what `names` in backticks link to on the site
    },
)
