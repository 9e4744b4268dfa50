"""The encoding of a text file: stated, shown by its bytes, or guessed from its characters.

A file that is valid UTF-8 is UTF-8, and so is one of which more characters are valid than not. What remains
are the older encodings of one script; charset-normalizer tells them apart by the frequency of letters.
"""

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from charset_normalizer import from_bytes

from notellm.data.problems import Report
from notellm.data.reading.sources import opened, wide_codec
from notellm.errors import ConfigError, DataError

#: The encodings that are told apart, the most likely ones first.
_CANDIDATES = [
    "cp1252", "cp1251", "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr", "cp1250", "koi8_r", "iso8859_2",
    "cp1253", "cp1254", "cp1255", "cp1256", "cp874",
]  # fmt: skip
_UNDECODABLE = re.compile("[\udc80-\udcff]")
_SAMPLE_LINES = 2_000
#: How much a character of so many bytes speaks for UTF-8, where a byte that fits nowhere speaks against it.
_WEIGHTS = {2: 1, 3: 6, 4: 12}
#: Name of the error handler for files in two encodings.
_AS_CP1252 = "notellm-cp1252"


@dataclass(frozen=True)
class Encoding:
    """How the bytes of a file are read.

    Attributes:
        name: the codec.
        errors: how undecodable bytes are read, as in ``open``; by default they become surrogates, which the
            reader counts and replaces.
    """

    name: str
    errors: str = "notellm.surrogate"


def _surrogate(error: UnicodeError) -> tuple[str, int]:
    """Read one undecodable byte, or one unit of UTF-16 or UTF-32, as a surrogate."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    wide = error.encoding.replace("-", "").startswith(("utf16", "utf32"))
    byte = error.object[error.start]
    return chr(0xDC00 + max(byte, 0x80)), error.end if wide else error.start + 1


codecs.register_error("notellm.surrogate", _surrogate)

#: UTF-8, with or without a byte order mark.
UTF8 = Encoding("utf-8-sig")


def encoding_of(path: Path, chosen: str | None, report: Report) -> Encoding:
    """Return the encoding of a file.

    Args:
        path: the file, compressed or not.
        chosen: the encoding that the user states; None looks at the bytes.
        report: receives a guess, with a line that shows it.

    Raises:
        ConfigError: if there is no such encoding.
        DataError: if the stated encoding cannot read the file.
    """
    if chosen is not None:
        try:
            name = codecs.lookup(chosen).name
            b" ".decode(chosen, "replace")  # not all of Python's codecs are of text
        except (LookupError, ValueError) as error:
            raise ConfigError(
                f"encoding is {chosen!r}; give one that Python knows, as utf-8 or cp1252"
            ) from error
        return UTF8 if name == "utf-8" else Encoding(name)
    with opened(path, progress=False) as source:
        head = source.read(4096)
    name = wide_codec(head)
    if not name:
        return _of_bytes(path, report)
    report.add(
        "text in UTF-16 or UTF-32",
        path.name,
        1,
        head.decode(name, "replace")[:40],
        "decoded",
        f"--encoding {name}",
    )
    return Encoding(name)


def _of_bytes(path: Path, report: Report) -> Encoding:
    """Look at all bytes of a file that is in UTF-8 or in an encoding of one byte."""
    if _is_valid_utf8(path):
        return UTF8
    valid = invalid = whole_lines = torn_lines = 0
    sample: list[bytes] = []
    for line in _lines(path):
        if line.isascii():
            continue
        text = line.decode("utf-8", "surrogateescape")
        bad = len(_UNDECODABLE.findall(text))
        invalid += bad
        # Two bytes fit together by chance now and then, and more of them less often.
        fit = sum(_WEIGHTS[len(each.encode())] for each in _UNDECODABLE.sub("", text) if each > "\x7f")
        valid += fit
        whole_lines += not bad
        torn_lines += bool(bad and fit)
        if bad and len(sample) < _SAMPLE_LINES:
            sample.append(line)
    if whole_lines and not torn_lines and _is_western(b"".join(sample)):
        example = sample[0].decode("utf-8", _AS_CP1252).strip()
        action = "what is not UTF-8 read as cp1252"
        report.add("lines in UTF-8 and in another encoding", path.name, invalid, example, action)
        return Encoding("utf-8-sig", _AS_CP1252)
    if valid > invalid:
        return UTF8  # with damage, which the reader reports line by line
    name = _guessed(b"".join(sample))
    example = sample[0].decode(name, "replace").strip()
    report.add(
        "text that is not UTF-8", path.name, invalid, example, f"bytes read as {name}", f"--encoding {name}"
    )
    return Encoding(name)


def _is_western(sample: bytes) -> bool:
    """Whether the bytes that are not UTF-8 are small letters and marks of cp1252, not cut characters."""
    text = sample.decode("utf-8", "surrogateescape")
    high = bytes(ord(each) - 0xDC00 for each in _UNDECODABLE.findall(text)).decode("cp1252", "replace")
    return _fits_latin(sample) and all(each.islower() or each in "’‘“”–—…" for each in high)


def _from_cp1252(error: UnicodeError) -> tuple[str, int]:
    """Decode bytes that are not UTF-8 as cp1252, as an error handler of codecs does."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error(_AS_CP1252, _from_cp1252)


