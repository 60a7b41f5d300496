"""The terminal face: fit, recipes, sweep, evaluate, diagnose, report, explore, encode, reconstruct, sample, impute and others.

Own modules are imported when a command runs, by name, so that ``tightbound --help`` does not wait for JAX.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tightbound.errors import CombinationError, SpecError, TightboundError

__all__ = ["app", "main"]

app = typer.Typer(
    name="tightbound",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Command = TypeVar("Command", bound=Callable[..., None])

MODEL, OBJECTIVE, TRAINING, DATA = "Model", "Objective", "Training", "Data"
SWEEP = "Swept over"
IMPORTANCE, ANNEALING = "Importance sampling", "Annealing"
_WIDTH = 120  # of lines that go to a file
_LINES, _LINE_SECONDS = 20, 2.0  # lines of progress where no bar can be drawn: how many, how far apart


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit with 2 on a mistake of the user's, with 130 on Ctrl-C."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    _switch_on_cache("--no-cache" not in given)
    app(args=given, obj=given)


def _switch_on_cache(wanted: bool) -> None:
    """Keep compiled programs between runs, by the environment variables that JAX reads when it is imported."""
    if not wanted or os.environ.get("TIGHTBOUND_CACHE", "").lower() == "off":
        return
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(home) / "tightbound" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _part(name: str) -> Any:
    """Import a module of this package."""
    return import_module(f"tightbound.{name}")


def _command(function: Command) -> Command:
    """Make a function a command: a user's mistake becomes one line on stderr and exit code 2."""

    @functools.wraps(function)
    def guarded(*given: Any, **options: Any) -> None:
        try:
            function(*given, **options)
        except TightboundError as error:
            _complain(f"error: {_in_one_line(error)}")
            raise typer.Exit(2) from None
        except KeyboardInterrupt as stop:
            _complain(str(stop) or "interrupted")
            raise typer.Exit(130) from None

    app.command()(guarded)
    return function


def _in_one_line(error: TightboundError) -> str:
    if isinstance(error, SpecError) and len(error.problems) > 1:
        return f"{error.what}: " + "; ".join(": ".join(problem) for problem in error.problems)
    return str(error)


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tightbound {import_module('tightbound').__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Keep no compiled programs (the same as TIGHTBOUND_CACHE=off).")
    ] = False,
) -> None:
    """Variational autoencoders whose numbers can be trusted: losses in nats per example, bounds with their side."""


# Where each flag of fit goes in the tables of a spec.
_FLAGS = {
    "latent": ("model.latent",),
    "latents": ("model.latents",),
    "network": ("model.encoder.kind", "model.decoder.kind"),
    "hidden": ("model.encoder.hidden", "model.decoder.hidden"),
    "channels": ("model.encoder.channels", "model.decoder.channels"),
    "gated": ("model.encoder.gated", "model.decoder.gated"),
    "posterior": ("model.posterior.kind",),
    "prior": ("model.prior.kind",),
    "components": ("model.prior.components",),
    "likelihood": ("model.likelihood.kind",),
    "objective": ("objective.kind",),
    "beta": ("objective.beta",),
    "warmup": ("objective.warmup",),
    "free_bits": ("objective.free_bits",),
    "k": ("objective.k",),
    "gradient": ("objective.gradient",),
    "then": ("objective.then",),
    "epochs": ("plan.epochs",),
    "steps": ("plan.steps",),
    "batch_size": ("plan.batch_size",),
    "optimiser": ("plan.optimiser",),
    "learning_rate": ("plan.learning_rate",),
    "weight_decay": ("plan.weight_decay",),
    "patience": ("plan.patience",),
    "checkpoint_seconds": ("plan.checkpoint_seconds",),
    "seed": ("plan.seed",),
    "kind": ("data.kind",),
    "levels": ("data.levels",),
    "missing": ("data.missing",),
    "binarise": ("data.binarise",),
    "resize": ("data.resize",),
    "grey": ("data.grey",),
    "array": ("data.array",),
    "label": ("data.label",),
    "exposure": ("data.exposure",),
    "shape": ("data.shape",),
    "validation": ("data.validation",),
    "test": ("data.test",),
}


def _option(text: str, *names: str, panel: str | None = None, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar, show_default=False)


