"""Environments for the libraries that tightbound is timed against, each apart from tightbound's own.

The folder is taken from the environment variable ``TIGHTBOUND_PEERS`` (default: ``~/.cache/tightbound/peers``).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

TORCH = ("torch==2.13.0", "numpy")
# pythae asks for CUDA builds and experiment trackers that training on a processor does not use: install what it imports.
PYTHAE = (
    *TORCH,
    "pydantic>=2",
    "scipy",
    "scikit-learn",
    "imageio",
    "tqdm",
    "cloudpickle",
    "typing_extensions",
    "--no-deps:pythae==0.1.2",
)


def peers_folder() -> Path:
    """Return the folder that holds the peers' environments."""
    return Path(os.environ.get("TIGHTBOUND_PEERS", Path.home() / ".cache" / "tightbound" / "peers"))


def peer_python(name: str, packages: tuple[str, ...]) -> Path:
    """Return the interpreter of the environment ``name`` with ``packages`` installed, making it when absent.

    A package written ``--no-deps:name`` is installed without what it depends on. An environment that was made for
    other packages is completed, not made anew.
    """
    home = peers_folder() / name
    python = home / "bin" / "python"
    made = home / "packages.json"
    wanted = hashlib.sha256(json.dumps(packages).encode()).hexdigest()
    if python.exists() and made.exists() and json.loads(made.read_text())["sha256"] == wanted:
        return python
    venv.create(home, with_pip=True)
    bare = [package.removeprefix("--no-deps:") for package in packages if package.startswith("--no-deps:")]
    whole = [package for package in packages if not package.startswith("--no-deps:")]
    for extra, names in (([], whole), (["--no-deps"], bare)):
        if names:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *extra, *names], check=True, stdout=sys.stderr)
    made.write_text(json.dumps({"sha256": wanted, "packages": packages}))
    return python
