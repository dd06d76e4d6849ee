"""The KV memory of a rank: counted blocks, prefix caching, what is evicted first."""
