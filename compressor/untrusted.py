"""What files of strangers are read with: nothing here believes a length, a name or a file's kind.

open_regular, read_regular     files that are no link, FIFO or device, up to a limit
plain_name                     names that stay in the folder that they are put into
most_unpacked                  how much something compressed can be meant to hold
checked_zip, read_npz, _npy    zips and NumPy's arrays, bounded before they are unpacked
"""

from __future__ import annotations

import ast
import errno
import io
import math
import os
import re
import stat
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_NAME = 255  # bytes: what file systems take
ALWAYS_UNPACKED = 1 << 26  # bytes that even the smallest file may hold
MAX_RATIO = 16  # of unpacked to packed bytes beyond these; weights reach 8
MAX_MEMBERS = 1000  # of a zip
MAX_ARRAYS = 256  # of an .npz
MAX_NPY_HEADER = 10_000  # bytes, as NumPy has it
_NOT_PLAIN = re.compile(r"[/\\:\x00-\x1f\x7f]")
_SYMLINK = 0o120000
# What zipfile raises for damaged files.
ZIP_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    OverflowError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


def plain_name(name: str) -> str:
    """``name``; ValueError unless it is one component of a path, on any system."""
    if _NOT_PLAIN.search(name) or name in ("", ".", ".."):
        raise ValueError(f"{name[:100]!r} is not the plain name of a file")
    try:
        long = len(name.encode()) > MAX_NAME
    except UnicodeEncodeError as error:
        raise ValueError(f"{name[:100]!r} is not the plain name of a file") from error
    if long:
        raise ValueError(f"{name[:100]!r} is longer than {MAX_NAME} bytes")
    return name


def open_regular(path: Path) -> io.BufferedReader:
    """Opens a file; OSError for a link, and for what is no file: reading one may never end."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, which is not followed", str(path))
    flags = os.O_RDONLY
    for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, flag, 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def read_regular(path: Path, limit: int) -> bytes:
    """At most ``limit`` + 1 bytes of a file; OSError as in ``open_regular``."""
    with open_regular(path) as file:
        return file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)


def most_unpacked(packed: int) -> int:
    """The most bytes that ``packed`` bytes of a compressed file may hold."""
    return ALWAYS_UNPACKED + MAX_RATIO * packed


def checked_zip(archive: zipfile.ZipFile, size: int) -> zipfile.ZipFile:
    """``archive``, of ``size`` bytes; ValueError, before anything is unpacked, unless its members
    have plain names, once each, are no links, and hold as much together as such a file can."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"it has {len(members)} members, more than {MAX_MEMBERS}")
    if len(archive.NameToInfo) != len(members):
        raise ValueError("two of its members have the same name")
    for member in members:
        plain_name(member.orig_filename)
        if (member.external_attr >> 16) & 0o170000 == _SYMLINK:
            raise ValueError(f"its member {member.filename!r} is a link")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its member {member.filename!r} is neither stored nor deflated")
    if sum(member.file_size for member in members) > most_unpacked(size):
        raise ValueError(f"its members claim to hold more than {size} bytes can")
    return archive


def read_npz(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file without pickles; ValueError, with the reason, if it is none.

    The size of each is compared with what is there before it is made.
    """
    try:
        with checked_zip(zipfile.ZipFile(io.BytesIO(content)), len(content)) as archive:
            names = archive.namelist()
            if len(names) > MAX_ARRAYS:
                raise ValueError(f"it has {len(names)} arrays")
            return {name.removesuffix(".npy"): read_npy(archive.read(name)) for name in names}
    except (*ZIP_ERRORS, KeyError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from error


def read_npy(content: bytes) -> npt.NDArray[Any]:
    """The array of an .npy file; ValueError for one of objects, or of another size."""
    import numpy as np

    shape, fortran_order, dtype, start = npy_header(io.BytesIO(content))
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError("an array holds Python's objects, which are not read")
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise ValueError("an array does not have the size that its header says")
    array = np.frombuffer(content, dtype, offset=start)
    return array.reshape(shape, order="F" if fortran_order else "C").copy()  # bytes are read-only


def npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order and type of an .npy file, and where its numbers start; ValueError for
    a header longer than NumPy writes, before it is read."""
    import numpy as np

    magic = file.read(8)
    if len(magic) != 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise ValueError("an array does not begin as NumPy's do")
    width = 2 if magic[6] == 1 else 4
    size = file.read(width)
    length = int.from_bytes(size, "little")
    if len(size) != width or length > MAX_NPY_HEADER:
        raise ValueError("an array has a header longer than NumPy's are")
    text = file.read(length)
    if len(text) != length:
        raise EOFError("an array is cut off")
    try:
        header = ast.literal_eval(text.decode("utf-8" if magic[6] == 3 else "latin1"))
        shape, fortran_order = header["shape"], header["fortran_order"]
        dtype = np.lib.format.descr_to_dtype(header["descr"])
    except (
        *(SyntaxError, ValueError, RecursionError, MemoryError, KeyError, TypeError),
        *(IndexError, AttributeError, tokenize.TokenError),
    ) as error:
        raise ValueError("an array has a damaged header") from error
    sound = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not sound or type(fortran_order) is not bool or len(shape) > 32:
        raise ValueError("an array has an impossible shape")
    if math.prod(shape) * dtype.itemsize >= 1 << 62:
        raise ValueError("an array has an impossible shape")
    return shape, fortran_order, dtype, 8 + width + length
