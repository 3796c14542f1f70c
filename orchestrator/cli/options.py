"""Arguments of every verb; each help page shows a real session."""

from __future__ import annotations

import argparse
from pathlib import Path


def _parser(verb: str, about: str, example: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"selmix {verb}", description=about, epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip


def _with_runs(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "--runs", default="runs", metavar="FOLDER", help="where sweeps lie (runs), or s3://bucket/prefix"
    )
    return parser


def _with_pins(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "--pins", type=Path, default=Path("pins"), metavar="FOLDER", help="where pins lie (pins)"
    )
    return parser


def _with_json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _file_parser(verb: str, about: str, example: str) -> argparse.ArgumentParser:
    parser = _with_runs(_parser(verb, about, example))
    parser.add_argument("file", type=Path, metavar="FILE", help="sweep file")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="search.num_trials=8, name=NEW, ..."
    )
    return parser


def validate() -> argparse.ArgumentParser:
    return _with_json(
        _file_parser(
            "validate",
            "Check a sweep file; all problems at once, exit 3.",
            "  $ selmix validate sweeps/smoke.yaml\n  sweeps/smoke.yaml: valid (min_recall)",
        )
    )


def data() -> argparse.ArgumentParser:
    parser = _with_json(_parser(
        "data", "Counts per class and split of a sweep file's data, digests, and what is wrong; exit 4 where something "
        "is. Every image is decoded. `prepare` first extracts the official archive (CIFAR, STL-10) that lies in or "
        "beside the configured folder; it downloads nothing.",
        "  $ selmix data check sweeps/digits_min_recall.yaml"))  # fmt: skip
    parser.add_argument("action", choices=["check", "prepare"])
    parser.add_argument("file", type=Path, metavar="FILE", help="sweep file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="data.path=FOLDER, ...")
    return parser


def plan() -> argparse.ArgumentParser:
    return _with_json(
        _file_parser(
            "plan",
            "Trials, estimated time and disk of a sweep, from a short probe. Touches nothing.",
            "  $ selmix plan sweeps/digits_min_recall.yaml",
        )
    )


def diagnose() -> argparse.ArgumentParser:
    parser = _with_json(_parser(
        "diagnose", "Run the defaults of a sweep file once and correlate the gain with real steps, round by round.",
        "  $ selmix diagnose sweeps/digits_min_recall.yaml --output maps"))  # fmt: skip
    parser.add_argument("file", type=Path, metavar="FILE", help="sweep file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="objectives=[h_mean], ...")
    parser.add_argument("--objective", help="only this one of the file's")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="draw heat maps of C, G and P there"
    )
    return parser


def pretrain() -> argparse.ArgumentParser:
    parser = _with_json(_file_parser(
        "pretrain", "Train a base model by the recipe of a sweep file. Stopped and run again, it resumes.",
        "  $ selmix pretrain sweeps/smoke.yaml pretrain.recipe=mixup --output base.safetensors"))  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PATH", help="safetensors file to write"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    return parser


def launch() -> argparse.ArgumentParser:
    parser = _file_parser(
        "launch",
        "Run a sweep. Launched again it resumes, or says that it is finished.",
        "  $ selmix launch sweeps/smoke.yaml search.num_trials=4 name=smoke4",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument(
        "--address", metavar="ADDRESS", help="of a running cluster, HOST:6379 (RAY_ADDRESS); with --submit of its job "
        "server (http://127.0.0.1:8265)",
    )  # fmt: skip
    parser.add_argument(
        "--submit", action="store_true", help="let the driver run on the cluster, as a Ray job; --runs is a folder "
        "that the cluster sees",
    )  # fmt: skip
    parser.add_argument("--follow", action="store_true", help="with --submit: stay until the sweep ends")
    parser.add_argument(
        "--in-process", action="store_true", help="without Ray, one run after the other in this very process: for a "
        "debugger, or a machine without Ray",
    )  # fmt: skip
    return parser


def doctor() -> argparse.ArgumentParser:
    about = "Is everything there that a sweep needs, on this machine or on every node of a cluster? Storage, versions, "
    about += "MLflow, resources, clocks, disks, data. All problems at once, exit 4."
    example = "  $ selmix doctor sweeps/digits_min_recall.yaml --address 10.0.0.1:6379 --runs /shared/runs"
    parser = _with_json(_with_runs(_parser("doctor", about, example)))
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="sweep file that is to run there")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="resources.gpu=1, data.path=FOLDER, ..."
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="of a running cluster (RAY_ADDRESS)")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="how many must be alive (1)")
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="how long to wait for them (0)"
    )
    return parser


