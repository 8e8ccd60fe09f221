"""How fast other projects' loaders give batches of the same tokens. JSON in, tokens for each CPU second out.

Each gives batches of `rows` sequences of T inputs and T targets in int64, shuffled, in this process and on one
thread, until `seconds` of CPU time are spent.
"""

import json
import resource
import sys
from collections import deque

import numpy as np
import pyarrow.parquet as pq
import torch

torch.set_num_threads(1)


def cpu():
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime


def speed(batches, seconds):
    """Tokens (inputs) per CPU second; the first batch is not counted."""
    found = iter(batches)
    next(found)
    start, tokens = cpu(), 0
    for x, _ in found:
        tokens += x.numel()
        if cpu() - start > seconds:
            break
    return tokens / (cpu() - start)


def nanogpt(flat, seq_len, rows):
    """nanoGPT's get_batch (train.py): random places of a mapped file."""
    while True:
        data = np.memmap(flat, dtype=np.uint16, mode="r")
        ix = torch.randint(len(data) - seq_len, (rows,))
        x = torch.stack([torch.from_numpy(data[i : i + seq_len].astype(np.int64)) for i in ix])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + seq_len].astype(np.int64)) for i in ix])
        yield x, y


def nanochat(shards, seq_len, rows):
    """nanochat's loader without its tokenizer (nanochat/dataloader.py at the time of d32): row groups to a deque."""
    buffer = deque()
    for shard in shards:
        file = pq.ParquetFile(shard)
        for group in range(file.num_row_groups):
            for ids in file.read_row_group(group, columns=["input_ids"])["input_ids"].to_pylist():
                buffer.extend(ids)
                while len(buffer) > rows * seq_len:
                    tokens = [buffer.popleft() for _ in range(rows * seq_len + 1)]
                    scratch = torch.tensor(tokens, dtype=torch.int64)
                    yield scratch[:-1].view(rows, seq_len), scratch[1:].view(rows, seq_len)


def datasets_streaming(shards, seq_len, rows):
    """Hugging Face datasets: streamed Parquet, a shuffle buffer, run_clm's group_texts, torch's DataLoader."""
    import datasets

    datasets.disable_progress_bars()
    stream = datasets.load_dataset("parquet", data_files=shards, split="train", streaming=True)

    def group(batch):
        joined = np.concatenate([np.asarray(ids, np.int64) for ids in batch["input_ids"]])
        total = (len(joined) - 1) // seq_len * seq_len
        return {"x": joined[:total].reshape(-1, seq_len), "y": joined[1 : total + 1].reshape(-1, seq_len)}

    stream = stream.select_columns(["input_ids"]).map(group, batched=True, remove_columns=["input_ids"])
    stream = stream.shuffle(seed=0, buffer_size=1000).with_format("torch")
    for batch in torch.utils.data.DataLoader(stream, batch_size=rows):
        yield batch["x"], batch["y"]


def torch_loader(flat, seq_len, rows):
    """torch's DataLoader over a mapped file: its random sampler and its collation, no worker processes."""

    class Sequences(torch.utils.data.Dataset):
        data = np.memmap(flat, dtype=np.uint16, mode="r")

        def __len__(self):
            return (len(self.data) - 1) // seq_len

        def __getitem__(self, i):
            ids = torch.from_numpy(self.data[i * seq_len : (i + 1) * seq_len + 1].astype(np.int64))
            return ids[:-1], ids[1:]

    yield from torch.utils.data.DataLoader(Sequences(), batch_size=rows, shuffle=True)


def main():
    given = json.load(sys.stdin)
    flat, shards, shape = given["flat"], given["shards"], (given["seq_len"], given["rows"])
    loaders = {
        "nanoGPT get_batch (flat file)": lambda: nanogpt(flat, *shape),
        "torch DataLoader (flat file)": lambda: torch_loader(flat, *shape),
        "datasets, streamed (same shards)": lambda: datasets_streaming(shards, *shape),
        "nanochat's token buffer (same shards)": lambda: nanochat(shards, *shape),
    }
    found = {name: speed(make(), given["seconds"]) for name, make in loaders.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
