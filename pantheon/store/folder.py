"""A folder at any fsspec path in which files appear whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedWriter
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from pantheon.errors import DiskFullError, StoreError
from pantheon.store.locks import is_at, lock
from pantheon.store.ranges import LocalFile, RangeFile, RemoteFile
from pantheon.wire.messages import Buffer

logger = logging.getLogger(__name__)

TEMPORARY = ".tmp-"
CONDITIONAL = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl")
"""Protocols whose file systems create a file only if it is not there; each folder is tried."""
_ONE_AT_A_TIME = threading.Lock()
_PIECE = 1 << 23


class Folder:
    """Files of one folder, by name.

    Args:
        path: any fsspec path, such as ``/data/dump``, ``memory://dump`` or ``s3://bucket/dump``.

    Example:
        >>> folder = Folder("memory://pantheon-doctest-folder")
        >>> folder.prepare()
        >>> folder.create("a", [b"12", b"3"]), folder.create("a", [b"other"]), folder.read("a", 9)
        (True, False, b'123')
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._connect()

    def _connect(self) -> None:
        try:
            self._fs, self.root = fsspec.core.url_to_fs(self.path, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise StoreError(f"{self.path}: no file system reads this path: {error}") from error
        self._pid = os.getpid()

    @property
    def fs(self) -> Any:
        """The file system; made again in a forked process, whose connections it must not share."""
        if self._pid != os.getpid():
            self._connect()
        return self._fs

    @property
    def local(self) -> bool:
        """Whether the folder is one of this machine's own file systems."""
        return isinstance(self.fs, LocalFileSystem)

    def full(self, name: str) -> str:
        """A file's path in its file system."""
        return f"{self.root.rstrip('/')}/{name}"

    def prepare(self) -> None:
        """Make the folder, and prove that files can be published in it.

        Raises:
            StoreError: the file system cannot create a file only if it is not there.
        """
        if not isinstance(self.fs, LocalFileSystem | MemoryFileSystem):
            _prove(self)
        try:
            with self.no_space(self.root, 0):
                self.fs.makedirs(self.root, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError(f"{self.path} is a file, or lies in one; give a folder") from error
        except DiskFullError:
            raise
        except OSError as error:
            raise StoreError(
                f"cannot make the folder {self.path}: {error.strerror or error}; give one that "
                "can be written"
            ) from error

    def files(self) -> dict[str, int]:
        """Sizes in bytes of all files, by name; empty when there is no such folder."""
        self.fs.invalidate_cache(self.root)
        try:
            listed = self.fs.ls(self.root, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {
            str(info["name"]).rstrip("/").rsplit("/", 1)[-1]: int(info["size"] or 0)
            for info in listed
            if info["type"] == "file"
        }

    def has(self, name: str) -> bool:
        """Whether there is such a file now."""
        return bool(self.fs.exists(self.full(name)))

    def read(self, name: str, limit: int) -> bytes:
        """A whole small file.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it is larger than `limit` bytes.
        """
        size = int(self.fs.size(self.full(name)))
        if size > limit:
            raise StoreError(f"{self.full(name)} has {size} bytes; expected at most {limit}")
        return bytes(self.fs.cat_file(self.full(name)))

    def read_all(self, sizes: Mapping[str, int]) -> dict[str, bytes]:
        """Several small files at once, given their sizes; one that is gone is left out."""
        paths = [self.full(n) for n in sizes]
        starts = [0] * len(paths)
        found = self.fs.cat_ranges(paths, starts, list(sizes.values()), on_error="return")
        read = zip(sizes, found, strict=True)
        return {name: bytes(data) for name, data in read if not isinstance(data, Exception)}

    def open(self, name: str) -> RangeFile:
        """A file to read at offsets; `FileNotFoundError` when there is none."""
        return LocalFile(self.full(name)) if self.local else RemoteFile(self.fs, self.full(name))

    def create(self, name: str, chunks: Sequence[Buffer]) -> bool:
        """Publish a file unless there is one of this name already.

        Returns:
            Whether it was published; False leaves the other one as it is.

        Raises:
            DiskFullError: no space; nothing is left behind.
        """
        size = sum(memoryview(c).nbytes for c in chunks)
        with self.no_space(self.full(name), size):
            if self.local:
                return self._create_local(name, chunks)
            with _ONE_AT_A_TIME if isinstance(self.fs, MemoryFileSystem) else _nothing():
                return _create_remote(self.fs, self.full(name), b"".join(chunks))

    def replace(self, name: str, data: bytes) -> None:
        """Publish a file, in the place of any other of its name.

        On a local file system it, and all that was published before it, then outlasts a power cut.

        Raises:
            DiskFullError: no space; the other one is still there.
        """
        with self.no_space(self.full(name), len(data)):
            if self.local:
                with self._temporary(name, [data]) as path:
                    os.replace(path, self.full(name))
                _sync(self.root)
            else:
                self.fs.pipe_file(self.full(name), data)

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens when it is gone already."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(self.full(name))

    def _create_local(self, name: str, chunks: Sequence[Buffer]) -> bool:
        with self._temporary(name, chunks) as path:
            try:
                os.link(path, self.full(name))
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                    raise
                return _rename(path, self.full(name))
        return True

    @contextmanager
    def no_space(self, path: str, needed: int) -> Iterator[None]:
        """Turn a full disk into `DiskFullError`."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = f", {_free(path)} free" if self.local else ""
            raise DiskFullError(
                f"no space left while writing {path}: {needed} bytes needed{free}; nothing of it "
                "was kept. Free some space and run it again: it goes on where it stopped"
            ) from error

    @contextmanager
    def _temporary(self, name: str, chunks: Sequence[Buffer]) -> Iterator[str]:
        """A file of this content, on disk for good, under a name that readers pass over."""
        path, file = self._new_file(name)
        try:
            with file:
                for chunk in chunks:
                    view = memoryview(chunk).cast("B")
                    for at in range(0, view.nbytes, _PIECE):
                        file.write(view[at : at + _PIECE])
                file.flush()
                os.fsync(file.fileno())
                yield path
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _new_file(self, name: str) -> tuple[str, BufferedWriter]:
        """A temporary file, locked so that nobody takes it for one that a dead worker left."""
        while True:
            path = self.full(f"{TEMPORARY}{name}-{uuid.uuid4().hex[:12]}")
            file = open(path, "xb")  # noqa: SIM115  # the caller closes it
            if lock(file.fileno()) is not False and is_at(file.fileno(), path):
                return path, file
            file.close()


def _sync(folder: str) -> None:
    """Have the names in a folder on disk for good, where its file system can do that."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(fd)


def _rename(path: str, to: str) -> bool:
    """For file systems without links: two writers at once may both rename, the last one stays."""
    if os.path.exists(to):
        return False
    os.rename(path, to)
    return True


def _create_remote(fs: Any, path: str, data: bytes) -> bool:
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or not fs.exists(path):
            raise
        return False
    return True


def _prove(folder: Folder) -> None:
    """Try whether a second creation of one file is refused; known racy file systems are not tried.

    fsspec's own fallback looks whether the file exists and then writes it, which two writers can
    both do, so only file systems that hand the condition to the store are trusted at all.
    """
    protocols = folder.fs.protocol
    names = {protocols} if isinstance(protocols, str) else set(protocols)
    if names & set(CONDITIONAL):
        probe = folder.full(f"{TEMPORARY}probe-{uuid.uuid4().hex}")
        try:
            first = _create_remote(folder.fs, probe, b"1")
            second = _create_remote(folder.fs, probe, b"2")
            if first and not second and folder.fs.cat_file(probe) == b"1":
                return
        except (TypeError, NotImplementedError) as error:
            logger.warning("%s cannot create conditionally: %s", folder.path, error)
        finally:
            with suppress(FileNotFoundError):
                folder.fs.rm_file(probe)
    raise StoreError(
        f"{folder.path}: this file system ({', '.join(sorted(names))}) is not known to publish a "
        "file only if it is not there yet, so that workers could overwrite each other; dump to a "
        f"local folder, memory://, or a store that can ({', '.join(CONDITIONAL)}), and copy"
    )


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _free(path: str) -> int:
    found = os.statvfs(os.path.dirname(path))
    return found.f_bavail * found.f_frsize
