"""Where the audit's lines go, and what happens when they cannot go there.

`record` makes lines of events; `trail` keeps the lines in order and bounded; `places` are what they are
written to. What the lines look like to others is `schema.json`.
"""

from gateway.audit.places import File, Journal, Place, Standard, Syslog, place
from gateway.audit.record import Audit, audit_record
from gateway.audit.trail import Trail

__all__ = ["Audit", "File", "Journal", "Place", "Standard", "Syslog", "Trail", "audit_record", "place"]
