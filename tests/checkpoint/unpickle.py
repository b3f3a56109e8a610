"""Prints, as JSON, what a file of torch.save holds, read with Python's own zipfile (which checks checksums) and pickle:
of each tensor dtype, shape and values, of a list a list of these."""

import array
import collections
import json
import math
import pickle
import sys
import zipfile

# The class of a storage: our name for its type, and that of Python's arrays.
STORAGES = {"FloatStorage": ("F32", "f"), "DoubleStorage": ("F64", "d"), "LongStorage": ("I64", "q"),
            "IntStorage": ("I32", "i"), "ShortStorage": ("I16", "h"), "CharStorage": ("I8", "b"),
            "ByteStorage": ("U8", "B"), "BoolStorage": ("BOOL", "B")}


def rebuild(storage, offset, shape, strides, requires_grad, hooks):
    dtype, values = storage
    expected = [math.prod(shape[i + 1:]) for i in range(len(shape))]
    assert list(strides) == expected and offset == 0 and not requires_grad and not hooks
    return {"dtype": dtype, "shape": list(shape), "values": list(values)}


class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        assert module == "torch" and name in STORAGES, (module, name)
        return name

    def persistent_load(self, identity):
        kind, storage, key, place, elements = identity
        assert kind == "storage" and place == "cpu"
        dtype, code = STORAGES[storage]
        values = array.array(code, archive.read(f"archive/data/{key}"))
        assert len(values) == elements
        return dtype, values


with zipfile.ZipFile(sys.argv[1]) as archive:
    assert archive.testzip() is None
    assert archive.read("archive/version") == b"3\n" and archive.read("archive/byteorder") == b"little"
    with archive.open("archive/data.pkl") as file:
        print(json.dumps(Reader(file).load()))
