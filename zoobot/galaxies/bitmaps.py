"""Read PNG, JPEG and TIFF, of 8 or 16 bits per colour, by Pillow; the commonest kinds by faster decoders.

The file is checked before Pillow sees it: what it would unpack into far more memory than the picture needs is left out
or refused.
"""

from __future__ import annotations

import io
import re
import struct
import sys

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zoobot.errors import InputError
from zoobot.galaxies import decoders
from zoobot.galaxies.pictures import LARGE_PIXELS, Picture, Pixels, Reduced, check_size, one_at_a_time, reduction

PNG, JPEG, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"II*\0", b"MM\0*")
_FORMATS = ("PNG", "JPEG", "TIFF")
_MODES = ("L", "LA", "P", "PA", "RGB", "RGBA")
_TRANSPARENT = ("transparent parts are shown black",)
_MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg"}
_DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and surveys store in 16
# Pillow keeps the high byte of 16-bit colours. Read with the other byte order, the same file gives the low one.
_NATIVE, _OTHER = ("L", "B") if sys.byteorder == "little" else ("B", "L")
_MORE_BITS = re.compile(";1[26]")
_READ_16_BIT = re.compile("I;12|I;16[BLN]?|RGBA?;16[BLN]")
_OTHER_ORDER = {"B": "L", "L": "B", "N": _OTHER}
_METADATA = {*range(0xE1, 0xF0), 0xFE} - {0xEE}  # segments of a JPEG; 0xEE says which colours are meant
_MAX_SCANS = 100  # of a progressive JPEG; each passes over the whole picture
_MAX_FRAMES = 100  # counted; a damaged file may have them in a circle
_TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TAGS_OF_TAGS = {0x8769, 0x8825, 0xA005}  # EXIF, GPS and interoperability
_MAX_TAG_BYTES = 10_000_000
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit knows nothing of survey.max_pixels, which is checked here


def read(content: bytes, max_pixels: int, least_px: int = 0) -> Picture:
    """The picture in ``content``. With ``least_px``, a JPEG may be read at a fraction of its size, as long as its
    shorter side keeps so many pixels. Raises InputError, with the reason, if it cannot be used.
    """
    try:
        if content.startswith(JPEG):
            content = _without_metadata(content)
        elif content.startswith(TIFF):
            _check_tiff(content, max_pixels)
        with _open(content) as picture:
            check_size(*picture.size, max_pixels)
            frames = getattr(picture, "n_frames", 1) if picture.format == "PNG" else 1
            if frames > 1:
                raise InputError(f"{frames} frames: one picture per galaxy is needed")
            with one_at_a_time(picture.width * picture.height > LARGE_PIXELS):
                if _MORE_BITS.search(_raw_mode(picture)):
                    return _decode_16_bit(picture, content)
                return _decode_plain(picture, content, least_px) or _decode(picture)
    except InputError:
        raise
    except UnidentifiedImageError as error:  # whose text is about our buffer
        raise InputError("not a readable picture: damaged, or of a rare kind. Save it again as PNG") from error
    except Exception as error:  # Pillow raises nearly anything on damaged bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"not a readable picture: {reason}") from error


def _open(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=_FORMATS)  # EPS, for one, would start Ghostscript


def _decode_plain(picture: Image.Image, content: bytes, least_px: int) -> Picture | None:
    """The commonest kinds: upright JPEG, grey or colour, and PNG of RGB with nothing special. None: another kind."""
    if picture.format == "JPEG" and picture.mode in ("L", "RGB") and not _is_turned(picture):
        by = reduction(min(picture.size), least_px) if least_px else 1
        reduced = Reduced(by, picture.height, picture.width) if by > 1 else None
        return Picture(decoders.jpeg(picture, content, by), (), _MEDIA_TYPES["JPEG"], reduced)
    if picture.format == "PNG" and picture.mode == "RGB" and not {"transparency", "exif"} & picture.info.keys():
        return Picture(decoders.png(picture, content), (), _MEDIA_TYPES["PNG"])
    return None


def _decode(picture: Image.Image) -> Picture:
    if picture.mode not in _MODES:
        raise InputError(f"pixels of type {picture.mode}: grey or colour of 8 or 16 bits is needed")
    media_type = _MEDIA_TYPES.get(picture.format or "", "")
    upright, notes = _upright(picture)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        if rgba.getchannel("A").getextrema()[0] != 255:
            notes += _TRANSPARENT
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba)
    if notes or (picture.format == "PNG" and "exif" in picture.info):
        media_type = ""  # a browser may show it otherwise
    return Picture(np.asarray(upright.convert("RGB")), notes, media_type)


