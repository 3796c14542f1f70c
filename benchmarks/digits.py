"""SelMix against every baseline on long-tailed digits, paired by seed, judged on test.

    python benchmarks/digits.py --setting method  --seeds 0 1 2 3 4
    python benchmarks/digits.py --setting product --seeds 0 1 2 3 4 5 6 7 8 9 [--json] [--keep FILE]

`method`: imbalance 50, from the plain model, drawing from train, fixed settings, the last round counts.
`product`: the data of sweeps/digits_min_recall.yaml, the product's defaults, the round chosen on select.
Seed s seeds split, pre-training and fine-tuning. Benchmarks open the test split; sweeps do not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `benchmarks` lies

import torch

from benchmarks.harness import compare, report
from benchmarks.settings import SETTINGS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setting", choices=["method", "product"], required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="file of the seeds that are done, to go on from")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = SETTINGS[options.setting]
    report(setting, compare(setting, options.seeds, options.keep), options.json)


if __name__ == "__main__":
    main()
