"""Features of a frozen model as Arrow files: computed once for all that reads them, and mapped into memory.

Every row of the rungs ``scores`` and ``head`` reads the features of the same base model on the same samples. A forward
pass through a large backbone costs more than most of what is fitted on them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selmix.data.content import preprocess_digest, sample_digests
from selmix.data.images import Inputs
from selmix.files import written_aside

COLUMNS = ("features", "logits")


@dataclass(frozen=True)
class FeatureCache:
    """Folder of features, by the digest of the weights, of the samples in their order and of how they are viewed.

    Processes that share the folder wait for one another where they want the same features; the kernel lets go of the
    lock of a process that dies. A folder that cannot be written to costs time, and nothing else.

    Attributes:
        folder: on a disk of this machine; it is made when the first features are written.
        weights: digest of the model's weights.
        network: name of what computes with them; with the same name it must be the same code.
    """

    folder: Path
    weights: str
    network: str = ""

    def predict(
        self,
        inputs: Inputs,
        how: Sequence[str | int],
        device: torch.device,
        compute: Callable[[], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """Features, shape (n, d), and logits, shape (n, K), on the device: read, or computed and written.

        Args:
            inputs: n inputs.
            how: what the bits depend on beside the weights, the inputs and the stack: which layer's input counts as the
                features, the arithmetic, inputs per forward pass.
            device: of the model.
            compute: computes them.
        Raises:
            OSError: a file of an image cannot be read.
        """
        path = self.folder / f"{self._key(inputs, how, device)}.arrow"
        with self._locked(path) as usable:
            found = _read(path) if usable else None
            if found is None:
                made = compute()
                if usable and all(part.dtype in (torch.float32, torch.float64) for part in made):
                    # A full disk, for one: the next one computes them again.
                    with contextlib.suppress(OSError):
                        _write(path, made)
                return made
        features, logits = found
        return features.to(device), logits.to(device)

    def _key(self, inputs: Inputs, how: Sequence[str | int], device: torch.device) -> str:
        """Digest of all that the bits of features and logits depend on."""
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.get_num_threads()
        dtype = str(inputs.dtype) if isinstance(inputs, Tensor) else "images"
        capability = torch.backends.cpu.get_cpu_capability()
        facts = [
            self.weights, self.network, *how, preprocess_digest(inputs), dtype, device.type, kind, capability,
            torch.__version__,
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(facts).encode())
        for sample in sample_digests(inputs):
            digest.update(sample)
        return digest.hexdigest()

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[bool]:
        """Hold the lock of a file for the duration of the block; False where the folder cannot be used."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_suffix(".lock").open("w")
        except OSError:
            yield False
            return
        with lock:
            # On a file system without locks two processes may compute the same.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield True


def _write(path: Path, parts: tuple[Tensor, Tensor]) -> None:
    """Write features and logits, each as one column of lists of fixed size, in one batch: it is mapped as a whole."""
    import pyarrow as pa

    arrays = []
    for part in parts:
        numbers = part.detach().cpu().contiguous().numpy()
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), numbers.shape[1]))
    batch = pa.RecordBatch.from_arrays(arrays, names=list(COLUMNS))
    with (
        written_aside(path) as aside,
        pa.OSFile(str(aside), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as to,
    ):
        to.write_batch(batch)


def _read(path: Path) -> tuple[Tensor, Tensor] | None:
    """Features and logits of a file, mapped copy-on-write; None where there is no whole file."""
    import pyarrow as pa

    if not path.is_file():
        return None
    try:
        with pa.memory_map(str(path)) as source:
            start = source.read_buffer().address
            source.seek(0)
            batch = pa.ipc.open_file(source).get_batch(0)
            places = []
            for name in COLUMNS:
                column = batch.column(name)
                numbers = column.values
                offset = numbers.buffers()[1].address - start
                shape = (len(column), column.type.list_size)
                places.append((np.dtype(numbers.type.to_pandas_dtype()), offset, shape))
    # What is damaged is made again.
    except (pa.ArrowException, OSError, KeyError, IndexError):
        return None
    features, logits = (
        # Copy-on-write: whoever writes into them changes neither the file nor what others see.
        torch.from_numpy(np.memmap(path, dtype, "c", offset, shape))
        if shape[0]
        else torch.empty(shape, dtype=torch.float32)
        for dtype, offset, shape in places
    )
    return features, logits
