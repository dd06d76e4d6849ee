"""One policy a file. `registry.py` names them; the types they speak are in `..core`."""
