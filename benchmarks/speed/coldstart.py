"""How long it takes until something happens: importing the package, and asking the command line for help.

    python benchmarks/speed/coldstart.py

Fresh processes, in turns; medians. The first of every kind fills the system's file cache and is not counted. The package
reads its modules when a name is asked for, so that the bare import says little: ``from tightbound import *`` asks for all.
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from common import markdown, ratio, turn, write

ROUNDS = 9
BASIS = "import jax, equinox, numpyro.distributions"
COMMANDS = {
    "import tightbound": ["-c", "import tightbound"],
    "from tightbound import *": ["-c", "from tightbound import *"],
    BASIS: ["-c", BASIS],
    "tightbound --help": ["-m", "tightbound", "--help"],
    "an empty process": ["-c", ""],
}


def seconds(arguments: list[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"python {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - began


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for counted in [False] + [True] * ROUNDS:
        with turn():
            for name, arguments in COMMANDS.items():
                taken = seconds(arguments)
                if counted:
                    times[name].append(taken)
    against = {name: ratio(taken, times[BASIS]) for name, taken in times.items()}
    rows = [[name, f"{median(taken):.2f}", f"{against[name]:.2f}"] for name, taken in times.items()]
    print(markdown(["", "median s", f"÷ {BASIS}"], rows))
    write("coldstart", {"seconds": times, "against_basis": against})


if __name__ == "__main__":
    main()
