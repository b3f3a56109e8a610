"""What llama.cpp says of a GGUF file, as JSON on standard output.

    python llama_cpp_peer.py FILE.gguf IDS.json [--quantize TYPE OUTPUT.gguf]     (needs llama-cpp-python)

IDS.json: {"text": ids read at once, "prompt": ids that are continued greedily, "sentence": text to be split}
"split": the sentence's ids, "top": the likeliest token after each of the text's, "greedy": 32 ids and their text. With --quantize the file is first quantized by llama.cpp to TYPE
("q4_k_m", "q8_0", …), and the answers are those of OUTPUT.gguf.
"""

import ctypes
import json
import sys

import llama_cpp
import numpy as np

path, ids = sys.argv[1], json.load(open(sys.argv[2]))
if "--quantize" in sys.argv:
    kind, output = sys.argv[4], sys.argv[5]
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + kind.upper())
    params.nthread = 2
    if llama_cpp.llama_model_quantize(path.encode(), output.encode(), ctypes.byref(params)) != 0:
        sys.exit("llama.cpp could not quantize")
    path = output

model = llama_cpp.Llama(path, n_ctx=512, logits_all=True, verbose=False, n_threads=2, n_gpu_layers=0)
model.eval(ids["text"])
top = np.asarray(model.scores[:len(ids["text"])]).argmax(-1).tolist()
model.reset()
greedy = []
for token in model.generate(ids["prompt"], temp=0.0, top_k=1, repeat_penalty=1.0):
    greedy.append(int(token))
    if len(greedy) == 32 or token == model.token_eos():
        break
print(json.dumps({
    "version": llama_cpp.__version__,
    "split": model.tokenize(ids["sentence"].encode(), add_bos=False, special=False),
    "chat": model.metadata.get("tokenizer.chat_template", ""),
    "top": top,
    "greedy": {"ids": greedy, "text": model.detokenize(greedy).decode()},
}))
