"""Exports start what was simulated, in shapes that the tools' own files have, and refuse what would not start."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from servecast import InputError, load_plan
from servecast.cli import main
from servecast.configs.plan import plan_from
from servecast.sim.deploy import deploy
from servecast.workbench.export.dynamo import graph
from servecast.workbench.export.flags import MARGIN, workers
from servecast.workbench.export.kubernetes import manifests, object_name
from servecast.workbench.export.vllm import shell_script

MODEL = "meta-llama/Llama-3.1-8B"


def plan_of(**pool: Any) -> Any:
    values = {"name": "chat", "hardware": "h100", "max_model_len": 8192, **pool}
    return plan_from({"model": MODEL, "engine": "vllm-0.19", "pools": [values]}, "my plan")


def flags_of(words: list[str]) -> dict[str, str]:
    """By name; a flag without a value is ""."""
    found = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            found[word] = "" if following.startswith("--") else following
    return found


def commands(script: str) -> list[list[str]]:
    return [shlex.split(line.rstrip("& ")) for line in script.splitlines() if "vllm serve" in line]


def test_a_command_says_every_budget_as_simulated() -> None:
    plan = plan_of(replicas=3, tensor_parallel_size=4, max_num_seqs=64, long_prefill_token_threshold=512)
    lines = commands(shell_script(plan, workers(plan)))
    assert [line[0] for line in lines] == [f"CUDA_VISIBLE_DEVICES={gpus}" for gpus in ("0,1,2,3", "4,5,6,7", "0,1,2,3")]
    assert lines[0][1:4] == ["vllm", "serve", MODEL]
    flags, limits = flags_of(lines[0]), deploy(plan)[0].limits
    for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "block_size"):
        assert flags["--" + name.replace("_", "-")] == str(getattr(limits, name))
    assert flags["--tensor-parallel-size"] == "4" and flags["--long-prefill-token-threshold"] == "512"
    assert {"--enable-prefix-caching", "--enable-chunked-prefill", "--async-scheduling"} <= flags.keys()
    off = plan_of(enable_prefix_caching=False, async_scheduling=False)
    assert {"--no-enable-prefix-caching", "--no-async-scheduling"} <= set(workers(off)[0].flags)


def test_a_gpu_clock_is_no_flag_and_is_named() -> None:
    plan, free = plan_of(gpu_clock_mhz=1200), plan_of()
    script = shell_script(plan, workers(plan))
    assert "NOT EXPORTED: the clock of chat's GPUs; as root: nvidia-smi --lock-gpu-clocks=1200" in script
    assert commands(script) == commands(shell_script(free, workers(free)))
    assert "nvidia-smi" not in shell_script(free, workers(free))


def test_a_replica_of_a_node_is_a_deployment_with_a_service() -> None:
    plan = plan_of(replicas=2, tensor_parallel_size=2, queue="priority")
    text = manifests(plan, workers(plan))
    deployment, service = yaml.safe_load_all(text)
    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    assert deployment["spec"]["replicas"] == 2
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["vllm", "serve", MODEL] and container["image"] == "vllm/vllm-openai:v0.19.0"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert flags_of(container["args"])["--scheduling-policy"] == "priority"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert "&id" not in text and "NOT EXPORTED: router least_outstanding" in text


def test_a_replica_of_several_nodes_is_a_leader_with_workers() -> None:
    """In the shape of vLLM's own page on LeaderWorkerSet."""
    plan = plan_of(tensor_parallel_size=8, pipeline_parallel_size=2)
    group, service = yaml.safe_load_all(manifests(plan, workers(plan), "registry/vllm:mine"))
    assert (group["apiVersion"], group["kind"]) == ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
    template = group["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 2 and template["restartPolicy"] == "RecreateGroupOnPodRestart"
    (leader,), (worker,) = (template[f"{who}Template"]["spec"]["containers"] for who in ("leader", "worker"))
    for container in (leader, worker):
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
        assert container["image"] == "registry/vllm:mine"
    assert "--ray_cluster_size=$(LWS_GROUP_SIZE)" in leader["command"][2]
    assert "--pipeline-parallel-size 2" in leader["command"][2]
    assert "--ray_address=$(LWS_LEADER_ADDRESS)" in worker["command"][2] and "ports" not in worker
    assert service["spec"]["selector"]["role"] == "leader"
    with pytest.raises(InputError, match="16 GPUs a replica, and a node has 8"):
        shell_script(plan, workers(plan))


def test_a_dynamo_graph_has_components_and_roles() -> None:
    """In the shape of Dynamo's own v1beta1 examples."""
    plan = load_plan("nixl")
    document = yaml.safe_load(graph(plan, workers(plan, "Qwen/Qwen3-8B")))
    assert (document["apiVersion"], document["kind"]) == ("nvidia.com/v1beta1", "DynamoGraphDeployment")
    frontend, prefill, decode = document["spec"]["components"]
    assert frontend["type"] == "frontend"
    assert frontend["podTemplate"]["spec"]["containers"][0]["env"] == [{"name": "DYN_ROUTER_MODE", "value": "kv"}]
    for component, role in ((prefill, "prefill"), (decode, "decode")):
        assert (component["type"], component["replicas"]) == (role, 2)
        (main_,) = component["podTemplate"]["spec"]["containers"]
        flags = flags_of(main_["args"])
        assert main_["name"] == "main" and main_["command"] == ["python3", "-m", "dynamo.vllm"]
        assert flags["--disaggregation-mode"] == role and flags["--model"] == "Qwen/Qwen3-8B"
        assert ("--kv-transfer-config" in flags) == (role == "prefill")
    wide = plan_of(tensor_parallel_size=8, pipeline_parallel_size=2)
    component = yaml.safe_load(graph(wide, workers(wide)))["spec"]["components"][1]
    assert component["multinode"] == {"nodeCount": 2} and component["type"] == "worker"


def test_names_are_those_of_kubernetes() -> None:
    assert object_name("My plan_v2.1") == "my-plan-v2-1" and object_name("é") == "plan"
    assert len(object_name("x" * 100)) <= 50


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({"engine": "sglang-0.5"}, r"pools\[0\]\.engine: sglang-0\.5; expected a preset of vLLM"),
        ({"batch": "orca", "max_num_batched_tokens": 8192}, r"pools\[0\]\.batch: orca; expected a plan without it"),
        ({"queue": {"name": "sjf"}}, "predictor"),
        ({"num_gpu_blocks_override": 10**6}, "the memory arithmetic has room for 26495"),
        ({"hardware": "a10", "max_model_len": 131072}, "tokens need 8192 KV blocks"),
    ],
)
def test_what_would_not_start_or_is_not_vllm_is_refused(pool: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        workers(plan_of(**pool))


def test_a_context_that_fits_only_just_is_refused() -> None:
    """The arithmetic may be a little wrong, and then a worker would crash in a loop (ai-dynamo/dynamo issue 10104)."""
    share = next(s for s in (0.26, 0.28, 0.3, 0.32, 0.34) if starts(s))
    just = deploy(plan_of(gpu_memory_utilization=share))[0].blocks
    for part, refused in ((1.0, True), (1 - 2 * MARGIN, False)):
        plan = plan_of(gpu_memory_utilization=share, max_model_len=int(just * part) * 16)
        if refused:
            with pytest.raises(InputError, match="fit with a margin of 3%"):
                workers(plan)
        else:
            assert workers(plan)


def starts(share: float) -> bool:
    """Whether a device used to this share has room for 8,192 tokens, and not for all 131,072 positions of the model."""
    try:
        return deploy(plan_of(gpu_memory_utilization=share))[0].blocks * 16 < 131072
    except InputError:
        return False


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "default"]) == 2
    assert "'llama-3.1-8b' is a card of servecast; expected a repository" in capsys.readouterr().err
    assert main(["export", "default", "--model-id", MODEL, "--to", "dynamo", "--out", str(tmp_path / "d.yaml")]) == 0
    shown = capsys.readouterr()
    assert "NOT EXPORTED: router least_outstanding" in shown.err and shown.out.startswith("wrote ")
    assert yaml.safe_load((tmp_path / "d.yaml").read_text())["metadata"]["name"] == "default"
    assert main(["export", "default", "--image", "x"]) == 2