Data = Annotated[str, typer.Argument(metavar="DATA", help="A file, a folder of images, or the built-in set 'digits'.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as 'fit --out' made it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
Trust = Annotated[
    list[str] | None,
    _option("Allow code of your own that a spec names: 'package.module:Name'. May be repeated.", "--trust", metavar="TARGET"),
]
Label = Annotated[str | None, _option("Column or array of labels; '' for none.", "--label", panel=DATA, metavar="NAME")]
Exposure = Annotated[str | None, _option("Column or array of exposures of counts.", "--exposure", panel=DATA, metavar="NAME")]
Schema = Annotated[
    Path | None,
    _option(
        "What the columns of a table are, where their values mislead; 'schema --toml' prints one to start from.",
        "--schema",
        panel=DATA,
        metavar="FILE.toml",
    ),
]
TableFile = Annotated[str, typer.Argument(metavar="DATA", help="A table: .csv, .tsv or .parquet.")]
TableOut = Annotated[Path, typer.Option("--out", help=".csv, .tsv or .parquet.", metavar="FILE", show_default=False)]
Draws = Annotated[int, typer.Option("--draws", "--k", "-k", help="Importance samples per row.", min=2)]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the draws.", min=0)]
Array = Annotated[str | None, _option("Array of a .npz file or part of an idx folder.", "--array", panel=DATA, metavar="NAME")]


@_command
def fit(
    context: typer.Context,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.", metavar="RUN", show_default=False)],
    recipe: Annotated[
        str | None,
        _option("Start from a model, objective and plan that have a name; 'recipes' lists them.", "--recipe", metavar="NAME"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run; other flags as they were.")] = False,
    spec: Annotated[
        Path | None,
        _option("Choices in a file; 'info --spec' prints one to start from.", "--spec", metavar="FILE.toml"),
    ] = None,
    assign: Annotated[
        list[str] | None,
        _option("Any field: model.likelihood.noise=site. May be repeated.", "--set", metavar="NAME=VALUE"),
    ] = None,
    trust: Trust = None,
    draws: Annotated[int, typer.Option("--draws", help="Importance samples per test row.", min=1)] = 1000,
    as_json: Json = False,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Draw no picture sheets.")] = False,
    no_diagnosis: Annotated[bool, typer.Option("--no-diagnosis", help="Do not look for what is wrong.")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no page to look at (report.html).")] = False,
    latent: Annotated[int | None, _option("Number of latents.", panel=MODEL)] = None,
    latents: Annotated[
        str | None, _option("Latents of each layer of a hierarchy, the top one first: 8,16.", panel=MODEL, metavar="NUMBERS")
    ] = None,
    network: Annotated[str | None, _option("mlp, convolutional or mixer.", panel=MODEL, metavar="NAME")] = None,
    hidden: Annotated[
        str | None, _option("Widths of the dense layers, such as 300,300.", panel=MODEL, metavar="WIDTHS")
    ] = None,
    channels: Annotated[
        str | None, _option("Channels of the convolutions, such as 32,64.", panel=MODEL, metavar="WIDTHS")
    ] = None,
    gated: Annotated[bool | None, _option("Gated units.", "--gated", panel=MODEL)] = None,
    posterior: Annotated[str | None, _option("diagonal, full or flow.", panel=MODEL, metavar="NAME")] = None,
    prior: Annotated[str | None, _option("normal, mixture, vamp or flow.", panel=MODEL, metavar="NAME")] = None,
    components: Annotated[int | None, _option("Components of a mixture or vamp prior.", panel=MODEL)] = None,
    likelihood: Annotated[
        str | None,
        _option(
            "bernoulli, categorical, discretised-logistic, gaussian, poisson or negative-binomial; "
            "left out, it follows from the data.",
            panel=MODEL,
            metavar="NAME",
        ),
    ] = None,
    objective: Annotated[str | None, _option("elbo or iwae.", panel=OBJECTIVE, metavar="NAME")] = None,
    beta: Annotated[float | None, _option("Weight of the KL (1: the ELBO).", panel=OBJECTIVE)] = None,
    warmup: Annotated[int | None, _option("Steps over which that weight rises from 0.", panel=OBJECTIVE)] = None,
    free_bits: Annotated[float | None, _option("Nats per latent that the KL may keep.", panel=OBJECTIVE)] = None,
    k: Annotated[int | None, _option("Draws per row of the IWAE.", "--k", "-k", panel=OBJECTIVE)] = None,
    gradient: Annotated[str | None, _option("pathwise, stl (elbo) or dreg (iwae).", panel=OBJECTIVE, metavar="NAME")] = None,
    then: Annotated[
        str | None,
        _option(
            "Objective of the last part of the run, such as iwae,k=5,gradient=dreg,share=0.2.",
            panel=OBJECTIVE,
            metavar="NAME,…",
        ),
    ] = None,
    epochs: Annotated[int | None, _option("Length in epochs.", panel=TRAINING)] = None,
    steps: Annotated[int | None, _option("Length in steps.", panel=TRAINING)] = None,
    batch_size: Annotated[int | None, _option("Rows per step.", panel=TRAINING)] = None,
    optimiser: Annotated[str | None, _option("adamw, adamax or muon.", panel=TRAINING, metavar="NAME")] = None,
    learning_rate: Annotated[float | None, _option("Peak learning rate.", panel=TRAINING)] = None,
    weight_decay: Annotated[float | None, _option("Decoupled weight decay.", panel=TRAINING)] = None,
    patience: Annotated[int | None, _option("Evaluations without a better one before stopping.", panel=TRAINING)] = None,
    checkpoint_seconds: Annotated[float | None, _option("Seconds between checkpoints.", panel=TRAINING)] = None,
    seed: Annotated[int | None, _option("Decides the split, the weights and all noise.", panel=TRAINING)] = None,
    kind: Annotated[
        str | None, _option("What values are: binary, levels, category, count or real.", panel=DATA, metavar="NAME")
    ] = None,
    levels: Annotated[int | None, _option("Number of levels or categories.", panel=DATA)] = None,
    missing: Annotated[
        str | None, _option("refuse or mask missing cells; arrays refuse, tables mask.", panel=DATA, metavar="NAME")
    ] = None,
    binarise: Annotated[
        str | None, _option("Turn grey levels into bits: dynamic, fixed or threshold.", panel=DATA, metavar="NAME")
    ] = None,
    resize: Annotated[str | None, _option("Size of the images of a folder.", panel=DATA, metavar="HxW")] = None,
    grey: Annotated[bool | None, _option("One channel for the images of a folder.", "--grey", panel=DATA)] = None,
    array: Array = None,
    label: Label = None,
    exposure: Exposure = None,
    shape: Annotated[str | None, _option("Shape of an image in flat rows, such as 28x28.", panel=DATA, metavar="HxW")] = None,
    schema: Schema = None,
    validation: Annotated[float | None, _option("Share of rows to choose the weights by.", panel=DATA)] = None,
    test: Annotated[float | None, _option("Share of rows for the final numbers.", panel=DATA)] = None,
) -> None:
    """Train a model, evaluate it on held-out rows, draw pictures."""
    settings_of, settings = _part("settings"), _settings(data, locals())
    face = _JsonFace() if as_json else _PeopleFace()
    face.introduce(settings)
    fitting = _part("fitting")
    try:
        fitted = fitting.fit(
            settings.data, settings.spec, settings.objective, settings.plan, out=out, resume=resume,
            loaded=settings_of.loaded_from(data, settings.options), validation=settings.options.validation,
            test=settings.options.test, draws=draws, pictures=not no_pictures, diagnosis=not no_diagnosis,
            page=not no_report, report=face.report,
        )  # fmt: skip
    except (TightboundError, KeyboardInterrupt) as error:
        face.close()
        raise _with_way_on(error, out, context.obj) from None
    face.close()
    face.conclude(fitted, out)


def _settings(data: str, given: dict[str, Any]) -> Any:
    """Return the settings that the options of ``fit`` describe, ``given`` by their names."""
    spec, assign, trust, schema, recipe = (given[name] for name in ("spec", "assign", "trust", "schema", "recipe"))
    flags = {name: value for name, value in given.items() if name in _FLAGS and value is not None}
    settings_of = _part("settings")
    tables = settings_of.read_toml(spec) if spec is not None else {}
    tables = settings_of.merge(tables, settings_of.nested(_assignments(assign or [])))
    tables = settings_of.merge(tables, settings_of.nested(_tables(flags)))
    trusted = [*(trust or []), *(value for value in flags.values() if isinstance(value, str) and ":" in value)]
    columns = None if schema is None else settings_of.read_schema(schema)
    named = None if recipe is None else _part("recipes").recipe(recipe)
    return settings_of.from_tables(tables, data, trusted, columns, named)


def _with_options_of(other: Callable[..., None], *left_out: str) -> Callable[[Command], Command]:
    """Give a command the options of another that it has not itself; they arrive as keyword arguments of their names."""

    def extended(function: Command) -> Command:
        own, foreign = (inspect.signature(command, eval_str=True).parameters for command in (function, other))
        *named, rest = own.values()
        assert rest.kind is inspect.Parameter.VAR_KEYWORD
        borrowed = [parameter for name, parameter in foreign.items() if name not in own and name not in left_out]
        parameters = [*named, *borrowed]
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return function

    return extended


@_command
@_with_options_of(fit, "context", "resume", "no_pictures", "no_diagnosis", "no_report", "checkpoint_seconds", "then")
def sweep(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", metavar="FOLDER", show_default=False)],
    beta: Annotated[str | None, _option("Weights of the KL, such as 0.5,1,2,4.", panel=SWEEP, metavar="NUMBERS")] = None,
    latent: Annotated[str | None, _option("Numbers of latents, such as 2,4,8,16.", panel=SWEEP, metavar="NUMBERS")] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds, --seed being the first.", min=1, rich_help_panel=SWEEP)] = 1,
    **options: Any,
) -> None:
    """Train several weights of the KL, numbers of latents and seeds in one program: what they cost, what more would gain."""
    weights = None if beta is None else _numbers("beta", beta, float, "0.5,1,2,4")
    sizes = None if latent is None else _numbers("latent", latent, int, "2,4,8,16")
    named = {"beta": weights[0] if weights else None, "latent": max(sizes) if sizes and not options["latents"] else None}
    settings_of, settings = _part("settings"), _settings(data, options | named)
    face = _JsonFace() if options["as_json"] else _PeopleFace()
    face.introduce(settings)
    try:
        result = _part("sweeping").sweep(
            settings.data, settings.spec, settings.objective, settings.plan, beta=weights, latent=sizes, seeds=seeds, out=out,
            loaded=settings_of.loaded_from(data, settings.options), validation=settings.options.validation,
            test=settings.options.test, draws=options["draws"], report=face.sweeping,
        )  # fmt: skip
    finally:
        face.close()
    face.swept(result)


def _numbers(name: str, text: str, kind: type, example: str) -> list[Any]:
    """Return the numbers of a list with commas."""
    try:
        return [kind(number) for number in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise SpecError(f"--{name}", (("", f"expected {what} such as {example}, got '{text}'"),)) from None


def _assignments(pairs: list[str]) -> dict[str, Any]:
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or "." not in name:
            raise SpecError("--set", (("", f"expected TABLE.FIELD=VALUE, such as model.latent=8, got '{pair}'"),))
        values[name.strip()] = _part("settings").toml_value(text.strip())
    return values


def _tables(flags: dict[str, Any]) -> dict[str, Any]:
    for name in ("latents", "hidden", "channels", "resize", "shape"):
        if name in flags:
            flags[name] = _whole_numbers(name, flags[name])
    if "then" in flags:
        flags["then"] = _objective(flags["then"])
    if flags.get("label") == "":
        del flags["label"]
    return {path: value for name, value in flags.items() for path in _FLAGS[name]}


def _objective(text: str) -> dict[str, Any]:
    """Return the fields of an objective that is written NAME,FIELD=VALUE,…."""
    kind, *fields = (word.strip() for word in text.split(","))
    pairs = [field.partition("=") for field in fields]
    if not kind or "=" in kind or not all(name and equals for name, equals, _ in pairs):
        raise SpecError("--then", (("", f"expected NAME,FIELD=VALUE,… such as iwae,k=5,share=0.2, got '{text}'"),))
    return {"kind": kind} | {name.strip(): _part("settings").toml_value(value.strip()) for name, _, value in pairs}


def _whole_numbers(name: str, text: str) -> list[int]:
    try:
        return [int(number) for number in text.replace("×", ",").replace("x", ",").split(",") if number.strip()]
    except ValueError:
        example = "28x28" if name in ("resize", "shape") else "300,300"
        raise SpecError(f"--{name}", (("", f"expected whole numbers such as {example}, got '{text}'"),)) from None


def _with_way_on(error: BaseException, out: Path, given: list[str]) -> BaseException:
    """Add to an error how the run can be continued, when there is something to continue."""
    partial = out.with_name(out.name + ".partial")
    known = "--resume" in str(error) or "resume" in given
    if known or not (partial / "checkpoint.safetensors").exists():
        return error
    command = shlex.join(["tightbound", *given, *([] if "--resume" in given else ["--resume"])])
    what = str(error) or "interrupted"
    text = f"{what}; the run so far is in {partial}; continue it with\n  {command}"
    return KeyboardInterrupt(text) if isinstance(error, KeyboardInterrupt) else TightboundError(text)


@_command
def evaluate(
    run: RunFolder,
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="Other rows; without it, the run's test rows.")] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="elbo, importance, annealed, exact or all; several with commas. Annealing takes long: see --max-examples.",
            metavar="NAMES",
        ),
    ] = "elbo,importance",
    draws: Annotated[int, typer.Option("--draws", "--k", "-k", help="Importance samples per row.", min=1)] = 1000,
    proposal: Annotated[
        str,
        _option(
            "Where they are drawn: posterior, q(z|x) itself; refined, a Gaussian fitted to p(z|x) of each row; or laplace.",
            panel=IMPORTANCE,
            metavar="NAME",
        ),
    ] = "posterior",
    refinements: Annotated[int | None, _option("Steps of that fit.", panel=IMPORTANCE)] = None,
    defensive: Annotated[float, _option("Share of the draws that come from the prior.", panel=IMPORTANCE)] = 0.0,
    chains: Annotated[int, _option("Chains per row.", panel=ANNEALING)] = 16,
    temperatures: Annotated[int, _option("Temperatures between start and p(z|x).", panel=ANNEALING)] = 200,
    leapfrog: Annotated[int, _option("Leapfrog steps per temperature.", panel=ANNEALING)] = 10,
    start: Annotated[
        str, _option("Where chains start: prior, posterior or refined.", panel=ANNEALING, metavar="NAME")
    ] = "refined",
    schedule: Annotated[str, _option("sigmoid or linear.", panel=ANNEALING, metavar="NAME")] = "sigmoid",
    simulated: Annotated[int, _option("Rows drawn from the model to measure the annealing.", panel=ANNEALING)] = 32,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.", min=0)] = 0,
    max_examples: Annotated[int | None, typer.Option("--max-examples", help="Evaluate only the first rows.", min=1)] = None,
    array: Array = None,
    label: Label = None,
    exposure: Exposure = None,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Estimate ELBO and log p(x) of held-out or other rows, from both sides where that can be done."""
    evaluation = _part("evidence.evaluation")
    methods = evaluation.METHODS if method == "all" else tuple(name.strip() for name in method.split(",") if name.strip())
    chosen = _part("evidence.proposals").Proposal(kind=proposal, steps=refinements, defensive=defensive)
    walk = _part("evidence.annealed").Walk(temperatures, chains, leapfrog, start, schedule)
    stored = _part("store").read_run(run)
    model = stored.model(trust=trust or ())
    if data is None:
        rows, part = _part("settings").evaluated_rows(stored)
        what = f"{part} rows of {run}"
    else:
        rows, what = _part("settings").other_rows(stored, data, array=array, label=label, exposure=exposure), data
    rows = rows.take(range(min(len(rows), max_examples))) if max_examples is not None else rows
    face = _JsonFace() if as_json else _PeopleFace()
    result = evaluation.evaluate(
        model, rows, methods, draws=draws, proposal=chosen, walk=walk, simulated=simulated, seed=seed, report=face.evaluating
    )
    face.close()
    face.estimates(_part("fitting").summarise(result, rows.sites), what)


@_command
def diagnose(
    run: RunFolder,
    every: Annotated[bool, typer.Option("--all", help="Show also what is in order or does not apply.")] = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Say in words what is wrong with the model of a run, if anything is, and what to change."""
    stored = _part("store").read_run(run)
    model = stored.model(trust=trust or ())
    findings = _part("diagnosis.diagnose").diagnose(_part("settings").subject_of(stored, model))
    face = _JsonFace() if as_json else _PeopleFace()
    face.findings([finding.as_dict() for finding in findings], every=every)


@_command
def report(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option("--out", help="The page; report.html in the run's folder unless told.", metavar="FILE")
    ] = None,
    colour: Annotated[
        str | None,
        _option("The column that colours the map; 'label' for labels.", "--colour", metavar="COLUMN"),
    ] = None,
    trust: Trust = None,
) -> None:
    """Write a run as one page to look at: numbers, training, latent space, the data and draws, how to have it again."""
    path = _part("report.page").write_report(run, out, colour=colour, trust=trust or ())
    typer.echo(f"{path}: one page that needs nothing else; the numbers behind its pictures are in {path.with_suffix('')}")


@_command
def explore(
    run: RunFolder,
    port: Annotated[int, typer.Option("--port", help="Of this machine; 0: one that is free.", min=0, max=65535)] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    trust: Trust = None,
) -> None:
    """Walk through the latent space of a run in the browser: a page that this machine alone can see, until Ctrl-C."""
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise SpecError("explore", (("", f"needs {' and '.join(missing)}: pip install 'tightbound[explore]'"),))
    server = _part("explorer.server")
    told = "explorer of this run, for this machine alone; Ctrl-C ends it"
    server.explore(run, port=port, browse=browser, trust=tuple(trust or ()), tell=lambda at: typer.echo(f"{at}: {told}"))


@_command
def encode(
    run: RunFolder,
    data: Data,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help=".npz with mean and scale (n, L); .npy (2, n, L); or .csv.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    array: Array = None,
    label: Label = None,
    exposure: Exposure = None,
    trust: Trust = None,
) -> None:
    """Write mean and standard deviation of q(z|x) for every row."""
    outputs = _part("outputs")
    outputs.check_output(out, outputs.EMBEDDING_FORMATS)
    stored = _part("store").read_run(run)
    rows = _part("settings").other_rows(stored, data, array=array, label=label, exposure=exposure)
    outputs.write_embedding(out, _part("inference").embed(stored.model(trust=trust or ()), rows))
    typer.echo(f"{out}: {len(rows):,} rows × {stored.spec.latent} latents, mean and standard deviation of q(z|x)")


@_command
def reconstruct(
    run: RunFolder,
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", help=".npy in the shape of the data, or .csv.", metavar="FILE", show_default=False)
    ],
    array: Array = None,
    label: Label = None,
    exposure: Exposure = None,
    trust: Trust = None,
) -> None:
    """Write the mean of x, decoded at the mean of q(z|x), for every row."""
    stored = _part("store").read_run(run)
    write = _row_writer(out, stored)
    rows = _part("settings").other_rows(stored, data, array=array, label=label, exposure=exposure)
    write(_part("inference").reconstruct(stored.model(trust=trust or ()), rows))
    typer.echo(f"{out}: {len(rows):,} reconstructions E[x|z]")


@_command
def sample(
    run: RunFolder,
    out: Annotated[
        Path,
        typer.Option("--out", help=".npy, .csv or, for images, a .png sheet.", metavar="FILE", show_default=False),
    ],
    count: Annotated[int, typer.Option("-n", "--count", help="Number of rows.", min=1)] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Row i is a function of (seed, i).", min=0)] = 0,
    exposure: Annotated[float | None, _option("Exposure of the rows, 1 unless told, for counts that have one.")] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Noise of the prior, times this: 1 for p(x) itself.")
    ] = 1.0,
    given: Annotated[
        str | None,
        _option("What columns of a table are to be: 'age=30..40,sex=F'; several values: sex=F|M.", metavar="CONDITIONS"),
    ] = None,
    trust: Trust = None,
) -> None:
    """Draw rows from p(x), or of a table from p(x | what is given)."""
    if given is not None and temperature != 1.0:
        raise CombinationError("--given draws from p(x | what is given), which has no temperature; leave one out")
    stored = _part("store").read_run(run)
    write = _row_writer(out, stored, drawn=True)
    model = stored.model(trust=trust or ())
    settings, tabular = _part("settings"), _part("tabular")
    table = settings.recorded_table(stored) if given is None else settings.table_of(stored)
    if given is None:
        rows = _part("inference").sample(model, count, seed=seed, exposure=exposure, temperature=temperature)
        ends = {}
    else:
        wanted = tabular.conditions(table, given)
        rows, ends = tabular.draw_given(model, wanted, count, seed=seed), tabular.ends(table, wanted)
    write(rows if table is None else table.within(rows, ends))
    cooled = "" if temperature == 1.0 else f" with its prior at temperature {temperature:g}"
    typer.echo(f"{out}: {count:,} draws from p(x{' | ' + given if given else ''}){cooled}")


