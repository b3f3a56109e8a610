#!/usr/bin/env python3
"""Writes corpus/NAME/*: small files of each format, one per group of features, from which a fuzzer starts.

Usage: make_corpus.py [NAME...]
"""
import base64
import collections
import io
import json
import pathlib
import pickle
import struct
import sys
import types
import zipfile

HERE = pathlib.Path(__file__).parent

TEMPLATES = {
    "loop": "{%- for m in messages -%}\n{{ '<|' + m.role + '|>' ~ m['content'] | trim }}{% if not loop.last %},"
            "{% elif loop.index0 % 2 == 1 %}x{% else %}{{ loop.previtem.role }}{% endif %}\n{%- endfor -%}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "macro": "{% macro m(a, b=a ~ '!') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, b=3) ~ m('x', 2, 3, k=4) }}"
             "{% macro w(t) %}<{{ t }}>{{ caller(t) }}{% endmacro %}{% call(x) w('b') %}{{ x }}{% endcall %}{{ w is callable }}",
    "namespace": "{% set ns = namespace(n=0, s='') %}{% for i in range(10) if i is odd %}{% if i == 7 %}{% break %}{% endif %}"
                 "{% set ns.n = ns.n + i %}{% else %}{% continue %}{% endfor %}{{ ns.n }}",
    "recursive": "{% for item in [{'v': 1, 'c': [{'v': 2}]}] recursive %}{{ item.v }}@{{ loop.depth }}"
                 "{% if item.c %}({{ loop(item.c) }}){% endif %}{{ loop.cycle('a', 'b') ~ loop.changed(item) }}{% endfor %}",
    "tojson": "{{ tools|tojson(indent=2, sort_keys=true, ensure_ascii=true, separators=(',', ':')) }}{{ messages[-1]|tojson }}",
    "filters": "{{ words|map('upper')|sort(reverse=true)|unique|join(', ') }} {{ messages|selectattr('role', 'equalto', 'user')"
               "|map(attribute='content')|list }} {{ words|batch(2, 'x')|list }} {{ messages|groupby('role')|list }}"
               "{{ {'b': 1, 'A': 2}|dictsort(by='value') }}",
    "format": "{{ '%s %05.2f %x %(a)s'|format('a', f, n) if n > 9 else '%-5s|%+d' % ('a', n) }} {{ '{:>8}|{:<5.1f}{0}'.format('a', f) }}"
              "{{ f|round(2, 'ceil') }} {{ ' x '|trim|indent(2, true)|replace('x', 'y', 1) }} {{ 'a b'|title|wordcount }} {{ '<'|e|safe }}",
    "strings": "{{ messages[1].content[2:-1:2] ~ messages[1]['content'].partition('|')[2].strip().upper().center(9, '*').zfill(12) }}"
               "{{ 'abc'.rfind('c') + 'x</think>y'.split('</think>', 1)[-1]|length }}{{ 'a\\n\\u00e9b'.splitlines(true) }}",
    "numbers": "{{ 7 // 2 ** 3 % 4 - -1.5e3 / 0x1F }} {{ 1 < 2 <= 2 != 3 and not n in [1, (2,), {'k': none}] or f is float }}"
               " {{ '3.9'|int|abs + 'ff'|int(0, 16) }}",
    "blocks": "{% set x | upper %}a{{ n }}{% endset %}{% filter replace('A', 'b') %}{{ x }}{% endfilter %}{% with a=1, b=(2,3) %}"
              "{{ a }}{% endwith %}{% generation %}g{% endgeneration %}{% raw %}{{ x }}{% endraw %}{#- c -#}{%+ if true %}t{% endif +%}",
    "errors": "{% if messages[0].role != 'x' %}{{ raise_exception('No ' ~ strftime_now('%d %b %Y %-m')) }}{% endif %}",
    "objects": "{% set c = cycler('a', 'b') %}{{ c.next() }}{% set j = joiner(';') %}{{ j() }}{{ dict(a=1).items()|list }}"
               "{% for k, v in tools[0].function.items() %}{{ k }}{% endfor %}",
}


def safetensors(header, data=b""):
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS = {
    "two": safetensors({"__metadata__": {"format": "pt"}, "a": tensor("F32", [2, 2], 0, 16), "b": tensor("BF16", [3], 16, 22)},
                       bytes(range(22))),
    "empty": safetensors({}),
    "scalar": safetensors({"x": tensor("I64", [], 0, 8), "e": tensor("U8", [0, 4], 8, 8)}, b"12345678"),
    "types": safetensors({"d": tensor("F64", [1], 0, 8), "h": tensor("F16", [1], 8, 10), "i": tensor("I8", [1], 10, 11),
                          "b": tensor("BOOL", [1], 11, 12)}, bytes(12)),
}


