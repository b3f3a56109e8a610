"""Byte-level BPE: train on text, encode, and write a Hugging Face tokenizer.json (GPT-2/Qwen2 style)."""

import collections

import regex

PAT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_alphabet():
    bs = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    cs = bs[:]
    n = 0
    for b in range(256):
        if b not in bs:
            bs.append(b)
            cs.append(256 + n)
            n += 1
    return dict(zip(bs, map(chr, cs)))


B2U = byte_alphabet()


def train(texts, vocab_size):
    pat = regex.compile(PAT)
    counts = collections.Counter()
    for t in texts:
        for part in regex.split("|".join(regex.escape(s) for s in SPECIAL), t):
            counts.update(m.group() for m in pat.finditer(part))
    words = [[B2U[b] for b in w.encode()] for w in counts]
    freq = list(counts.values())
    vocab = [B2U[b] for b in sorted(B2U)]
    pairs = collections.Counter()
    where = collections.defaultdict(set)
    for i, w in enumerate(words):
        for p in zip(w, w[1:]):
            pairs[p] += freq[i]
            where[p].add(i)
    merges = []
    while len(vocab) + len(SPECIAL) < vocab_size:
        best = max(pairs.items(), key=lambda kv: (kv[1], kv[0]))[0]
        merges.append(best)
        new = best[0] + best[1]
        vocab.append(new)
        for i in list(where[best]):
            w = words[i]
            f = freq[i]
            for p in zip(w, w[1:]):
                pairs[p] -= f
            out = []
            j = 0
            while j < len(w):
                if j + 1 < len(w) and (w[j], w[j + 1]) == best:
                    out.append(new)
                    j += 2
                else:
                    out.append(w[j])
                    j += 1
            words[i] = out
            for p in zip(out, out[1:]):
                pairs[p] += f
                where[p].add(i)
        pairs.pop(best, None)
        where.pop(best, None)
    return vocab, merges


class Encoder:
    def __init__(self, vocab, merges):
        self.ids = {t: i for i, t in enumerate(vocab)}
        self.rank = {tuple(m): i for i, m in enumerate(merges)}
        self.special = {s: len(vocab) + i for i, s in enumerate(SPECIAL)}
        self.cache = {}
        self.pat = regex.compile(PAT)
        self.split = regex.compile("(" + "|".join(regex.escape(s) for s in SPECIAL) + ")")

    def word(self, w):
        if w in self.cache:
            return self.cache[w]
        p = [B2U[b] for b in w.encode()]
        while len(p) > 1:
            r, j = min((self.rank.get((p[k], p[k + 1]), 1 << 30), k) for k in range(len(p) - 1))
            if r == 1 << 30:
                break
            p[j : j + 2] = [p[j] + p[j + 1]]
        self.cache[w] = out = [self.ids[t] for t in p]
        return out

    def __call__(self, text):
        out = []
        for part in self.split.split(text):
            if part in self.special:
                out.append(self.special[part])
            else:
                for m in self.pat.finditer(part):
                    out += self.word(m.group())
        return out


def tokenizer_json(vocab, merges):
    n = len(vocab)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": n + i,
                "content": s,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, s in enumerate(SPECIAL)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": PAT},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": False,
                    "use_regex": False,
                },
            ],
        },
        "post_processor": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {t: i for i, t in enumerate(vocab)},
            "merges": [f"{x} {y}" for x, y in merges],
        },
    }
