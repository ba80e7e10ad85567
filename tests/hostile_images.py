"""Image files made to harm, or odd in ways that harm careless readers; each with the answer that it should get.

`answered`, or the end of the type of the problem that names it.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.fault_files import chunk, png, saved
from tests.model.photos import encode, exif, jpeg_announcing, picture, png_announcing

ANSWERED, LARGE, DAMAGED, NO_IMAGE = "answered", "image-too-large", "unreadable-image", "unsupported-image"
PNG = b"\x89PNG\r\n\x1a\n"
RGB = picture(24, 32)
FORMS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")


@dataclass(frozen=True)
class Hostile:
    """A file and its answers: one, or several where a library may decide either way."""

    name: str
    data: bytes
    expected: tuple[str, ...]


def corpus() -> list[Hostile]:
    """All files; none is larger than two megabytes."""
    groups = (bombs, thin, empty, inflating, foreign, polyglots, animated, coloured, exif_traps, broken)
    return [
        Hostile(f"{group.__name__}: {name}", data, (expected,) if isinstance(expected, str) else expected)
        for group in groups
        for name, data, expected in group()
    ]


File = tuple[str, bytes, str | tuple[str, ...]]


def announcing(form: str, width: int, height: int) -> bytes:
    """A small file whose header announces a size."""
    data = bytearray(encode(RGB, form))
    if form == "JPEG":
        return jpeg_announcing(width, height)
    if form == "PNG":
        return png_announcing(width, height)
    if form == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif form == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif form == "PPM":
        return b"P6 %d %d 255\n" % (width, height) + bytes(100)
    elif form == "TIFF":
        for tag, value in ((b"\0\1", width), (b"\1\1", height)):
            place = data.index(tag + b"\4\0\1\0\0\0") + 8
            data[place : place + 4] = struct.pack("<I", value)
    elif form == "WEBP":
        body = (
            b"VP8X" + struct.pack("<II", 10, 0) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        )
        still = bytes(data[12:])
        return b"RIFF" + struct.pack("<I", 4 + len(body) + len(still)) + b"WEBP" + body + still
    else:  # AVIF, HEIF
        place = data.index(b"ispe") + 8
        data[place : place + 8] = struct.pack(">II", width, height)
    return bytes(data)


def bombs() -> Iterator[File]:
    """Headers that announce what no machine should hold."""
    for form in FORMS:
        side = 16_000 if form == "WEBP" else 60_000
        yield f"{form} of {side} x {side}", announcing(form, side, side), LARGE
    frame = bytearray(encode(Image.fromarray(RGB), "GIF"))
    place = frame.index(b"\x2c\0\0\0\0")
    frame[place + 5 : place + 9] = struct.pack("<HH", 65_535, 65_535)
    yield "GIF whose frame is larger than its screen", bytes(frame), LARGE
    frame[place + 1 : place + 9] = struct.pack("<HHHH", 65_000, 65_000, 9, 9)
    yield "GIF whose frame lies far outside", bytes(frame), (LARGE, DAMAGED, ANSWERED)
    yield (
        "lossless WebP of 49 megapixels in 2 KB",
        saved(np.zeros((7000, 7000), np.uint8), "WEBP", lossless=True),
        LARGE,
    )
    yield "PNG of 49 megapixels in 48 KB", png(np.zeros((7000, 7000), np.uint8)), ANSWERED


def thin() -> Iterator[File]:
    """65,535 x 1, either way."""
    for form in ("JPEG", "PNG", "BMP", "TIFF", "PPM", "GIF"):
        long = 65_500 if form == "JPEG" else 65_535  # the most that its encoder writes
        for size in ((1, long), (long, 1)):
            pixels = np.full(size if form == "GIF" else (*size, 3), 200, np.uint8)
            yield f"{form} of {size[1]} x {size[0]}", encode(pixels, form), ANSWERED
    yield "JPEG announcing 65535 x 1", announcing("JPEG", 65_535, 1), DAMAGED
    yield "WebP of 16383 x 1", encode(np.full((1, 16_383, 3), 200, np.uint8), "WEBP"), ANSWERED
    yield "AVIF announcing 65535 x 1", announcing("AVIF", 65_535, 1), (ANSWERED, DAMAGED)
    yield "HEIF announcing 65535 x 1", announcing("HEIF", 65_535, 1), DAMAGED


def empty() -> Iterator[File]:
    """No pixels at all."""
    for form in FORMS:
        if form != "WEBP":  # which cannot say it
            refused = (DAMAGED, NO_IMAGE) if form != "GIF" else (ANSWERED,)  # whose frame has a size of its own
            yield f"{form} of 0 x 0", announcing(form, 0, 0), refused
            yield f"{form} of 32 x 0", announcing(form, 32, 0), refused
    yield "no byte", b"", NO_IMAGE
    yield "one byte", b"\xff", NO_IMAGE
    for form in FORMS:
        yield f"the first 12 bytes of {form}", encode(RGB, form)[:12], (DAMAGED, NO_IMAGE)


def inflating() -> Iterator[File]:
    """Few bytes that become many."""
    zeros = zlib.compress(bytes(100_000_000), 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    yield "PNG of 8 x 8 with 100 MB in IDAT", PNG + header + chunk(b"IDAT", zeros) + chunk(b"IEND", b""), ANSWERED
    for kind, body in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        yield f"PNG with 100 MB in {kind.decode()}", png(RGB[:, :, 0], chunk(kind, body + zeros)), ANSWERED
    many = b"".join(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) for _ in range(200))
    yield "PNG with 200 MB in 200 zTXt", png(RGB[:, :, 0], many), ANSWERED
    for name, compression in (("deflate", "tiff_adobe_deflate"), ("LZW", "tiff_lzw"), ("PackBits", "packbits")):
        data = bytearray(saved(np.zeros((2000, 500), np.uint8), "TIFF", compression=compression))
        for tag, value in ((b"\0\1", 5), (b"\1\1", 5)):
            place = data.index(tag, int.from_bytes(data[4:8], "little"))
            data[place + 8 : place + 10] = struct.pack("<H", value)
        yield f"TIFF of 5 x 5 with a megabyte in {name}", bytes(data), (ANSWERED, DAMAGED)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50_000_000))
    yield "a ZIP of 50 MB of zeros", stream.getvalue(), NO_IMAGE
    yield "a gzip of a JPEG", gzip.compress(encode(RGB, "JPEG")), NO_IMAGE
    yield "an SVG, packed", gzip.compress(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), NO_IMAGE


def foreign() -> Iterator[File]:
    """Other formats, some of which libraries would read if they were let."""
    for form in ("ICO", "TGA", "PCX", "SGI", "DDS", "JPEG2000", "PDF", "EPS"):
        yield form, encode(RGB, form), NO_IMAGE
    svg = b"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><svg>&a;</svg>"
    yield "SVG with an external entity", svg, NO_IMAGE
    yield "PostScript that runs", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n", NO_IMAGE
    yield "Windows metafile", b"\xd7\xcd\xc6\x9a" + bytes(100), NO_IMAGE
    yield "video", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100), NO_IMAGE
    yield (
        "ImageMagick's script",
        b"push graphic-context\nfill 'url(https://x/\"|id; \")'\npop graphic-context",
        NO_IMAGE,
    )
    yield "HTML", b"<html><img src='data:image/png;base64,AAAA'></html>", NO_IMAGE


def polyglots() -> Iterator[File]:
    """Files that are two things at once: the image counts, from its first byte, or there is none."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "x")
    packed = stream.getvalue()
    for form in FORMS:
        yield f"{form} that is a ZIP as well", encode(RGB, form) + packed, ANSWERED
        yield f"{form} behind HTML", b"<script>x</script>" + encode(RGB, form), NO_IMAGE
    script = bytearray(encode(Image.fromarray(RGB), "GIF"))
    yield "GIF with a script behind its end", bytes(script) + b"*/=1;alert(1)", ANSWERED
    yield "PNG with PHP in a text", png(RGB[:, :, 0], chunk(b"tEXt", b"a\0<?php system('id'); ?>")), ANSWERED
    jpeg = encode(RGB, "JPEG", comment=b"<?php system('id'); ?><script>alert(1)</script>")
    yield "JPEG with PHP in its comment", jpeg, ANSWERED
    yield "PDF around a JPEG", b"%PDF-1.7\nstream\n" + jpeg + b"\nendstream\n%%EOF", NO_IMAGE
    yield "JPEG and then a PNG", jpeg + png(RGB[:, :, 0]), ANSWERED
    yield "BMP that is a JavaScript", b"BM/*" + encode(RGB, "BMP")[4:] + b"*/=1;", (ANSWERED, DAMAGED)


