"""Where instances come from: one interface, a file for each source."""
