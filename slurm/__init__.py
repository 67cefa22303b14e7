"""The launcher: a study's grid of runs, on this machine or on SLURM through submitit."""
