"""Triton kernels, one operator a file: the formula in the docstring, the kernel, a thin launcher.

All launchers write into tensors that the caller made, so that they can be captured in a CUDA graph. Caches are laid out
as (blocks, kv_heads, block_size, head_dim): a block of one head is one contiguous piece of memory. With
`TRITON_INTERPRET=1` in the environment the same code runs on a CPU, slowly, for tests; there, matrix products take
float16 or float32, as the interpreter multiplies bfloat16 as if it were integers.
"""
