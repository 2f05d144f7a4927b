/* User-mode Linux 6.1 keeps 2,696 bytes of a process's vector registers, which is as much as there was before AMX.
   Where processors have more, the host's kernel takes nothing less than all of it, with EFAULT, and a guest's first
   process dies of that. This stands between its ptrace(2) and the C library's: it gives the kernel what it wants, the
   rest of it as a processor begins with. No guest has AMX: user-mode Linux grants nobody its use. */

#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define MOST (64 << 10)   /* bytes; AMX makes it 11,008 */
#define COMPONENTS 512    /* where the XSAVE header says which components are there, a bit each */
#define XSAVE_LEAF 0xd    /* of cpuid: subleaf n tells component n */
#define FIRST_EXTENDED 2  /* those before it lie in the first 512 bytes */

typedef long (*call)(enum __ptrace_request, ...);

/* Which components lie in the first `size` bytes, which is always the same. Found once: on a virtual machine
   cpuid is slow. */
static uint64_t within(size_t size)
{
	static size_t known;
	static uint64_t found;
	if (known == size)
		return found;
	found = (1 << FIRST_EXTENDED) - 1;
	for (unsigned number = FIRST_EXTENDED; number < 64; number++) {
		unsigned length = 0, offset = 0, c, d;
		__cpuid_count(XSAVE_LEAF, number, length, offset, c, d);
		if (length && offset + length <= size)
			found |= (uint64_t)1 << number;
	}
	known = size;
	return found;
}

/* How many bytes the host's kernel has of that process. Found once: it is the same for all. */
static size_t whole(call real, int pid)
{
	static unsigned char state[MOST];
	static size_t known;
	struct iovec all = { state, sizeof state };
	if (!known && real(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &all) == 0)
		known = all.iov_len;
	return known;
}

static long set(call real, int pid, struct iovec *theirs)
{
	static unsigned char state[MOST];
	size_t size = whole(real, pid);
	uint64_t there;
	if (theirs->iov_len >= size || theirs->iov_len < COMPONENTS + sizeof there)
		return real(PTRACE_SETREGSET, pid, NT_X86_XSTATE, theirs);
	/* What lies behind theirs stays zero, and is not there. */
	memcpy(state, theirs->iov_base, theirs->iov_len);
	memcpy(&there, state + COMPONENTS, sizeof there);
	there &= within(theirs->iov_len);
	memcpy(state + COMPONENTS, &there, sizeof there);
	struct iovec all = { state, size };
	return real(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
	static call real;
	va_list words;
	va_start(words, request);
	int pid = va_arg(words, int);
	void *address = va_arg(words, void *), *data = va_arg(words, void *);
	va_end(words);
	if (!real && !(real = (call)dlsym(RTLD_NEXT, "ptrace"))) {
		errno = ENOSYS;
		return -1;
	}
	if ((uintptr_t)address == NT_X86_XSTATE && request == PTRACE_SETREGSET)
		return set(real, pid, data);
	return real(request, pid, address, data);
}
