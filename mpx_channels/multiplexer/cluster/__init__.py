"""A Redis or Valkey Cluster: names and keys are on one of 16,384 slots, and these on masters."""