def animated() -> Iterator[File]:
    """Many frames, of which the first counts."""
    frames = [Image.new("RGB", (40, 30), (i % 256, 9, 9)) for i in range(500)]
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        yield f"{form} of 500 frames", encode(frames[0], form, save_all=True, append_images=frames[1:]), ANSWERED
    for form in ("AVIF", "HEIF"):
        yield f"{form} of 20 frames", encode(frames[0], form, save_all=True, append_images=frames[1:20]), ANSWERED
    mpo = encode(frames[0], "MPO", save_all=True, append_images=frames[1:3])
    yield "MPO of 3 images", mpo, ANSWERED
    place = mpo.index(b"\x01\xb0\x04\0")
    yield "MPO of 2^32 images", mpo[: place + 8] + b"\xff\xff\xff\xff" + mpo[place + 12 :], (ANSWERED, DAMAGED)


def coloured() -> Iterator[File]:
    """Colours that screens do not have."""
    image = Image.fromarray(RGB)
    for form in ("JPEG", "TIFF"):
        yield f"CMYK {form}", encode(image.convert("CMYK"), form), ANSWERED
    yield "LAB TIFF", encode(image.convert("LAB"), "TIFF"), (ANSWERED, DAMAGED)
    yield "YCbCr TIFF", encode(image.convert("YCbCr"), "TIFF"), ANSWERED
    deep = (RGB.astype(">u2") * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 24, 16, 2, 0, 0, 0))
    yield "PNG of 16 bits a colour", PNG + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""), ANSWERED
    yield "TIFF of 16 bits", saved(RGB[:, :, 0].astype(np.uint16) * 257, "TIFF"), ANSWERED
    yield "TIFF of signed integers", saved(RGB[:, :, 0].astype(np.int32), "TIFF"), DAMAGED
    yield "TIFF of floats beyond 1", saved(RGB[:, :, 0].astype(np.float32), "TIFF"), DAMAGED
    yield "TIFF of NaN", saved(np.full((24, 32), np.nan, np.float32), "TIFF"), DAMAGED
    palette = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 8, 3, 0, 0, 0)) + chunk(b"PLTE", b"\1\2\3")
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0\1\2\xff")) + chunk(b"IEND", b"")
    yield "PNG whose palette is too short", PNG + palette + pixels, ANSWERED
    yield "PNG without its palette", PNG + palette[:25] + pixels, (ANSWERED, DAMAGED)


