"""Many commands at a time, on this machine or a Ray cluster, resumed until all are finished.

runner.py      tasks, each a series of commands, in the slots of a place; retries
status.py      tasks run to their end, with a table of how they do
local.py       slots on this machine; child.py: a process that ends with its parent
ray.py         slots on a Ray cluster
study_file.py  FILE.toml -> the runs of a study
study_run.py   a run as a task: train, then evaluate; how far it is, read from its directory
"""
