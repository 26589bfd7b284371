"""How the benchmarks of attacks store a table."""

import json
import platform

import torch

from semsim.core.files import atomic_path, write_table


def six_digits(column):
    "A column of real numbers, rounded; any other as it is."
    return column.map("{:.6g}".format).astype(float) if column.dtype == float else column


def write(name, table, into, **settings):
    "A table as CSV, and beside it a JSON file that says how it was made."
    settings |= dict(torch=torch.__version__, python=platform.python_version(), machine=platform.machine())
    with atomic_path(into / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n")
    write_table(table.apply(six_digits), into / f"{name}.csv")