def exif_traps() -> Iterator[File]:
    """Metadata that go round in circles, or promise too much."""

    def tags(*entries: tuple[int, int, int, bytes], following: int = 0) -> bytes:
        body = b"".join(
            struct.pack(">HHI", tag, kind, count) + value.ljust(4, b"\0") for tag, kind, count, value in entries
        )
        return b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + body + struct.pack(">I", following)

    traps: dict[str, bytes] = {
        "a directory that is its own next": tags((274, 3, 1, b"\0\1"), following=8),
        "EXIF within itself": tags((34665, 4, 1, struct.pack(">I", 8)), (274, 3, 1, b"\0\1")),
        "GPS within itself": tags((34853, 4, 1, struct.pack(">I", 8))),
        "four billion values": tags((274, 3, 0xFFFFFFFF, struct.pack(">I", 8))),
        "an orientation in words": tags((274, 2, 4, b"six\0")),
        "an orientation of 2^31": tags((274, 4, 1, b"\x7f\xff\xff\xff")),
        "an orientation that is a fraction by zero": tags((274, 5, 1, struct.pack(">I", 26))) + bytes(8),
        "values beyond the end": tags((271, 2, 1000, struct.pack(">I", 0xFFFFFF00)), (274, 3, 1, b"\0\1")),
        "65535 entries": tags((274, 3, 1, b"\0\1"))[:8] + b"\xff\xff" + bytes(40),
        "a maker's note of 60 KB": tags((37500, 7, 60_000, struct.pack(">I", 26)), (274, 3, 1, b"\0\1"))
        + bytes(60_000),
    }
    for name, block in traps.items():
        for form in ("JPEG", "PNG", "WEBP"):
            yield f"{form} with {name}", encode(RGB, form, exif=b"Exif\0\0" + block), ANSWERED
        rest = encode(RGB, "TIFF")
        yield f"TIFF that is {name}", block + rest[8:], (ANSWERED, DAMAGED, NO_IMAGE)
    laughs = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    xmp = f'<!DOCTYPE x [<!ENTITY a0 "ha">{laughs}]><x:xmpmeta>&a9;</x:xmpmeta>'.encode()
    for form in ("JPEG", "PNG", "WEBP", "AVIF", "HEIF"):
        yield f"{form} with a billion laughs in XMP", encode(RGB, form, xmp=xmp), ANSWERED
    slow = b"<x tiff:Orientation" + b"=" * 50_000
    yield "JPEG with XMP that a pattern would walk over again and again", encode(RGB, "JPEG", xmp=slow), ANSWERED
    yield "JPEG with 3000 comments", jpeg_with(b"\xff\xfe\0\x06abcd" * 3000), ANSWERED
    yield "JPEG with an ICC profile in 255 parts that are one", jpeg_with(icc_parts(255)), ANSWERED
    yield "JPEG with EXIF twice", jpeg_with(b"\xff\xe1" + struct.pack(">H", 2 + len(exif(6))) + exif(6)), ANSWERED


