"""Everything that rests on names which the host or another pack may change without notice, and nothing else."""
