"""From packed words to the values that tensor cores multiply, in registers; packing.py says how words lie.

What limits a product of few rows is how fast 4-bit codes are decoded. A table of pairs in shared memory takes
half the instructions that arithmetic takes, but 32 kB for each program: only where a processor has room for
several of those is it used. The values are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from triton import knobs

from medusa_chat.kernels.packing import ROTATION

INTERPRETED = knobs.runtime.interpret  # no inline assembly there
_ROTATION = tl.constexpr(ROTATION)
_ENTRY_BYTES = 1 << ROTATION  # of the table of pairs: a word for each lane of a warp
_ROOM_FOR_TABLES = 128 * 1024  # bytes of shared memory of a processor; consumer cards have 100 kB


@dataclass(frozen=True, slots=True)
class Decoding:
    """Assembly for 4-bit codes, None where there is none. filling: what a program's table is filled by; first
    and second: what decodes one and the other of two neighbouring words.
    """

    filling: str | None = None
    first: str | None = None
    second: str | None = None


def decoding_of(lookup: tuple[int, ...], num_warps: int, *, by_table: bool) -> Decoding:
    """Of codes with these byte planes, for programs of so many warps."""
    if INTERPRETED:
        return Decoding()
    if by_table:
        return Decoding(_filling(lookup, num_warps), *_lookup())
    return Decoding(None, *_arithmetic(lookup))


def has_room_for_tables(device: torch.device) -> bool:
    """Of pairs, in shared memory."""
    return torch.cuda.get_device_properties(device).shared_memory_per_multiprocessor >= _ROOM_FOR_TABLES


@cache
def _arithmetic(planes: tuple[int, ...]) -> tuple[str, str]:
    """Decoding by arithmetic. Per four codes and byte, two byte permutes look up the lower and the upper half
    of the table, and a mask made of the codes' high bits selects.
    """
    lines = [
        ".reg .b32 zero, word, codes, moved, mask, x, y, p, q, t0, t2, t4, t6;",
        # A byte permute takes one constant. Others the compiler would keep in uniform registers and move over
        # before each use, an eighth of all instructions, if it knew that they are the same in all lanes.
        "mov.u32 zero, %lanemask_lt; shr.u32 zero, zero, 31;",
        *(f"xor.b32 t{i}, zero, {value};" for i, value in zip((0, 2, 4, 6), planes[::2], strict=True)),
        f"shf.r.wrap.b32 word, $word, $word, {ROTATION};",
        "shl.b32 moved, word, 4; and.b32 codes, word, 0x77777777;",
    ]
    for half, high_bits in enumerate(("0xD9C8", "0xFBEA")):
        if half:
            lines.append("shr.u32 codes, codes, 16;")
        lines.append(f"prmt.b32 mask, moved, word, {high_bits};")
        for byte, i in (("p", 0), ("q", 4)):
            lines.append(f"prmt.b32 x, t{i}, {planes[i + 1]}, codes;")
            lines.append(f"prmt.b32 y, t{i + 2}, {planes[i + 3]}, codes;")
            lines.append(f"lop3.b32 {byte}, mask, y, x, 0xCA;")
        lines.append(f"prmt.b32 ${2 * half}, p, q, 0x5140; prmt.b32 ${2 * half + 1}, p, q, 0x7362;")
    return _of_both_words(lines)


@cache
def _lookup() -> tuple[str, str]:
    """Decoding by the table of pairs that _filling has left in shared memory."""
    lines = [
        ".reg .b32 table, lane, a, b, c, d;",
        "mov.u32 table, medusa_pairs; mov.u32 lane, %laneid; shl.b32 lane, lane, 2;",
        "shf.r.wrap.b32 b, $word, $word, 8; shf.r.wrap.b32 c, $word, $word, 16;",
        "shf.r.wrap.b32 d, $word, $word, 24; mov.b32 a, $word;",
    ]
    for plane, at in enumerate("abcd"):
        lines.append(f"lop3.b32 {at}, {at}, {255 << ROTATION}, lane, 0xEA; add.u32 {at}, {at}, table;")
        lines.append(f"ld.shared.b32 ${plane}, [{at}];")
    return _of_both_words(lines)


def _of_both_words(lines: Sequence[str]) -> tuple[str, str]:
    """Of two neighbouring words ($4, $5), the first gives planes 0 to 3 of the values, the second 4 to 7."""
    text = "{ " + " ".join(lines) + " }"
    return text.replace("$word", "$4"), text.replace("$word", "$5")


@cache
def _filling(planes: tuple[int, ...], num_warps: int) -> str:
    """Fills 32 kB of shared memory with the values of every byte's two codes, once for each lane of a warp:
    32 lanes that look up 32 bytes then read 32 banks. Each warp does some of the upper codes.
    """
    values = [_nth_byte(planes[:4], code) | _nth_byte(planes[4:], code) << 8 for code in range(16)]
    share = 16 // num_warps
    entry = _ENTRY_BYTES
    lines = [
        f".shared .align 128 .b8 medusa_pairs[{256 * entry}];",
        "{ .reg .b32 warp, code, at, x, y, p, q, upper; .reg .pred high;",
        f"mov.u32 warp, %tid.x; shr.u32 warp, warp, 5; mul.lo.u32 at, warp, {share * 16 * entry};",
        "mov.u32 $0, %laneid; shl.b32 x, $0, 2; add.u32 at, at, x;",
        "mov.u32 x, medusa_pairs; add.u32 at, at, x;",
    ]
    for i in range(share):
        lines.append(f"mad.lo.u32 code, warp, {share}, {i};")
        lines.append("setp.ge.u32 high, code, 8; and.b32 code, code, 7;")
        for byte, half in (("p", planes[:4]), ("q", planes[4:])):
            lines.append(f"selp.b32 x, {half[2]}, {half[0]}, high; selp.b32 y, {half[3]}, {half[1]}, high;")
            lines.append(f"prmt.b32 {byte}, x, y, code;")
        lines.append("prmt.b32 upper, p, q, 0x4044; and.b32 upper, upper, 0xFFFF0000;")
        for code, value in enumerate(values):
            lines.append(f"or.b32 x, upper, {value}; st.shared.b32 [at+{(16 * i + code) * entry}], x;")
    return " ".join([*lines, "}"])


@cache
def widening(dtype: torch.dtype) -> str:
    """Two neighbouring words of bytes ($4, $5) -> values of planes 0 and 1 ($0, $1), and 2 and 3 ($2, $3).

    A byte's bits become the lowest of a 16-bit number, from which its exponent's value is then taken.
    """
    if dtype == torch.bfloat16:  # 128 and the lower seven bits; less 128, or 256 where the sign bit is set
        lines = [".reg .b32 bytes, value, less, one; mov.u32 one, 0x3F803F80;"]
        widened = (
            "lop3.b32 value, bytes, 0x007F007F, 0x43004300, 0xEA;"
            "lop3.b32 less, bytes, 0x00800080, 0xC300C300, 0x6A;"
            "fma.rn.bf16x2 $out, value, one, less;"
        )
    else:  # 1024 and the byte with its sign bit turned; less 1152
        lines = [".reg .b32 bytes, value, less; mov.u32 less, 0xE480E480;"]
        widened = "lop3.b32 value, bytes, 0x00FF00FF, 0x64806480, 0x6A; add.rn.f16x2 $out, value, less;"
    for out, word, shift in ((0, 4, 0), (1, 4, 8), (2, 5, 0), (3, 5, 8)):
        lines.append(f"shr.u32 bytes, ${word}, {shift}; " + widened.replace("$out", f"${out}"))
    return "{ " + " ".join(lines) + " }"


def _nth_byte(words: Sequence[int], n: int) -> int:
    return words[n // 4] >> 8 * (n % 4) & 255


@triton.jit
def decode(
    pointers, words, word, table, GROUP_NUMBER: tl.constexpr, ASM: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Words (BLOCK_N, 16) at their pointers -> values (BLOCK_N, 64) of one of a block's two groups.

    With ASM, two neighbouring words must lie in one thread, in order; every layout that tensor cores take or
    that loads 8 bytes at once does so.
    """
    if ASM is not None:
        kind = table.dtype.element_ty
        first, second, third, fourth = tl.inline_asm_elementwise(
            ASM, "=r,=r,=r,=r,r,r", [words], dtype=(kind, kind, kind, kind), is_pure=True, pack=2
        )
    else:
        odd = word[None, :] & 1
        held = tl.load(pointers - odd + GROUP_NUMBER)
        first = tl.load(table + (held >> _ROTATION + 4 * odd & 15))
        second = tl.load(table + (held >> _ROTATION + 8 + 4 * odd & 15))
        third = tl.load(table + (held >> _ROTATION + 16 + 4 * odd & 15))
        last = held >> 24 + _ROTATION & 1 | held << 8 - _ROTATION
        fourth = tl.load(table + (last >> 4 * odd & 15))
    return _four_planes(first, second, third, fourth, BLOCK_N)


