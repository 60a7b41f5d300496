"""How long the report of a run takes and how large it is, for four kinds of data; and pictures of each page.

    TIGHTBOUND_DATA=folder python benchmarks/report.py RUNS
    TIGHTBOUND_DATA=folder python benchmarks/report.py RUNS --gallery docs/images/gallery

Small models of the digits, of Frey Faces, of the Adult table and of gene counts are fitted into RUNS, unless they are there;
their reports are written again every time, in a process of their own: once with no compiled programs kept, as on the first
day, and once with those of the first time. The gallery needs the package playwright and a Chromium on the path.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "speed"))
sys.path.insert(0, str(Path(__file__).resolve().parent / "tables"))

from common import chromium, data_folder
from synthesis import read

LARGEST, SLOWEST = 3_000_000, 30.0  # bytes, seconds
CELLS = ("data", "indices", "indptr", "shape")


def frey_faces(target: Path) -> None:
    with np.load(data_folder("freyfaces") / "freyfaces.npz", allow_pickle=False) as file:
        np.save(target, file["x"].reshape(-1, 28, 20))


def adult(target: Path) -> None:
    read("adult-train.csv").to_csv(target, index=False)


def genes(target: Path) -> None:
    with np.load(data_folder("counts") / "mouse_brain_10k_csr.npz", allow_pickle=False) as file:
        values, columns, starts, shape = (file[name] for name in CELLS)
    counts = np.zeros(shape, np.int32)
    counts[np.repeat(np.arange(shape[0]), np.diff(starts)), columns] = values
    np.save(target, counts)


# The file that each is fitted to, what makes it, and flags of the fit; the digits are built in.
KINDS: dict[str, tuple[str, Callable[[Path], None] | None, tuple[str, ...]]] = {
    "digits": ("digits", None, ()),
    "freyfaces": ("freyfaces.npy", frey_faces, ("--steps", "1500", "--latent", "20")),
    "adult": ("adult.csv", adult, ("--steps", "3000", "--latent", "12", "--hidden", "128")),
    "genes": ("genes.npy", genes, ("--kind", "count", "--steps", "1000", "--latent", "10", "--hidden", "128")),
}


def command(*arguments: object, cache: Path | None = None) -> float:
    """Run the command line in a process of its own, and return the seconds that it took."""
    own = {} if cache is None else {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    start = time.perf_counter()
    line = [sys.executable, "-m", "tightbound", *map(str, arguments)]
    subprocess.run(line, check=True, env=os.environ | own, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def fitted(kind: str, folder: Path) -> Path:
    """Return the run of a small model, fitted unless it is there."""
    source, make, flags = KINDS[kind]
    run = folder / kind
    if not run.exists():
        if make is not None:
            make(folder / source)
        where = source if make is None else folder / source
        print(f"{kind}: fitting", flush=True)
        command("fit", where, "--out", run, "--no-pictures", "--no-report", "--draws", "100", *flags)
    return run


def measure(kind: str, run: Path) -> Path:
    """Print how long the report of a run takes and how large it is, and return its page."""
    page = run / "report.html"
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            page.unlink(missing_ok=True)
            shutil.rmtree(run / "report", ignore_errors=True)
            seconds.append(command("report", run, cache=Path(cache)))
    size = page.stat().st_size
    print(f"{kind}: {seconds[0]:.1f} s, again {seconds[1]:.1f} s; {size / 1e6:.2f} MB", flush=True)
    if seconds[0] > SLOWEST or size > LARGEST:
        print(f"{kind}: more than {SLOWEST:g} s or {LARGEST / 1e6:g} MB", file=sys.stderr)
    return page


def photograph(page: Path, folder: Path) -> None:
    """Keep each section of a page as a picture of few colours: KIND-SECTION.png, light, and the first one dark too."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as library:
        browser = chromium(library)
        for scheme in ("light", "dark"):
            shown = browser.new_page(viewport={"width": 960, "height": 900}, color_scheme=scheme)
            shown.goto(page.resolve().as_uri())
            sections = shown.locator("main > section")
            for number in range(1 if scheme == "dark" else sections.count()):
                section = sections.nth(number)
                suffix = "-dark" if scheme == "dark" else ""
                target = folder / f"{page.parent.name}-{section.get_attribute('id')}{suffix}.png"
                section.screenshot(path=str(target))
                with Image.open(target) as picture:
                    few = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
                few.save(target, optimize=True)
                print(f"{target}: {target.stat().st_size / 1e3:.0f} kB", flush=True)
        browser.close()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("runs", type=Path)
    options.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    options.add_argument("--gallery", type=Path)
    arguments = options.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    for kind in arguments.only:
        page = measure(kind, fitted(kind, arguments.runs))
        if arguments.gallery is not None:
            photograph(page, arguments.gallery)


if __name__ == "__main__":
    main()
