"""The wire contract between host and guest: the .proto sources and the modules generated from them.

Generated modules are committed so that an installation needs no compiler; `make proto` writes
them anew and `make lint` fails when they differ from their sources. Never edited by hand.
"""
