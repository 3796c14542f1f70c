"""Arguments of every verb; each help page ends with an example."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import textwrap
from pathlib import Path

from orchestrator.errors import SpecError
from selmix.files import expanded_path
from selmix.rungs import RUNGS


def _parser(verb: str, about: str, example: str) -> argparse.ArgumentParser:
    # The raw formatter keeps the lines of the example, but does not wrap the description: to the width that it uses.
    width = max(40, shutil.get_terminal_size().columns - 2)
    # allow_abbrev=False: a flag that is added later would change what an abbreviation in a script means.
    return argparse.ArgumentParser(
        prog=f"selmix {verb}", description=textwrap.fill(about, width), epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip


def _with_runs(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "--runs",
        type=_runs,
        default="runs",
        metavar="FOLDER",
        help="runs folder (default: runs), or s3://BUCKET/PREFIX",
    )
    return parser


def _with_pins(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "--pins",
        type=_path,
        default=Path("pins"),
        metavar="FOLDER",
        help="folder of the pins (default: pins)",
    )
    return parser


def _with_json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    return parser


def _file_parser(verb: str, about: str, example: str) -> argparse.ArgumentParser:
    parser = _with_runs(_parser(verb, about, example))
    parser.add_argument(
        "file", type=_sweep_file, metavar="FILE", help="sweep file, or name of one that comes with selmix"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="override a key of the file: search.num_trials=8, name=NEW",
    )
    return parser


def validate() -> argparse.ArgumentParser:
    return _with_json(
        _file_parser(
            "validate",
            "Check a sweep file and report all its problems at once, with exit code 3 if there are any.",
            "  $ selmix validate sweeps/smoke.yaml\n  sweeps/smoke.yaml: valid (min_recall)",
        )
    )


def data() -> argparse.ArgumentParser:
    parser = _with_json(_parser(
        "data", "Show counts per class and split of a sweep file's data, their digests, and their problems, with exit "
        "code 4 if there are any. Every image is decoded. `prepare` first extracts the official archive (CIFAR, "
        "STL-10) that lies in the configured folder or beside it; it downloads nothing.",
        "  $ selmix data check sweeps/digits_min_recall.yaml"))  # fmt: skip
    parser.add_argument("action", choices=["check", "prepare"])
    parser.add_argument(
        "file", type=_sweep_file, metavar="FILE", help="sweep file, or name of one that comes with selmix"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="override a key of the file: data.path=FOLDER"
    )
    return parser


def plan() -> argparse.ArgumentParser:
    return _with_json(
        _file_parser(
            "plan",
            "Estimate trials, time, disk and memory of a sweep from a short probe. Writes nothing.",
            "  $ selmix plan sweeps/digits_min_recall.yaml",
        )
    )


def diagnose() -> argparse.ArgumentParser:
    parser = _with_json(_parser(
        "diagnose", "Run the defaults of a sweep file once and correlate, round by round, the gain that the method "
        "predicts for each class pair with the real change after one training step on it.",
        "  $ selmix diagnose sweeps/digits_min_recall.yaml --output maps"))  # fmt: skip
    parser.add_argument(
        "file", type=_sweep_file, metavar="FILE", help="sweep file, or name of one that comes with selmix"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="override a key of the file: objectives=[h_mean]"
    )
    parser.add_argument("--objective", help="only this objective of the file")
    parser.add_argument(
        "-o",
        "--output",
        type=_path,
        metavar="FOLDER",
        help="folder for heat maps of the confusion matrix C, gain G and policy P",
    )
    return parser


def pretrain() -> argparse.ArgumentParser:
    parser = _with_json(_file_parser(
        "pretrain", "Train a base model by the section `pretrain` of a sweep file. Run again after a stop, it resumes.",
        "  $ selmix pretrain sweeps/smoke.yaml --output base.safetensors"))  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=_path, required=True, metavar="PATH", help="safetensors file to write"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    return parser


def launch() -> argparse.ArgumentParser:
    parser = _file_parser(
        "launch",
        "Run a sweep, or resume it. A finished sweep is not run again.",
        "  $ selmix launch sweeps/smoke.yaml search.num_trials=4 name=smoke4",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument(
        "--address", metavar="ADDRESS", help="address of a running Ray cluster, HOST:6379 (default: RAY_ADDRESS); with "
        "--submit that of its job server (default: http://127.0.0.1:8265)",
    )  # fmt: skip
    parser.add_argument(
        "--submit", action="store_true", help="run the driver on the cluster, as a Ray job; --runs must be a folder "
        "that the cluster sees",
    )  # fmt: skip
    parser.add_argument(
        "--follow", action="store_true", help="with --submit: print the log until the sweep ends"
    )
    parser.add_argument(
        "--in-process", action="store_true", help="run all in this process, one after the other, without Ray: "
        "for a debugger, or a machine without Ray",
    )  # fmt: skip
    parser.add_argument(
        "--until", choices=RUNGS, metavar="RUNG", help=f"end with this rung ({', '.join(RUNGS)}); launching again "
        "without it goes on from there",
    )  # fmt: skip
    return parser


def doctor() -> argparse.ArgumentParser:
    about = (
        "Check this machine, or every node of a cluster, for what a sweep needs: storage, versions, MLflow, "
        "resources, clocks, disks, data. Reports all problems at once, with exit code 4."
    )
    example = "  $ selmix doctor mine.yaml --address 10.0.0.1:6379 --runs /shared/runs"
    parser = _with_json(_with_runs(_parser("doctor", about, example)))
    parser.add_argument("file", nargs="?", type=_sweep_file, metavar="FILE", help="sweep file to check for")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="override a key of the file: resources.gpu=1"
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="running Ray cluster (default: RAY_ADDRESS)")
    parser.add_argument(
        "--nodes", type=int, default=1, metavar="N", help="nodes that must be alive (default: 1)"
    )
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="time to wait for them (default: 0)"
    )
    return parser


def stop() -> argparse.ArgumentParser:
    parser = _with_runs(_parser(
        "stop", "Stop a sweep wherever it runs. Finished runs are kept; launch it again to resume it.",
        "  $ selmix stop digits_min_recall"))  # fmt: skip
    parser.add_argument("sweep", metavar="SWEEP", help="name of the sweep")
    parser.add_argument(
        "--cancel",
        action="store_true",
        help="cancel it for good: unfinished runs are KILLED, it cannot be resumed",
    )
    parser.add_argument(
        "--timeout", type=float, default=120.0, metavar="SECONDS", help="time to wait for it (default: 120)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    return parser


def logs() -> argparse.ArgumentParser:
    about = "Print the log of a sweep's driver, or of one trial: its rounds, and the traceback if it failed."
    example = "  $ selmix logs digits_min_recall min_recall/trial-007"
    parser = _with_json(_with_runs(_parser("logs", about, example)))
    parser.add_argument("sweep", metavar="SWEEP", help="name of the sweep")
    parser.add_argument(
        "trial", nargs="?", metavar="TRIAL", help="id of a trial, as `selmix show --json` lists it"
    )
    parser.add_argument(
        "-f", "--follow", action="store_true", help="print what is added until the sweep ends"
    )
    return parser


def ls() -> argparse.ArgumentParser:
    parser = _with_json(_with_runs(_parser("ls", "List the sweeps of a runs folder.", "  $ selmix ls")))
    parser.add_argument(
        "--recipes", action="store_true", help="list the sweep files that come with selmix instead"
    )
    return parser


def cp() -> argparse.ArgumentParser:
    parser = _parser(
        "cp", "Write a sweep file that comes with selmix, as RECIPE_X.yaml where it has several objectives.",
        "  $ selmix cp cifar10_lt --objective min_recall\n  cifar10_lt_min_recall.yaml",
    )  # fmt: skip
    parser.add_argument("recipe", metavar="RECIPE", help="name of it, as `selmix ls --recipes` lists it")
    parser.add_argument(
        "folder",
        nargs="?",
        type=_path,
        default=Path(),
        metavar="FOLDER",
        help="where to write it (default: this folder)",
    )
    parser.add_argument(
        "--objective", metavar="X", help="one of the recipe's objectives (default: the first one of them)"
    )
    return parser


def show() -> argparse.ArgumentParser:
    parser = _with_json(
        _with_runs(
            _parser(
                "show", "Show the result of a sweep, or its progress.", "  $ selmix show digits_min_recall"
            )
        )
    )
    parser.add_argument("sweep", metavar="SWEEP", help="name of the sweep")
    return parser


def ui() -> argparse.ArgumentParser:
    parser = _with_runs(
        _parser(
            "ui",
            "Serve MLflow's pages over the store of these sweeps, until Ctrl-C. Prints their address, then a link to "
            "the runs of each sweep.",
            "  $ selmix ui",
        )
    )
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="link to this sweep only")
    # Loopback by default: the pages have no password.
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=5000, help="port to listen on (default: 5000)")
    return parser


def pin() -> argparse.ArgumentParser:
    parser = _with_pins(_with_runs(_parser(
        "pin", "Evaluate a sweep's winner and the baselines on test, write the winner's lock file with the weights "
        "beside it (PINS/NAME.yaml, NAME.safetensors), and register the model in MLflow. Trains nothing.",
        "  $ selmix pin digits_min_recall --name digits\n  pins/digits.yaml")))  # fmt: skip
    parser.add_argument("sweep", metavar="SWEEP", help="name of the sweep")
    parser.add_argument("--name", required=True, help="name of the pin, and alias of the model in MLflow")
    parser.add_argument(
        "--objective", action="append", help="pin the winner of this objective, where the sweep has several; given "
        "several times: pins NAME-OBJECTIVE, declared together in one opening of test",
    )  # fmt: skip
    parser.add_argument(
        "--row", metavar="ROW", help="pin this row of the table in place of the winner: an approach (mislas_stage_two, "
        "or selmix), a trial (trial-003), or an id of `show --json`; marked as not the winner where it is not",
    )  # fmt: skip
    parser.add_argument(
        "--trial",
        metavar="ID",
        help="pin this trial itself, marked as not the winner, also before the sweep is finished",
    )
    parser.add_argument("--force", action="store_true", help="replace a pin of that name")
    parser.add_argument(
        "--register", action="store_true",
        help="register the model of a pin that stands, where MLflow did not take it; opens no test split",
    )  # fmt: skip
    return parser


def pins() -> argparse.ArgumentParser:
    return _with_json(_with_pins(_parser("pins", "List the pins of a folder.", "  $ selmix pins")))


def reproduce() -> argparse.ArgumentParser:
    parser = _with_json(_with_pins(_with_runs(_parser(
        "reproduce", "Train again from a pin and compare digests and numbers; exit code 7 where one differs, or on "
        "another stack where a metric lies outside the pin's own interval.",
        "  $ selmix reproduce digits"))))  # fmt: skip
    parser.add_argument("name", metavar="NAME", help="name of the pin, or its file")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=PATH",
        help="where a file that the pin names lies here: data.path=FILE",
    )
    return parser


def predict() -> argparse.ArgumentParser:
    parser = _with_json(_with_pins(_parser(
        "predict", "Write the labels and probabilities that a pinned model gives for a table (Parquet, CSV, TSV; "
        "features, or images in it or beside it), a folder of images, an image, or a list of images (.txt). Images get "
        "the pin's own preprocessing, corrections are applied. The rows stay in their order, with all columns that are "
        "no inputs before the predictions; a row that cannot be predicted is named, its prediction stays empty, and "
        "the exit code is 4.",
        "  $ selmix predict digits photos/ --out predictions.csv\n"
        "  $ selmix predict digits new.parquet --out predictions.parquet --keep id")))  # fmt: skip
    parser.add_argument("pin", metavar="PIN", help="name of the pin, or path of its file")
    parser.add_argument("source", type=_path, metavar="TABLE", help="table, folder, image or list")
    parser.add_argument(
        "-o", "--out", type=_path, required=True, metavar="FILE", help="file to write: .parquet or .csv"
    )
    parser.add_argument(
        "--input", type=_listed, metavar="A,B,C", help="column of the images or vectors, or columns of numbers, or a "
        "pattern such as 'f*' (default: those that the pin was fitted on)",
    )  # fmt: skip
    parser.add_argument(
        "--group", metavar="COLUMN", help="column of the groups, where the correction is by group (default: the pin's)"
    )  # fmt: skip
    parser.add_argument(
        "--keep", type=_listed, metavar="A,B,C", help="columns to hand on (default: all that are no inputs)"
    )
    parser.add_argument(
        "--root", type=_path, metavar="FOLDER", help="folder of the paths in a list (default: the list's own)"
    )  # fmt: skip
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="rows at once (default: 64 images, or some 16 MB of features)",
    )
    parser.add_argument("--device", default="cpu", help="device of torch: cpu, cuda, ... (default: cpu)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    return parser


def export() -> argparse.ArgumentParser:
    parser = _with_json(_with_pins(_parser(
        "export", "Write a pinned model in a format of others, with a description beside it (FILE.json): ONNX; a "
        "program of torch.export (pt2); or its weights (safetensors). Normalisation and corrections are inside the "
        "first two, which take any batch and give logits, probabilities and labels. What was written is loaded again "
        "and compared with the model; where both differ, nothing is kept and the exit code is 4.",
        "  $ selmix export digits --format onnx\n  digits.onnx\n  digits.onnx.json")))  # fmt: skip
    parser.add_argument("pin", metavar="PIN", help="name of the pin, or path of its file")
    parser.add_argument("--format", choices=["onnx", "pt2", "safetensors"], required=True, help="of the file")
    parser.add_argument("-o", "--out", type=_path, metavar="FILE", help="file to write (default: PIN.FORMAT)")
    return parser


def evaluate() -> argparse.ArgumentParser:
    parser = _with_json(_parser(
        "evaluate",
        "Compute metrics from a table of labels and class scores (Parquet, CSV, TSV, .csv.gz): one with its interval, "
        "whether the samples suffice, and the effect of a free correction; or all. Columns: label (index or name of "
        "the class), scores (lists) or score_NAME (one per class), or one column with the scores of the positive class "
        "of two; and group for metrics of groups. Scores are logits, log-probabilities or probabilities.",
        "  $ selmix evaluate scores.parquet --objective min_recall\n"
        "  $ selmix evaluate two.csv --positive 1 --objective mcc --save cut.json"))  # fmt: skip
    parser.add_argument("table", type=_path, metavar="TABLE", help="file of the table")
    parser.add_argument(
        "--objective", metavar="METRIC", help="metric or objective, such as min_recall (default: all)"
    )
    parser.add_argument(
        "--scores", choices=["logits", "log-probabilities", "probabilities"],
        help="what the scores are (default: told by the sums of their rows)",
    )  # fmt: skip
    parser.add_argument(
        "--label", default="label", metavar="COLUMN", help="column of the labels (default: label)"
    )
    parser.add_argument(
        "--scores-column", action="append", metavar="COLUMN",
        help="column of the scores; several times: one per class",
    )  # fmt: skip
    parser.add_argument(
        "--score-prefix", default="score_", metavar="TEXT",
        help="beginning of the names of columns with the scores of one class (default: score_)",
    )  # fmt: skip
    parser.add_argument(
        "--group", metavar="COLUMN", help="column of the groups (default: group, where there is one)"
    )
    parser.add_argument(
        "--prediction", metavar="COLUMN", help="column of predicted classes, for a table without scores"
    )
    parser.add_argument(
        "--class-names", type=_names, metavar="A,B,C",
        help="names of the classes in the order of the scores, or a file with one per line",
    )  # fmt: skip
    parser.add_argument(
        "--positive",
        metavar="VALUE",
        help="label of the positive class of two, of which one column has the scores",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="SCORE",
        help="what the score of the positive class must exceed (default: that of even odds)",
    )  # fmt: skip
    parser.add_argument(
        "--train-counts",
        type=_whole_numbers,
        metavar="N,N,...",
        help="training samples per class, for metrics that need them",
    )
    parser.add_argument(
        "--cvar-fraction", type=float, default=0.3, metavar="SHARE",
        help="share of the classes, the weakest, that cvar_recall averages (default: 0.3)",
    )  # fmt: skip
    parser.add_argument(
        "--beta", type=float, default=2.0, metavar="B",
        help="weight of the recall beside the precision in f_beta (default: 2)",
    )  # fmt: skip
    parser.add_argument(
        "--recall-weights", type=_numbers, metavar="W,W,...",
        help="weights of the recalls in weighted_recall, one per class",
    )  # fmt: skip
    parser.add_argument(
        "--cost-matrix", type=_matrix, metavar="ROWS",
        help="costs of cost, a row per true class: '0,1;5,0', or a file with a row per line",
    )  # fmt: skip
    parser.add_argument(
        "--save",
        type=_path,
        metavar="FILE",
        help="write the correction as JSON, for selmix.load_score_correction",
    )
    parser.add_argument(
        "--correction",
        type=_path,
        metavar="FILE",
        help="apply a correction that --save wrote, instead of fitting one",
    )
    return parser


def _names(text: str) -> tuple[str, ...]:
    path = Path(text)
    if not path.is_file():
        return tuple(text.split(","))
    try:
        # Without the byte order mark that some editors begin a file with.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(
            f"{text}: must be text in UTF-8, one name per line: {error}"
        ) from None
    return tuple(line.strip() for line in lines if line.strip())


def _listed(text: str) -> list[str]:
    return text.split(",")


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        # argparse would print the name of this function.
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between, got {text!r}") from None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between, got {text!r}") from None


def _matrix(text: str) -> tuple[tuple[float, ...], ...]:
    """Rows of numbers: with semicolons between, as the list of lists of a sweep file, or lines of a file."""
    path = _path(text)
    try:
        is_file = path.is_file()
        rows = path.read_text(encoding="utf-8-sig").splitlines() if is_file else text.split(";")
        if text.lstrip().startswith("[") and not is_file:
            return tuple(tuple(float(cost) for cost in row) for row in json.loads(text))
        return tuple(
            tuple(map(float, re.split(r"[,;\s]+", row.strip(" \t,;")))) for row in rows if row.strip()
        )
    except (OSError, TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"must be rows of numbers such as '0,1;5,0', or a file with a row per line, got {text!r}"
        ) from None


def _path(text: str) -> Path:
    """A path, with ``~`` and variables: a shell leaves them alone behind ``--flag=`` and within quotes."""
    try:
        return expanded_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _sweep_file(text: str) -> Path:
    """A sweep file; a bare name that is no file here is looked for among those that come with selmix."""
    path = _path(text)
    if path.exists() or path.name != text or path.suffix:
        return path
    from orchestrator.verbs.recipes import recipes, shipped_file, where_listed

    found = shipped_file(text)
    if found is None:
        advice = where_listed(text, recipes())
        raise SpecError(
            [f"{text}: must be a sweep file, or the name of one that comes with selmix; {advice}"]
        )
    return found


def _runs(text: str) -> str:
    """A runs folder; the address of an object store stays as it is."""
    return text if "://" in text else str(_path(text))
