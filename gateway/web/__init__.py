"""The WebSocket and HTTP front: the only room that knows Autobahn and twisted.web."""
