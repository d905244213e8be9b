"""Motors over serial: wire protocols, ports, drivers, and the simulated controller of the rehearsal machine."""
