"""Write the trained demo model as a Hugging Face Qwen2 folder, with reference results to test against.

    python tools/demo/export.py OUT TRAINED [TEXT]

TRAINED is the folder that train.py filled. The last tenth of TEXT, a file that train.py saw the rest of, becomes
eval_tinystories.txt. Reference results: float32 arithmetic on the stored bf16 weights, no KV cache.
"""

import json
import os
import shutil
import struct
import sys

import numpy as np
import torch
import torch.nn.functional as F

import bpe
from stories import Writer

END_OF_TEXT, IM_END = 4093, 4095  # ids; <|im_start|> lies between
PROJECTIONS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "g": "mlp.gate_proj",
    "u": "mlp.up_proj",
    "d": "mlp.down_proj",
}
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def hugging_face_names(layers):
    """Name in train.py's state dict -> name in the checkpoint."""
    names = {"e.weight": "model.embed_tokens.weight", "n": "model.norm.weight"}
    for i in range(layers):
        ours, theirs = f"b.{i}.", f"model.layers.{i}."
        names[ours + "n1"] = theirs + "input_layernorm.weight"
        names[ours + "n2"] = theirs + "post_attention_layernorm.weight"
        for short, long in PROJECTIONS.items():
            names[f"{ours}{short}.weight"] = f"{theirs}{long}.weight"
            if short in "qkv":
                names[f"{ours}{short}.bias"] = f"{theirs}{long}.bias"
    return names


def bf16(tensor):
    """Bytes of the tensor rounded to nearest even, as 16-bit words."""
    return tensor.to(torch.bfloat16).view(torch.int16).numpy().astype("<i2").tobytes()


def save_safetensors(path, tensors):
    """tensors: name -> (dtype, shape, bytes)."""
    head, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


def save_json(path, value, **options):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, **options)


def write_folder(out, trained, config, weights):
    save_safetensors(
        f"{out}/model.safetensors", {name: ("BF16", v.shape, bf16(v)) for name, v in weights.items()}
    )
    save_json(
        f"{out}/config.json",
        {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": config["hidden"],
            "intermediate_size": config["inter"],
            "num_hidden_layers": config["layers"],
            "num_attention_heads": config["heads"],
            "num_key_value_heads": config["kv"],
            "vocab_size": config["vocab"],
            "max_position_embeddings": config["ctx"],
            "rms_norm_eps": config["eps"],
            "rope_theta": config["theta"],
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "bos_token_id": END_OF_TEXT,
            "eos_token_id": IM_END,
            "torch_dtype": "bfloat16",
            "use_sliding_window": False,
            "initializer_range": 0.02,
        },
        indent=2,
    )
    save_json(
        f"{out}/generation_config.json",
        {
            "bos_token_id": END_OF_TEXT,
            "eos_token_id": [IM_END, END_OF_TEXT],
            "pad_token_id": END_OF_TEXT,
            "do_sample": False,
        },
        indent=2,
    )
    save_json(
        f"{out}/tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": TEMPLATE,
            "model_max_length": config["ctx"],
        },
        indent=2,
    )
    shutil.copyfile(f"{trained}/tokenizer.json", f"{out}/tokenizer.json")


