"""Odd image files and archives, made here one by one, each with what must become of it.

A file is read (with these pixels), refused (in a sentence that names it), or passed over. `play` tries them all and
counts; nothing else may happen: no traceback, no warning of Python, no wait, no file written elsewhere.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import socket
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from gantricks.data.folder import Folder
from gantricks.data.npz import Npz
from gantricks.errors import UserError

SIDE = 8
GREY = (90, 90, 90)
COLOUR = (200, 100, 50)
WHITE = (255, 255, 255)
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Odd:
    """An odd file. `make` puts it, and what belongs to it, into an empty folder.

    `becomes`: "read", "refused" or "passed over". `colour`: of the pixel in the middle when it is read. `says`: words
    that the refusal, or the note of what is passed over, holds.
    """

    name: str
    make: Callable[[Path], Any]
    becomes: str
    colour: tuple[int, int, int] | None = None
    says: str = ""


def chunk(kind: bytes, body: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ wrong)


def png(*, bits: int = 8, kind: int = 2, size: tuple[int, int] = (SIDE, SIDE), **parts: Any) -> bytes:
    """A PNG of one colour. `pixel`: the bytes of one; `row`: a line of them. `before`, `after`: chunks around them."""
    width, height = size
    pixel = parts.get("pixel", bytes(COLOUR))
    row = parts["row"] if "row" in parts else b"\0" + pixel * width
    data = parts["data"] if "data" in parts else zlib.compress(row * height)
    pieces = parts.get("pieces", [data])
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, parts.get("interlace", 0))
    middle = b"".join(chunk(b"IDAT", piece) for piece in pieces)
    return (
        PNG + chunk(b"IHDR", header) + parts.get("before", b"") + middle + parts.get("after", b"") + chunk(b"IEND", b"")
    )


def saved(
    format: str, colour: Any = COLOUR, mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE), **how: Any
) -> bytes:
    return encoded(Image.new(mode, size, colour), format, **how)


def encoded(image: Image.Image, format: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **how)
    return file.getvalue()


def noise(format: str, **how: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), format, **how)


def file(name: str | bytes, content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as opened:
            opened.write(content)

    return make


def turned(format: str, orientation: Any, **how: Any) -> bytes:
    """A picture whose left half is bright, and the note that it was turned."""
    made = Image.new("RGB", (16, 16))
    made.paste(WHITE, (0, 0, 8, 16))
    kind = 2 if isinstance(orientation, bytes) else 3  # text, or a whole number
    value = orientation.ljust(4, b"\0") if kind == 2 else struct.pack("<HH", orientation, 0)
    entry = struct.pack("<HHI", 274, kind, 1 if kind == 3 else len(orientation)) + value
    return encoded(made, format, exif=b"Exif\0\0II*\0\x08\0\0\0\1\0" + entry + bytes(4), **how)


def read(name: str, file_name: str | bytes, content: bytes, colour: tuple[int, int, int] | None = COLOUR) -> Odd:
    return Odd(name, file(file_name, content), "read", colour)


def refused(name: str, file_name: str | bytes, content: bytes, says: str = "") -> Odd:
    return Odd(name, file(file_name, content), "refused", says=says)


def passed_over(name: str, make: Callable[[Path], Any], says: str = "") -> Odd:
    return Odd(name, make, "passed over", says=says)


def odd_images() -> Iterator[Odd]:
    """Files for the source `folder`."""
    yield from _modes()
    yield from _beside_pixels()
    yield from _shapes()
    yield from _jpeg_and_webp()
    yield from _other_names()
    yield from _damaged()
    yield from _no_images()
    yield from _no_files()


def _modes() -> Iterator[Odd]:
    grey16 = struct.pack(">H", 90 * 257)
    half = bytes((*COLOUR, 128))
    palette = chunk(b"PLTE", bytes(3) + bytes(COLOUR))
    yield read("1 bit, white", "a.png", png(bits=1, kind=0, row=b"\0\xff"), WHITE)
    yield read("2 bits", "a.png", png(bits=2, kind=0, row=b"\0\x55\x55"), (85, 85, 85))
    yield read("4 bits", "a.png", png(bits=4, kind=0, row=b"\0" + b"\x66" * 4), (102, 102, 102))
    yield read("8 bits of grey", "a.png", png(kind=0, pixel=b"\x5a"), GREY)
    yield read("16 bits of grey", "a.png", png(bits=16, kind=0, pixel=grey16), GREY)
    yield read("16 bits of colour", "a.png", png(bits=16, pixel=b"".join(bytes((c, c)) for c in COLOUR)))
    yield read("16 bits with alpha", "a.png", png(bits=16, kind=6, pixel=b"\xc8\xc8\x64\x64\x32\x32\xff\xff"))
    yield read("16 bits of grey with alpha", "a.png", png(bits=16, kind=4, pixel=grey16 + b"\xff\xff"), GREY)
    yield read("grey with alpha", "a.png", png(kind=4, pixel=b"\x5a\xff"), GREY)
    yield read("grey, clear", "a.png", png(kind=4, pixel=b"\x5a\0"), WHITE)
    yield read("half clear", "a.png", png(kind=6, pixel=half), (227, 177, 152))
    yield read("palette", "a.png", png(kind=3, pixel=b"\1", before=palette))
    yield read("palette, clear", "a.png", png(kind=3, pixel=b"\1", before=palette + chunk(b"tRNS", b"\xff\0")), WHITE)
    clear = chunk(b"tRNS", struct.pack(">HHH", *COLOUR))
    yield read("a clear colour", "a.png", png(before=clear), WHITE)
    yield read("a clear grey", "a.png", png(kind=0, pixel=b"\x5a", before=chunk(b"tRNS", b"\0\x5a")), WHITE)
    clear16 = chunk(b"tRNS", grey16)
    yield read("a clear grey of 16 bits", "a.png", png(bits=16, kind=0, pixel=grey16, before=clear16), WHITE)
    passes = [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8)]
    adam7 = b"".join((b"\0" + bytes(COLOUR) * columns) * rows for rows, columns in passes)
    yield read("interlaced", "a.png", png(data=zlib.compress(adam7), interlace=1))
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in (COLOUR, GREY)]
    yield read("animated PNG", "a.png", encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]))


def _beside_pixels() -> Iterator[Odd]:
    def beside(name: str, *chunks: bytes, colour: tuple[int, int, int] = COLOUR, after: bytes = b"") -> Odd:
        return read(name, "a.png", png(before=b"".join(chunks), after=after), colour)

    prompt = b"prompt\0"
    yield beside("2 MiB of text", chunk(b"tEXt", prompt + b"a cat, " * 300_000))
    yield beside("2 MiB of packed text", chunk(b"zTXt", prompt + b"\0" + zlib.compress(b"a cat, " * 300_000)))
    yield beside("1 GiB of packed text", chunk(b"zTXt", prompt + b"\0" + _gigabyte()))
    xmp = b"XML:com.adobe.xmp\0\1\0\0\0"
    yield beside("2 MiB of XMP", chunk(b"iTXt", xmp + zlib.compress(b" " * 2**21)))
    yield beside("1 GiB of XMP", chunk(b"iTXt", xmp + _gigabyte()))
    profile = np.random.default_rng(0).bytes(2**21)
    yield beside("a printer's profile", chunk(b"iCCP", b"press\0\0" + zlib.compress(profile)))
    yield beside("a profile of garbage", chunk(b"iCCP", b"press\0\0garbage"))
    yield beside("an empty profile", chunk(b"iCCP", b""))
    yield beside("ten thousand texts", *[chunk(b"tEXt", b"key\0value")] * 10_000)
    yield beside("text with a wrong checksum", chunk(b"tEXt", b"key\0value", wrong=1))
    yield beside("text without an end", chunk(b"tEXt", b"key"), chunk(b"iTXt", b"key"), chunk(b"zTXt", b"key"))
    yield beside("text that is no Latin-1, after the pixels", after=chunk(b"iTXt", b"\xff\0\0\0\xff\0\xff\0\xff"))
    yield beside("unknown chunks", chunk(b"abCd", b"x" * 99), chunk(b"ABCd", b""))
    yield beside("zero gamma", chunk(b"gAMA", bytes(4)), chunk(b"pHYs", bytes(9)), chunk(b"tIME", b""))
    yield beside("colours cut short", chunk(b"cHRM", b"\0"), chunk(b"sRGB", b""), chunk(b"bKGD", b""))
    yield beside("EXIF of garbage", chunk(b"eXIf", b"garbage"))
    yield beside("EXIF that is empty", chunk(b"eXIf", b""))
    yield beside("animation of garbage", chunk(b"acTL", b"\0"), chunk(b"fcTL", b"\0"))
    yield beside("an animation of no frames", chunk(b"acTL", bytes(8)))
    yield read("bytes after the end", "a.png", png() + b"garbage" * 99)
    packed = zlib.compress((b"\0" + bytes(COLOUR) * SIDE) * SIDE)
    yield read("pixels in pieces of a byte", "a.png", png(pieces=[packed[i : i + 1] for i in range(len(packed))]))
    yield read("empty pieces", "a.png", png(pieces=[b"", packed, b""]))


def _gigabyte() -> bytes:
    """Of zeros, packed: a part that stands for itself, repeated."""
    packer = zlib.compressobj(9, wbits=-15)
    part = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x78\xda" + part * 64 + packer.flush() + bytes(4)


def _shapes() -> Iterator[Odd]:
    for width, height in ((1, 1), (1, 3000), (3000, 1), (8, 7), (3000, 20), (9, 2000)):
        size = (width, height)
        yield read(f"PNG of {width} × {height}", "a.png", png(size=size))
        yield read(f"JPEG of {width} × {height}", "a.jpg", saved("JPEG", size=size))
    bits = zlib.compressobj(1)
    packed = b"".join([bits.compress((b"\0" + b"\xff" * 1200) * 960) for _ in range(10)] + [bits.flush()])
    yield read("92 million pixels", "a.png", png(bits=1, kind=0, size=(9600, 9600), data=packed), WHITE)
    for size in ((20_000, 20_000), (2**31 - 1, 2**31 - 1), (2**28 + 1, 1)):
        yield refused(f"PNG of {size[0]} × {size[1]}", "a.png", png(size=size, row=b""), "too large")
    huge = saved("JPEG", progressive=True)
    place = huge.index(b"\xff\xc2") + 5
    sides = struct.pack(">HH", 60_000, 60_000)
    yield refused("a huge progressive JPEG", "a.jpg", huge[:place] + sides + huge[place + 4 :], "too large")
    for size in ((0, 8), (8, 0), (0, 0)):
        yield refused(f"PNG of {size[0]} × {size[1]}", "a.png", png(size=size, row=b"\0"))


def _jpeg_and_webp() -> Iterator[Odd]:
    yield read("JPEG, grey", "a.jpg", saved("JPEG", 90, "L"), GREY)
    yield read("JPEG, CMYK", "a.jpg", saved("JPEG", (0, 0, 0, 0), "CMYK", quality=95), WHITE)
    yield read("JPEG, progressive", "a.jpg", saved("JPEG", progressive=True))
    yield read("JPEG, colours at half the size", "a.jpg", saved("JPEG", subsampling=2))
    yield read("JPEG with a long comment", "a.jpg", saved("JPEG", comment=b"x" * 65_000))
    yield read("JPEG with EXIF of garbage", "a.jpg", saved("JPEG", exif=b"Exif\0\0garbage"))
    yield read("JPEG with a profile of garbage", "a.jpg", saved("JPEG", icc_profile=b"garbage"))
    yield read("JPEG with bytes after the end", "a.jpg", saved("JPEG") + b"garbage" * 99)
    yield read("JPEG twice in a file", "a.jpg", saved("JPEG") * 2)
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in (COLOUR, GREY)]
    yield read("MPO of two pictures", "a.jpg", encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    for orientation in (0, 9, 65_535, b"up"):
        yield read(f"JPEG turned by {orientation!r}", "a.jpg", turned("JPEG", orientation), None)
        yield read(f"PNG turned by {orientation!r}", "a.png", turned("PNG", orientation), None)
    yield read("WebP, lossy", "a.webp", saved("WEBP", quality=90))
    yield read("WebP, lossless", "a.webp", saved("WEBP", lossless=True))
    yield read("WebP, clear", "a.webp", saved("WEBP", (*COLOUR, 0), "RGBA", lossless=True), WHITE)
    animated = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    yield read("WebP, animated", "a.webp", animated)
    yield read("WebP with EXIF of garbage", "a.webp", saved("WEBP", exif=b"garbage", lossless=True))


def _other_names() -> Iterator[Odd]:
    yield read("a PNG called JPEG", "a.jpg", png())
    yield read("a JPEG called PNG", "a.png", saved("JPEG"))
    yield read("a JPEG called WebP", "a.webp", saved("JPEG"))
    yield read("upper case", "A.PNG", png())
    yield read("mixed case", "a.JpEg", saved("JPEG"))
    for name in ("-a.png", " a .png", "a%20b.png", "ä€😀.png", "a\nb.png", "a\x1b[31mb.png", "a\\b.png", "a'\"b.png"):
        yield read(f"the name {name!r}", name, png())
    yield read("a name of 255 bytes", "a" * 251 + ".png", png())
    yield read("a name that is not UTF-8", b"caf\xe9.png", png())
    yield read("a folder that is not UTF-8", b"caf\xe9/a.png", png())
    yield refused("a damaged file that is not UTF-8", b"caf\xe9.png", b"", "caf\\xe9.png")
    deep = "/".join(["d"] * 100)
    yield read("a hundred folders deep", f"{deep}/a.png", png())


def _damaged() -> Iterator[Odd]:
    for format, suffix in (("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")):
        whole = noise(format)
        for tenth in range(1, 10):
            yield refused(f"{format}, {tenth} tenths of it", f"a.{suffix}", whole[: len(whole) * tenth // 10])
        yield refused(f"{format}, all but 20 bytes", f"a.{suffix}", whole[:-20])
    flipped = bytearray(noise("PNG"))
    flipped[len(flipped) // 2] ^= 1
    yield refused("a bit turned among the pixels", "a.png", bytes(flipped), "checksum")
    yield refused("no end", "a.png", png()[:-12], "cut off")
    yield refused(
        "a wrong checksum of the header", "a.png", png().replace(b"\x08\x02\0\0\0", b"\x08\x02\0\0\1"), "IHDR"
    )
    yield refused("no header", "a.png", PNG + png()[33:])
    yield refused("no pixels", "a.png", png(pieces=[]))
    yield refused("no palette", "a.png", png(kind=3, pixel=b"\1"))
    yield refused("pixels that are not packed", "a.png", png(data=b"garbage" * 9))
    yield refused("a kind of colour that is none", "a.png", png(kind=5))
    yield refused("three bits", "a.png", png(bits=3))
    yield refused("a header cut short", "a.png", PNG + chunk(b"IHDR", bytes(5)) + png()[33:])
    yield refused("a chunk of 4 GiB", "a.png", png()[:33] + b"\xff\xff\xff\xffIDAT" + bytes(99), "cut off")
    zeros = bytearray(noise("JPEG"))
    zeros[20:400] = bytes(380)
    yield refused("a JPEG without its tables", "a.jpg", bytes(zeros))


def _no_images() -> Iterator[Odd]:
    yield refused("nothing", "a.png", b"", "empty")
    yield refused("a byte", "a.jpg", b"\xff")
    yield refused("zeros", "a.png", bytes(4096), "not PNG")
    yield refused("random bytes", "a.png", np.random.default_rng(1).bytes(4096), "not PNG")
    yield refused("text", "a.png", b"I am no picture", "not PNG")
    yield refused("a web page", "a.jpg", b"<!DOCTYPE html><p>404", "a web page")
    yield refused("a pointer of Git LFS", "a.png", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS")
    yield refused("a GIF called PNG", "a.png", saved("GIF", 3, "P"), "GIF")
    yield refused("a BMP called PNG", "a.png", saved("BMP"), "BMP")
    yield refused("a TIFF of real numbers called PNG", "a.png", saved("TIFF", 0.5, "F"), "TIFF")
    yield refused("a PDF", "a.png", b"%PDF-1.7\n", "PDF")
    yield refused("an AVIF", "a.jpg", b"\0\0\0\x20ftypavif" + bytes(32), "AVIF")
    yield refused("a HEIC", "a.jpg", b"\0\0\0\x20ftypheic" + bytes(32), "HEIC")
    yield refused("the first bytes of a PNG", "a.png", PNG)
    yield refused("the first bytes of a JPEG", "a.jpg", b"\xff\xd8\xff")
    yield refused("the first bytes of a WebP", "a.webp", b"RIFF\xff\xff\xff\xffWEBP")


def _no_files() -> Iterator[Odd]:
    def link(to: str) -> Callable[[Path], None]:
        return lambda folder: (folder / "a.png").symlink_to(to)

    def bound(folder: Path) -> None:
        before = os.getcwd()
        os.chdir(folder)  # the name of a socket may be no longer than a hundred bytes
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind("a.png")
        finally:
            os.chdir(before)

    yield Odd("a link to nowhere", link("gone"), "refused", says="a link")
    yield Odd("a link to itself", link("a.png"), "refused", says="cannot be read")
    yield passed_over("a pipe", lambda folder: os.mkfifo(folder / "a.png"), "a.png")
    yield passed_over("a socket", bound, "a.png")
    yield passed_over("a link to a device without an end", link("/dev/zero"), "a.png")
    yield passed_over("a link to a pipe", lambda folder: (os.mkfifo(folder / "p"), link("p")(folder)), "a.png")
    yield passed_over("a folder of such a name", lambda folder: (folder / "a.png").mkdir())
    yield passed_over("a link in a circle", link("."))
    for name in ("@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", ".@__thumb/a.png", "@Recycle/a.png", "#recycle/a.png"):
        yield passed_over(f"of a NAS: {name}", file(name, png()), name.split("/")[0])
    for name in (".thumbnails/a.png", "__MACOSX/._a.png", ".AppleDouble/a.png", "._a.png", "$RECYCLE.BIN/a.png"):
        yield passed_over(f"of a desktop: {name}", file(name, png()), name.split("/")[0])
    for name in ("Thumbs.db", "desktop.ini", "a.gif", "a.png.part", "a.png~", "a.txt", "png"):
        yield passed_over(f"no image: {name}", file(name, png()), name)
    for name in (".a.png", ".git/a.png", ".DS_Store", ".ipynb_checkpoints/a.png"):
        yield passed_over(f"hidden: {name}", file(name, png()))


class Trap:
    """An object that leaves a mark where it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.mark,))


