"""CUDA graphs of decodes, on a stand-in: what is captured is run again on the inputs then in its memory."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from servecast.configs.huggingface import model_from_config
from servecast.configs.plan import plan_from
from servecast.real_backend.batch import Row, make_batch
from servecast.real_backend.engine import RealEngine
from servecast.real_backend.graphs import DecodeGraphs
from servecast.real_backend.model import Model
from servecast.real_backend.operators import TritonOperators
from servecast.real_backend.serve import make_prompts
from servecast.sim.run import run
from servecast.traces.table import RequestTable

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


def test_an_engine_with_graphs_says_what_one_without_does(lab, captures, tmp_path):
    """Prompts run eagerly, decodes alone by replays; the requests cannot tell."""
    if lab.real:
        pytest.skip("test_real_sizes has the graphs themselves")
    path = tmp_path / "tiny.json"
    config = {**CONFIG, "num_hidden_layers": 1, "sliding_window": None}
    path.write_text(json.dumps(config))
    pool = {"name": "p", "hardware": "h100", "max_model_len": 128, "num_gpu_blocks_override": 20, "block_size": 8,
            "max_num_seqs": 4, "max_num_batched_tokens": 64}  # fmt: skip
    plan = plan_from({"model": str(path), "engine": "vllm-0.19", "pools": [pool]})
    table = RequestTable(np.zeros(4), np.array([9, 20, 17, 3]), np.array([4, 2, 5, 3]))
    prompts = make_prompts(table, 200, 0)
    said = []
    for sizes in ((), (2, 4)):
        model = Model(model_from_config(config, "tiny"), device="cpu", num_blocks=20, block_size=8,
                      operators=TritonOperators())  # fmt: skip
        graphs = DecodeGraphs(model, sizes, table_blocks=16) if sizes else None
        answers = {}
        engine = partial(
            RealEngine, model=model, prompt=lambda r: prompts[r.row].tolist(), graphs=graphs,
            deliver=lambda r, tokens, answers=answers: answers.update({r.row: list(tokens)}),
        )  # fmt: skip
        run(table, plan, engine=engine)
        said.append(answers)
    assert captures == [4, 2] and said[0] == said[1]
    assert [len(said[0][row]) for row in range(4)] == table.output_tokens.tolist()
