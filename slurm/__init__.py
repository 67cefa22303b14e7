"""The launcher: starts the runs of a sweep on this machine, or on SLURM through submitit."""
