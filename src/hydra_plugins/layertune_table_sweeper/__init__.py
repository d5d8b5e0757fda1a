"""The table sweeper: `python run.py -m hydra/sweeper=table table=table1` runs what a table misses."""
