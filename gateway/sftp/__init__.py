"""What the gateway reads of sftp on its way: who moved which file, and what a principal that may only
read files must not do. Bytes pass as they came; no file is touched here, and payloads are only counted.

SFTP version 3 as draft-ietf-secsh-filexfer-02 and OpenSSH's PROTOCOL (section 4) have it, with one
thing more that our agent promises: answers come in the order of the requests.
"""

from gateway.sftp.process import Watched

__all__ = ["Watched"]
