"""Published closed-loop measurements, replayed and compared."""
