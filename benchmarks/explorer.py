"""How long a hand on the explorer waits: decoding one place, alone and with fifty pages open at once.

    python benchmarks/explorer.py RUN

The server runs in a process of its own, as ``tightbound explore`` starts it; the clients are in this one, each asking for
the next place as soon as it has the last.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import numpy as np

CLIENTS, REQUESTS = 50, 40


async def client(address: str, latents: int, requests: int, seed: int) -> list[float]:
    rng, seconds = np.random.default_rng(seed), []
    async with httpx2.AsyncClient(base_url=address) as session:
        for _ in range(requests):
            start = time.perf_counter()
            answer = await session.post("decode", json={"z": [rng.normal(size=latents).tolist()]})
            seconds.append(time.perf_counter() - start)
            answer.raise_for_status()
    return seconds


async def measure(address: str) -> None:
    async with httpx2.AsyncClient(base_url=address) as session:
        latents = len((await session.get("facts")).json()["latents"])
    await client(address, latents, 20, 0)
    for clients, requests in ((1, 300), (CLIENTS, REQUESTS)):
        start = time.perf_counter()
        found = await asyncio.gather(*(client(address, latents, requests, seed) for seed in range(clients)))
        rate = clients * requests / (time.perf_counter() - start)
        milliseconds = 1e3 * np.concatenate(found)
        middle, tail = np.percentile(milliseconds, [50, 95])
        print(f"{clients:>3} clients: median {middle:.1f} ms, 95 % within {tail:.1f} ms, {rate:,.0f} requests/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    command = [sys.executable, "-m", "tightbound", "explore", str(parser.parse_args().run), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split(": ")[0]
        try:
            asyncio.run(measure(address))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
