"""Credentials to principals: verified or an error, nothing in between. No I/O beyond what is handed in."""
