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

_BLOCK = 1 << 22


@dataclass(frozen=True)
class StagedData:
    """A file of :func:`selmix.data.stored.save_data`.

    Attributes:
        address: a path, or an address in an object store. digest: ``sha256:...`` of the file.
        copied: whether nodes copy it to their own disks; otherwise it is mapped where it lies.
    """

    address: str
    digest: str
    copied: bool

    def opened(self, filesystem: Any, scratch: Path | None = None) -> SweepData:
        """The data, from this node's copy.

        Args:
            filesystem: pyarrow's; None: ``address`` is a path. scratch: for the copy; None: Ray's session.
        Raises:
            RuntimeError: what arrived is not what was staged.
        """
        if not self.copied:
            return load_data(Path(self.address))
        folder = (scratch or _session_folder()) / "selmix-data"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.digest.removeprefix("sha256:")
        with (folder / f"{path.name}.lock").open(
            "w"
        ) as lock:  # given back when its holder ends, however it ends
            fcntl.flock(lock, fcntl.LOCK_EX)
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
            found = f"sha256:{total.hexdigest()}"
            if found != self.digest:
                raise RuntimeError(
                    f"{self.address}: the data staged for this sweep must be {self.digest[:19]}, got {found[:19]}; "
                    "launch again to stage them anew"
                )


def _blocks(filesystem: Any, address: str) -> Iterator[bytes]:
    with Path(address).open("rb") if filesystem is None else filesystem.open_input_stream(address) as stream:
        while block := stream.read(_BLOCK):
            yield block


def _session_folder() -> Path:
    """Of the Ray node that this process is a worker of: on the node's own disk, and gone with the cluster."""
    import ray

    node = ray._private.worker._global_node
    if node is None:
        raise RuntimeError("this process is no worker of Ray: say where the copy is to lie")
    return Path(node.get_session_dir_path())
