"""What a run is made of, as four tables, [model], [objective], [plan] and [data]: from a TOML file, flags, or both."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Self, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, Field

from tightbound.data.arrays import Binarisation, Dataset, Missing, Split
from tightbound.data.frames import TableSchema, infer, overruled
from tightbound.data.load import BUILTIN, TABLE_SUFFIXES, load, read_table
from tightbound.data.raw import MARKERS
from tightbound.diagnosis.subject import Steps, Subject
from tightbound.errors import DataError, SpecError
from tightbound.hierarchy import HierarchicalVAE, model_spec
from tightbound.holdout import data_digest, held_out, subject
from tightbound.model import VAE, Model, ModelSpec, default_likelihood
from tightbound.objectives import ELBO, IWAE, ObjectiveSpec
from tightbound.recipes import Recipe
from tightbound.schema import Kind, Sites
from tightbound.spec import Custom, Spec
from tightbound.store import Run, require_trust
from tightbound.training.plan import Plan

__all__ = [
    "DataOptions",
    "Settings",
    "default_latent",
    "default_plan",
    "evaluated_rows",
    "from_tables",
    "loaded_from",
    "merge",
    "nested",
    "other_rows",
    "own_rows",
    "read_schema",
    "read_toml",
    "recorded_table",
    "require_own",
    "schema_toml",
    "spec_of",
    "subject_of",
    "table_of",
    "template",
    "to_toml",
    "toml_value",
]

TABLES = ("model", "objective", "plan", "data")
_OBJECTIVES: dict[str, type[ObjectiveSpec]] = {"elbo": ELBO, "iwae": IWAE}
_ALTERNATIVES = ({"epochs", "steps"}, {"latent", "latents"})  # fields that say one thing in two ways
_DEFAULT_EPOCHS, _DEFAULT_STEPS = 100, 2000  # a small data set gets this many steps, a large one this many epochs
_DECAY = 0.05  # decay alone would shrink the weights by exp(−_DECAY √steps) over a run at a constant rate

Tables = dict[str, Any]


class DataOptions(Spec):
    """How a source is read and divided: the options of :func:`tightbound.load`, and the fractions held out.

    A file of columns is a table whose columns differ in kind, unless an option says what all of its cells are; ``table``
    is what its columns were taken for. Missing cells are refused in arrays and masked in tables, unless ``missing`` says so.
    """

    kind: Kind | None = None
    levels: int | None = None
    binarise: Binarisation | None = None
    missing: Missing | None = None
    resize: tuple[int, int] | None = None
    grey: bool = False
    array: str | None = None
    label: str | None = None
    exposure: str | None = None
    shape: tuple[int, ...] | None = None
    table: TableSchema | None = None
    validation: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.1, ge=0, lt=1)

    def load(self, source: Any, seed: int, columns: Tables | None = None) -> tuple[Dataset, Self]:
        """Return the data set and these options with kind, levels or table filled in, as other rows need them.

        ``columns`` are the arguments of :func:`tightbound.infer` that overrule what a table's values suggest.
        """
        if self.is_table(source):
            return self._load_table(source, columns or {})
        if columns is not None:
            raise DataError(f"'{source}' is not read as a table of columns, so --schema says nothing about it")
        names = ("kind", "levels", "missing", "resize", "grey", "array", "label", "exposure", "shape")
        options = {name: getattr(self, name) for name in names}
        data = load(source, **{name: value for name, value in options.items() if value is not None})
        sites = data.sites
        known = self.replace(kind=sites.kind, levels=sites.levels or None, missing="mask" if sites.missing else "refuse")
        return (data.with_binarisation(self.binarise, seed) if self.binarise else data), known

    def is_table(self, source: Any) -> bool:
        """Whether the source is a file whose columns may differ in kind."""
        of_one_kind = (self.kind, self.levels, self.binarise, self.exposure, self.shape, self.array, self.resize, self.grey)
        return Path(str(source)).suffix.lower() in TABLE_SUFFIXES and not any(of_one_kind)

    def _load_table(self, source: Any, columns: Tables) -> tuple[Dataset, Self]:
        frame = read_table(source)
        if self.label is not None and self.label not in frame.column_names and self.table is None:
            raise DataError(f"'{source}' has no column '{self.label}'; it has {', '.join(map(repr, frame.column_names))}")
        leave = [] if self.label is None else [self.label]
        schema = self.table or infer(frame, **{**columns, "leave": [*columns.get("leave", ()), *leave]})
        labels = np.asarray(frame[self.label]) if self.label in frame.column_names else None
        holes = schema.holes(frame) if self.missing == "refuse" else 0
        if holes:
            raise DataError(f"'{source}' has {holes:,} missing cells; fill them, or leave out missing='refuse' to mask them")
        return schema.encode(frame, source=str(source), labels=labels), self.replace(table=schema)


class Settings(NamedTuple):
    """Everything that decides a run besides the source of the data."""

    spec: ModelSpec
    objective: ObjectiveSpec
    plan: Plan
    options: DataOptions
    data: Dataset


def from_tables(
    tables: Tables, source: Any, trust: Sequence[str] = (), columns: Tables | None = None, recipe: Recipe | None = None
) -> Settings:
    """Return what the tables describe, with the data read from ``source`` and defaults that fit the data.

    ``columns`` overrules what the columns of a table are taken for, as :func:`read_schema` gives it. What the tables leave out
    is taken from a ``recipe`` first.
    Raises :class:`~tightbound.errors.SpecError` for unknown names, with the allowed ones listed, and
    :class:`~tightbound.errors.UntrustedError` for code of the user's own that is not in ``trust``.
    """
    _require_known(tables, "spec")
    tables = tables if recipe is None else merge(recipe.tables(), tables)
    options = DataOptions(**tables.get("data", {}))
    objective = _objective(tables.get("objective", {}))
    given = Plan(**tables.get("plan", {}))
    data, known = options.load(source, given.seed, columns)
    if recipe is not None:
        if recipe.binarise is not None and data.sites.kind == "levels":
            known = known.replace(binarise=recipe.binarise)
            data = data.with_binarisation(recipe.binarise, given.seed)
        recipe.require(data.sites)
    spec = _spec(data.sites, tables.get("model", {}))
    require_trust(spec, trust)
    spec.check()
    rows = len(data.split(known.validation, known.test, given.seed).train)
    return Settings(spec, objective, default_plan(given, rows), known, data)


def default_plan(plan: Plan, rows: int) -> Plan:
    """Return the plan with the length and the weight decay that it does not name itself.

    The decay is Loshchilov and Hutter's normalised one, λ = 0.05 / (learning rate · √steps): it is strong where few rows
    are seen often, and fades as training becomes long.
    """
    decay_named = "weight_decay" in plan.model_fields_set
    if plan.steps is None and plan.epochs is None:
        per_epoch = rows / min(plan.batch_size, rows)
        plan = plan.replace(epochs=max(_DEFAULT_EPOCHS, math.ceil(_DEFAULT_STEPS / per_epoch)))
    if decay_named:
        return plan
    decay = _DECAY / (plan.learning_rate * math.sqrt(plan.total_steps(rows)))
    return plan.replace(weight_decay=float(f"{decay:.2g}"))


def default_latent(sites: Sites) -> int:
    """Return a number of latents for data of this size; those that the data does not need are switched off by the KL.

    >>> [default_latent(Sites(kind="binary", shape=(count,))) for count in (2, 12, 64, 784)]
    [2, 7, 16, 50]
    """
    return min(sites.count, 50, round(2 * math.sqrt(sites.count)))


def loaded_from(source: str, options: DataOptions) -> dict[str, Any]:
    """Return what a run keeps about where its data came from, enough to read it, or other rows like it, again."""
    path = Path(source).expanduser()
    absolute = str(path.resolve()) if path.exists() and source not in BUILTIN else None
    return {"source": source, "path": absolute, "options": options.model_dump(mode="json")}


def table_of(run: Run) -> TableSchema:
    """Return what the columns of a run's table are; raise :class:`DataError` when it was not trained on a table."""
    table = recorded_table(run)
    if table is None:
        raise DataError(f"{run.path} was not trained on a table of columns, but on {run.spec.sites.describe()}")
    return table