@_command
def impute(
    run: RunFolder,
    data: TableFile,
    out: TableOut,
    imputations: Annotated[
        int, typer.Option("--imputations", "-m", help="Draw the cells so many times; 0: their expectation, once.", min=0)
    ] = 0,
    draws: Draws = 1000,
    seed: Seed = 0,
    trust: Trust = None,
) -> None:
    """Fill the missing cells of a table: with what is expected given the other cells, or with draws from p(missing | seen)."""
    files, completion = _part("data.tablefiles"), _part("completion")
    stored, schema, table, rows = _table_for(run, data, out)
    model = stored.model(trust=trust or ())
    if imputations:
        files.require_free(table, "imputation")
        drawn = completion.complete(model, rows, imputations, draws=completion.enough(draws, imputations), seed=seed)
        filled = files.stacked([schema.fill(table, x) for x in drawn.x], "imputation")
    else:
        filled = schema.fill(table, completion.impute(model, rows, draws=draws, seed=seed))
    files.write_table(out, filled)
    times = f", {imputations} times: column 'imputation' tells them apart" if imputations else ""
    typer.echo(f"{out}: {len(rows):,} rows, {schema.holes(table):,} cells filled{times}")
    for note in (*rows.notes, *schema.unfilled(table)):
        _complain(f"note: {note}")


