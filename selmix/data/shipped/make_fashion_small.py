"""Make ``fashion_small.parquet`` from the official files of Fashion-MNIST.

    python -m selmix.data.shipped.make_fashion_small [FOLDER]

FOLDER has the four official files; left out, it is that of Debian's package ``dataset-fashion-mnist``. The same files
give the same images, whatever the version of pyarrow that writes them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from selmix.data.images import Images
from selmix.data.shipped.fashion_small import FILE, OFFICIAL, PARTS


def make(path: Path, folder: str | None = None) -> None:
    """Write the file.

    Args:
        path: to write.
        folder: of the official files; None for that of Debian's package.
    Raises:
        ValueError: the official files are missing or damaged.
    """
    # Imported here: the method itself needs torch and numpy only.
    import pyarrow as pa
    import pyarrow.parquet as pq

    official = OFFICIAL if folder is None else replace(OFFICIAL, path=folder)
    data = official.load()
    splits = {
        "train": data.train,
        "feedback": data.feedback,
        "select": data.select,
        "test": official.load_test(),
    }
    images, labels, names = [], [], []
    for part in PARTS:
        inputs = splits[part].inputs
        if not isinstance(inputs, Images) or inputs.pixels is None:
            raise TypeError(f"{part}: must be images of one size, got {type(inputs).__name__}")
        images += [each.numpy().tobytes() for each in inputs.pixels]
        labels += splits[part].labels.tolist()
        names += [part] * len(splits[part])
    table = pa.table({
        "image": pa.array(images, pa.binary()), "label": pa.array(labels, pa.int8()),
        "split": pa.array(names).dictionary_encode(),
    })  # fmt: skip
    pq.write_table(table, path, compression="zstd", compression_level=19, use_dictionary=["split"])


if __name__ == "__main__":
    make(FILE, sys.argv[1] if sys.argv[1:] else None)
