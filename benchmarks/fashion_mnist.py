"""SelMix against every baseline on long-tailed Fashion-MNIST, paired by seed, judged on all official test images.

    python benchmarks/fashion_mnist.py --seeds 0 1 2 3 4 [--json] [--keep FILE]

Imbalance 100, 1,000 training samples in the largest class, 100 feedback and 200 select samples a class, 1,000 test
samples a class; small_cnn, the product's defaults, the round chosen on select. Seed s seeds the order of the classes,
split, pre-training and fine-tuning. Reads the official files where Debian's package `dataset-fashion-mnist` puts them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `benchmarks` lies

import torch

from benchmarks.harness import compare, report
from benchmarks.settings import FASHION


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="file of the seeds that are done, to go on from")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report(FASHION, compare(FASHION, options.seeds, options.keep), options.json)


if __name__ == "__main__":
    main()
