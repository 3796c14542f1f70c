"""Clients of MLflow: quiet ones, that fail in seconds and say what failed without credentials."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.credentials import masked, scrubbed
from orchestrator.errors import PreflightError
from orchestrator.messages import first_line
from orchestrator.tracking.address import first_opening
from orchestrator.tracking.values import tag_texts

_QUIET = {
    # Without these a refused connection blocks for four minutes and a frozen server for twenty.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def open_client(address: str) -> Any:
    """A client of the store at ``address``; the first opening of a file may take seconds.

    Raises:
        PreflightError: the store cannot be opened.
    """
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    # A locked store is retried by the outbox; mlflow would print eighty lines of it first.
    for name, level in {
        "mlflow": logging.ERROR,
        "alembic": logging.ERROR,
        "mlflow.store.db.utils": logging.CRITICAL,
    }.items():
        logging.getLogger(name).setLevel(level)
    with speaking(address), first_opening(address):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=address)
        client.search_experiments(max_results=1)  # makes the tables of a new file
    return client


def register_model(
    address: str, run_id: str, name: str, alias: str, files: Sequence[Path], tags: Mapping[str, str]
) -> str:
    """Store files with a run and register them as a new version of a model, under an alias.

    Args:
        address: of MLflow.
        run_id: of the run that the files belong to.
        name: of the model.
        alias: of the version.
        files: that make the version.
        tags: of the version.
    Returns:
        The version.
    Raises:
        PreflightError: MLflow does not take it.
    """
    from mlflow.exceptions import MlflowException

    client = open_client(address)
    with speaking(address):
        for path in files:
            client.log_artifact(run_id, str(path), f"pins/{alias}")
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run_id).info.artifact_uri}/pins/{alias}"
        version = client.create_model_version(name, source=source, run_id=run_id, tags=tag_texts(tags))
        client.set_registered_model_alias(name, alias, str(version.version))
    return str(version.version)


def read_run(address: str, run_id: str) -> Any:
    """A run as MLflow has it."""
    return open_client(address).get_run(run_id)


@contextlib.contextmanager
def speaking(address: str) -> Iterator[None]:
    """Turn what MLflow raises into one message with the address and without its credentials."""
    try:
        yield
    except PreflightError:
        raise
    except Exception as error:  # a boundary: SQLAlchemy's, requests' and mlflow's own kinds
        raise PreflightError(
            f"MLflow at {masked(address)}: must take the sweep's runs, got: {scrubbed(first_line(error), address)}; "
            "check the store or set MLFLOW_TRACKING_URI"
        ) from error
