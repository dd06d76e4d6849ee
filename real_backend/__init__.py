"""Floor 3: Triton kernels and a small real engine that runs the simulator's policy objects on them."""