class Reference:
    """The model's forward pass, one sequence at a time."""

    def __init__(self, config, weights):
        self.config = config
        self.weights = {name: v.to(torch.bfloat16).float() for name, v in weights.items()}

    def rms(self, x, name):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["eps"])
        return x * scale * self.weights[name + ".weight"]

    def linear(self, x, name):
        return F.linear(x, self.weights[name + ".weight"], self.weights.get(name + ".bias"))

    def logits(self, ids):
        """[tokens] -> [tokens, vocabulary]"""
        config, tokens = self.config, len(ids)
        heads, kv_heads = config["heads"], config["kv"]
        head_dim = config["hidden"] // heads
        frequencies = config["theta"] ** (-torch.arange(0, head_dim, 2).float() / head_dim)
        angles = torch.outer(torch.arange(tokens).float(), frequencies)
        angles = torch.cat((angles, angles), -1)
        cos, sin = angles.cos(), angles.sin()
        mask = torch.full((tokens, tokens), float("-inf")).triu(1)

        def rope(x):
            return x * cos + torch.cat((-x[..., head_dim // 2 :], x[..., : head_dim // 2]), -1) * sin

        x = self.weights["model.embed_tokens.weight"][ids]
        for i in range(config["layers"]):
            block = f"model.layers.{i}."
            h = self.rms(x, block + "input_layernorm")
            q, k, v = (
                self.linear(h, f"{block}self_attn.{n}_proj").view(tokens, -1, head_dim).transpose(0, 1)
                for n in "qkv"
            )
            q, k = rope(q), rope(k)
            k, v = (t.repeat_interleave(heads // kv_heads, 0) for t in (k, v))
            scores = (q @ k.transpose(1, 2)) / head_dim**0.5 + mask
            mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(tokens, config["hidden"])
            x = x + self.linear(mixed, block + "self_attn.o_proj")
            h = self.rms(x, block + "post_attention_layernorm")
            gate, up = self.linear(h, block + "mlp.gate_proj"), self.linear(h, block + "mlp.up_proj")
            x = x + self.linear(F.silu(gate) * up, block + "mlp.down_proj")
        return F.linear(self.rms(x, "model.norm"), self.weights["model.embed_tokens.weight"])

    def greedy(self, ids, limit):
        """The continuation alone, with the token that ended it."""
        out = list(ids)
        for _ in range(limit):
            out.append(int(self.logits(torch.tensor(out))[-1].argmax()))
            if out[-1] in (END_OF_TEXT, IM_END):
                break
        return out[len(ids) :]

    def perplexity(self, ids, window=512):
        """(perplexity, tokens scored): windows without overlap; the first token of one is not scored."""
        total, count = 0.0, 0
        for start in range(0, len(ids) - window, window):
            w = torch.tensor(ids[start : start + window])
            total += F.cross_entropy(self.logits(w)[:-1], w[1:], reduction="sum").item()
            count += window - 1
        return float(np.exp(total / count)), count


def load_tokenizer(path):
    """(text -> ids, ids -> text)"""
    with open(path, encoding="utf-8") as file:
        model = json.load(file)["model"]
    vocab = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    byte_of = {character: byte for byte, character in bpe.B2U.items()}

    def token_text(i):
        if i >= len(vocab):
            return bpe.SPECIAL[i - len(vocab)]
        return bytes(byte_of[c] for c in vocab[i]).decode("utf-8", "replace")

    encode = bpe.Encoder(vocab, [merge.split(" ") for merge in model["merges"]])
    return encode, lambda ids: "".join(map(token_text, ids))


def chat(question):
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )


def ask_questions(reference, encode, decode, count=200):
    """Questions with one right answer, and what the reference says to them."""
    writer, asked = Writer(555000), []
    while len(asked) < count:
        question, answer = writer.question()
        if "story" in question:
            continue
        out = reference.greedy(encode(chat(question)), 60)
        said = decode([i for i in out if i not in (END_OF_TEXT, IM_END)])
        asked.append({"question": question, "answer": answer, "reference_output": said})
    return asked


def write_reference(out, reference, real_text):
    encode, decode = load_tokenizer(f"{out}/tokenizer.json")
    results = {"prompt": "Once upon a time, there was a small fox named Lily."}
    ids = encode(results["prompt"])
    logits = reference.logits(torch.tensor(ids))
    save_safetensors(
        f"{out}/reference_logits.safetensors",
        {
            "logits": ("F32", logits.shape, logits.numpy().astype("<f4").tobytes()),
            "ids": ("I32", (len(ids),), np.array(ids, "<i4").tobytes()),
        },
    )
    results["prompt_ids"], results["greedy_ids"] = ids, reference.greedy(ids, 96)
    results["greedy_text"] = decode(results["greedy_ids"])

    writer = Writer(777000)
    stories = "".join(writer.document() for _ in range(400))
    with open(f"{out}/eval_stories.txt", "w", encoding="utf-8") as file:
        file.write(stories)
    results["ppl_stories"] = reference.perplexity(encode(stories))
    if real_text:
        with open(real_text, encoding="utf-8", errors="ignore") as file:
            held = file.read()
        held = held[int(len(held) * 0.9) :]
        with open(f"{out}/eval_tinystories.txt", "w", encoding="utf-8") as file:
            file.write(held)
        results["ppl_tinystories"] = reference.perplexity(encode(held))

    asked = ask_questions(reference, encode, decode)
    save_json(f"{out}/eval_questions.json", asked, indent=1)
    right = sum(q["reference_output"] == q["answer"] for q in asked)
    results["questions_right"] = right / len(asked)

    results["seed_prompt"] = "Give me a short introduction to large language model."
    results["seed_answer"] = decode(reference.greedy(encode(chat(results["seed_prompt"])), 90))
    results["chat_prompt"] = "Tell me a story about a brave rabbit named Zoe."
    results["chat_answer"] = decode(reference.greedy(encode(chat(results["chat_prompt"])), 220))
    save_json(f"{out}/reference.json", results, indent=1, ensure_ascii=False)
    return results


def main(out, trained, real_text=None):
    torch.set_num_threads(2)
    os.makedirs(out, exist_ok=True)
    with open(f"{trained}/train.json", encoding="utf-8") as file:
        config = json.load(file)
    state = torch.load(f"{trained}/ckpt.pt", map_location="cpu")
    names = hugging_face_names(config["layers"])
    assert set(names) == set(state), set(names) ^ set(state)
    weights = {names[name]: value for name, value in state.items()}
    write_folder(out, trained, config, weights)
    with torch.no_grad():
        results = write_reference(out, Reference(config, weights), real_text)
    shown = {key: value for key, value in results.items() if not key.endswith("_ids")}
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
