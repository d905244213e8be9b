"""Train, evaluate and save policies."""
