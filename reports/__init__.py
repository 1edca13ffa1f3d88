"""The report generator: one self-contained HTML page made from `bench`'s result files and nothing else."""