def recorded_table(run: Run) -> TableSchema | None:
    """Return what the columns of a run's table are, None when it was not trained on a table."""
    return DataOptions(**run.training["loaded"].get("options", {})).table


def own_rows(run: Run) -> Dataset:
    """Return the data set of a run, read again from where it was; raise :class:`DataError` when it has changed."""
    source, options = _recorded(run)
    data, _ = options.load(source, _seed(run))
    require_own(run, data, f"in {source} has changed since {run.path} was trained on it; pass DATA to evaluate other rows")
    return data


def require_own(run: Run, data: Dataset, trouble: str = "is not that of the run: pass what fit was given") -> None:
    """Raise :class:`DataError` unless the data set is the one that a run was trained on."""
    if data_digest(data) != run.training["data"]["digest"]:
        raise DataError(f"the data {trouble}")


def evaluated_rows(run: Run) -> tuple[Dataset, str]:
    """Return the rows that the final numbers of a run are of, with fixed bits, and the part that they are."""
    part = "test" if len(run.split["test"]) else "train"
    return held_out(own_rows(run), run.split[part], _seed(run)), {"train": "training"}.get(part, part)


def subject_of(run: Run, model: Model) -> Subject:
    """Return what a diagnosis of a run looks at."""
    split, plan = Split(**run.split), Plan(**run.training["plan"])
    steps = Steps(run.summary["planned_steps"], run.summary["steps"])
    return subject(model, own_rows(run), split, plan, run.training["objective"], run.metrics(), steps)


