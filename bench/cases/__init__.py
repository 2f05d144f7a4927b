"""The cases, a room for each kind: each is given the yard and yields what it found."""