LESS_ODD = "log_p is of the cells that are seen, and the fewer they are the less odd a row looks: its surprises tell more"


@_command
def score(
    run: RunFolder,
    data: TableFile,
    out: TableOut,
    draws: Draws = 1000,
    oddest: Annotated[int, typer.Option("--oddest", help="Name so many of the oddest cells of every row.", min=0)] = 3,
    seed: Seed = 0,
    trust: Trust = None,
) -> None:
    """Say how odd the rows of a table are: log p(x), a p-value, and the cells that are least expected given the others."""
    files, tabular = _part("data.tablefiles"), _part("tabular")
    stored, schema, _, rows = _table_for(run, data, out)
    calibration, part = _part("settings").evaluated_rows(stored)
    found = tabular.scores(stored.model(trust=trust or ()), rows, calibration, draws=draws, seed=seed)
    files.write_table(out, files.as_table(tabular.score_table(found, schema.names, oddest)))
    least = 1.0 / (len(calibration) + 1)
    typer.echo(
        f"{out}: {len(rows):,} rows; log_p in nats, a lower bound; p_value against {len(calibration):,} {part} rows of "
        f"the run, from {least:.2g} (odd) to 1: of rows like those at most a share α has p_value ≤ α; surprise in nats"
    )
    holes = int((~rows.observed).any(axis=1).sum()) if rows.observed is not None else 0
    told = f"{'1 row has' if holes == 1 else f'{holes:,} rows have'} missing cells; {LESS_ODD}"
    for note in (*rows.notes, *([told] if holes else [])):
        _complain(f"note: {note}")


