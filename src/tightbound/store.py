"""A run on disk: spec, model, metrics, split, environment, as JSON and safetensors. No pickle anywhere.

While it is trained a run lives in ``NAME.partial``; it is renamed to ``NAME`` when it is whole, so that a folder
without the suffix is always complete. The model file carries its own spec and format number and can be loaded alone.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import equinox as eqx
import jax
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from tightbound.errors import FormatError, OutputExistsError, SpecError, StoreError, UntrustedError
from tightbound.files import read_json, refuse_existing, remove, write_bytes, write_json
from tightbound.hierarchy import model_spec
from tightbound.model import Model, ModelSpec, from_arrays, to_arrays
from tightbound.spec import Spec, canonical_json, customs

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "FORMAT",
    "Run",
    "RunWriter",
    "environment",
    "environment_differences",
    "load_model",
    "read_run",
    "require_trust",
    "save_model",
]

FORMAT = 1
_MODEL, _CHECKPOINT, _SPLIT = "model.safetensors", "checkpoint.safetensors", "split.safetensors"
_METRICS, _ENVIRONMENT = "metrics.jsonl", "environment.json"
_PARTIAL = ".partial"  # ends the name of a run that is not finished
# What the last bits of a trained model depend on, besides spec, data, plan and seed.
_BITS_DEPEND_ON = ("jaxlib", "device", "cores", "processor")


def environment() -> dict[str, Any]:
    """Return what a run was made with: versions, device kind, number of visible cores, processor."""
    packages = ("tightbound", "jax", "jaxlib", "equinox", "numpyro", "optax", "numpy")
    return {
        **{name: _version(name) for name in packages},
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "source tree"  # not installed, run from where it lies


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def environment_differences(then: dict[str, Any], now: dict[str, Any]) -> tuple[str, ...]:
    """Return sentences on what differs between two environments and can change the last bits of a run."""
    return tuple(
        f"{name} was {then.get(name)} and is now {now.get(name)}" for name in _BITS_DEPEND_ON if then.get(name) != now.get(name)
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
    path = _model_file(Path(path))
    arrays, head = _unpack(path)
    spec = _read_spec(head.get("spec"), path)
    require_trust(spec, trust)
    try:
        return from_arrays(_outline(spec), arrays)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _model_file(path: Path) -> Path:
    if path.is_dir():
        return path / _MODEL
    if not path.exists():
        raise FormatError(f"{path} does not exist{_unfinished(path)}")
    return path


def _outline(spec: ModelSpec) -> Model:
    """Return the model with arrays of the right names, shapes and types that take no memory and no time to make.

    What a file announces is compared with what it holds before anything of the announced size is allocated.
    """
    shapes = eqx.filter_eval_shape(spec.build, jax.random.key(0))

    def empty(leaf: Any) -> Any:
        is_shape = isinstance(leaf, jax.ShapeDtypeStruct)
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) if is_shape else leaf

    return jax.tree.map(empty, shapes)


def require_trust(spec: Spec, trust: Sequence[str]) -> None:
    """Raise :class:`UntrustedError` when a spec names code that is not in ``trust``."""
    for part in customs(spec):
        if part.target not in trust:
            raise UntrustedError(
                f"the file names code of its own, '{part.target}', which would be imported and run; "
                f"if you trust it, add trust=['{part.target}'] (on the command line: --trust {part.target})"
            )


def _read_spec(fields: Any, path: Path) -> ModelSpec:
    if not isinstance(fields, dict):
        raise FormatError(f"{path} holds no model spec")
    try:
        return model_spec(fields)(**fields)
    except SpecError as error:
        raise FormatError(f"{path} holds a spec that this version does not know: {error}") from None


def _pack(arrays: dict[str, np.ndarray], head: dict[str, Any]) -> bytes:
    # One metadata key: several are written in an order that changes from process to process.
    return safetensors.numpy.save(
        {name: np.asarray(array, order="C") for name, array in arrays.items()}, {"tightbound": canonical_json(head)}
    )


def _unpack(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get("tightbound")
            if text is None:
                raise FormatError(f"{path} is a safetensors file, but not one that tightbound wrote")
            head = json.loads(text)
            _check_format(head, path)
            return {name: file.get_tensor(name) for name in file.keys()}, head  # noqa: SIM118
    except FormatError:
        raise
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist") from None
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise FormatError(f"{path} is truncated or not a tightbound file ({error})") from None


def _check_format(head: Any, path: Path) -> None:
    number = head.get("format") if isinstance(head, dict) else None
    if not isinstance(number, int) or number < 1:
        raise FormatError(f"{path} names no format number, so it is not a file that tightbound wrote")
    if number > FORMAT:
        raise FormatError(f"{path} has format {number}, this version reads up to {FORMAT}: install a newer tightbound")


@dataclass(frozen=True)
class Run:
    """A finished run, read back: what was trained on what, how, and what came out.

    ``training`` holds the objective, the plan, what identifies the data, and how it was loaded; ``summary`` the
    numbers; ``split`` the row numbers of the parts.
    """

    path: Path
    spec: ModelSpec
    training: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]
    split: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        """The name of the run, which its folder has when it is finished."""
        return self.path.name.removesuffix(_PARTIAL)

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
        raise FormatError(f"{path} is not a run folder{_unfinished(path)}")
    head = read_json(path / "spec.json")
    _check_format(head, path / "spec.json")
    split, _ = _unpack(path / _SPLIT)
    parts = {name: _read_object(path / f"{name}.json") for name in ("training", "environment", "summary")}
    return Run(path, _read_spec(head.get("model"), path), **parts, split=split)


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise FormatError(f"{path} holds {type(value).__name__}, expected a JSON object")
    return value


def _unfinished(path: Path) -> str:
    partial = _partial(path)
    return f"; {partial} is an unfinished run: continue it with --resume" if partial.is_dir() else ""


def _partial(path: Path) -> Path:
    return path.with_name(path.name + _PARTIAL)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a last line that was cut off by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


@dataclass(frozen=True)
class Resumed:
    """What an unfinished run continues with: its last checkpoint (None before the first), its records, what differs."""

    arrays: dict[str, np.ndarray] | None
    step: int
    records: list[dict[str, Any]]
    differences: tuple[str, ...]


class RunWriter:
    """A run being written: ``begin`` or ``resume``, then records and checkpoints, then ``fill`` and ``finish``.

    Killed at any moment it leaves nothing, or ``NAME.partial`` from which ``resume`` continues, or the whole run. Within
    ``with`` no other process can write the same run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.partial = _partial(self.path)
        self._held: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._held is not None:
            os.close(self._held)

    def _hold(self) -> None:
        """Lock the unfinished run. The system drops the lock of a process that dies, so that none is ever left behind."""
        if fcntl is None:
            return
        self._held = os.open(self.partial, os.O_RDONLY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{self.partial} is being trained by another process; wait for it, or stop it first") from None
        except OSError:  # some network file systems have no locks
            return

    def begin(self, spec: ModelSpec, training: dict[str, Any], split: dict[str, np.ndarray]) -> None:
        """Start a run folder; raise :class:`OutputExistsError` when it exists, finished or not."""
        refuse_existing(self.path)
        if self.partial.exists():
            raise OutputExistsError(
                f"{self.partial} is an unfinished run: continue it with --resume, or remove it and start anew"
            )
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write {self.partial}: {error.strerror or error}") from error
        self._hold()
        self._begin(spec, training, split)

    def _begin(self, spec: ModelSpec, training: dict[str, Any], split: dict[str, np.ndarray]) -> None:
        write_json(self.partial / _ENVIRONMENT, environment())
        write_bytes(self.partial / _SPLIT, _pack(split, {"format": FORMAT}))
        write_json(self.partial / "training.json", training)
        write_json(self.partial / "spec.json", {"format": FORMAT, "model": spec.model_dump(mode="json")})

    def resume(self, spec: ModelSpec, training: dict[str, Any], split: dict[str, np.ndarray]) -> Resumed:
        """Return what an unfinished run continues with; one that was killed before it began begins now.

        Raises :class:`StoreError` when there is nothing to resume or when spec, objective, plan or data differ.
        """
        if not self.partial.is_dir():
            state = "is finished" if self.path.exists() else "does not exist"
            raise StoreError(f"nothing to resume: {self.path} {state}, and there is no {self.partial}")
        self._hold()
        for leftover in self.partial.glob(".*"):  # temporary files and folders of a process that was killed
            remove(leftover)
        if not (self.partial / "spec.json").exists():
            self._begin(spec, training, split)
        self._require_same(spec, training)
        differences = self._note_environment()
        checkpoint = self.partial / _CHECKPOINT
        if not checkpoint.exists():
            write_bytes(self.partial / _METRICS, b"")
            return Resumed(None, 0, [], differences)
        arrays, head = _unpack(checkpoint)
        kept = [record for record in _read_lines(self.partial / _METRICS) if record["step"] <= head["step"]]
        write_bytes(self.partial / _METRICS, "".join(canonical_json(record) + "\n" for record in kept).encode())
        return Resumed(arrays, head["step"], kept, differences)

    def _require_same(self, spec: ModelSpec, training: dict[str, Any]) -> None:
        head = read_json(self.partial / "spec.json")
        _check_format(head, self.partial / "spec.json")
        stored = {"model": head.get("model"), **_read_object(self.partial / "training.json")}
        wanted = {"model": spec.model_dump(mode="json"), **json.loads(canonical_json(training))}
        changed = [
            f"{name}.{part}"
            for name in ("model", "objective", "plan", "data")
            for part in _differing(stored.get(name) or {}, wanted.get(name) or {})
            if (name, part) != ("plan", "checkpoint_seconds")
        ]
        if changed:
            raise StoreError(
                f"{self.partial} was started with other settings ({', '.join(changed)}): resume it with the same ones, "
                "or choose another name"
            )

    def _note_environment(self) -> tuple[str, ...]:
        """Return what differs since the run began, and keep it with the run."""
        file = self.partial / _ENVIRONMENT
        began = _read_object(file)
        differences = environment_differences(began, environment())
        if differences:
            write_json(file, {**began, "resumed_elsewhere": [*began.get("resumed_elsewhere", []), list(differences)]})
        return differences

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

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is anything to resume from."""
        return (self.partial / _CHECKPOINT).exists()

    def discard(self) -> None:
        """Remove a run that holds nothing yet, so that a user's mistake leaves nothing behind."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def fill(self, model: Model, summary: dict[str, Any]) -> None:
        """Write the model and the summary: from here on the unfinished run can be read like a finished one."""
        refuse_existing(self.path)
        target = self.partial / _MODEL
        write_bytes(target, _pack(to_arrays(model), {"format": FORMAT, "spec": model.spec.model_dump(mode="json")}))
        write_json(self.partial / "summary.json", summary)

    def finish(self) -> None:
        """Give the folder its name, and drop the checkpoint."""
        refuse_existing(self.path)
        # The name comes before the clean-up: a kill in between leaves a whole run, not one without its checkpoint.
        self.partial.rename(self.path)
        (self.path / _CHECKPOINT).unlink(missing_ok=True)


def _differing(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    return [name for name in sorted(stored | wanted) if stored.get(name) != wanted.get(name)]
