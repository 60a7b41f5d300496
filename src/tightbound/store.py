"""A run on disk: ``spec.json``, ``model.safetensors``, ``metrics.jsonl``, the split, the environment. No pickle anywhere.

While it is trained a run lives in ``NAME.partial``; it is renamed to ``NAME`` when it is whole, so that a folder without
the suffix is always complete. The model file carries its own spec and format number and can be loaded alone.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from tightbound.errors import FormatError, OutputExistsError, SpecError, StoreError, UntrustedError
from tightbound.files import read_json, refuse_existing, write_bytes, write_json
from tightbound.model import VAE, Model, from_arrays, to_arrays
from tightbound.spec import Spec, canonical_json, customs

__all__ = ["FORMAT", "Run", "RunWriter", "environment", "environment_differences", "load_model", "read_run", "save_model"]

FORMAT = 1
_MODEL, _CHECKPOINT, _METRICS, _SPLIT = "model.safetensors", "checkpoint.safetensors", "metrics.jsonl", "split.safetensors"
# What the last bits of a trained model depend on, besides spec, data, plan and seed.
_BITS_DEPEND_ON = ("jaxlib", "device", "cores", "processor")


def environment() -> dict[str, Any]:
    """Return what a run was made with: versions, device kind, number of visible cores, processor."""
    packages = ("tightbound", "jax", "jaxlib", "equinox", "numpyro", "optax", "numpy")
    return {
        **{name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def environment_differences(then: dict[str, Any], now: dict[str, Any]) -> tuple[str, ...]:
    """Return sentences on what differs between two environments and can change the last bits of a run."""
    return tuple(
        f"{name} was {then.get(name)} and is now {now.get(name)}"
        for name in _BITS_DEPEND_ON
        if then.get(name) != now.get(name)
    )


def save_model(model: Model, path: str | Path) -> None:
    """Write a model to one safetensors file, with its spec; same weights, same bytes.

    Raises :class:`~tightbound.errors.OutputExistsError` when the file exists and
    :class:`~tightbound.errors.StoreError` when it cannot be written; no partial file is left.
    """
    refuse_existing(Path(path))
    write_bytes(Path(path), _pack(to_arrays(model), {"format": FORMAT, "spec": model.spec.model_dump(mode="json")}))


def load_model(path: str | Path, *, trust: Sequence[str] = ()) -> Model:
    """Rebuild a model from its file or its run folder, bit-identical to the one that was saved.

    A spec that names a user's own code (``Custom``) is built only when its target is in ``trust``. Raises
    :class:`~tightbound.errors.FormatError` for truncated, foreign or newer files and
    :class:`~tightbound.errors.UntrustedError` with the exact string to add.
    """
    path = Path(path)
    arrays, head = _unpack(path / _MODEL if path.is_dir() else path)
    spec = _read_spec(head.get("spec"), path)
    require_trust(spec, trust)
    return from_arrays(spec.build(jax.random.key(0)), arrays)


def require_trust(spec: Spec, trust: Sequence[str]) -> None:
    """Raise :class:`UntrustedError` when a spec names code that is not in ``trust``."""
    for part in customs(spec):
        if part.target not in trust:
            raise UntrustedError(
                f"the file names code of its own, '{part.target}', which would be imported and run; "
                f"if you trust it, add trust=['{part.target}'] (on the command line: --trust {part.target})"
            )


def _read_spec(fields: Any, path: Path) -> VAE:
    if not isinstance(fields, dict):
        raise FormatError(f"{path} holds no model spec")
    try:
        return VAE(**fields)
    except SpecError as error:
        raise FormatError(f"{path} holds a spec that this version does not know: {error}") from None


def _pack(arrays: dict[str, np.ndarray], head: dict[str, Any]) -> bytes:
    # One metadata key: several are written in an order that changes from process to process.
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"tightbound": canonical_json(head)}
    )


def _unpack(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get("tightbound")
            if text is None:
                raise FormatError(f"{path} is a safetensors file, but not one that tightbound wrote")
            head = json.loads(text)
            if head.get("format", 0) > FORMAT:
                raise FormatError(
                    f"{path} has format {head['format']}, this version reads up to {FORMAT}: install a newer tightbound"
                )
            return {name: file.get_tensor(name) for name in file.keys()}, head  # noqa: SIM118
    except FormatError:
        raise
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist") from None
    except (OSError, SafetensorError, json.JSONDecodeError, AttributeError, TypeError) as error:
        raise FormatError(f"{path} is truncated or not a tightbound file ({error})") from None


@dataclass(frozen=True)
class Run:
    """A finished run, read back: what was trained on what, how, and what came out."""

    path: Path
    spec: VAE
    training: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]
    split: dict[str, np.ndarray]

    def model(self, *, trust: Sequence[str] = ()) -> Model:
        """Rebuild the trained model."""
        return load_model(self.path, trust=trust)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the records of the training, one per line of ``metrics.jsonl``."""
        return _read_lines(self.path / _METRICS)


