"""What ONNX Runtime, and ONNX Runtime GenAI, make of a folder that was built here.

    python onnx_runtime_peer.py logits                                  (needs onnxruntime and numpy)
    python onnx_runtime_peer.py greedy FOLDER PROMPT.txt COUNT          (needs onnxruntime_genai)
    python onnx_runtime_peer.py continue FOLDER IDS.json COUNT          (needs onnxruntime_genai)

logits: each line of standard input is a FOLDER whose ids.json is {"ids": [...], "first": n}. The first n ids are read at
once, the others one by one through the cache; FOLDER/logits.bin receives the logits of all, float32 [ids, vocabulary],
and then FOLDER/done what went wrong, usually nothing. greedy: JSON on standard output, {"version",
"prompt": ids, "ids": what follows, "text"}. continue: the same of ids, without text.
"""

import json
import sys
from pathlib import Path


def logits_of(folder):
    import numpy as np
    import onnxruntime as ort

    asked = json.load(open(folder / "ids.json"))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    past = {
        i.name: np.zeros([1, i.shape[1], 0, i.shape[3]], types[i.type])
        for i in session.get_inputs()
        if i.name.startswith("past_key_values.")
    }
    names = [o.name for o in session.get_outputs()]
    ids, rows, done = asked["ids"], [], 0
    while done < len(ids):
        count = asked["first"] if done == 0 else 1
        feeds = {
            "input_ids": np.array([ids[done:done + count]], np.int64),
            "attention_mask": np.ones([1, done + count], np.int64),
            "position_ids": np.arange(done, done + count, dtype=np.int64)[None],
            **past,
        }
        wanted = {i.name for i in session.get_inputs()}
        results = dict(zip(names, session.run(names, {k: v for k, v in feeds.items() if k in wanted})))
        past = {name.replace("present", "past_key_values"): results[name] for name in names if name != "logits"}
        rows.append(results["logits"][0].astype(np.float32))
        done += count
    np.concatenate(rows).tofile(folder / "logits.bin")


def logits():
    for line in sys.stdin:
        folder, error = Path(line.rstrip("\n")), ""
        try:
            logits_of(folder)
        except Exception as exception:
            error = str(exception)
        (folder / "done.tmp").write_text(error)
        (folder / "done.tmp").rename(folder / "done")


def generate(model, prompt, count):
    import numpy as np
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=len(prompt) + count)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(prompt, np.int32))
    ids = []
    while not generator.is_done() and len(ids) < count:
        generator.generate_next_token()
        ids.append(int(generator.get_next_tokens()[0]))
    return {"version": og.__version__, "prompt": [int(i) for i in prompt], "ids": ids}


def greedy(folder, prompt_file, count):
    import onnxruntime_genai as og

    model = og.Model(folder)
    tokenizer = og.Tokenizer(model)
    answer = generate(model, tokenizer.encode(Path(prompt_file).read_text()), int(count))
    print(json.dumps({**answer, "text": tokenizer.decode(answer["ids"])}))


def continue_ids(folder, ids_file, count):
    import onnxruntime_genai as og

    print(json.dumps(generate(og.Model(folder), json.load(open(ids_file)), int(count))))


{"logits": logits, "greedy": greedy, "continue": continue_ids}[sys.argv[1]](*sys.argv[2:])
