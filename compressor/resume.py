"""Outputs made part by part: a job that was cut short goes on after its last whole part.

The work goes on in a hidden folder beside the output, ``.NAME.partial``:

    CONTENT/    the finished parts, and the one that grows
    job.json    the ledger: which job this is, and what of it is safely on disk

A part counts when the ledger lists its files, and they are listed after they are synced.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import OutputError
from .files import clean_up, sha256, write_atomically
from .manifests import FileEntry


class Ledger(BaseModel):
    """The job, how many inputs of its source are done, and the files, below CONTENT, they became.

    job.json holds it as it was when the last of ``files`` was finished.
    """

    model_config = ConfigDict(frozen=True)

    job: dict[str, str]
    consumed: int = 0
    files: dict[str, FileEntry] = {}


AnyLedger = TypeVar("AnyLedger", bound=Ledger)


class FolderLock:
    """Keeps other processes out of a folder, where the file system can: two writers would mix."""

    def __init__(self, folder: Path, output: Path) -> None:
        self._folder, self._output = folder, output
        self._descriptor: int | None = None

    def take(self) -> None:
        """Raises OutputError if another process has it."""
        if sys.platform == "win32":
            return
        import fcntl

        self._descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise OutputError(
                f"another job is writing {self._output}; wait for it to end, or choose another "
                "output"
            ) from error
        except OSError:
            pass  # a file system without locks

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def empty(folder: Path, last: str = "") -> None:
    """Deletes what is in a folder, which stays: a lock may be on it. ``last``: the name that goes
    after the others, and says whose they are if this process is killed meanwhile."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == last):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


class Unfinished(Generic[AnyLedger]):
    """The hidden folder of the output ``path`` while a job writes it.

    ledger: that of a job which has done nothing yet; content: the folder that its files are in;
    kind: what its inputs are called, for people. Everything here raises OutputError.
    """

    def __init__(self, path: Path, content: str, ledger: AnyLedger, kind: str) -> None:
        self.path = path.absolute()
        self.partial = self.path.with_name(f".{self.path.name}.partial")
        self.folder = self.partial / content
        self.ledger = ledger
        self._kind = kind
        self._lock = FolderLock(self.partial, self.path)

    def open(self, *, resume: bool, discard: bool) -> None:
        """With ``resume`` the ledger of a job that was cut short, if there is one, goes on.

        Without, one that has finished parts is refused unless ``discard`` says that it may go.
        """
        self.partial.mkdir(parents=True, exist_ok=True)
        clean_up(self.path)
        self._lock.take()
        try:
            if resume:
                self.ledger = self._resumed()
            elif not discard:
                self._refuse()
            if not self.ledger.files:
                empty(self.partial)
                self.folder.mkdir()
                self.save()
        except BaseException:
            self._lock.release()
            raise

    def save(self) -> None:
        """Makes the ledger the one to resume from."""
        write_atomically(self.partial / "job.json", self.ledger.model_dump_json(indent=1).encode())

    def close(self) -> None:
        """Ends the work; what cannot be resumed goes."""
        if not self.ledger.files and self.partial.exists():
            shutil.rmtree(self.partial)
        self._lock.release()

    def remove(self) -> None:
        """Deletes the folder; the ledger goes first: one without its files would be damaged."""
        (self.partial / "job.json").unlink(missing_ok=True)
        shutil.rmtree(self.partial)

    def _refuse(self) -> None:
        """A job that was cut short may be hours of work."""
        try:
            ledger = type(self.ledger).model_validate_json((self.partial / "job.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return
        if ledger.files:
            raise OutputError(
                f"{self.partial} holds {ledger.consumed:,} {self._kind}s of a job that was cut "
                "short; give resume=True to go on with it, or force=True to start anew"
            )

    def _resumed(self) -> AnyLedger:
        """The ledger of the job that was cut short, or the empty one if none was."""
        path = self.partial / "job.json"
        try:
            ledger = type(self.ledger).model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return self.ledger
        except ValidationError as error:
            raise OutputError(
                f"{path} is damaged; start anew with force=True instead of resume=True"
            ) from error
        differing = {key for key, _ in ledger.job.items() ^ self.ledger.job.items()}
        if differing:
            raise OutputError(
                f"cannot resume {self.path}: the job that was cut short had another "
                f"{', '.join(sorted(differing))}; start anew with force=True instead of resume=True"
            )
        # A job that was killed when its output had just replaced an earlier one has that here.
        replaced = os.path.lexists(self.path)
        for name, entry in ledger.files.items():
            file = self.folder / name
            sound = file.is_file() and file.stat().st_size == entry.size
            if not sound or (replaced and sha256(file) != entry.sha256):
                raise OutputError(
                    f"{file} is damaged; start anew with force=True instead of resume=True"
                )
        for file in self.folder.rglob("*"):
            if file.is_file() and file.relative_to(self.folder).as_posix() not in ledger.files:
                file.unlink()
        return ledger
