"""Floor 4: runs the kernels over a grid and writes cost tables; the closed loop."""