@triton.jit
def widen(pointers, words, word, x_ptr, ASM: tl.constexpr, BLOCK_N: tl.constexpr):
    """Words (BLOCK_N, 32) of bytes at their pointers -> a block's values (BLOCK_N, 128)."""
    kind = x_ptr.dtype.element_ty
    if ASM is not None:
        first, second, third, fourth = tl.inline_asm_elementwise(
            ASM, "=r,=r,=r,=r,r,r", [words], dtype=(kind, kind, kind, kind), is_pure=True, pack=2
        )
    else:
        odd = word[None, :] & 1
        lower, upper = tl.load(pointers - odd), tl.load(pointers - odd + 1)
        first = (lower << 24 - 16 * odd >> 24).to(kind)
        second = (lower << 16 - 16 * odd >> 24).to(kind)
        third = (upper << 24 - 16 * odd >> 24).to(kind)
        fourth = (upper << 16 - 16 * odd >> 24).to(kind)
    return _four_planes(first, second, third, fourth, BLOCK_N)


@triton.jit
def _four_planes(first, second, third, fourth, BLOCK_N: tl.constexpr):
    """(BLOCK_N, P) each -> (BLOCK_N, 4P), one after the other. In registers no value moves: to the tensor
    cores a tile is several of 16 positions anyway.
    """
    joined = tl.join(tl.join(first, third), tl.join(second, fourth))  # (BLOCK_N, P, 2, 2)
    return joined.permute(0, 2, 3, 1).reshape(BLOCK_N, 4 * first.shape[1])
