"""What tests in Chromium share: whether it is there, tabs that fail on any error, and a JupyterLab."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from conftest import ENV

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Where it is absent these tests are skipped; in CI they are not, and fail.
needed = pytest.mark.skipif(
    not CHROMIUM and not os.environ.get("CI"), reason="no Chromium on this machine: apt-get install chromium"
)
HERE = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")


@contextmanager
def new_tab(browser, width=900, height=860, **options):
    "A tab of a fresh browser; an error that it logs, or a request to another host, fails the test."
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    errors = []
    page.on(
        "pageerror", lambda error: errors.append(str(error)) if "Canceled" not in str(error) else None
    )  # JupyterLab, when its server is killed
    page.on("request", lambda request: errors.append(request.url) if not request.url.startswith(HERE) else None)
    yield page
    context.close()
    assert not errors, errors


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@contextmanager
def jupyterlab(folder, port, *options):
    "A JupyterLab of its own, without settings of the user's."
    home = folder.parent / "home"
    (home / "CONFIG" / "labconfig").mkdir(parents=True, exist_ok=True)
    (home / "CONFIG" / "labconfig" / "page_config.json").write_text(
        '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}'
    )
    places = {f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("CONFIG", "RUNTIME")} | {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=secret",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.extension_manager=readonly",
        *options,
    ]
    process = subprocess.Popen(
        command, env=ENV | places, stdout=open(home / "lab.log", "a"), stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        for _ in range(300):
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (home / "lab.log").read_text()
            time.sleep(0.2)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
