"""Train the demo model: a 5.8 M parameter Qwen2 on synthetic stories and questions, in bf16 on the CPU.

    python tools/demo/train.py TRAINED MINUTES [TEXT...]

Writes TRAINED/tokenizer.json, ckpt.pt and train.json, which export.py reads. The first nine tenths of each TEXT are
mixed in (an eighth of the rows); the rest is left for evaluation.
"""

import json
import math
import os
import sys
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import bpe
from stories import Writer

OUT = sys.argv[1]
MINUTES = float(sys.argv[2])
REAL = sys.argv[3:]
torch.manual_seed(0)
torch.set_num_threads(2)
C = dict(vocab=4096, hidden=256, layers=6, heads=4, kv=2, inter=768, ctx=512, theta=10000.0, eps=1e-6)
w = Writer(1234)
docs = [w.document() for _ in range(12000)]
real = []
for f in REAL:
    t = open(f, encoding="utf-8", errors="ignore").read()
    n = int(len(t) * 0.9)
    real.append(t[:n])
vocab, merges = bpe.train(docs[:6000] + real, C["vocab"])
enc = bpe.Encoder(vocab, merges)
os.makedirs(OUT, exist_ok=True)
json.dump(
    bpe.tokenizer_json(vocab, merges),
    open(f"{OUT}/tokenizer.json", "w"),
    ensure_ascii=False,
    indent=1,
)
print(
    "vocab",
    len(vocab),
    "chars/token",
    sum(map(len, docs[:500])) / sum(len(enc(d)) for d in docs[:500]),
    flush=True,
)


class Block(nn.Module):
    def __init__(s):
        super().__init__()
        D, H, K, I = C["hidden"], C["heads"], C["kv"], C["inter"]
        s.hd = D // H
        s.n1 = nn.Parameter(torch.ones(D))
        s.n2 = nn.Parameter(torch.ones(D))
        s.q = nn.Linear(D, D)
        s.k = nn.Linear(D, K * s.hd)
        s.v = nn.Linear(D, K * s.hd)
        s.o = nn.Linear(D, D, bias=False)
        s.g = nn.Linear(D, I, bias=False)
        s.u = nn.Linear(D, I, bias=False)
        s.d = nn.Linear(I, D, bias=False)

    def forward(s, x, cos, sin):
        B, T, D = x.shape
        h = rms(x, s.n1)
        q = rope(s.q(h).view(B, T, -1, s.hd).transpose(1, 2), cos, sin)
        k = rope(s.k(h).view(B, T, -1, s.hd).transpose(1, 2), cos, sin)
        v = s.v(h).view(B, T, -1, s.hd).transpose(1, 2)
        r = q.shape[1] // k.shape[1]
        k = k.repeat_interleave(r, 1)
        v = v.repeat_interleave(r, 1)
        a = (q @ k.transpose(-1, -2)).float() / math.sqrt(s.hd) + mask[:T, :T]
        y = (a.softmax(-1).to(v.dtype) @ v).transpose(1, 2).reshape(B, T, D)
        x = x + s.o(y)
        h = rms(x, s.n2)
        return x + s.d(F.silu(s.g(h)) * s.u(h))


def rms(x, w):
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + C["eps"]) * w).to(x.dtype)


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class LM(nn.Module):
    def __init__(s):
        super().__init__()
        s.e = nn.Embedding(C["vocab"], C["hidden"])
        s.b = nn.ModuleList(Block() for _ in range(C["layers"]))
        s.n = nn.Parameter(torch.ones(C["hidden"]))
        for m in s.modules():
            if isinstance(m, (nn.Linear, nn.Embedding)):
                nn.init.normal_(m.weight, std=0.02)
            if isinstance(m, nn.Linear) and m.bias is not None:
                nn.init.zeros_(m.bias)
        for b in s.b:
            for l in (b.o, b.d):
                nn.init.normal_(l.weight, std=0.02 / math.sqrt(2 * C["layers"]))

    def forward(s, t):
        T = t.shape[1]
        x = s.e(t)
        for b in s.b:
            x = b(x, COS[:T].to(x.dtype), SIN[:T].to(x.dtype))
        return F.linear(rms(x, s.n), s.e.weight)


hd = C["hidden"] // C["heads"]
f = torch.outer(torch.arange(C["ctx"]).float(), C["theta"] ** (-torch.arange(0, hd, 2).float() / hd))
f = torch.cat((f, f), -1)
COS, SIN = f.cos(), f.sin()
mask = torch.full((C["ctx"], C["ctx"]), float("-inf")).triu(1)
m = LM()
print("params", sum(p.numel() for p in m.parameters()), flush=True)
dec = [p for p in m.parameters() if p.dim() > 1]
nod = [p for p in m.parameters() if p.dim() < 2]
opt = torch.optim.AdamW(
    [dict(params=dec, weight_decay=0.1), dict(params=nod, weight_decay=0)],
    lr=2e-3,
    betas=(0.9, 0.95),
)
realtok = [np.array(enc(t), np.int32) for t in real]
rng = np.random.default_rng(0)
w = Writer(99)


def batch(B, T):
    rows = []
    for _ in range(B):
        if realtok and rng.random() < 0.12:
            t = realtok[rng.integers(len(realtok))]
            o = rng.integers(len(t) - T - 1)
            rows.append(t[o : o + T + 1])
        else:
            r = []
            while len(r) < T + 1:
                r += enc(w.document())
            rows.append(np.array(r[: T + 1]))
    return torch.from_numpy(np.stack(rows).astype(np.int64))


t0 = time.time()
step = 0
while True:
    el = (time.time() - t0) / 60 / MINUTES
    if el >= 1:
        break
    lr = 2e-3 * min(1, (step + 1) / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * el)))
    for g in opt.param_groups:
        g["lr"] = lr
    b = batch(24, 320)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lg = m(b[:, :-1])
    loss = F.cross_entropy(lg.float().reshape(-1, C["vocab"]), b[:, 1:].reshape(-1))
    opt.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(m.parameters(), 1.0)
    opt.step()
    step += 1
    if step % 20 == 0:
        print(
            step,
            f"{loss.item():.4f} lr {lr:.2e} {(time.time()-t0)/60:.1f} min {step*24*320/(time.time()-t0):.0f} tok/s",
            flush=True,
        )
    if step % 300 == 0:
        torch.save(m.state_dict(), f"{OUT}/ckpt.pt")
torch.save(m.state_dict(), f"{OUT}/ckpt.pt")
json.dump(C, open(f"{OUT}/train.json", "w"))
print("done", step, flush=True)
