"""Verbs before a sweep, and those on a table alone; each imports what it needs itself, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import os

from orchestrator.cli.imports import heavy_imports
from orchestrator.cli.output import emit, err


def evaluate(options: argparse.Namespace) -> int:
    with heavy_imports():
        from orchestrator.verbs.evaluate import Request, evaluate_table, evaluation_text
        from selmix.data.score_tables import Columns
        from selmix.definitions import Definitions

    columns = Columns(
        options.label, tuple(options.scores_column or ()), options.score_prefix, options.group, options.prediction,
        options.class_names or (), options.positive,
    )  # fmt: skip
    request = Request(
        table=options.table, objective=options.objective, columns=columns, scores=options.scores,
        threshold=options.threshold, train_counts=options.train_counts,
        definitions=Definitions(
            options.cvar_fraction, options.recall_weights, options.cost_matrix, beta=options.beta
        ), save=options.save,
        correction=options.correction,
    )  # fmt: skip
    emit(options, evaluate_table(request), evaluation_text)
    return 0


def validate(options: argparse.Namespace) -> int:
    with heavy_imports():
        from orchestrator.messages import preprocess_words
        from orchestrator.spec.checks import load_spec
        from orchestrator.verbs.validate import validate_document, validation_text

    document = validate_document(load_spec(options.file, options.overrides), options.file)
    # On stderr, so that stdout has the one line or document that a script reads.
    for warning in document.warnings:
        err(f"warning: {warning}")
    if document.preprocess is not None:
        err(f"preprocess: {preprocess_words(document.preprocess)}")
    emit(options, document, validation_text)
    return 0


def data(options: argparse.Namespace) -> int:
    with heavy_imports():
        from orchestrator.spec.checks import load_spec
        from orchestrator.verbs.data import data_document, data_text, fail_on_problems, prepare_data

    spec = load_spec(options.file, options.overrides)
    if options.action == "prepare" and (archive := prepare_data(spec)) is not None:
        err(f"extracted {archive}")
    document = data_document(spec)
    # Printed first: the counts help to understand the problems.
    emit(options, document, data_text)
    fail_on_problems(document)
    return 0


def plan(options: argparse.Namespace) -> int:
    with heavy_imports():
        from orchestrator.spec.checks import load_spec
        from orchestrator.verbs.plan import plan_document, plan_text

    emit(options, plan_document(load_spec(options.file, options.overrides), options.runs), plan_text)
    return 0


def diagnose(options: argparse.Namespace) -> int:
    with heavy_imports():
        from orchestrator.spec.checks import load_spec
        from orchestrator.verbs.diagnose import diagnose, diagnosis_text

    document = diagnose(load_spec(options.file, options.overrides), options.objective, options.output)
    emit(options, document, diagnosis_text)
    return 0


def doctor(options: argparse.Namespace) -> int:
    with heavy_imports():
        from orchestrator.build.own_source import references_in
        from orchestrator.cluster.address import Cluster, driver_address
        from orchestrator.cluster.code_package import sweep_package
        from orchestrator.cluster.doctor import Patience, doctor_document, doctor_text, raise_all
        from orchestrator.spec.checks import load_spec

    spec = None if options.file is None else load_spec(options.file, options.overrides)
    cluster = Cluster(driver_address(options.address, os.environ))
    # Nodes of a cluster are checked with the code that a launch would send them.
    if not cluster.is_private:
        content = b"" if options.file is None else options.file.read_bytes()
        package = sweep_package(content, () if spec is None else references_in(spec.resolved()))
        cluster = Cluster(cluster.address, package)
    document = doctor_document(spec, options.runs, cluster, Patience(options.nodes, options.wait))
    # Printed before the problems are raised: what is there is worth seeing, too.
    emit(options, document, doctor_text)
    raise_all(document.problems)
    return 0
