"""The experiments' measuring side: interleaved visits, statistics over whole processes, pyperf result files."""