@_command
def schema(
    data: TableFile,
    schema: Schema = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print a file for --schema, to be edited.")] = False,
) -> None:
    """Show what the columns of a table are taken for."""
    settings = _part("settings")
    options = settings.DataOptions()
    if not options.is_table(data):
        raise SpecError("schema", (("", f"'{data}' is no table: expected .csv, .tsv or .parquet"),))
    _, known = options.load(data, 0, None if schema is None else settings.read_schema(schema))
    if toml:
        typer.echo(settings.schema_toml(known.table), nl=False)
    else:
        _PeopleFace().columns(known.table)


@_command
def info(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run folder.")] = None,
    spec: Annotated[bool, typer.Option("--spec", help="Print TOML for 'fit --spec': of the run, or to start from.")] = False,
    as_json: Json = False,
) -> None:
    """Say what a run is and what came out of it, or print a spec."""
    settings = _part("settings")
    if run is None:
        if not spec:
            raise SpecError("info", (("", "name a run folder, or ask for a spec to start from with --spec"),))
        typer.echo(settings.template(), nl=False)
        return
    stored = _part("store").read_run(run)
    if spec:
        typer.echo(settings.spec_of(stored), nl=False)
    elif as_json:
        whole = {"model": stored.spec.model_dump(mode="json")}
        whole |= {name: getattr(stored, name) for name in ("training", "environment", "summary")}
        print(json.dumps(whole, ensure_ascii=False))
    else:
        face = _PeopleFace()
        face.model(stored.spec, stored.summary["parameters"])
        face.table("run", _facts(stored))
        face.numbers(stored.summary)