def read_run(path: str | Path) -> Run:
    """Read a run folder; raise :class:`~tightbound.errors.FormatError` when it is absent, unfinished or newer."""
    path = Path(path)
    if not path.is_dir():
        unfinished = f"; {_partial(path)} is an unfinished run: continue it with --resume" if _partial(path).is_dir() else ""
        raise FormatError(f"{path} is not a run folder{unfinished}")
    head = read_json(path / "spec.json")
    if not isinstance(head, dict) or "format" not in head:
        raise FormatError(f"{path / 'spec.json'} is not the spec of a run")
    if head["format"] > FORMAT:
        raise FormatError(f"{path} has format {head['format']}, this version reads up to {FORMAT}: install a newer tightbound")
    split, _ = _unpack(path / _SPLIT)
    parts = {name: read_json(path / f"{name}.json") for name in ("training", "environment", "summary")}
    return Run(path, _read_spec(head.get("model"), path), **parts, split=split)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a last line that was cut off by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class RunWriter:
    """A run being written: ``begin`` or ``resume``, then records and checkpoints, then ``finish``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.partial = _partial(self.path)

    def begin(self, spec: VAE, training: dict[str, Any], split: dict[str, np.ndarray]) -> None:
        """Start a run folder; raise :class:`OutputExistsError` when it exists, finished or not."""
        refuse_existing(self.path)
        if self.partial.exists():
            raise OutputExistsError(
                f"{self.partial} is an unfinished run: continue it with --resume, or remove it and start anew"
            )
        write_json(self.partial / "environment.json", environment())
        write_bytes(self.partial / _SPLIT, _pack(split, {"format": FORMAT}))
        write_json(self.partial / "training.json", training)
        write_json(self.partial / "spec.json", {"format": FORMAT, "model": spec.model_dump(mode="json")})

    def resume(self, spec: VAE, training: dict[str, Any]) -> tuple[dict[str, np.ndarray] | None, tuple[str, ...]]:
        """Return the last checkpoint of an unfinished run (None before the first) and what differs since then.

        Raises :class:`StoreError` when there is nothing to resume or when the spec or the training differ.
        """
        if not self.partial.is_dir():
            state = "is finished" if self.path.exists() else "does not exist"
            raise StoreError(f"nothing to resume: {self.path} {state}, and there is no {self.partial}")
        if not (self.partial / "spec.json").exists():
            raise StoreError(f"{self.partial} was interrupted before it began; remove it and start anew")
        stored = {"model": read_json(self.partial / "spec.json")["model"], **read_json(self.partial / "training.json")}
        wanted = {"model": spec.model_dump(mode="json"), **json.loads(canonical_json(training))}
        changed = [name for name in stored | wanted if stored.get(name) != wanted.get(name)]
        if changed:
            raise StoreError(f"{self.partial} was started with other settings ({', '.join(changed)}): resume with the same")
        differences = environment_differences(read_json(self.partial / "environment.json"), environment())
        checkpoint = self.partial / _CHECKPOINT
        if not checkpoint.exists():
            write_bytes(self.partial / _METRICS, b"")
            return None, differences
        arrays, head = _unpack(checkpoint)
        kept = [record for record in _read_lines(self.partial / _METRICS) if record["step"] <= head["step"]]
        write_bytes(self.partial / _METRICS, "".join(canonical_json(record) + "\n" for record in kept).encode())
        return arrays, differences

    def record(self, records: Iterable[dict[str, Any]]) -> None:
        """Append records to ``metrics.jsonl``."""
        try:
            with (self.partial / _METRICS).open("a", encoding="utf-8") as file:
                file.writelines(canonical_json(record) + "\n" for record in records)
        except OSError as error:
            raise StoreError(f"cannot write {self.partial / _METRICS}: {error.strerror or error}") from error

    def checkpoint(self, arrays: dict[str, np.ndarray], step: int) -> None:
        """Replace the checkpoint; what was there stays until the new one is whole."""
        write_bytes(self.partial / _CHECKPOINT, _pack(arrays, {"format": FORMAT, "step": step}))

    def discard(self) -> None:
        """Remove a run that never took a step, so that a user's mistake leaves nothing behind."""
        for file in sorted(self.partial.glob("*")):
            file.unlink()
        self.partial.rmdir()

    def finish(self, model: Model, summary: dict[str, Any]) -> None:
        """Write the model and the summary, drop the checkpoint, and give the folder its name."""
        target = self.partial / _MODEL
        write_bytes(target, _pack(to_arrays(model), {"format": FORMAT, "spec": model.spec.model_dump(mode="json")}))
        write_json(self.partial / "summary.json", summary)
        (self.partial / _CHECKPOINT).unlink(missing_ok=True)
        refuse_existing(self.path)
        self.partial.rename(self.path)
