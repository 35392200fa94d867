"""Many commands at a time, on this machine or a Ray cluster, resumed until all are finished.

runner.py      tasks, each a series of commands, in the slots of a place; retries and signals
local.py       slots on this machine; child.py: a process that ends with its parent
ray.py         slots on a Ray cluster
study_run.py   a run as a task: train, then evaluate
study_file.py  FILE.toml -> the runs of a study
status.py      how far runs are, read from their directories, and tables of it
"""
