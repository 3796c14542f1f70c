"""Data too large for the object store: one file beside the records, copied to each node once and mapped there."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selmix.data.splits import SweepData
from selmix.data.stored import load_data
from selmix.files import written_aside

# Bytes read at a time: the file may exceed the memory of a node.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class StagedData:
    """A file of :func:`selmix.data.stored.save_data`.

    Attributes:
        address: a path, or an address in an object store.
        digest: ``sha256:...`` of the file.
        copied: True if nodes copy it to their own disks; otherwise it is mapped where it lies.
    """

    address: str
    digest: str
    copied: bool

    def opened(self, filesystem: Any, scratch: Path | None = None) -> SweepData:
        """Load the data from this node's copy.

        Args:
            filesystem: pyarrow's; with None ``address`` is a path.
            scratch: folder for the copy; with None that of Ray's session.
        Raises:
            RuntimeError: the copy differs from the file that was staged.
        """
        if not self.copied:
            return load_data(Path(self.address))
        folder = (scratch or session_folder()) / "selmix-data"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.digest.removeprefix("sha256:")
        # The workers of a node start at once, and one of them copies. The kernel releases the lock however its holder
        # ends.
        with (folder / f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Renamed into place after a check of its digest, so that a file that is there is whole.
            if not path.is_file():
                self._copy(filesystem, path)
        return load_data(path)

    def _copy(self, filesystem: Any, path: Path) -> None:
        total = hashlib.sha256()
        with written_aside(path) as aside:
            with aside.open("wb") as file:
                for block in _blocks(filesystem, self.address):
                    total.update(block)
                    file.write(block)
            digest = f"sha256:{total.hexdigest()}"
            # Within the block, so that a wrong copy is never renamed into place.
            if digest != self.digest:
                raise RuntimeError(
                    f"{self.address}: the data staged for this sweep must be {self.digest[:19]}, got {digest[:19]}; "
                    "launch again to stage them anew"
                )


def _blocks(filesystem: Any, address: str) -> Iterator[bytes]:
    with Path(address).open("rb") if filesystem is None else filesystem.open_input_stream(address) as stream:
        while block := stream.read(_BLOCK):
            yield block


def session_folder() -> Path:
    """Session folder of the Ray node of this worker: on the node's own disk, and gone with the cluster."""
    import ray

    # Ray has no public call for its session folder.
    node = ray._private.worker._global_node
    if node is None:
        raise RuntimeError(
            "staged data: this process must be a worker of Ray, it is none; pass a scratch folder"
        )
    return Path(node.get_session_dir_path())
