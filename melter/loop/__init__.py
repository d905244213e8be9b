"""One run of a machine: at a fixed rate measure, observe, act, approve, send; recorded from the first tick."""
