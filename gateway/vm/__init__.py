"""Virtual machines without a hypervisor: user-mode Linux behind a virtio-vsock device of our own.

For `vmgate demo` and the tests: a real Linux kernel with a real AF_VSOCK, which needs no KVM, no image
and no root. `packages` brings the kernel, `machine` boots it, `init` is what its first process does;
`device` is the hypervisor's side of vsock, in a process of its own, and shows the unix socket that
Cloud Hypervisor and Firecracker show. Standard library only; nothing of the gateway comes in here.
"""