def added(identifier, content, **options):
    return {"id": identifier, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True, **options}


def bpe(vocabulary, merges, **options):
    return {"type": "BPE", "vocab": {token: i for i, token in enumerate(vocabulary)}, "merges": merges, **options}


GPT2 = r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BYTES = [f"<0x{byte:02X}>" for byte in (0x0A, 0x20, 0x41, 0x48, 0xC3, 0xAF, 0xE6, 0x97, 0xA5)]
TOKENIZERS = {
    "byte_level": {
        "added_tokens": [added(9, "<s>"), added(10, "now", special=False, single_word=True, lstrip=True, rstrip=True)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True},
        "post_processor": {"type": "ByteLevel", "trim_offsets": True},
        "decoder": {"type": "ByteLevel"},
        "model": bpe(["H", "e", "l", "o", "Ġ", "ll", "He", "llo", "Hello"], ["l l", ["H", "e"], "ll o", "He llo"])},
    "split": {
        "added_tokens": [added(5, "<s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            {"type": "Replace", "pattern": {"Regex": "l{2,}"}, "content": "l"}, {"type": "Lowercase"},
            {"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "NFKC"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": GPT2}, "behavior": "MergedWithPrevious", "invert": True},
            {"type": "Split", "pattern": {"String": "o"}, "behavior": "Contiguous", "invert": False},
            {"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Isolated"}]},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": bpe(["<unk>", "▁", "h", "el", "o"] + BYTES, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True,
                     ignore_merges=True)},
    "metaspace": {
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
        "post_processor": None,
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
        "model": bpe(["a", "##b", "ab</w>", "▁H"], ["▁ H"], continuing_subword_prefix="##", end_of_word_suffix="</w>", dropout=None)},
    "unigram": {
        "added_tokens": [added(0, "<unk>")],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": ""},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
        "decoder": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": False,
                  "vocab": [["<unk>", 0.0], ["▁", -2.5], ["Hel", -3.0], ["lo", -3.25], ["▁Hello", -9.5], ["日本", -5.0]]}},
}

def gguf_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(value):
    """(number of the type, bytes)"""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, gguf_string(value)
    kinds = [gguf_value(item) for item in value]
    return 9, struct.pack("<IQ", kinds[0][0], len(kinds)) + b"".join(data for _, data in kinds)


def gguf(metadata, tensors, version=3):
    """tensors: name -> (number of the type, dimensions innermost first, bytes)"""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        kind, data = gguf_value(value)
        out += gguf_string(key) + struct.pack("<I", kind) + data
    offset = 0
    body = b""
    for name, (kind, dimensions, data) in tensors.items():
        out += gguf_string(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)
        body += data + bytes(-len(data) % 32)
        offset = len(body)
    return out + bytes(-len(out) % 32) + body


GGUF = {
    "blocks": gguf({"general.architecture": "llama", "general.alignment": 32},
                   {"q4_0": (2, [32, 2], bytes(range(36))), "q8_0": (8, [32], bytes(range(34))), "f16": (1, [3], bytes(6)),
                    "q4_k": (12, [256], bytes(144)), "q6_k": (14, [256], bytes(210))}),
    "metadata": gguf({"a": True, "b": 0.5, "c": ["x", ""], "d": [1, 2, 3], "tokenizer.chat_template": "{{ messages[0].content }}",
                      "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.tokens": ["<unk>", "<s>"]}, {"f32": (0, [2, 2], bytes(16))}),
    "version2": gguf({"e": [[1], [2, 3]], "tokenizer.ggml.tokens": ["<s>", "a"]}, {}, version=2),
}

def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    """One field of a protobuf message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def sentencepiece(kind, pieces, normalizer):
    """kind: 1 unigram, 2 BPE; pieces: (text, score, type)"""
    out = b"".join(field(1, field(1, text.encode()) + field(2, score) + field(3, piece)) for text, score, piece in pieces)
    return out + field(2, field(3, kind) + field(35, 1)) + field(3, normalizer)


PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)] + [(f"<0x{byte:02X}>", 0.0, 6) for byte in (0x0A, 0xC3, 0xE6)] + [
    ("▁H", -1.0, 1), ("el", -2.0, 1), ("▁Hel", -3.0, 1), ("lo", -4.0, 1), ("▁", -5.0, 1), ("H", -6.0, 1), ("e", -7.0, 1), ("l", -8.0, 1),
    ("o", -9.0, 1), ("42", -2.5, 4)]
TOKENIZER_MODELS = {
    "bpe": sentencepiece(2, PIECES, field(1, b"identity") + field(3, 1) + field(4, 0) + field(5, 1)),
    "unigram": sentencepiece(1, PIECES, field(1, b"nmt_nfkc") + field(3, 1) + field(4, 1) + field(5, 1)),
    "tiktoken": b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(
        [bytes([byte]) for byte in range(256)] + [b"ll", b"He", b"llo", b"Hello", b" n"])),
}

class StorageKey:
    """Stands for a torch storage: pickled as the persistent id that torch.save writes."""

    def __init__(self, kind, key, elements, legacy):
        self.pid = ("storage", kind, key, "cpu", elements) + ((None,) if legacy else ())


def torch_names():
    """Modules with the names that a torch pickle mentions; the pickler wants to find them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for module, names in ((torch, ["FloatStorage", "HalfStorage", "BFloat16Storage"]), (utils, ["_rebuild_tensor_v2"])):
        for name in names:
            one = type(name, (), {"__module__": module.__name__, "__qualname__": name})
            setattr(module, name, one)
        sys.modules[module.__name__] = module
    return torch, utils


