"""A study: many runs from one file, as many at a time as there is room for, gone on with until all are finished.

file.py      FILE.toml -> the runs it stands for, each the words of `alda train` and `alda evaluate`
flags.py     its settings: flags of `alda train`, as a file has them and as a command line has them
progress.py  what a run directory says: how far, how fast, what is still to do
estimate.py  time and disk that a study still takes; trial.py: kinds of runs tried for some seconds; attempts.py: a
             record of its commands
backend.py   what a place to run commands owes the scheduler
processes.py slots that are processes of one machine; child.py: what runs in them; local.py: how many there can be
cluster.py   slots on a Ray cluster; keeper.py: what looks after a process on a node
runner.py    the scheduler; board.py: what a person sees of it
sweep.py     `alda sweep`
"""