@_command
def recipes(as_json: Json = False) -> None:
    """List what 'fit --recipe' starts from: models, objectives and plans with the figures that they reached."""
    known = _part("recipes").RECIPES.values()
    if as_json:
        for one in known:
            print(json.dumps(one.as_dict(), ensure_ascii=False))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("name", "what it is", "published", "reached here"):
        table.add_column(title, overflow="fold")
    for one in known:
        reached = "not measured yet" if one.reached is None else f"{one.reached}\n{one.reached.source}"
        what, published = f"{one.description}\n{one.published.quantity}", f"{one.published}\n{one.published.source}"
        table.add_row(*map(Text, (one.name, what, published, reached)))
    _PeopleFace().console.print(table)


def _table_for(run: Path, data: str, out: Path) -> tuple[Any, Any, Any, Any]:
    """Return a run, its schema, the table in a file and its rows, once it is known that the output can be written."""
    files = _part("data.tablefiles")
    stored = _part("store").read_run(run)
    schema = _part("settings").table_of(stored)
    _part("outputs").check_output(out, _part("data.load").TABLE_SUFFIXES)
    table = files.read_table(data)
    return stored, schema, table, schema.encode(table, source=data)


def _row_writer(out: Path, stored: Any, *, drawn: bool = False) -> Callable[[Any], None]:
    """Return what writes rows of a run to a file, once it is known that it can be: tables with the columns that they had."""
    outputs, sites = _part("outputs"), stored.spec.sites
    if sites.kind == "mixed" and out.suffix != ".npy":
        table, files = _part("settings").table_of(stored), _part("data.tablefiles")
        outputs.check_output(out, (".npy", *_part("data.load").TABLE_SUFFIXES))
        return lambda rows: files.write_table(out, table.decode(rows, library="pyarrow"))
    outputs.check_output(out, (*outputs.ROW_FORMATS, ".png") if drawn and sites.is_image else outputs.ROW_FORMATS)
    return lambda rows: outputs.write_rows(out, outputs.compact(rows, sites) if drawn else rows, sites, _names(stored))


def _names(stored: Any) -> tuple[str, ...]:
    return tuple(stored.training["loaded"].get("names", ()))


def _facts(stored: Any) -> list[tuple[str, str]]:
    summary, rows, cores = stored.summary, stored.summary["rows"], stored.environment["cores"]
    kept = f", the weights of step {summary['best_step']:,} kept" if summary["best_step"] is not None else ""
    parts = ", ".join(f"{rows[part]:,} {part}" for part in ("train", "validation", "test"))
    return [
        ("data", f"{stored.training['loaded']['source']}: {parts} rows"),
        ("objective", _one_line(stored.training["objective"])),
        ("trained", f"{summary['steps']:,} steps{kept}"),
        ("made with", ", ".join(f"{name} {stored.environment[name]}" for name in ("tightbound", "jax", "python"))),
        ("on", f"{stored.environment['processor']}, {cores} core{'s' * (cores != 1)}"),
        *(("resumed", "; ".join(differences)) for differences in stored.environment.get("resumed_elsewhere", [])),
        ("model file", str(stored.path / "model.safetensors")),
    ]


def _one_line(fields: dict[str, Any]) -> str:
    said = {name: value for name, value in fields.items() if name != "kind" and value is not None}
    inside = ", ".join(f"{name}={_one_line(value) if isinstance(value, dict) else value}" for name, value in said.items())
    return f"{fields['kind']}({inside})"


