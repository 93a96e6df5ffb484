"""Reads only the pixels of PNG files. Prompts, profiles and texts of any size are common in them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_TURNING_TEXTS = frozenset({b"Raw profile type exif", b"XML:com.adobe.xmp"})
_GREY_COLOUR_TYPES = frozenset({0, 4})
_LONGEST_TEXT = 2**20 - 1


def pixels_alone(file: BinaryIO) -> io.BytesIO:
    """Return the same picture with only its pixels, palette, transparency and orientation. All checksums are verified.

    `file` must be at its beginning. Raises ValueError where the file is truncated or a checksum is wrong.
    """
    kept = io.BytesIO()
    kept.write(file.read(len(SIGNATURE)))
    for kind, body in _chunks(file):
        kept.write(_chunk(kind, body))
    kept.seek(0)
    return kept


def header_alone(file: BinaryIO) -> tuple[io.BytesIO, bool]:
    """Return the same without pixels, and whether the picture is grey, apart from transparency."""
    kept, grey = io.BytesIO(), False
    kept.write(file.read(len(SIGNATURE)))
    for kind, body in _chunks(file, until=b"IDAT"):
        kept.write(_chunk(kind, body))
        if kind == b"IHDR" and len(body) == 13:
            grey = body[9] in _GREY_COLOUR_TYPES
    kept.write(_chunk(b"IDAT", b""))
    kept.seek(0)
    return kept, grey


def _chunks(file: BinaryIO, until: bytes = b"IEND") -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks that matter. The one named `until` is the last; if it holds pixels, they are not read."""
    end = os.fstat(file.fileno()).st_size
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("the file is cut off")
        length, kind = struct.unpack(">I4s", head)
        if file.tell() + length + 4 > end:
            raise ValueError("the file is cut off")
        if kind == until == b"IDAT":
            return
        if kind in _PIXELS or (kind in _TEXTS and length <= _LONGEST_TEXT):
            body = file.read(length)
            sound = zlib.crc32(body, zlib.crc32(kind)) == int.from_bytes(file.read(4), "big")
            if kind in _PIXELS and not sound:
                raise ValueError(f"a wrong checksum in its {kind.decode()} chunk")
            if kind in _PIXELS or (sound and _turns(kind, body)):
                yield kind, body
        else:
            file.seek(length + 4, os.SEEK_CUR)
        if kind == until:
            return


def _turns(kind: bytes, body: bytes) -> bool:
    """Return whether a text chunk may hold the orientation, and is short enough for Pillow to read."""
    keyword, _, text = body.partition(b"\0")
    if keyword not in _TURNING_TEXTS:
        return False
    if kind == b"zTXt":
        return _opens(text[1:])
    if kind == b"iTXt" and text[:1] == b"\1":
        return _opens(text[2:].split(b"\0", 2)[-1])
    return True


def _opens(packed: bytes) -> bool:
    opened = zlib.decompressobj()
    try:
        opened.decompress(packed, _LONGEST_TEXT)
    except zlib.error:
        return False
    return opened.eof


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