def torch_pickle(tensors, legacy=False):
    """tensors: name -> (storage class, key, elements, offset, shape, strides)"""
    torch, utils = torch_names()

    class Tensor:
        def __init__(self, kind, key, elements, offset, shape, strides):
            storage = StorageKey(getattr(torch, kind), key, elements, legacy)
            self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())

        def __reduce__(self):
            return utils._rebuild_tensor_v2, self.arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.pid if isinstance(value, StorageKey) else None

    out = io.BytesIO()
    # A class is callable, as what reduces to it must be.
    Pickler(out, 2).dump(collections.OrderedDict((name, Tensor(*tensor)) for name, tensor in tensors.items()))
    return out.getvalue()


def torch_zip(tensors, storages):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        def write(name, data):
            archive.writestr(zipfile.ZipInfo("archive/" + name), data)
        write("data.pkl", torch_pickle(tensors))
        write("byteorder", "little")
        for key, data in storages.items():
            write("data/" + key, data)
        write("version", "3\n")
    return out.getvalue()


def torch_legacy(tensors, storages):
    out = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    out += pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2) + torch_pickle(tensors, True)
    out += pickle.dumps(sorted(storages), 2)
    for key in sorted(storages):
        kind, elements = next((t[0], t[2]) for t in tensors.values() if t[1] == key)
        out += struct.pack("<q", elements) + storages[key]
    return out


TORCH_TENSORS = {"a.weight": ("FloatStorage", "0", 6, 0, (2, 3), (3, 1)), "b": ("HalfStorage", "1", 4, 1, (3,), (1,)),
                 "transposed": ("FloatStorage", "0", 6, 0, (3, 2), (1, 3))}
TORCH = {
    "zip": torch_zip(TORCH_TENSORS, {"0": bytes(24), "1": bytes(8)}),
    "legacy": torch_legacy(TORCH_TENSORS, {"0": bytes(24), "1": bytes(8)}),
}
PICKLES = {
    "tensors": torch_pickle(TORCH_TENSORS),
    **{f"protocol{protocol}": pickle.dumps({"a": [1, -2.5, None, True, 2**40, -3], "b": ("x", b"y", (1,), ()), "c": {"d": [], 7: "é"}},
                                           protocol) for protocol in (2, 3, 4)},
}


def mllm_v1(tensors):
    """tensors: name -> (code of the type, bytes)"""
    size = sum(4 + len(name) + 8 + 8 + 4 for name in tensors)
    offset = 12 + size
    index = body = b""
    for name, (code, data) in tensors.items():
        index += struct.pack("<i", len(name)) + name.encode() + struct.pack("<QQi", len(data), offset + len(body), code)
        body += data
    return struct.pack("<iQ", 20012, size) + index + body


def mllm_v2(tensors):
    """tensors: name -> (code of the type, shape, bytes)"""
    out = struct.pack("<ii512sIQ", 0x519A, 2, b"", len(tensors), 532)
    offset = 532 + 352 * len(tensors)
    body = b""
    for i, (name, (code, shape, data)) in enumerate(tensors.items()):
        dimensions = list(shape) + [0] * (16 - len(shape))
        out += struct.pack("<IIQQQ16i256s", i, code, len(data), offset + len(body), len(shape), *dimensions, name.encode())
        body += data
    return out + body


MLLM = {
    "v1": mllm_v1({"a.weight": (0, bytes(16)), "q4_0": (2, bytes(18)), "q8_0": (8, bytes(34)), "q4_k": (12, bytes(144)), "i8": (16, bytes(3))}),
    "v2": mllm_v2({"a.weight": (0, (2, 2), bytes(16)), "q4_0": (2, (1, 32), bytes(18)), "bf16": (128, (3,), bytes(6))}),
}

