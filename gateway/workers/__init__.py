"""More than one process that serves clients, where the configuration asks for `workers`.

The gateway itself then serves nobody: it holds the listeners, the limits, the audit, the metrics and the
administrators' socket, and starts workers, which inherit the listeners and are `gateway.fronts` each. `crew` starts,
watches and replaces them; a `hand` is one of them as the gateway has it, with all that would be lost with it;
`worker` is the other end. What both say goes by a `link`, as `words`.
"""

from gateway.workers.crew import Crew
from gateway.workers.worker import Worker

__all__ = ["Crew", "Worker"]
