"""vmgate: the way into microVMs over SSH, WebSocket and HTTP.

Rooms, from the street inwards: `tap` and `cli` put the house together; `ssh` and `web` are the
fronts; `guest` and `instances` know where guests are and how to speak to them; `gate` lets a
principal in and `session` relays; `policy` and `auth` decide; below them `events`, `metrics`,
`config`, `doors`, `model` and `errors` are words and plain data. Imports go down only.
"""
