"""The DAG and how to run it: wiring only."""
