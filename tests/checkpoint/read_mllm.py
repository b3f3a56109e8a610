"""Reads a .mllm file of either version by the description of its format alone, prints what it holds as JSON, and writes
the same again.

    python read_mllm.py FILE COPY

Version 1, little-endian: i32 20012, u64 bytes of the index; for each tensor i32 length of the name, the name, u64 bytes,
u64 offset, i32 type; then the data. Version 2: i32 0x519A, i32 2, a name of 512 bytes, u32 tensors, u64 offset of the
descriptors; each of 352 bytes: u32 number, u32 type, u64 bytes, u64 offset, u64 dimensions, i32 shape[16], a name of 256
bytes.
"""

import array
import json
import math
import struct
import sys

PLAIN = {0: ("F32", "f"), 16: ("I8", "b"), 18: ("I32", "i")}
# Name, elements and bytes of a block; of Q4_0_4_4, those of four rows take turns.
BLOCKS = {2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 8: ("Q8_0", 32, 34), 12: ("Q4_K", 256, 144), 14: ("Q6_K", 256, 210),
          15: ("Q8_K", 256, 292), 19: ("Q4_0_4_4", 128, 72), 23: ("Q3_K", 256, 110), 24: ("Q2_K", 256, 84)}


def read_index(data):
    (magic,) = struct.unpack_from("<i", data)
    tensors = []
    if magic == 20012:
        (left,) = struct.unpack_from("<Q", data, 4)
        at = 12
        end = at + left
        while at < end:
            (length,) = struct.unpack_from("<i", data, at)
            name = data[at + 4 : at + 4 + length].decode()
            size, offset, kind = struct.unpack_from("<QQi", data, at + 4 + length)
            at += 4 + length + 20
            tensors.append((name, kind, size, offset, None))
        assert at == end
        return 1, tensors
    assert magic == 0x519A
    version, count, descriptors = struct.unpack_from("<i512xIQ", data, 4)
    assert version == 2
    for i in range(count):
        at = descriptors + 352 * i
        number, kind, size, offset, dimensions = struct.unpack_from("<IIQQQ", data, at)
        assert number == i
        shape = struct.unpack_from("<16i", data, at + 32)[:dimensions]
        name = data[at + 96 : at + 352].split(b"\0")[0].decode()
        tensors.append((name, kind, size, offset, list(shape)))
    return 2, tensors


def write_again(version, tensors, data, path):
    if version == 1:
        index = sum(4 + len(name.encode()) + 20 for name, *_ in tensors)
        head, offset = struct.pack("<iQ", 20012, index), 12 + index
    else:
        head = struct.pack("<ii512xIQ", 0x519A, 2, len(tensors), 532)
        offset = 532 + 352 * len(tensors)
    body = b""
    for i, (name, kind, size, start, shape) in enumerate(tensors):
        text = name.encode()
        if version == 1:
            head += struct.pack("<i", len(text)) + text + struct.pack("<QQi", size, offset, kind)
        else:
            padded = shape + [0] * (16 - len(shape))
            head += struct.pack("<IIQQQ16i256s", i, kind, size, offset, len(shape), *padded, text)
        body += data[start : start + size]
        offset += size
    with open(path, "wb") as file:
        file.write(head + body)


with open(sys.argv[1], "rb") as file:
    data = file.read()
version, tensors = read_index(data)
result = {}
for name, kind, size, offset, shape in tensors:
    assert offset + size <= len(data)
    result[name] = {"type": PLAIN[kind][0] if kind in PLAIN else BLOCKS[kind][0], "bytes": size, "shape": shape}
    if kind in PLAIN:
        values = array.array(PLAIN[kind][1], data[offset : offset + size])
        result[name]["sum"] = sum(values)
        result[name]["first"] = values[0]
    else:
        _, elements, unit = BLOCKS[kind]
        assert size % unit == 0
        result[name]["elements"] = size // unit * elements
        assert shape is None or math.prod(shape) == result[name]["elements"]
write_again(version, tensors, data, sys.argv[2])
print(json.dumps({"version": version, "tensors": result}))