def _upright(picture: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """A picture as its EXIF says it is to be turned (JPEG; of a TIFF Pillow does it; that of a PNG is not followed)."""
    if not _is_turned(picture):
        return picture, ()
    return ImageOps.exif_transpose(picture), ("turned as EXIF says",)


def _is_turned(picture: Image.Image) -> bool:
    return picture.format == "JPEG" and picture.getexif().get(0x0112, 1) in range(2, 9)


# ----------------------------------------------------------- 16 bits


def _raw_mode(picture: Image.Image) -> str:
    """How Pillow would unpack the file's pixels, e.g. ``RGB;16B``."""
    arguments = picture.tile[0].args if picture.tile else ""  # type: ignore[attr-defined]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _decode_16_bit(picture: Image.Image, content: bytes) -> Picture:
    """The bits that are used become 8: of a 12-bit picture 4095 becomes 255."""
    kind, _, packing = _raw_mode(picture).partition(";")
    inverted = getattr(picture, "tag_v2", {}).get(262) == 0  # a TIFF in which 0 is white; Pillow leaves it so
    if inverted or "transparency" in picture.info or not _READ_16_BIT.fullmatch(_raw_mode(picture)):
        raise InputError(
            f"16-bit pixels of type {_raw_mode(picture)}{' in which 0 is white' * inverted}, of which only grey, RGB"
            " and RGBA are read: save the picture with 8 bits, scaled by its own range"
        )
    if kind == "I":
        values = np.asarray(picture).astype(np.uint16)[:, :, None].repeat(3, axis=2)
    else:
        values = np.asarray(picture).astype(np.uint16) * np.uint16(256)
        values += _low_bytes(content, f"{kind};16{_OTHER_ORDER[packing[-1]]}")
    notes: tuple[str, ...] = ()
    if kind == "RGBA":
        notes = _TRANSPARENT if values[:, :, 3].min() < 65535 else ()
        for colour in range(3):
            values[:, :, colour] = np.rint(values[:, :, colour] * (values[:, :, 3] / 65535))
        values = values[:, :, :3]
    depth = next(bits for bits in _DEPTHS if values.max() < 2**bits)
    eight_bit = np.rint(np.arange(2**depth) * (255 / (2**depth - 1))).astype(np.uint8)
    return Picture(eight_bit[values], (*notes, f"{depth} of 16 bits are used: {2**depth - 1} is shown white"))


def _low_bytes(content: bytes, raw_mode: str) -> Pixels:
    with _open(content) as picture:
        picture.tile = [  # type: ignore[attr-defined]
            tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
            for tile in picture.tile  # type: ignore[attr-defined]
        ]
        return np.asarray(picture)


# ----------------------------------------------------------- what must not reach Pillow


def _without_metadata(content: bytes) -> bytes:
    """A JPEG without its metadata, but for the first EXIF, which may say that the picture is turned."""
    kept, at, has_exif = [content[:2]], 2, False
    while content[at] == 0xFF and content[at + 1] not in (0xD9, 0xDA):
        marker, size = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        segment, at = content[at : at + 2 + size], at + 2 + max(size, 2)
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0" and not has_exif:
            _check_tags(segment[10:])
            has_exif = True
        elif marker in _METADATA:
            continue
        kept.append(segment)
    pixels = content[at:]
    n_scans = pixels.count(b"\xff\xda")
    if n_scans > _MAX_SCANS:
        raise InputError(f"{n_scans} scans, at most {_MAX_SCANS} are read: save the picture again as plain JPEG")
    return b"".join([*kept, pixels])


def _check_tiff(content: bytes, max_pixels: int) -> None:
    """Raise InputError if a TIFF has several pictures, or tiles that are larger than any picture."""
    tags, following = _check_tags(content)
    order = "<" if content.startswith(b"II") else ">"
    frames = 1
    while following and frames < _MAX_FRAMES:
        frames += 1
        (entries,) = struct.unpack_from(order + "H", content, following)
        (following,) = struct.unpack_from(order + "I", content, following + 2 + 12 * entries)
    if frames > 1:
        raise InputError(f"{frames} frames{' or more' if following else ''}: one picture per galaxy is needed")
    tile_width, tile_height = tags.get(322, 0), tags.get(323, 0)
    if tile_width * tile_height > max(max_pixels, 1024**2):
        raise InputError(f"tiles of {tile_width} × {tile_height} pixels: more than survey.max_pixels={max_pixels}")


def _check_tags(content: bytes, at: int | None = None, level: int = 0) -> tuple[dict[int, int], int]:
    """The value of each tag in a TIFF's list (if it is one number), and where the next list begins; 0: nowhere.

    Raises InputError if the tags hold too much. They may all refer to the same bytes, and Pillow copies them for each.
    """
    order = "<" if content.startswith(b"II") else ">"
    if at is None:
        (at,) = struct.unpack_from(order + "I", content, 4)
    (entries,) = struct.unpack_from(order + "H", content, at)
    tags, n_bytes = {}, 0
    for place in range(at + 2, at + 2 + 12 * entries, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", content, place)
        width = "H" if kind == 3 else "I"
        (tags[tag],) = struct.unpack_from(order + width, content, place + 8)
        n_bytes += count * _TAG_BYTES.get(kind, 1)
        if n_bytes > _MAX_TAG_BYTES:
            raise InputError(
                f"its tags hold more than {_MAX_TAG_BYTES / 1e6:.0f} MB: save the picture without metadata"
            )
    for tag in set(tags) & _TAGS_OF_TAGS if level == 0 else ():
        _check_tags(content, tags[tag], level + 1)
    rest = content[at + 2 + 12 * entries :][:4]
    return tags, int.from_bytes(rest, "little" if order == "<" else "big") if len(rest) == 4 else 0