class _PeopleFace:
    """What people see: what was inferred before training, a bar while it runs, the numbers at the end."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.lines, self.printed = 0, time.monotonic()

    def introduce(self, settings: Any) -> None:
        """Say what the data are taken for and what will be trained."""
        facts = [("", line.removeprefix("note: ")) for line in settings.data.describe().splitlines()]
        self.table("data", facts)
        if settings.options.table is not None:
            self.columns(settings.options.table)
        self.settings = settings

    def columns(self, schema: Any) -> None:
        """Print what the columns of a table are taken for."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for title in ("column", "taken as", "what it holds"):
            table.add_column(title, overflow="fold")
        for line in schema.lines():
            table.add_row(*(Text(cell) for cell in line))
        self.console.print(table)

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Print pairs of words under a title."""
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for index, (name, text) in enumerate(rows):
            table.add_row(name or (title if index == 0 else ""), Text(text))
        self.console.print(table)

    def model(self, spec: Any, parameters: int) -> None:
        """Print the three distributions and their networks."""
        self.table("model", [*spec.describe(), ("weights", f"{parameters:,} trained numbers")])

    def report(self, event: Any) -> None:
        """Show an event of a run."""
        fitting = _part("fitting")
        match event:
            case fitting.Started():
                self._start(event)
            case fitting.Evaluating():
                self._advance("evaluating", event.done, event.total, "rows")
            case _:
                self._advance("training", event.step, event.total_steps, _latest(event))

    def evaluating(self, method: str, done: int, total: int) -> None:
        """Show how far a method of evaluation has come."""
        self._advance(method, done, total, "rows")

    def sweeping(self, event: Any) -> None:
        """Show how far a sweep has come."""
        if isinstance(event, _part("fitting").Evaluating):
            self._advance("evaluating", event.done, event.total, "models")
            return
        words = f"{len(event.bounds)} models  ELBO {min(event.bounds):.2f} to {max(event.bounds):.2f}  "
        self._advance("training", event.step, event.total_steps, f"{words}{event.examples_per_second:,.0f} examples/s")

    def swept(self, result: Any) -> None:
        """Print what came out of a sweep: a line for every setting, the verdicts, and where everything is."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        titles = ("rate", "distortion", "ELBO", "log p(x) ≥", "below the best")
        for title in ("β", "latents", *titles):
            table.add_column(title, no_wrap=True, justify="right")
        for point in result.points:
            means = (point.rate, point.distortion, point.elbo, point.log_evidence, point.below)
            weight = "" if point.beta is None else f"{point.beta:g}"
            table.add_row(weight, str(point.latent), *(str(mean) for mean in means))
        self.console.print(Text(result.heading))
        self.console.print(table)
        for verdict in result.verdicts:
            self.console.print(Padding(Text(_as_sentence(verdict.text)), (0, 0, 0, 2)))
        for note in result.notes:
            self.warn(note)
        self.table("sweep", [("", f"{result.path}: numbers, pictures, and {len(result.members)} models")])

    def _start(self, event: Any) -> None:
        rows = ", ".join(f"{count:,} {part}" for part, count in event.rows.items())
        self.model(self.settings.spec, event.parameters)
        plan = self.settings.plan
        self.table(
            "training",
            [
                ("objective", _one_line(self.settings.objective.model_dump(mode="json"))),
                (
                    "training",
                    f"{event.total_steps:,} steps of {plan.batch_size} rows, learning rate {plan.learning_rate:g}, "
                    f"weight decay {plan.weight_decay:g}, seed {plan.seed}",
                ),
                ("rows", rows),
            ],
        )
        if event.step:
            self.console.print(f"resuming at step {event.step:,}")
        for difference in event.differences:
            self.warn(f"{difference}: the last bits of the result may differ from an uninterrupted run")
        if self.console.is_terminal:
            self._advance("training", event.step, event.total_steps, "compiling (later runs find it in the cache)")

    def _advance(self, what: str, done: int, total: int, words: str) -> None:
        if not self.console.is_terminal:
            self._line(what, done, total, words)
            return
        if self.bar is None or self.bar.tasks[-1].description != what:
            self.close()
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[words]}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task(what, total=total, words=words)
            self.bar.start()
        assert self.task is not None
        self.bar.update(self.task, completed=done, words=words)

    def _line(self, what: str, done: int, total: int, words: str) -> None:
        """Print a line now and then, where a bar would fill a log file."""
        share, now = done * _LINES // total, time.monotonic()
        if done == total or (share > self.lines and now - self.printed >= _LINE_SECONDS):
            self.console.print(f"{what} {done:,}/{total:,}  {words}", soft_wrap=True)
            self.lines, self.printed = share if done < total else 0, now

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def conclude(self, fitted: Any, out: Path) -> None:
        """Print the test numbers, what the model is, and where the pictures are."""
        self.numbers(fitted.summary)
        self.findings(fitted.summary["diagnosis"])
        self.model(fitted.model.spec, fitted.summary["parameters"])
        self.table("pictures", [("", str(out / picture)) for picture in fitted.summary["pictures"]])
        if fitted.page is not None:
            self.table("report", [("", f"{fitted.page}: one page to look at")])
        self.table("run", [("", str(out))])

    def numbers(self, summary: dict[str, Any]) -> None:
        """Print ELBO and log p(x) with unit, standard error and side, and what to bear in mind."""
        elbo, evidence = summary["elbo"], summary["log_evidence"]
        what = summary["evaluated_on"]
        self.table(
            "",
            [
                (f"{what} ELBO" if what in ("test", "training") else "ELBO", _quantity(elbo, summary["unit"])),
                ("log p(x) ≥", f"{_quantity(evidence, summary['unit'])}, {evidence['method']}"),
                ("", f"{evidence['examples']:,} examples ({what}), median effective sample size {evidence['ess']:.1f}"),
            ],
        )
        for warning in summary.get("warnings", ()):
            self.warn(warning)

    def estimates(self, summary: dict[str, Any], what: str) -> None:
        """Print estimates as a table for a paper: each with its error, its side and how it was computed."""
        unit, notes = summary["unit"], summary["notes"]
        lines = [line for line in summary.values() if isinstance(line, dict)]
        discrete = any("bits_per_dimension" in line for line in lines)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for title in ("", unit, *(["bits per dimension"] if discrete else []), "", "examples"):
            table.add_column(
                title, no_wrap=True, justify="right" if title in (unit, "bits per dimension", "examples") else "left"
            )
        table.add_column("how", overflow="fold")
        for line in lines:
            bits = line.get("bits_per_dimension")
            cells = [line["quantity"], _with_error((line["value"], line["se"]), 2)]
            cells += [_with_error(bits, 3) if bits else ""] if discrete else []
            ess = "" if line["ess"] is None else f", median effective sample size {line['ess']:.1f}"
            table.add_row(*cells, _SIDES[line["side"]], f"{line['examples']:,}", Text(line["method"] + ess))
        self.console.print(Text(f"{what}; ± is the standard error of the mean over examples"))
        self.console.print(table)
        for note in notes:
            self.warn(note)

    def findings(self, findings: Sequence[dict[str, Any]], *, every: bool = False) -> None:
        """Print what a diagnosis has found: the problems, each with what to change, and the rest when asked for."""
        by_status = {status: [f for f in findings if f["status"] == status] for status in ("problem", "ok", "not applicable")}
        counts = ", ".join(f"{len(found)} {_STATUS[status]}" for status, found in by_status.items() if found)
        if findings:
            self.table("diagnosis", [("", counts)])
        for finding in (f for f in findings if every or f["status"] == "problem"):
            problem = finding["status"] == "problem"
            head = Text(f"{finding['code']} {finding['title']}", style="yellow" if problem else "")
            words = [finding["text"], *([finding["why"], finding["change"]] if problem else [])]
            self.console.print(head if problem else Text.assemble(head, f": {_STATUS[finding['status']]}"))
            for sentence in words:
                self.console.print(Padding(Text(_as_sentence(sentence)), (0, 0, 0, 4)))

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.console.print(f"warning: {text}", style="yellow", soft_wrap=True)


