"""What vmgate costs and how fast it is, beside sshd and others on the same machine in the same minutes.

`make bench` and `make bench-quick`; docs/speed.md says what is measured and how. Knows the gateway by its
options, its configuration and its clients alone.
"""