def graph_json():
    """A decoder with one layer and every operator, tensors spelled as tests/fuzz/graph_fuzz.cc reads them."""
    nodes = []
    count = [2]

    def node(op, name, inputs, outputs=1, layer=None, **attributes):
        ids = list(range(count[0], count[0] + outputs))
        count[0] += outputs
        entry = {"op": op, "name": name, "inputs": inputs, "outputs": ids, **attributes}
        if layer is not None:
            entry["layer"] = layer
        nodes.append(entry)
        return ids[0] if outputs == 1 else ids

    def groups(n, k, groups):
        return {"kind": "group_codes", "bits": 4, "signed": False, "k": k, "codes": f"U8 {n} {k // 2}",
                "scales": f"F16 {n} {groups}", "zero_points": f"U8 {n} {(groups + 1) // 2}"}

    x = node("Embedding", "embed", [0], table="BF16 9 8", scale=2.0)
    angles = node("RotaryAngles", "angles", [0], inverse_frequencies=[1.0, 0.5], attention_factor=1.5,
                  original_context=16, extended_inverse_frequencies=[0.5, 0.25])
    y = node("RmsNorm", "norm", [x], layer=0, weight="F32 8", epsilon=1e-6, heads=1)
    q = node("Linear", "q", [y], layer=0, weight={"kind": "float", "values": "F16 8 8"}, bias="F32 8")
    k = node("Linear", "k", [y], layer=0, weight=groups(4, 8, 2))
    v = node("Linear", "v", [y], layer=0, weight={"kind": "float", "values": "F64 4 8"})
    q = node("RotaryEmbedding", "q_rotary", [q, angles], layer=0, heads=2, head_dim=4)
    k = node("RotaryEmbedding", "k_rotary", [k, angles], layer=0, heads=1, head_dim=4)
    y = node("GroupQueryAttention", "attn", [q, k, v], layer=0, heads=2, kv_heads=1, head_dim=4, scale=0.5, window=3,
             softcap=30.0)
    codes = node("Quantize", "y.quantize", [y], layer=0, scale=0.1)
    channel = {"kind": "channel_codes", "codes": "I8 8 8", "scales": "F32 1"}
    sums = node("Linear", "o", [codes], layer=0, weight=channel)
    again = node("Requantize", "o.requantize", [sums], layer=0, dtype="I8", shifts=[3])
    y = node("Dequantize", "o.dequantize", [again], layer=0, bias="F32 8")
    codes, scales = node("DynamicQuantize", "y.codes", [y], 2, layer=0)
    sums = node("Linear", "up", [codes], layer=0, weight=channel)
    y = node("Dequantize", "up.dequantize", [sums, scales], layer=0)
    y = node("Hadamard", "hadamard", [y], layer=0, block=4, factor="F32 2 2")
    y = node("ShadowLinear", "shadow", [y], layer=0, scale=0.1, channels="I32 3", weight="F16 3 8")
    y = node("Mul", "mul", [node("SiLU", "silu", [y], layer=0), node("GELU", "gelu", [y], layer=0)], layer=0)
    x = node("Add", "add", [x, y], layer=0)
    x = node("SelectRows", "select", [x, 1])
    x = node("Softcap", "cap", [x], cap=30.0)
    return {"row_spaces": ["tokens", "selected"],
            "inputs": [{"name": "input_ids", "dtype": "I32", "rows": "tokens", "width": 1},
                       {"name": "selected_rows", "dtype": "I32", "rows": "selected", "width": 1}],
            "nodes": nodes, "outputs": [x]}


CORPUS = {
    "graph": {"decoder.json": json.dumps(graph_json()).encode()},
    "template": {name + ".jinja": text.encode() for name, text in TEMPLATES.items()},
    "tokenizer_json": {name + ".json": json.dumps({"version": "1.0", **value}, ensure_ascii=False, separators=(",", ":")).encode()
                       + b"\0Hello now 12 <s>\xff" for name, value in TOKENIZERS.items()},
    "tokenizer_model": {name + ".model": data for name, data in TOKENIZER_MODELS.items()},
    "gguf": {name + ".gguf": data for name, data in GGUF.items()},
    "torch": {name + ".pth": data for name, data in TORCH.items()},
    "pickle": {name + ".pkl": data for name, data in PICKLES.items()},
    "mllm": {name + ".mllm": data for name, data in MLLM.items()},
    "safetensors": {name + ".safetensors": data for name, data in SAFETENSORS.items()},
}

if __name__ == "__main__":
    for name in sys.argv[1:] or CORPUS:
        folder = HERE / "corpus" / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for file, data in CORPUS[name].items():
            (folder / file).write_bytes(data)
