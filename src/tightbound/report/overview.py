"""The top of the page: what was learnt of what, what the diagnosis says, and the numbers that matter."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Any

from tightbound.cite import cite
from tightbound.diagnosis.subject import ACTIVE, Subject
from tightbound.evidence.gaps import rate_and_distortion
from tightbound.report.material import Material
from tightbound.report.parts import Section
from tightbound.settings import rebuilt, spec_of

__all__ = ["overview", "reproduction"]


def overview(material: Material) -> Section:
    """Return what a reader wants to know first."""
    run, spec = material.run, material.run.spec
    rows = run.summary["rows"]
    words = (
        f"A variational autoencoder with {spec.latent} latents learnt {rows['train']:,} rows of "
        f"{run.training['loaded']['source']} ({material.data.sites.describe()}); {rows['validation']:,} rows chose the weights "
        f"and {rows['test']:,} are the test.",
        *_verdict(run.summary.get("diagnosis", [])),
        *run.summary["warnings"],
    )
    return Section("overview", "What was learnt", words, tuple(_facts(material)))


def _verdict(findings: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the diagnosis in words."""
    if not findings:
        return ("The run was not diagnosed: tightbound diagnose does it.",)
    problems = [finding for finding in findings if finding["status"] == "problem"]
    judged = sum(finding["status"] != "not applicable" for finding in findings)
    if not problems:
        return (f"The diagnosis found no problem: all {judged} checks that apply are in order.",)
    return tuple(
        f"{finding['code']}, {finding['title']}: {finding['text']}. {finding['why'][:1].upper()}{finding['why'][1:]}. "
        f"What to change: {finding['change']}."
        for finding in problems
    )


def _facts(material: Material) -> list[tuple[str, str]]:
    run, unit = material.run, material.unit
    summary = run.summary
    subject = Subject(material.model, material.training)
    facts = [
        (f"ELBO, {material.part} rows", _bounded(summary["elbo"], unit)),
        (f"log p(x), {material.part} rows", _bounded(summary["log_evidence"], unit)),
    ]
    if "bits_per_dimension" in summary["log_evidence"]:
        value, error = summary["log_evidence"]["bits_per_dimension"]
        facts.append(("bits per dimension", f"at most {value:.4f} ± {error:.4f}"))
    rate, distortion = rate_and_distortion(material.model, material.evaluated)
    facts.append((f"rate, KL(q(z | x) ‖ p(z)), {material.part} rows", _bounded(asdict(rate), unit)))
    facts.append((f"distortion, −E log p(x | z), {material.part} rows", _bounded(asdict(distortion), unit)))
    facts += [
        (
            f"KL of layer {number}, {latents} latents",
            f"{nats:.2f} ± {error:.2f} {unit} (training rows, one link of the chain rule)",
        )
        for number, (latents, (nats, error)) in enumerate(zip(run.spec.layers, subject.layer_kl, strict=False), 1)
    ]
    facts += [
        ("active latents", f"{subject.active} of {run.spec.latent}: their means vary by more than {ACTIVE:.0%} of the prior"),
        ("weights", f"{summary['parameters']:,}"),
        ("training", f"{summary['steps']:,} steps, {summary['training_seconds']:.1f} s"),
    ]
    return facts


def _bounded(estimate: dict[str, Any], unit: str) -> str:
    side = {"lower": "at least ", "upper": "at most ", "exact": "", "none": "about "}[estimate["side"]]
    return f"{side}{estimate['value']:.2f} ± {estimate['se']:.2f} {unit} ({estimate['method']})"


def reproduction(material: Material) -> Section:
    """Return what is needed to have the run again, and whom to cite."""
    run = material.run
    facts = (
        ("seed", str(material.seed)),
        *((name, str(run.environment[name])) for name in ("tightbound", "jax", "python", "processor", "cores")),
    )
    code = (("spec.toml", spec_of(run)), ("BibTeX of the methods", cite(*rebuilt(run))))
    if "options" not in run.training["loaded"]:
        words = "The run was trained from Python: tightbound.fit with this spec, this objective and plan, and the same rows."
        return Section("reproduce", "Have it again", (words,), facts, (), code)
    source, name = run.training["loaded"].get("path") or run.training["loaded"]["source"], shlex.quote(run.name)
    commands = (
        f"tightbound info {name} --spec > spec.toml\ntightbound fit {shlex.quote(source)} --spec spec.toml --out again\n"
        f"tightbound evaluate {name} --method all\ntightbound diagnose {name} --all"
    )
    words = "The commands are for the folder in which the run lies."
    return Section("reproduce", "Have it again", (words,), facts, (), (("commands", commands), *code))
