"""Clients of MLflow that print nothing, fail within seconds and report errors without credentials."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.credentials import masked, scrubbed
from orchestrator.errors import PreflightError
from orchestrator.messages import first_line
from orchestrator.tracking.address import CERTIFICATES, first_opening
from orchestrator.tracking.relocation import relocate
from orchestrator.tracking.values import tag_texts

_QUIET = {
    # Without these a refused connection blocks for four minutes and a frozen server for twenty.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def quieten_mlflow() -> None:
    """Set how MLflow behaves in this process; before it is imported, which is when it reports to its makers.

    A value that the user exported stands.
    """
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)


def open_client(address: str) -> Any:
    """Open a client of the store at ``address``; making the tables of a new file takes seconds.

    Raises:
        PreflightError: the store cannot be opened.
    """
    quieten_mlflow()
    # MLflow's HTTP library reads its own variables alone, not that of OpenSSL, by which our check was made.
    named = next((os.environ[key] for key in CERTIFICATES if os.environ.get(key)), None)
    if named is not None:
        os.environ.setdefault("REQUESTS_CA_BUNDLE", named)
    # The outbox retries a locked store; mlflow would log eighty lines about it first.
    for name, level in {
        "mlflow": logging.ERROR,
        "alembic": logging.ERROR,
        "mlflow.store.db.utils": logging.CRITICAL,
    }.items():
        logging.getLogger(name).setLevel(level)
    with mlflow_errors(address), first_opening(address):
        relocate(address)
        # Imported late: it takes a second, which verbs without MLflow do not wait for.
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=address)
        # MLflow makes the tables of a new file at the first query: it must happen under the lock.
        client.search_experiments(max_results=1)
    return client


def register_model(
    address: str, run_id: str, name: str, alias: str, folder: Path, tags: Mapping[str, str], description: str = "",
) -> str:  # fmt: skip
    """Store the folder of a model with a run and register it as a new version of a model, under an alias.

    Args:
        address: tracking address of MLflow.
        run_id: MLflow run that the files are stored with.
        name: registered model; created if there is none.
        alias: alias that the version gets; an older version loses it.
        folder: content of the version.
        tags: tags of the version.
        description: of the version, Markdown.
    Returns:
        Number of the version.
    Raises:
        PreflightError: MLflow does not take it.
    """
    client = open_client(address)
    # Imported after the client, which quietens MLflow first.
    from mlflow.exceptions import MlflowException

    with mlflow_errors(address):
        client.log_artifacts(run_id, str(folder), f"pins/{alias}")
        # The model exists from the sweep's second pin on; looking for it first would race with another pin.
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run_id).info.artifact_uri}/pins/{alias}"
        version = client.create_model_version(
            name, source=source, run_id=run_id, tags=tag_texts(tags), description=description
        )
        client.set_registered_model_alias(name, alias, str(version.version))
    return str(version.version)


def read_run(address: str, run_id: str) -> Any:
    """Read a run as MLflow has it."""
    return open_client(address).get_run(run_id)


@contextlib.contextmanager
def mlflow_errors(address: str) -> Iterator[None]:
    """Turn any error of MLflow into a PreflightError of one line, with the address and without its credentials."""
    try:
        yield
    except PreflightError:
        raise
    # A boundary: SQLAlchemy, requests and mlflow raise kinds of their own, without a common base.
    except Exception as error:
        raise PreflightError(
            f"MLflow at {masked(address)}: must take the sweep's runs, got: {scrubbed(first_line(error), address)}; "
            "check the store or set MLFLOW_TRACKING_URI"
        ) from error
