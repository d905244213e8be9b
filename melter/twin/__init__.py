"""The rehearsal machine: firmware on a pseudo-terminal, a simulated machine behind it, a webcam over HTTP."""
