"""A plan as what starts it: `vllm serve` command lines, Kubernetes objects, a Dynamo graph."""
