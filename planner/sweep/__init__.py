"""Many runs: what they are, who runs them, and the ledger that remembers."""