def other_rows(
    run: Run, source: str, *, array: str | None = None, label: str | None = None, exposure: str | None = None
) -> Dataset:
    """Return rows for the model of a run, read as its own data were; bits under dynamic binarisation are drawn once.

    What concerns the form of a file (array, label, exposure, resize, grey) is taken over when both sources have the same form.
    """
    sites = run.spec.sites
    known: Tables = {
        "kind": sites.kind,
        "levels": sites.levels or None,
        "missing": "mask" if sites.missing else "refuse",
    }
    options = DataOptions(**known)
    if "options" in run.training["loaded"]:
        recorded, options = _recorded(run)
        if Path(recorded).suffix != Path(source).suffix:
            options = options.replace(array=None, label=None, exposure=None, resize=None, grey=False)
    named = {"array": array, "label": label, "exposure": exposure}
    given = {name: value or None for name, value in named.items() if value is not None}
    data, _ = options.replace(shape=sites.shape if sites.is_image else None, **given).load(source, _seed(run))
    return data.binarised(_seed(run)) if data.binarise else data


def _recorded(run: Run) -> tuple[str, DataOptions]:
    loaded = run.training["loaded"]
    if "options" not in loaded:
        raise DataError(f"{run.path} was trained from Python and does not say how its data was read; pass DATA")
    return loaded.get("path") or loaded["source"], DataOptions(**loaded["options"])


def _seed(run: Run) -> int:
    return int(run.training["plan"]["seed"])


def _spec(sites: Sites, table: Tables) -> ModelSpec:
    if "sites" in table:
        raise SpecError("[model]", (("sites", "is told by the data; leave it out"),))
    model, likelihood = model_spec(table), default_likelihood(sites.kind)
    default = {"latent": default_latent(sites)} if model is VAE else {}
    fields = {**default, "likelihood": likelihood, **table}
    for role in model.parts:
        if role in table:
            part = likelihood if role == "likelihood" else model.model_fields[role].default
            fields[role] = _part(table[role], str(getattr(part, "kind", "")))
    return model(sites=sites, **fields)


def _part(value: Any, kind: str) -> Any:
    """Return a part's table with its kind: a name stands for a kind, "module:Name" for code of the user's own."""
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, dict):
        return value
    fields = {"kind": kind, **value}
    return {**fields, "kind": "custom", "target": fields["kind"]} if ":" in str(fields["kind"]) else fields


def _objective(table: Tables) -> ObjectiveSpec:
    fields = dict(table)
    kind = fields.pop("kind", "elbo")
    if kind not in _OBJECTIVES:
        raise SpecError("[objective]", (("kind", f"unknown kind '{kind}' (allowed: {', '.join(_OBJECTIVES)})"),))
    if isinstance(fields.get("then"), str):
        fields["then"] = {"kind": fields["then"]}
    return _OBJECTIVES[kind](**fields)