def _is_valid_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with opened(path, progress=False) as source:
        try:
            while block := source.read(1 << 22):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _lines(path: Path) -> Iterator[bytes]:
    rest = b""
    with opened(path, progress=False) as source:
        while block := source.read(1 << 22):
            *lines, rest = (rest + block).split(b"\n")
            yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _guessed(sample: bytes) -> str:
    """Return the most likely encoding of bytes that are not UTF-8."""
    if _fits_latin(sample):
        return "cp1252"
    best = from_bytes(sample, cp_isolation=_CANDIDATES, threshold=0.5).best()
    if best is None:
        return "cp1252"
    return str(best.encoding)


def _fits_latin(sample: bytes) -> bool:
    """Whether the bytes are Western letters and marks in cp1252, among ASCII letters.

    Short texts fit many encodings; the bytes of other scripts stand side by side.
    """
    runs = re.findall(rb"[\x80-\xff]+", sample)
    if max(map(len, runs)) > 3:
        return False
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return False
    high = [character for character in text if character > "\x7f"]
    usual = "àâäáãåæçèéêëìíîïñòóôöõøœùúûüýÿßÀÂÄÁÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖÕØŒÙÚÛÜÝŸ’‘“”„–—…•«»°§€£©®™´¿¡½¼¾·ºª\xa0"
    return sum(character in usual for character in high) >= 0.9 * len(high)


def decoded_blocks(path: Path, encoding: Encoding) -> Iterator[str]:
    """Yield the text of a file in blocks that end at a line end.

    Raises:
        DataError: if the bytes are none of the encoding.
    """
    decoder = codecs.getincrementaldecoder(encoding.name)(encoding.errors)
    rest = ""
    with opened(path) as source:
        try:
            while block := source.read(1 << 22):
                text = rest + decoder.decode(block)
                cut = text.rfind("\n") + 1 or (0 if text.endswith("\r") else text.rfind("\r") + 1)
                rest = text[cut:]
                if cut:
                    yield text[:cut]
            rest += decoder.decode(b"", final=True)
        except UnicodeError as error:
            raise DataError(
                f"{path} is no {encoding.name} text: {error}; --encoding states another one"
            ) from error
    if rest:
        yield rest


def lines_in(blocks: Iterable[str], *, newline: str) -> Iterator[str]:
    """Yield the lines of blocks, with their ends.

    Args:
        blocks: text, in blocks that end at a line end.
        newline: as in ``open``: "" for lines that end in any way, or the only end of lines.
    """
    for block in blocks:
        yield from io.StringIO(block, newline=newline)