class _JsonFace:
    """What programs read: one JSON object per line on stdout."""

    def introduce(self, settings: Any) -> None:
        """Say nothing."""

    def report(self, event: Any) -> None:
        """Print the records of a run; what differs from the environment it began in goes to stderr."""
        for record in getattr(event, "records", ()):
            print(json.dumps({"event": "record", **_part("fitting").plain(record)}), flush=True)
        for difference in getattr(event, "differences", ()):
            _complain(f"warning: {difference}")

    def evaluating(self, method: str, done: int, total: int) -> None:
        """Say nothing."""

    def sweeping(self, event: Any) -> None:
        """Print where the models of a sweep stand."""
        if hasattr(event, "bounds"):
            print(json.dumps({"event": "progress", **vars(event)}), flush=True)

    def swept(self, result: Any) -> None:
        """Print every model, every setting and every verdict of a sweep, and then the rest."""
        whole = result.as_dict()
        for name, event in (("members", "model"), ("points", "setting"), ("verdicts", "verdict")):
            for line in whole.pop(name):
                print(json.dumps({"event": event, **line}, ensure_ascii=False))
        self.numbers({**whole, "folder": str(result.path)})

    def estimates(self, summary: dict[str, Any], what: str) -> None:
        """Print estimates."""
        self.numbers({**summary, "evaluated_on": what})

    def findings(self, findings: Sequence[dict[str, Any]], *, every: bool = False) -> None:
        """Print every finding, one JSON object per line."""
        for finding in findings:
            print(json.dumps({"event": "finding", **finding}, ensure_ascii=False), flush=True)

    def close(self) -> None:
        """Do nothing."""

    def conclude(self, fitted: Any, out: Path) -> None:
        """Print the summary of a run."""
        self.numbers({**fitted.summary, "run": str(out), "report": None if fitted.page is None else str(fitted.page)})

    def numbers(self, summary: dict[str, Any]) -> None:
        """Print a summary."""
        print(json.dumps({"event": "summary", **summary}, ensure_ascii=False), flush=True)


def _quantity(estimate: dict[str, Any], unit: str) -> str:
    bits = estimate.get("bits_per_dimension")
    value = f"{_with_error((estimate['value'], estimate['se']), 2)} {unit}"
    return value if not bits or bits[0] is None else f"{value} ({_with_error(bits, 3)} bits per dimension)"


_STATUS = {"problem": "to look at", "ok": "in order", "not applicable": "not applicable"}


def _as_sentence(text: str) -> str:
    """Return words as a sentence: a capital, and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


_SIDES = {"lower": "lower bound", "upper": "upper bound", "exact": "exact", "none": "no bound"}


def _with_error(numbers: Sequence[float | None], digits: int) -> str:
    value, error = numbers
    spread = "unknown" if error is None else f"{error:.{digits}f}"
    return "not finite" if value is None else f"{value:.{digits}f} ± {spread}"


def _latest(progress: Any) -> str:
    latest = progress.latest
    validation = "" if progress.validation_elbo is None else f"  validation {progress.validation_elbo:.2f}"
    return (
        f"bound {latest.bound:.2f}{validation}  reconstruction {latest.reconstruction:.2f}  KL {latest.kl:.2f}  "
        f"{progress.examples_per_second:,.0f} examples/s"
    )