def jpeg_with(segments: bytes) -> bytes:
    data = encode(RGB, "JPEG", exif=exif(1))
    return data[:2] + segments + data[2:]


def icc_parts(number: int) -> bytes:
    part = b"ICC_PROFILE\0\1" + bytes([number]) + bytes(1000)
    return (b"\xff\xe2" + struct.pack(">H", 2 + len(part)) + part) * number


def broken() -> Iterator[File]:
    """Files that contradict themselves."""
    jpeg = bytearray(encode(picture(64, 64), "JPEG"))
    frame, tables = jpeg.index(b"\xff\xc0"), jpeg.index(b"\xff\xc4")
    for name, place, value in (
        ("of 12 bits", frame + 4, 12),
        ("of 5 colours", frame + 9, 5),
        ("whose sampling is 15 x 15", frame + 11, 0xFF),
        ("whose sampling is 0", frame + 11, 0),
        ("whose table is another", frame + 12, 3),
        ("whose codes are too many", tables + 6, 255),
    ):
        odd = bytearray(jpeg)
        odd[place] = value
        yield f"JPEG {name}", bytes(odd), (DAMAGED, NO_IMAGE)
    for name, marker in (("arithmetic", 0xC9), ("lossless", 0xC3), ("differential", 0xC5)):
        odd = bytearray(jpeg)
        odd[frame + 1] = marker
        yield f"JPEG that calls itself {name}", bytes(odd), (ANSWERED, DAMAGED, NO_IMAGE)
    tiff = bytearray(encode(RGB, "TIFF"))
    start = int.from_bytes(tiff[4:8], "little")
    tiff[4:8] = struct.pack("<I", len(tiff) + 10)
    yield "TIFF whose directory lies behind its end", bytes(tiff), (DAMAGED, NO_IMAGE)
    tiff[4:8] = struct.pack("<I", start)
    tiff[start : start + 2] = b"\xff\xff"
    yield "TIFF of 65535 entries", bytes(tiff), (ANSWERED, DAMAGED, NO_IMAGE)
    far = bytearray(encode(RGB, "TIFF"))
    strips = far.index(struct.pack("<HHI", 273, 4, 1))
    far[strips + 8 : strips + 12] = struct.pack("<I", 0xFFFFFFF0)
    yield "TIFF whose pixels lie 4 GB behind", bytes(far), DAMAGED
    bmp = bytearray(encode(RGB, "BMP"))
    bmp[22:26] = struct.pack("<i", -(2**31))
    yield "BMP of minus 2^31 rows", bytes(bmp), (LARGE, DAMAGED, NO_IMAGE)
    bmp = bytearray(encode(Image.fromarray(RGB).convert("L"), "BMP"))
    bmp[30:34] = struct.pack("<I", 1)
    yield "BMP whose run lengths are no run lengths", bytes(bmp), (ANSWERED, DAMAGED)
    yield (
        "PPM with a comment of 900 KB",
        b"P6 #" + b"x" * 900_000 + b"\n2 2 255\n" + bytes(12),
        (ANSWERED, DAMAGED, NO_IMAGE),
    )
    yield "PPM of digits without end", b"P3 " + b"9" * 100_000, (DAMAGED, NO_IMAGE)
    yield "PPM whose white is 0", b"P6 2 2 0\n" + bytes(12), (DAMAGED, NO_IMAGE)
    for form in ("AVIF", "HEIF"):
        data = encode(RGB, form)
        place = data.index(b"meta") - 4
        for name, size in (("of no length", 1), ("of 4 GB", 0xFFFFFFFF), ("that is too short", 20)):
            yield (
                f"{form} with a box {name}",
                data[:place] + struct.pack(">I", size) + data[place + 4 :],
                (DAMAGED, NO_IMAGE),
            )
        deep = bytes(data[:place])
        for _ in range(3000):
            deep += struct.pack(">I4sI", 0xFFFFFF, b"meta", 0)
        yield f"{form} of 3000 boxes within boxes", deep, (DAMAGED, NO_IMAGE)
        mixed = data.replace(b"hvc1", b"av01") if form == "HEIF" else data.replace(b"av01", b"hvc1")
        yield f"{form} whose image is coded otherwise", mixed, (DAMAGED, NO_IMAGE)
        yield f"{form} whose primary image is missing", data.replace(b"pitm", b"free"), (ANSWERED, DAMAGED, NO_IMAGE)
