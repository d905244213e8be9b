"""Beyond one machine: storage elsewhere, simulations spread over a cluster, policies shared."""
