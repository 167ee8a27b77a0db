"""Changes of bytes, and several byte strings in one."""

from __future__ import annotations

from random import Random

_NUMBERS = (0, 1, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63)


def scramble(data: bytes, rng: Random) -> bytes:
    """The bytes with one of them flipped, or some cut, repeated, moved or written over."""
    if not data:
        return rng.randbytes(rng.randint(1, 16))
    at, size = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 16))
    match rng.randrange(6):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + data[at + size :]
        case 3:
            return data[:at] + rng.randbytes(size) + data[at:]
        case 4:
            width = rng.choice((1, 2, 4, 8))
            number = (rng.choice(_NUMBERS) % (1 << 8 * width)).to_bytes(width, "little")
            return data[:at] + number + data[at + width :]
        case _:
            other = rng.randrange(len(data))
            return data[:at] + data[other : other + size] + data[at:]


def dig(text: bytes, rng: Random) -> bytes:
    """JSON with lists nested as deep as a parser bears, or deeper, at one of its values."""
    places = [i + 1 for i, c in enumerate(text) if c in b"[:"]
    if not places:
        return text
    at, depth = rng.choice(places), rng.choice((100, rng.randint(800, 1010), 5000))
    tail = b"," if text[at - 1 : at] == b"[" else b',"deep":'
    return text[:at] + b"[" * depth + b"]" * depth + tail + text[at:]


def join(frames: list[bytes]) -> bytes:
    """Several byte strings as one.

    >>> split(join([b"a", b"", b"bc"]))
    [b'a', b'', b'bc']
    """
    return b"".join(len(f).to_bytes(4, "little") + f for f in frames)


def split(data: bytes) -> list[bytes]:
    """What `join` was given; of any other bytes, something."""
    frames = []
    while data:
        size = int.from_bytes(data[:4], "little")
        frames.append(data[4 : 4 + size])
        data = data[4 + size :]
    return frames
