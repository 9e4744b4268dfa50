"""API keys: which ones exist, where a request carries its key, and how guessing is stopped."""

import hashlib
import hmac
from collections.abc import Collection, Mapping

from notellm.errors import ConfigError
from notellm.serve.rates import TokenBuckets
from notellm.serve.refusal import Refusal

#: Pairs of an address and a key that are remembered as valid; beyond it the oldest pair is forgotten.
_REMEMBERED = 10_000
#: An address may send as many wrong keys at once as its rate allows in this many seconds.
_BURST_SECONDS = 10


class Keys:
    """The API keys of a service.

    Only digests of the keys are kept. A key is compared with all of them, so that the time of a comparison
    tells nothing about them.

    Args:
        read: keys that may read.
        write: keys that may read and write.

    Raises:
        ConfigError: if a key is shorter than 16 characters, has a character that a header cannot carry, or is
            in both groups.
    """

    def __init__(self, read: Collection[str] = (), write: Collection[str] = ()) -> None:
        for key in (*read, *write):
            if len(key) < 16:
                raise ConfigError(
                    f"an API key has {len(key)} characters; use at least 16, for example the output of: "
                    'python -c "import secrets; print(secrets.token_urlsafe(24))"'
                )
            if not (key.isascii() and key.isprintable()) or " " in key:
                raise ConfigError(
                    "an API key has a space or a character that is not ASCII, which a header cannot carry; "
                    "use letters, digits, - and _"
                )
        if set(read) & set(write):
            raise ConfigError(
                "a key is given for reading and for writing; a write key may also read, so give it once"
            )
        self._digests = [(digest_of(key.encode()), False) for key in read]
        self._digests += [(digest_of(key.encode()), True) for key in write]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, key: bytes) -> tuple[bool, bool]:
        """Return whether a key may read, and whether it may write."""
        digest = digest_of(key)
        read = write = False
        for known, may_write in self._digests:
            same = hmac.compare_digest(known, digest)
            read |= same
            write |= same and may_write
        return read, write


class KeyCheck:
    """Checks the keys of requests, and limits how many wrong keys one address may send.

    Args:
        keys: the valid keys.
        wrong_keys: wrong keys per second that one address may send in the long run, ten times as many at
            once.
    """

    def __init__(self, keys: Keys, wrong_keys: float) -> None:
        self._keys = keys
        self._wrong = TokenBuckets(wrong_keys, max(1.0, wrong_keys * _BURST_SECONDS))
        self._valid: dict[tuple[bytes, bytes], None] = {}  # addresses with the digest of a key that was valid

    def check(self, key: bytes, digest: bytes, address: bytes) -> tuple[bool, bool]:
        """Return whether a key may read, and whether it may write.

        If too many wrong keys came from an address, a key that was never valid from that address is not even
        compared, so that further guessing teaches nothing. Keys that were valid from there before still work:
        other clients behind the same proxy are not locked out.

        Args:
            key: the key of the request; empty if the request has none.
            digest: the digest of this key.
            address: the address of the client.

        Raises:
            Refusal: if too many wrong keys came from the address.
        """
        client = (address, digest)
        if client not in self._valid:
            seconds = self._wrong.wait(address)
            if key and seconds:
                wait = int(seconds) + 1
                text = f"too many wrong API keys came from this address; wait {wait} s"
                raise Refusal(429, "wrong_keys", text, wait)
        read, write = self._keys.check(key)
        if read:
            if len(self._valid) >= _REMEMBERED and client not in self._valid:
                del self._valid[next(iter(self._valid))]
            self._valid[client] = None
        elif key:  # a request without a key is no guess: the page sends one when it is first opened
            self._wrong.take(address)
        return read, write


def digest_of(key: bytes) -> bytes:
    """Return the SHA-256 digest of a key."""
    return hashlib.sha256(key).digest()


def key_of(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the API key that a request carries in its headers; empty if there is none."""
    key = headers.get(b"x-api-key", b"").strip()
    if key:
        return key
    scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
    return (
        token.strip() if scheme.lower() == b"bearer" else b""
    )  # RFC 7235: the scheme's case does not matter
