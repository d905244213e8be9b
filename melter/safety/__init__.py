"""What stands between any policy and the winches: limits, gate, interlock, and the check of a policy."""