def stop() -> argparse.ArgumentParser:
    parser = _with_runs(_parser(
        "stop", "Stop a sweep wherever it runs; what is finished is kept, launching it again resumes it.",
        "  $ selmix stop digits_min_recall"))  # fmt: skip
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument("--cancel", action="store_true", help="for good: what is unfinished is KILLED")
    parser.add_argument(
        "--timeout", type=float, default=120.0, metavar="SECONDS", help="how long to wait for it (120)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    return parser


def logs() -> argparse.ArgumentParser:
    about = "The log of a sweep's driver, or of one trial: its rounds, and the traceback of what it died of."
    example = "  $ selmix logs digits_min_recall min_recall/trial-007"
    parser = _with_json(_with_runs(_parser("logs", about, example)))
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument("trial", nargs="?", metavar="TRIAL")
    parser.add_argument("-f", "--follow", action="store_true", help="continue until the sweep ends")
    return parser


def ls() -> argparse.ArgumentParser:
    parser = _with_json(_with_runs(_parser("ls", "The sweeps of a runs folder.", "  $ selmix ls")))
    parser.add_argument(
        "--recipes", action="store_true", help="the sweep files that come with selmix instead"
    )
    return parser


def cp() -> argparse.ArgumentParser:
    parser = _parser(
        "cp", "Write a sweep file that comes with selmix.", "  $ selmix cp cifar10_lt_min_recall"
    )
    parser.add_argument("recipe", metavar="RECIPE")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="where to (here)"
    )
    return parser


def show() -> argparse.ArgumentParser:
    parser = _with_json(
        _with_runs(_parser("show", "The result of a sweep.", "  $ selmix show digits_min_recall"))
    )
    parser.add_argument("sweep", metavar="SWEEP")
    return parser


def ui() -> argparse.ArgumentParser:
    parser = _with_runs(
        _parser("ui", "Open MLflow's page on the store of these sweeps, on loopback.", "  $ selmix ui")
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    return parser


def pin() -> argparse.ArgumentParser:
    parser = _with_pins(_with_runs(_parser(
        "pin", "Write the lock file of a sweep's winner. Evaluates it and the baselines on test; trains nothing.",
        "  $ selmix pin digits_min_recall --name digits\n  pins/digits.yaml")))  # fmt: skip
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument("--name", required=True, help="of the pin, and of the alias in MLflow")
    parser.add_argument("--objective", help="which objective's winner, where the sweep has several")
    parser.add_argument("--trial", metavar="ID", help="pin this trial, marked as not the winner")
    parser.add_argument("--force", action="store_true", help="replace a pin of that name")
    return parser


def pins() -> argparse.ArgumentParser:
    return _with_json(_with_pins(_parser("pins", "The pins of a folder.", "  $ selmix pins")))


def reproduce() -> argparse.ArgumentParser:
    parser = _with_json(_with_pins(_with_runs(_parser(
        "reproduce", "Train again from a pin and compare digests and numbers; exit 7 where one differs.",
        "  $ selmix reproduce digits"))))  # fmt: skip
    parser.add_argument("name", metavar="NAME")
    return parser


def evaluate() -> argparse.ArgumentParser:
    parser = _with_json(_parser(
        "evaluate",
        "A metric from a Parquet table of labels and class scores: its interval, whether the samples suffice, and what "
        "a post-hoc correction would give. Columns: label, scores (lists) or score_NAME (one a class), and group for "
        "metrics of groups.",
        "  $ selmix evaluate scores.parquet --objective min_recall"))  # fmt: skip
    parser.add_argument("table", type=Path, metavar="TABLE")
    parser.add_argument("--objective", required=True, help="a metric or objective, such as min_recall")
    parser.add_argument(
        "--train-counts", type=_whole_numbers, metavar="N,N,...", help="training samples of each class"
    )
    parser.add_argument("--cvar-fraction", type=float, default=0.3, help="of cvar_recall (0.3)")
    return parser


def _whole_numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
