"""Prints, as JSON, what the safetensors package reads from a file: dtype, shape and values of each tensor, and the metadata."""

import json
import sys

from safetensors import safe_open

SPELLING = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int8": "I8", "uint8": "U8",
            "int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32", "int64": "I64", "uint64": "U64",
            "bool": "BOOL"}

with safe_open(sys.argv[1], framework="pt") as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}
    result = {
        "metadata": file.metadata() or {},
        "tensors": {name: {"dtype": SPELLING[str(t.dtype).removeprefix("torch.")], "shape": list(t.shape),
                           "values": t.double().flatten().tolist()} for name, t in tensors.items()},
    }
print(json.dumps(result))
