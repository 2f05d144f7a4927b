"""This machine's own disk as one end of a copy: what is read from it, and what is written to it.

Blocking, for threads; knows entries and pieces (`gateway.entries`) and no network. The library and the
`vmgate` command share it.
"""
