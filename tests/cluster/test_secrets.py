"""A canary in every place where a user may put a secret, and a search for it wherever something is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.records.object_store import ObjectStore
from tests.command import SLOW_SMOKE, SMALL, Done, selmix
from tests.fakes.job_head import job_head
from tests.fakes.nodes import TOKEN
from tests.fakes.servers import ADMIN, BUCKET, MlflowServer, credentials, s3_server

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(900),
]
ENTRANCE, STORE, SESSION = "canary-of-mlflow-7f3a", "canary-of-s3-91bc", "canary-of-session-55de"
CANARIES = (TOKEN, ENTRANCE, STORE, SESSION)


def test_no_secret_is_kept_anywhere(tmp_path: Path) -> None:
    homes = {name: tmp_path / name for name in ("mlflow", "head", "client", "pins")}
    for home in homes.values():
        home.mkdir()
    told: list[Done] = []

    def told_by(*arguments: str | Path, code: int = 0, **environ: str) -> Done:
        done = selmix(*arguments, cwd=homes["client"], **environ)
        assert done.code == code, done.err
        told.append(done)
        return done

    with s3_server() as endpoint, MlflowServer(homes["mlflow"], password=ENTRANCE) as server:
        store = credentials(endpoint, STORE) | {"AWS_SESSION_TOKEN": SESSION}
        user = {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": ENTRANCE}
        runs = ("--runs", f"s3://{BUCKET}/team")
        with job_head(homes["head"], **store, **user) as head:
            # As users do: in the address itself for the one, in the environment for the other.
            in_address = server.address.replace("http://", f"http://{ADMIN}:{ENTRANCE}@")
            mine = store | head.variables | {"MLFLOW_TRACKING_URI": in_address}
            job = ("--submit", "--follow", "--address", head.server)
            submitted = told_by("launch", SLOW_SMOKE, *SMALL, *job, *runs, **mine)
            assert "its credentials stay here" in submitted.err
            theirs = store | head.variables | user | {"MLFLOW_TRACKING_URI": server.address}
            told_by("launch", SLOW_SMOKE, *SMALL, "name=driven", "--address", head.address, *runs, **theirs)
            told_by("doctor", "--address", head.address, *runs, **mine)
            for sweep in ("smoke", "driven"):
                told_by("show", sweep, "--json", *runs, **mine)
                told_by("logs", sweep, *runs, **mine)
                told_by("pin", sweep, "--name", sweep, "--pins", homes["pins"], *runs, **mine)
            told_by("ls", *runs, **mine)
            told_by(
                "launch",
                SLOW_SMOKE,
                "name=refused",
                *job,
                "--runs",
                f"s3://{ADMIN}:{STORE}@{BUCKET}/x",
                code=2,
                **mine,
            )
            kept = {f"job {kind}": json.dumps(head.jobs(kind)).encode() for kind in ("SUBMISSION", "DRIVER")}
            assert len(json.loads(kept["job SUBMISSION"])) == 1
            for path in head.scratch.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    kept[str(path)] = path.read_bytes()
            bucket = ObjectStore(f"s3://{BUCKET}/team", store)
            for item in bucket.objects(""):
                kept[f"s3 {item.path}"] = bucket.get(item.path) or b""
    for name in ("mlflow", "client", "pins"):
        own = {"auth.ini", "auth.db"}  # what the server itself was told
        kept |= {str(p): p.read_bytes() for p in homes[name].rglob("*") if p.is_file() and p.name not in own}
    kept |= {f"output {number}": (done.out + done.err).encode() for number, done in enumerate(told)}
    groups = (
        "s3 smoke/",
        "s3 driven/",
        str(homes["mlflow"]),
        str(homes["pins"]),
        "output",
        str(head.scratch),
    )
    assert all(any(name.startswith(group) for name in kept) for group in groups), sorted(kept)
    found = [
        (name, secret) for name, content in kept.items() for secret in CANARIES if secret.encode() in content
    ]
    assert found == []
