"""Where instances come from: the configuration's own table, and one interface (`follower.Source`) with a file for each
kind of source. Everybody is served from `sources.Sources`, at once, from what was last known."""
