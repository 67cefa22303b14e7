"""The launcher: a sweep's grid of runs, on this machine or on SLURM through submitit."""
