/* How much memory this process may still take: the machine's and its container's word. Any thread.
 */
#ifndef MOED_ENGINE_LIMITS_H
#define MOED_ENGINE_LIMITS_H

#include <stdint.h>

struct memory_limits {
    uint64_t available_bytes; /* the smaller of both; UINT64_MAX where nothing is known */
    uint64_t machine_bytes;   /* MemAvailable */
    uint64_t container_bytes; /* the tightest cgroup limit less what counts against it and cannot be
                                 dropped; UINT64_MAX: no limit */
    uint64_t device_bytes;    /* free memory of the device apart from the host's; 0: there is none.
                                 The caller's to fill */
};

void memory_limits_read(struct memory_limits *out);
/* The same from other roots, for tests: "/proc" and "/sys/fs/cgroup". */
void memory_limits_from(struct memory_limits *out, const char *proc, const char *cgroup);

#endif
