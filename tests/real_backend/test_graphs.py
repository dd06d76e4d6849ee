"""CUDA graphs of decodes, on a stand-in: what is captured is run again on the inputs then in its memory."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from servecast.configs.huggingface import model_from_config
from servecast.real_backend.batch import Row, make_batch
from servecast.real_backend.graphs import DecodeGraphs
from servecast.real_backend.model import Model
from servecast.real_backend.operators import TritonOperators

CONFIG = {
    "model_type": "mistral", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64, "vocab_size": 200, "sliding_window": 40,
    "max_position_embeddings": 512, "torch_dtype": "float32",
}  # fmt: skip


@pytest.fixture
def captures(monkeypatch):
    """Sizes in the order of their capture."""
    sizes, current, forward = [], [], Model.next_tokens

    class Graph:
        def pool(self):
            return "the first one's"

        def replay(self):
            self.out.copy_(forward(self.model, self.batch))

    def next_tokens(model, batch):
        out = forward(model, batch)
        if current:
            current[0].model, current[0].batch, current[0].out = model, batch, out
            sizes.append(len(batch.ends))
        return out

    @contextmanager
    def graph(made, pool):
        assert pool == ("the first one's" if sizes else None)
        current.append(made)
        yield
        current.clear()

    @contextmanager
    def stream(_):
        yield

    side = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "CUDAGraph": Graph, "graph": graph, "stream": stream, "Stream": lambda: side, "current_stream": lambda: side,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(Model, "next_tokens", next_tokens)
    return sizes


def test_a_replay_answers_for_the_requests_at_hand(lab, captures):
    if lab.real:
        pytest.skip("test_real_sizes has the graphs themselves")
    model = Model(model_from_config(CONFIG, "tiny"), device="cpu", num_blocks=60, block_size=8,
                  operators=TritonOperators())  # fmt: skip
    model.cache.normal_(generator=lab.generator)
    graphs = DecodeGraphs(model, (1, 2, 4), table_blocks=16)
    assert captures == [4, 2, 1]
    assert graphs.fits(4) and not graphs.fits(5)
    model.cache.normal_(generator=lab.generator)
    for count in (1, 3, 4, 2, 3):
        lengths = lab.whole(110, count, low=1).tolist()
        places = iter(torch.randperm(60).tolist())
        rows = [Row([int(lab.whole(200, 1))], n, [next(places) for _ in range(n // 8 + 1)]) for n in lengths]
        before = model.cache.clone()
        batch = graphs.prepare(rows)
        tokens = graphs.replay(batch)[:count]
        replayed = model.cache.clone()
        model.cache.copy_(before)
        expected = model.operators.sample(model.forward(make_batch((), rows, model.shape())))
        assert tokens.tolist() == expected.tolist()
        assert torch.equal(replayed, model.cache)  # also where the graph is larger than the batch