def odd_archives(mark: Path) -> Iterator[Odd]:
    """Archives for the source `npz`; the pickled ones among them make the folder `mark` when they are believed."""
    pixels = np.empty((5, SIDE, SIDE, 3), np.uint8)
    pixels[:] = COLOUR
    labels = np.arange(5)

    def archive(name: str, becomes: str, says: str = "", colour: Any = COLOUR, **arrays: Any) -> Odd:
        made = io.BytesIO()
        np.savez(made, **arrays)
        return Odd(name, file("a.npz", made.getvalue()), becomes, colour if becomes == "read" else None, says)

    def members(name: str, becomes: str, says: str = "", *, change: Any = None, how: int = 0, **content: bytes) -> Odd:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", how) as opened:
            for member, data in content.items():
                opened.writestr(member, data)
            if change:
                change(opened)
        return Odd(name, file("a.npz", made.getvalue()), becomes, COLOUR if becomes == "read" else None, says)

    def array(stored: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
        made = io.BytesIO()
        np.lib.format.write_array(made, stored, version)
        return made.getvalue()

    def promised(shape: str, descr: str = "'|u1'", data: bytes = b"", rest: str = "") -> bytes:
        text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}{rest}}}\n".encode("latin-1")
        return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data

    good = array(pixels)
    yield archive("as it should be", "read", images=pixels, labels=labels)
    yield archive("channels first", "read", images=pixels.transpose(0, 3, 1, 2))
    yield archive("columns first", "read", images=np.asfortranarray(pixels), labels=labels)
    yield archive("halves", "read", images=(pixels / 255).astype(np.float16))
    yield archive(
        "numbers of another machine", "read", images=(pixels / 255).astype(">f8"), labels=labels.astype(">u8")
    )
    yield archive("a column of labels", "read", images=pixels, labels=labels[:, None])
    yield archive("other arrays beside", "read", images=pixels, notes=np.array(["a"]), pictures=np.zeros(3))
    yield archive("pickled arrays beside", "read", images=pixels, notes=np.array([Trap(str(mark))], object))
    for name, how in (("deflate", 8), ("bzip2", 12), ("lzma", 14)):
        yield members(f"packed by {name}", "read", how=how, **{"images.npy": good})
    yield members("a comment", "read", change=lambda z: setattr(z, "comment", b"x" * 60_000), **{"images.npy": good})
    yield members("the second version of the format", "read", **{"images.npy": array(pixels, (2, 0))})
    python2 = promised(f"(5L, {SIDE}L, {SIDE}L, 3L)", data=pixels.tobytes())
    yield members("written by Python 2", "read", **{"images.npy": python2})
    outside = {"images.npy": good, "../evil.npy": good, "/evil.npy": good, "..\\evil.npy": good}
    yield members("names that lead outside, beside", "read", **outside)
    made = io.BytesIO()
    np.savez(made, images=pixels)
    whole = made.getvalue()
    yield Odd("bytes before the archive", file("a.npz", b"#!/bin/sh\n" * 99 + whole), "read", COLOUR)

    for tenth in range(10):
        yield Odd(f"{tenth} tenths of it", file("a.npz", whole[: len(whole) * tenth // 10]), "refused")
    for place in (5, 40, 150, 400, len(whole) - 60, len(whole) - 10):
        damaged = bytearray(whole)
        damaged[place : place + 8] = bytes(255 - byte for byte in damaged[place : place + 8])
        # what stands before a member is said again at the end of the archive, from where it is read
        becomes, colour = ("read", COLOUR) if place <= 40 else ("refused", None)
        yield Odd(f"8 bytes turned at {place}", file("a.npz", bytes(damaged)), becomes, colour)
    made = io.BytesIO()
    np.save(made, pixels)
    yield Odd("a single array", file("a.npz", made.getvalue()), "refused", says="single array")
    yield Odd("nothing", file("a.npz", b""), "refused")
    yield Odd("text", file("a.npz", b"I am no archive"), "refused", says="not an .npz")
    yield members("no member", "refused", "none")
    yield members("only names that lead outside", "refused", "neither images", **{"../images.npy": good})
    yield members("a member that is a folder", "refused", "neither images", **{"images.npy/": b""})
    yield members("names of 60,000 letters", "refused", "neither images", **{"a" * 60_000 + ".npy": good})

    for name, shape in (
        ("a million million pixels", "(1000000, 1000, 1000)"),
        ("more than memory can address", "(10000000000, 100000, 100000)"),
        ("a number of 5,000 digits", f"({'9' * 5000}, 8, 8)"),
        ("sides below zero", "(-5, -8, 8, 3)"),
        ("one image more than there is", f"(6, {SIDE}, {SIDE}, 3)"),
        ("one image fewer", f"(4, {SIDE}, {SIDE}, 3)"),
        ("a shape of text", "'abc'"),
        ("a shape that is no tuple", "5"),
        ("sides that are no whole numbers", "(5.0, 8, 8)"),
    ):
        yield members(f"a promise of {name}", "refused", **{"images.npy": promised(shape, data=pixels.tobytes())})

    def declare(size: int) -> Callable[[zipfile.ZipFile], None]:
        return lambda opened: setattr(opened.infolist()[0], "file_size", size)

    terabyte = promised("(1000000, 1000, 1000)")
    bomb = {"images.npy": terabyte}
    yield members("a terabyte in a few bytes", "refused", "memory", change=declare(10**12 + len(terabyte)), **bomb)
    wide = promised("(1000000, 1000, 1000)", "'<u2'")
    size = 2 * 10**12 + len(wide)
    yield members("two terabytes to be measured", "refused", "memory", change=declare(size), **{"images.npy": wide})
    many = promised("(1000000000000,)", "'<i8'")

    def declare_second(opened: zipfile.ZipFile) -> None:
        opened.infolist()[1].file_size = 8 * 10**12 + len(many)

    yield members(
        "a million million labels",
        "refused",
        "labels",
        change=declare_second,
        **{"images.npy": good, "labels.npy": many},
    )
    yield members(
        "a header that is code", "refused", **{"images.npy": promised(f"__import__('os').mkdir({str(mark)!r})")}
    )
    yield members("a header of a megabyte", "refused", **{"images.npy": promised(f"(5,{' ' * 60_000} 8, 8)")})
    yield members("a header deep in brackets", "refused", **{"images.npy": promised("(" * 3000 + ")" * 3000)})
    yield members("a header with a key too many", "refused", **{"images.npy": promised("(5, 8, 8)", rest=", 'a': 1")})
    yield members("a type that is none", "refused", **{"images.npy": promised("(5, 8, 8)", "'<q9'")})
    yield members("no header", "refused", **{"images.npy": b"\x93NUMPY"})
    yield members("a format to come", "refused", "version", **{"images.npy": good[:6] + b"\x09" + good[7:]})
    yield members("a member of text", "refused", **{"images.npy": b"I am no array"})
    yield members("a member of nothing", "refused", **{"images.npy": b""})

    trap = np.empty((5,), object)
    trap[:] = [Trap(str(mark))] * 5
    yield archive("pickled images", "refused", "never read", images=trap)
    yield archive("pickled labels", "refused", "never read", images=pixels, labels=trap)
    yield members("a bare pickle", "refused", **{"images.npy": pickle.dumps(Trap(str(mark)))})
    hidden = promised("(5, 8, 8)", data=pickle.dumps(Trap(str(mark))))
    yield members("a pickle behind a header of numbers", "refused", **{"images.npy": hidden})

    def flag(bits: int) -> Callable[[bytes], bytes]:
        def changed(content: bytes) -> bytes:
            local, central = bytearray(content), content.index(b"PK\1\2")
            local[6] |= bits
            local[central + 8] |= bits
            return bytes(local)

        return changed

    def method(number: int) -> Callable[[bytes], bytes]:
        def changed(content: bytes) -> bytes:
            local, central = bytearray(content), content.index(b"PK\1\2")
            local[8] = local[central + 10] = number
            return bytes(local)

        return changed

    yield Odd("locked by a password", file("a.npz", flag(1)(whole)), "refused", says="encrypted")
    yield Odd("packed by nobody knows what", file("a.npz", method(99)(whole)), "refused")
    yield Odd("said to be packed", file("a.npz", method(8)(whole)), "refused")

    yield archive("16 bits", "refused", "/ 257", images=pixels.astype(np.uint16) * 257)
    yield archive("booleans", "refused", "* 255", images=pixels > 60)
    yield archive("images of text", "refused", images=np.full((5, 8, 8), "ab"))
    yield archive("dates", "refused", images=np.zeros((5, 8, 8), "datetime64[D]"))
    yield archive("records", "refused", images=np.zeros((5, 8, 8), [("r", "u1"), ("g", "u1")]))
    yield archive("imaginary", "refused", "numpy.abs", images=pixels * 1j)
    yield archive("NaN alone", "refused", "number", images=np.full((5, 8, 8), np.nan))
    yield archive("images without a pixel", "refused", "no image", images=np.zeros((5, 0, 8), np.uint8))
    yield archive("no image", "refused", "no image", images=np.zeros((0, 8, 8), np.uint8))
    yield archive("a number", "refused", "shape", images=np.uint8(3))
    yield archive("an alpha channel", "refused", "alpha", images=np.zeros((5, 8, 8, 4), np.uint8))
    yield archive("one-hot labels", "refused", "argmax", images=pixels, labels=np.eye(5))
    yield archive("a label too few", "refused", "4 labels", images=pixels, labels=labels[:4])
    yield archive("labels with NaN", "refused", "NaN", images=pixels, labels=np.array([0, 1, np.nan, 0, 1]))
    yield archive("labels of text", "refused", "numpy.unique", images=pixels, labels=np.array(list("abcde")))
    yield archive("labels below zero", "refused", "negative", images=pixels, labels=labels - 1)
    yield archive("records for labels", "refused", "labels", images=pixels, labels=np.zeros(5, [("a", "i4")]))
    yield archive("labels that are one number", "refused", "shape", images=pixels, labels=np.int64(3))
    yield archive("imaginary labels", "refused", "labels", images=pixels, labels=labels * 1j)


def wrong_with_image(odd: Odd, place: Path) -> str:
    """What goes wrong with an odd image in a folder beside a sound one: nothing, where all is right."""
    place.mkdir()
    odd.make(place)
    if not any(place.glob("*/")) or odd.becomes == "passed over":
        Image.new("RGB", (SIDE, SIDE), GREY).save(place / "sound.png")
    sound = (place / "sound.png").exists()
    source = Folder(Folder.Config(path=str(place), image_size=SIDE, channels=3))
    with _watched() as seen:
        try:
            description, dataset = source.describe(), source.load()
        except UserError as error:
            return _refusal(odd, error, seen)
    if odd.becomes == "refused":
        return "it is read"
    if seen:
        return f"Python warns: {seen[0].message}"
    count = sound + (odd.becomes == "read")
    if len(dataset.samples) != count or description.count != count:
        return f"{len(dataset.samples)} pictures, {description.count} announced, {count} there"
    if not all(name.isprintable() for name in description.class_names):
        return "a class of no printable name"
    if odd.becomes == "passed over":
        said = "".join(description.notes)
        return "" if odd.says in said else f"{odd.says!r} is not in {said!r}"
    others = [pixels for pixels in dataset.samples if tuple(pixels[4, 4]) != GREY]
    return _seen(odd, others[0] if others else dataset.samples[0])


def wrong_with_archive(odd: Odd, place: Path) -> str:
    """What goes wrong with an odd archive: nothing, where all is right."""
    place.mkdir()
    odd.make(place)
    source = Npz(Npz.Config(path=str(place / "a.npz")))
    with _watched() as seen:
        try:
            description, dataset = source.describe(), source.load()
        except UserError as error:
            return _refusal(odd, error, seen)
    if odd.becomes == "refused":
        return "it is read"
    if seen:
        return f"Python warns: {seen[0].message}"
    if dataset.samples.shape[0] != description.count or description.count != 5:
        return f"shape {dataset.samples.shape}, announced {description}"
    return _seen(odd, dataset.samples[0])


@contextlib.contextmanager
def _watched() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield seen


def _seen(odd: Odd, pixels: np.ndarray) -> str:
    middle = pixels[4, 4].astype(int)
    if odd.colour is not None and np.abs(middle - odd.colour).max() > 6:
        return f"the colour {tuple(middle)}, not {odd.colour}"
    return ""


def _refusal(odd: Odd, error: UserError, seen: list[warnings.WarningMessage]) -> str:
    said = str(error)
    if odd.becomes != "refused":
        return f"refused: {said}"
    if seen:
        return f"Python warns: {seen[0].message}"
    if odd.says not in said:
        return f"{odd.says!r} is not in {said!r}"
    if len(said) > 6000:
        return f"a message of {len(said)} letters"
    for problem in error.problems:
        if not problem.hint or not problem.what or "object at 0x" in problem.what:
            return f"no sentence: {problem}"
        if "a.npz" not in problem.where and not problem.where.lower().endswith((".png", ".jpg", ".webp")):
            return f"names no file: {problem}"
    said.encode()  # fit for a terminal and for JSON
    return ""


def outcomes(place: Path) -> Iterator[tuple[str, Odd, str]]:
    """Each odd file: its kind ("image" or "archive"), and what went wrong with it, "" where nothing did."""
    mark = place / "mark"
    with mock.patch.dict(os.environ, {"GANTRICKS_CACHE": str(place / "cache")}):
        for number, odd in enumerate(odd_images()):
            yield "image", odd, wrong_with_image(odd, place / f"{number}-image")
        for number, odd in enumerate(odd_archives(mark)):
            wrong = wrong_with_archive(odd, place / f"{number}-archive")
            yield "archive", odd, "it was unpickled" if mark.exists() else wrong


def play() -> dict[str, int]:
    """Try all odd files in a temporary folder: how many images and archives there are, how many are read, refused and
    passed over as they should be, and with how many something is wrong."""
    counts = dict.fromkeys(("image", "archive", "read", "refused", "passed over", "wrong"), 0)
    with tempfile.TemporaryDirectory() as place:
        for kind, odd, wrong in outcomes(Path(place)):
            counts[kind] += 1
            counts["wrong" if wrong else odd.becomes] += 1
    return counts


if __name__ == "__main__":
    print(play())
