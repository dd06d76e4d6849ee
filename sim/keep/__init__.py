"""KV caches that outlive their request: pinned, in tiers below the device, on other replicas, reused in pieces."""