def read_toml(path: Path) -> Tables:
    """Return the tables of a TOML file; raise :class:`~tightbound.errors.SpecError` when it cannot be read."""
    tables = _toml(path)
    _require_known(tables, str(path))
    return tables


def _toml(path: Path) -> Tables:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(str(path), (("", f"cannot be read: {error.strerror or error}"),)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(str(path), (("", f"is not valid TOML ({error})"),)) from None


def read_schema(path: Path) -> Tables:
    """Return what a file says of the columns of a table, as arguments of :func:`tightbound.infer`.

    ``markers`` are the words for missing cells; ``[columns]`` has a kind for a column's name, or a table with ``kind`` and
    ``values``, ``atoms`` or ``step``. Raises :class:`~tightbound.errors.SpecError` when the file cannot be read or has other
    fields.
    """
    tables = _toml(path)
    unknown = sorted(set(tables) - {"columns", "markers"})
    if unknown:
        raise SpecError(str(path), ((unknown[0], "is not part of a schema (allowed: markers, [columns])"),))
    try:
        overruled(tables.get("columns"), tables.get("markers", MARKERS))
    except DataError as error:
        raise SpecError(str(path), (("", str(error)),)) from None
    return tables


def schema_toml(schema: TableSchema) -> str:
    """Return a schema as the file that :func:`read_schema` reads, to be edited."""
    lines = [f"markers = {_value(list(schema.markers))}", "", "[columns]"]
    known = {column.name: column for column in schema.columns}
    for name, kind, contents in schema.lines():
        column = known.get(name)
        values = column.values if column else ()
        shown: Any = {"kind": kind, "values": list(values)} if kind in ("ordinal", "category") else kind.replace(" ", "-")
        if column and kind in ("real", "positive"):
            shown = {"kind": kind, "step": column.step, "atoms": list(column.atoms)}
        lines.append(f"{json.dumps(name, ensure_ascii=False)} = {_value(shown)}" + ("" if values else f"  # {contents}"))
    return "\n".join([*lines, ""])


def _require_known(tables: Tables, where: str) -> None:
    unknown = [name for name in tables if name not in TABLES or not isinstance(tables[name], dict)]
    if unknown:
        allowed = ", ".join(f"[{name}]" for name in TABLES)
        raise SpecError(where, ((unknown[0], f"is not one of the tables of a spec (allowed: {allowed})"),))


def toml_value(text: str) -> Any:
    """Return what a word on the command line stands for: a TOML value, or else the word itself.

    >>> [toml_value(text) for text in ("0.5", "[9, 9]", "site")]
    [0.5, [9, 9], 'site']
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def nested(values: Tables) -> Tables:
    """Return tables in tables for names with dots.

    >>> nested({"model.prior.kind": "vamp", "plan.seed": 3})
    {'model': {'prior': {'kind': 'vamp'}}, 'plan': {'seed': 3}}
    """
    tables: Tables = {}
    for path, value in values.items():
        *outer, name = path.split(".")
        table = tables
        for part in outer:
            table = table.setdefault(part, {})
        table[name] = value
    return tables


def merge(below: Tables, above: Tables) -> Tables:
    """Return two tables as one, ``above`` winning; a part of another kind takes nothing from the one it replaces.

    Of fields that say one thing in two ways, such as epochs and steps, one above replaces the other below.

    >>> merge({"prior": {"kind": "vamp", "components": 9}}, {"prior": {"kind": "mixture"}})
    {'prior': {'kind': 'mixture'}}
    """
    merged = dict(below)
    for alternatives in _ALTERNATIVES:
        if alternatives & above.keys():
            merged = {name: value for name, value in merged.items() if name not in alternatives}
    for name, value in above.items():
        under = merged.get(name)
        under = {"kind": under} if isinstance(under, str) else under
        if isinstance(value, dict) and isinstance(under, dict) and value.get("kind", under.get("kind")) == under.get("kind"):
            value = merge(under, value)
        merged[name] = value
    return merged


def to_toml(spec: ModelSpec, objective: ObjectiveSpec, plan: Plan, options: DataOptions) -> str:
    """Return the TOML from which the same run can be started again."""
    lines = ["[model]", *_fields(spec, leave=("sites", *spec.parts)), ""]
    for role in spec.parts:
        lines += [f"[model.{role}]", *_fields(getattr(spec, role)), ""]
    for name, part in (("objective", objective), ("plan", plan), ("data", options)):
        lines += [f"[{name}]", *_fields(part), ""]
    return "\n".join(lines)


def spec_of(run: Run) -> str:
    """Return the TOML from which the same run can be started again."""
    return to_toml(*rebuilt(run), DataOptions(**run.training["loaded"].get("options", {})))


def rebuilt(run: Run) -> tuple[ModelSpec, ObjectiveSpec, Plan]:
    """Return the model, the objective and the plan of a run."""
    return run.spec, _objective(run.training["objective"]), Plan(**run.training["plan"])


def template() -> str:
    """Return a TOML to start from: every choice with its default, the alternatives as comments."""
    lines = ["# A run of tightbound: tightbound fit DATA --spec FILE.toml --out RUN. Flags win over this file.", ""]
    lines += ["[model]", "# latent = 16  (left out: chosen by the number of sites)"]
    lines += ["# latents = [8, 16]  (in place of latent: a hierarchy of layers, the top one first; with it also:)"]
    hierarchy = ("kind", "sites", "latents", *HierarchicalVAE.parts)
    lines += [f"# {line}" for line in _fields(HierarchicalVAE.model_construct(), explain=True, leave=hierarchy)] + [""]
    for role in VAE.parts:
        default = VAE.model_fields[role].default
        shown = default if isinstance(default, Spec) else None
        lines += [*_choice(f"model.{role}", shown, _alternatives(VAE, role)), ""]
    choice = _choice("objective", ELBO(), tuple(_OBJECTIVES.values()))
    lines += [line for line in choice if line not in ("# share = …", "# then = …")]
    lines += [
        "# [objective.then]  the objective of the last part of the run, if another",
        '# kind = "iwae"',
        "# share = 0.2",
        "",
    ]
    lines += ["[plan]", *_fields(Plan(), explain=True), "", "[data]", *_fields(DataOptions(), explain=True), ""]
    decay = next(line for line in lines if line.startswith("weight_decay"))
    lines[lines.index(decay)] = "# weight_decay = …  (left out: 0.05 / (learning_rate √steps))"
    return "\n".join(lines)


def _choice(name: str, default: Spec | None, alternatives: Sequence[type[Spec]]) -> list[str]:
    kinds = ", ".join(_kind(part) for part in alternatives)
    others = [part for part in alternatives if part is not type(default) and part is not Custom]
    if default is None:
        lines = [f"# [{name}]  left out: chosen by the kind of the sites; one of {kinds}"]
    else:
        lines = [f"[{name}]  # one of {kinds}", *_fields(default, explain=True)]
    for part in others:
        lines += [f"# {line}" if not line.startswith("#") else line for line in _fields(part(), explain=True)]
    return lines


def _fields(part: Spec, *, explain: bool = False, leave: Sequence[str] = ()) -> Iterator[str]:
    """Yield the fields of a spec as lines of TOML; what is None cannot be written: a comment, if anything."""
    values = part.model_dump(mode="json", exclude=set(leave))
    for name, info in type(part).model_fields.items():
        if name in leave or (name == "kind" and isinstance(part, Plan)):
            continue
        choices = _choices(info.annotation)
        note = f"one of {', '.join(choices)}" if len(choices) > 1 and explain else ""
        if values[name] is not None:
            yield f"{name} = {_value(values[name])}" + (f"  # {note}" if note else "")
        elif explain:
            yield f"# {name} = …" + (f"  ({note})" if note else "")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        known = {name: item for name, item in value.items() if item is not None}  # TOML has no word for none
        return "{" + ", ".join(f"{json.dumps(name)} = {_value(item)}" for name, item in known.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _choices(annotation: Any) -> list[str]:
    """Return the names that a field accepts, empty when it is not a choice between names."""
    if get_origin(annotation) is Literal:
        return [str(name) for name in get_args(annotation)]
    if get_origin(annotation) in (Union, UnionType):
        return [name for member in get_args(annotation) for name in _choices(member)]
    return []


def _alternatives(spec: type[BaseModel], role: str) -> tuple[type[Spec], ...]:
    annotation: Any = spec.model_fields[role].annotation
    return get_args(get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation)


def _kind(part: type[Spec]) -> str:
    return str(part.model_fields["kind"].default)
